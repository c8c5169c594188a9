//! A switchover from a living primary.

use super::{compare, table};
use crate::operation::{Kind, Step};

const STEPS: [Step; 12] = [
    Step::Precheck,
    Step::Hold,
    Step::Sessions,
    Step::Fence,
    Step::Disarm,
    Step::Drain,
    Step::Recheck,
    Step::Promote,
    Step::Open,
    Step::Repoint,
    Step::Undo,
    Step::Reopen,
];

#[test]
fn every_step_of_a_switchover_meets_every_event_as_the_table_says() {
    compare(&table(Kind::Switchover, &STEPS), TABLE);
}

#[rustfmt::skip]
const TABLE: &str = "
";
