//! A failover of a dead primary, and of a living one where it can be taken back (precheck, undo, reopen).

use super::{compare, table};
use crate::operation::{Kind, Step};

const STEPS: [Step; 12] = [
    Step::Precheck,
    Step::Fence,
    Step::Disarm,
    Step::CatchUp,
    Step::Drain,
    Step::Salvage,
    Step::Recheck,
    Step::Promote,
    Step::Open,
    Step::Repoint,
    Step::Undo,
    Step::Reopen,
];

#[test]
fn every_step_of_a_failover_meets_every_event_as_the_table_says() {
    compare(&table(Kind::Failover, &STEPS), TABLE);
}

#[rustfmt::skip]
const TABLE: &str = "
";
