//! A failover of a dead primary, and of a living one where it can be taken back (precheck, undo, reopen).

use super::super::db;
use super::events::bring;
use super::{compare, table};
use crate::operation::{Cause, Kind, Outcome, Step, Task};

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

/// An event | the step or the ending right after it, and where the listeners lead | what is asked of which servers | the
/// ending, where the listeners lead then, who else takes writes, and who is not trusted. `-`: it cannot be at that step.
#[rustfmt::skip]
const TABLE: &str = "
-- precheck
answered            | fence, db1                 |                                                | done → db2
refused             | refused, db1               | examine: 12345                                 | refused → db1
unknown             | refused, db1               | examine: 12345                                 | refused → db1
unreachable         | refused, db1               | examine: 12345                                 | refused → db1
not written         | precheck stuck, db1        |                                                | done → db2
kernel refuses      | -
epoch not written   | -
old is read-only    | precheck, db1              |                                                | done → db2
old is writable     | precheck, db1              |                                                | done → db2
old dies            | precheck, db1              |                                                | done → db2, db1 cast out
candidate dies      | precheck, db1              |                                                | done → db3, db2 cast out
another dies        | precheck, db1              |                                                | done → db2, db3 cast out
stranger writable   | precheck, db1              |                                                | refused → db1, writable db5
lock lost           | precheck, db1              |                                                | refused → db1
another promotes 2  | precheck, db1              |                                                | refused → db2
another promotes 3  | precheck, db1              |                                                | refused → db3
stale answer        | precheck, db1              |                                                | done → db2
stale begun         | precheck, db1              |                                                | done → db2
operate             | precheck, db1              |                                                | done → db2
abort               | undone, db1                | examine: 12345                                 | undone → db1
pin to old          | precheck, db1              |                                                | done → db1, writable db2
pin listener to old | precheck, db1              |                                                | done → db1, writable db2
pause               | precheck, db1              |                                                | done → db2
rejoin old          | precheck, db1              |                                                | done → db2
rejoin candidate    | precheck, db1              |                                                | done → db2
clear old           | precheck, db1              |                                                | done → db2
lease lapsed        | precheck, lapsed           |                                                | done → db2
restarted before    | undone, db1                |                                                | undone → db1
restarted after     | undone, db1                |                                                | undone → db1
restarted, no lock  | undone, db1                |                                                | undone → db1
restarted, too late | undone, db1                |                                                | undone → db3
an hour later       | precheck, db1              |                                                | refused → db1
-- fence
answered            | disarm, fence              | make read-only: 1; stop receiving: 2345        | done → db2, db1 cast out
refused             | -
unknown             | -
unreachable         | -
not written         | fence stuck, db1           |                                                | done → db2, db1 cast out
kernel refuses      | fence, db1                 |                                                | done → db2, db1 cast out
epoch not written   | fence, db1                 |                                                | done → db2, db1 cast out
old is read-only    | fence, db1                 |                                                | done → db2
old is writable     | fence, db1                 |                                                | done → db2
old dies            | fence, db1                 |                                                | done → db2, db1 cast out
candidate dies      | fence, db1                 |                                                | done → db3, db1 cast out, db2 cast out
another dies        | fence, db1                 |                                                | done → db2, db1 cast out, db3 cast out
// doubtful: db1 is no outcast, so it may come back writable
stranger writable   | failed, db1                | examine: 2345                                  | failed → db5
lock lost           | fence stuck, db1           |                                                | failed → fence, barred
another promotes 2  | failed, db1                | examine: 2345                                  | failed → db2
another promotes 3  | failed, db1                | examine: 2345                                  | failed → db3
stale answer        | fence, db1                 |                                                | done → db2, db1 cast out
stale begun         | fence, db1                 |                                                | done → db2, db1 cast out
operate             | fence, db1                 |                                                | done → db2, db1 cast out
abort               | failed, db1                | examine: 2345                                  | failed → fence, barred
pin to old          | fence, db1                 |                                                | done → db1, writable db2
pin listener to old | fence, db1                 |                                                | done → db1, writable db2, db1 cast out
pause               | fence, db1                 |                                                | done → db2, db1 cast out
rejoin old          | fence, db1                 |                                                | done → db2, db1 cast out
// doubtful: it is being made read-only while it may be about to be chosen
rejoin candidate    | fence, db1                 |                                                | done → db2, db1 cast out
clear old           | fence, db1                 |                                                | done → db2, db1 cast out
lease lapsed        | fence, lapsed              |                                                | done → db2, db1 cast out
restarted before    | fence stuck, db1           |                                                | stuck at disarm → fence
restarted after     | fence stuck, db1           |                                                | stuck at disarm → fence
restarted, no lock  | fence stuck, db1           |                                                | failed → fence, barred
restarted, too late | failed, db1                | examine: 2345                                  | failed → db3
an hour later       | fence stuck, db1           |                                                | done → db2, db1 cast out
-- disarm
answered            | catch_up, fence            | catch up to db3: 2                             | done → db2, db1 cast out
refused             | disarm stuck, fence        | make read-only: 1; stop receiving: 2345        | done → db2, db1 cast out
unknown             | disarm stuck, fence        | make read-only: 1; stop receiving: 2345        | done → db2, db1 cast out
unreachable         | disarm stuck, fence        | make read-only: 1; stop receiving: 2345        | done → db2, db1 cast out
not written         | disarm stuck, fence        |                                                | done → db2, db1 cast out
kernel refuses      | -
epoch not written   | -
old is read-only    | disarm, fence              |                                                | done → db2
old is writable     | disarm, fence              |                                                | done → db2
old dies            | disarm, fence              |                                                | done → db2, db1 cast out
candidate dies      | disarm, fence              |                                                | done → db3, db1 cast out, db2 cast out
another dies        | disarm, fence              |                                                | done → db2, db1 cast out, db3 cast out
stranger writable   | failed, fence              | examine: 2345                                  | failed → db5
lock lost           | disarm stuck, fence        |                                                | failed → fence, barred
another promotes 2  | failed, fence              | examine: 2345                                  | failed → db2
another promotes 3  | failed, fence              | examine: 2345                                  | failed → db3
stale answer        | disarm, fence              |                                                | done → db2, db1 cast out
stale begun         | disarm, fence              |                                                | done → db2, db1 cast out
operate             | disarm, fence              |                                                | done → db2, db1 cast out
abort               | failed, fence              | examine: 2345                                  | failed → fence, barred
pin to old          | disarm, fence              |                                                | done → db1, writable db2
pin listener to old | disarm, fence              |                                                | done → db1, writable db2, db1 cast out
pause               | disarm, fence              |                                                | done → db2, db1 cast out
rejoin old          | disarm, fence              |                                                | done → db2, db1 cast out
rejoin candidate    | disarm, fence              |                                                | done → db2, db1 cast out
clear old           | disarm, fence              |                                                | done → db2, db1 cast out
lease lapsed        | disarm, lapsed             |                                                | done → db2, db1 cast out
restarted before    | fence stuck, fence         |                                                | done → db2, db1 cast out
restarted after     | fence stuck, fence         |                                                | done → db2, db1 cast out
restarted, no lock  | fence stuck, fence         |                                                | failed → fence, barred
restarted, too late | failed, fence              | examine: 2345                                  | failed → db3
an hour later       | disarm stuck, fence        |                                                | done → db2, db1 cast out
-- catch_up
answered            | drain, fence               | apply what was received: 2                     | done → db2, db1 cast out
refused             | disarm, fence              | stop receiving: 2345                           | done → db3, db1 cast out
unknown             | disarm, fence              | stop receiving: 2345                           | done → db3, db1 cast out
unreachable         | disarm, fence              | stop receiving: 2345                           | done → db3, db1 cast out
not written         | catch_up stuck, fence      |                                                | done → db2, db1 cast out
kernel refuses      | -
epoch not written   | -
old is read-only    | catch_up, fence            |                                                | done → db2
old is writable     | catch_up, fence            |                                                | done → db2
old dies            | catch_up, fence            |                                                | done → db2, db1 cast out
candidate dies      | disarm, fence              | stop receiving: 345                            | done → db3, db1 cast out, db2 cast out
another dies        | catch_up, fence            |                                                | done → db4, db1 cast out, db3 cast out
stranger writable   | failed, fence              | examine: 2345                                  | failed → db5
lock lost           | catch_up stuck, fence      |                                                | failed → fence, barred
another promotes 2  | failed, fence              | examine: 2345                                  | failed → db2
another promotes 3  | failed, fence              | examine: 2345                                  | failed → db3
stale answer        | catch_up, fence            |                                                | done → db2, db1 cast out
stale begun         | catch_up, fence            |                                                | done → db2, db1 cast out
operate             | catch_up, fence            |                                                | done → db2, db1 cast out
abort               | failed, fence              | examine: 2345                                  | failed → fence, barred
pin to old          | catch_up, fence            |                                                | done → db1, writable db2
pin listener to old | catch_up, fence            |                                                | done → db1, writable db2, db1 cast out
pause               | catch_up, fence            |                                                | done → db2, db1 cast out
rejoin old          | catch_up, fence            |                                                | done → db2, db1 cast out
rejoin candidate    | catch_up, fence            |                                                | done → db2, db1 cast out
clear old           | catch_up, fence            |                                                | done → db2, db1 cast out
lease lapsed        | catch_up, lapsed           |                                                | done → db2, db1 cast out
restarted before    | fence stuck, fence         |                                                | done → db2, db1 cast out
restarted after     | fence stuck, fence         |                                                | done → db2, db1 cast out
restarted, no lock  | fence stuck, fence         |                                                | failed → fence, barred
restarted, too late | failed, fence              | examine: 2345                                  | failed → db3
an hour later       | catch_up stuck, fence      |                                                | done → db2, db1 cast out
-- drain
answered            | promote, fence             | promote: 2                                     | done → db2, db1 cast out
refused             | drain, fence               | apply what was received: 2                     | done → db2, db1 cast out
unknown             | drain, fence               | apply what was received: 2                     | done → db2, db1 cast out
unreachable         | drain, fence               | apply what was received: 2                     | done → db2, db1 cast out
not written         | drain stuck, fence         |                                                | done → db2, db1 cast out
kernel refuses      | -
epoch not written   | -
old is read-only    | drain, fence               |                                                | done → db2
old is writable     | drain, fence               |                                                | done → db2
old dies            | drain, fence               |                                                | done → db2, db1 cast out
candidate dies      | disarm, fence              | stop receiving: 345                            | done → db3, db1 cast out, db2 cast out
another dies        | drain, fence               |                                                | done → db2, db1 cast out, db3 cast out
stranger writable   | failed, fence              | examine: 2345                                  | failed → db5
lock lost           | drain stuck, fence         |                                                | failed → fence, barred
another promotes 2  | failed, fence              | examine: 2345                                  | failed → db2
another promotes 3  | failed, fence              | examine: 2345                                  | failed → db3
stale answer        | drain, fence               |                                                | done → db2, db1 cast out
stale begun         | drain, fence               |                                                | done → db2, db1 cast out
operate             | drain, fence               |                                                | done → db2, db1 cast out
abort               | failed, fence              | examine: 2345                                  | failed → fence, barred
pin to old          | drain, fence               |                                                | done → db1, writable db2
pin listener to old | drain, fence               |                                                | done → db1, writable db2, db1 cast out
pause               | drain, fence               |                                                | done → db2, db1 cast out
rejoin old          | drain, fence               |                                                | done → db2, db1 cast out
rejoin candidate    | drain, fence               |                                                | done → db2, db1 cast out
clear old           | drain, fence               |                                                | done → db2, db1 cast out
lease lapsed        | drain, lapsed              |                                                | done → db2, db1 cast out
restarted before    | fence stuck, fence         |                                                | done → db2, db1 cast out
restarted after     | fence stuck, fence         |                                                | done → db2, db1 cast out
restarted, no lock  | fence stuck, fence         |                                                | failed → fence, barred
restarted, too late | failed, fence              | examine: 2345                                  | failed → db3
an hour later       | drain stuck, fence         |                                                | done → db2, db1 cast out
-- salvage
answered            | catch_up, fence            | catch up to db3: 2                             | done → db2, db1 quarantined
refused             | catch_up, fence            | catch up to db3: 2                             | done → db2, db1 quarantined
unknown             | catch_up, fence            | catch up to db3: 2                             | done → db2, db1 quarantined
unreachable         | catch_up, fence            | catch up to db3: 2                             | done → db2, db1 quarantined
not written         | salvage stuck, fence       |                                                | done → db2
kernel refuses      | -
epoch not written   | -
old is read-only    | salvage, fence             |                                                | done → db2
old is writable     | salvage, fence             |                                                | done → db2
old dies            | catch_up, fence            | catch up to db3: 2                             | done → db2, db1 cast out
candidate dies      | salvage, fence             |                                                | done → db3, db2 cast out
another dies        | salvage, fence             |                                                | done → db4, db3 cast out
stranger writable   | failed, fence              | examine: 2345                                  | failed → db5
lock lost           | failed, fence              | examine: 12345                                 | failed → fence
another promotes 2  | failed, fence              | examine: 12345                                 | failed → db2
another promotes 3  | failed, fence              | examine: 12345                                 | failed → db3
stale answer        | salvage, fence             |                                                | done → db2, db1 quarantined
stale begun         | salvage, fence             |                                                | done → db2, db1 quarantined
operate             | salvage, fence             |                                                | done → db2, db1 quarantined
abort               | undo, fence                | make writable: 1; repoint to db1: 2345         | undone → db1
pin to old          | salvage, fence             |                                                | done → db1, writable db2
pin listener to old | salvage, fence             |                                                | done → db1, writable db2, db1 quarantined
pause               | salvage, fence             |                                                | done → db2, db1 quarantined
rejoin old          | salvage, fence             |                                                | done → db2, db1 quarantined
rejoin candidate    | salvage, fence             |                                                | done → db2, db1 quarantined
clear old           | salvage, fence             |                                                | done → db2, db1 quarantined
lease lapsed        | salvage, lapsed            |                                                | done → db2, db1 quarantined
restarted before    | fence stuck, fence         |                                                | done → db2
restarted after     | fence stuck, fence         |                                                | done → db2
restarted, no lock  | fence stuck, fence         |                                                | failed → fence
restarted, too late | failed, fence              | examine: 12345                                 | failed → db3
an hour later       | salvage stuck, fence       |                                                | done → db2
-- recheck
answered            | promote, fence             | promote: 2                                     | done → db2, db1 cast out
refused             | promote, fence             | promote: 2                                     | done → db2, db1 cast out
unknown             | promote, fence             | promote: 2                                     | done → db2, db1 cast out
unreachable         | promote, fence             | promote: 2                                     | done → db2, db1 cast out
not written         | recheck stuck, fence       |                                                | done → db2, db1 cast out
kernel refuses      | -
epoch not written   | -
old is read-only    | recheck, fence             |                                                | done → db2
old is writable     | recheck, fence             |                                                | done → db2
old dies            | promote, fence             | promote: 2                                     | done → db2, db1 cast out
candidate dies      | recheck, fence             |                                                | done → db3, db1 cast out, db2 cast out
another dies        | recheck, fence             |                                                | done → db2, db1 cast out, db3 cast out
stranger writable   | failed, fence              | examine: 2345                                  | failed → db5
lock lost           | recheck stuck, fence       |                                                | failed → fence, barred
another promotes 2  | failed, fence              | examine: 2345                                  | failed → db2
another promotes 3  | failed, fence              | examine: 2345                                  | failed → db3
stale answer        | recheck, fence             |                                                | done → db2, db1 cast out
stale begun         | recheck, fence             |                                                | done → db2, db1 cast out
operate             | recheck, fence             |                                                | done → db2, db1 cast out
abort               | failed, fence              | examine: 2345                                  | failed → fence, barred
pin to old          | recheck, fence             |                                                | done → db1, writable db2
pin listener to old | recheck, fence             |                                                | done → db1, writable db2, db1 cast out
pause               | recheck, fence             |                                                | done → db2, db1 cast out
rejoin old          | recheck, fence             |                                                | done → db2, db1 cast out
rejoin candidate    | recheck, fence             |                                                | done → db2, db1 cast out
clear old           | recheck, fence             |                                                | done → db2, db1 cast out
lease lapsed        | recheck, lapsed            |                                                | done → db2, db1 cast out
restarted before    | fence stuck, fence         |                                                | done → db2, db1 cast out
restarted after     | fence stuck, fence         |                                                | done → db2, db1 cast out
restarted, no lock  | fence stuck, fence         |                                                | failed → fence, barred
restarted, too late | failed, fence              | examine: 2345                                  | failed → db3
an hour later       | recheck stuck, fence       |                                                | done → db2, db1 cast out
-- promote
answered            | open, fence                | repoint to db2: 345                            | done → db2, db1 cast out
refused             | promote stuck, fence       |                                                | done → db2, db1 cast out
unknown             | promote stuck, fence       |                                                | done → db2, db1 cast out
unreachable         | promote stuck, fence       |                                                | done → db2, db1 cast out
not written         | promote stuck, fence       |                                                | done → db2, db1 cast out
kernel refuses      | -
epoch not written   | -
old is read-only    | promote, fence             |                                                | done → db2, db1 quarantined
old is writable     | promote, fence             |                                                | done → db2, db1 quarantined
old dies            | promote, fence             |                                                | done → db2, db1 cast out
candidate dies      | disarm, fence              | stop receiving: 345                            | done → db3, db1 cast out, db2 cast out
another dies        | promote, fence             |                                                | done → db2, db1 cast out, db3 cast out
stranger writable   | failed, fence              | make read-only: 2; examine: 2345               | failed → db5, db1 cast out, db2 quarantined
// doubtful: db2 takes writes, and the fence stays while nobody else does anything
lock lost           | promote stuck, fence       |                                                | stuck at promote → fence, writable db2, db1 cast out
another promotes 2  | failed, fence              | examine: 2345                                  | failed → db2, db1 cast out
another promotes 3  | failed, fence              | examine: 2345                                  | failed → db3, db1 cast out, db2 cast out
stale answer        | promote, fence             |                                                | done → db2, db1 cast out
stale begun         | promote, fence             |                                                | done → db2, db1 cast out
operate             | promote, fence             |                                                | done → db2, db1 cast out
abort               | promote, fence             |                                                | done → db2, db1 cast out
pin to old          | promote, fence             |                                                | done → db1, writable db2
pin listener to old | promote, fence             |                                                | done → db1, writable db2, db1 cast out
pause               | promote, fence             |                                                | done → db2, db1 cast out
rejoin old          | promote, fence             |                                                | done → db2, db1 cast out
rejoin candidate    | promote, fence             |                                                | done → db2, db1 cast out
clear old           | promote, fence             |                                                | done → db2, db1 cast out
lease lapsed        | promote, lapsed            |                                                | done → db2, db1 cast out
restarted before    | promote stuck, fence       |                                                | done → db2, db1 cast out
restarted after     | promote stuck, fence       |                                                | done → db2, db1 cast out
restarted, no lock  | promote stuck, fence       |                                                | stuck at promote → fence, db1 cast out
restarted, too late | failed, fence              | examine: 2345                                  | failed → db3, db1 cast out, db2 cast out
an hour later       | promote stuck, fence       |                                                | done → db2, db1 cast out
-- open
answered            | open, fence                |                                                | done → db2, db1 cast out
refused             | open, fence                |                                                | done → db2, db1 cast out
unknown             | open, fence                |                                                | done → db2, db1 cast out
unreachable         | open, fence                |                                                | done → db2, db1 cast out
not written         | open stuck, fence          |                                                | done → db2, db1 cast out
kernel refuses      | open, fence                |                                                | done → db2, db1 cast out
epoch not written   | open, fence                |                                                | done → db2, db1 cast out
old is read-only    | open, fence                |                                                | done → db2, db1 quarantined
old is writable     | open, fence                |                                                | done → db2, db1 quarantined
old dies            | open, fence                |                                                | done → db2, db1 cast out
candidate dies      | open, fence                |                                                | done → fence, db1 cast out, db3 cast out, db4 cast out, db5 cast out, barred
another dies        | open, fence                |                                                | done → db2, db1 cast out, db3 cast out
stranger writable   | open, fence                |                                                | done → db2, db1 cast out
lock lost           | open stuck, fence          |                                                | stuck at open → db2, db1 cast out
another promotes 2  | open stuck, fence          |                                                | stuck at open → db2, db1 cast out
// what was ordered before goes on: db3 is made a replica of db2, and nobody takes writes
another promotes 3  | failed, fence              | examine: 2345                                  | failed → db3, db1 cast out, db2 cast out
stale answer        | open, fence                |                                                | done → db2, db1 cast out
stale begun         | open, fence                |                                                | done → db2, db1 cast out
operate             | open, fence                |                                                | done → db2, db1 cast out
abort               | open, fence                |                                                | done → db2, db1 cast out
pin to old          | open, fence                |                                                | done → db1, writable db2
pin listener to old | open, fence                |                                                | done → db1, writable db2, db1 cast out
pause               | open, fence                |                                                | done → db2, db1 cast out
rejoin old          | open, fence                |                                                | done → db2, db1 cast out
rejoin candidate    | open, fence                |                                                | done → db2, db1 cast out
clear old           | open, fence                |                                                | done → db2, db1 cast out
lease lapsed        | open, lapsed               |                                                | done → db2, db1 cast out
restarted before    | open stuck, fence          |                                                | done → db2, db1 cast out
restarted after     | open stuck, fence          |                                                | done → db2, db1 cast out
restarted, no lock  | open stuck, fence          |                                                | stuck at open → db2, db1 cast out
restarted, too late | failed, fence              | examine: 2345                                  | failed → db3, db1 cast out, db2 cast out
an hour later       | open stuck, fence          |                                                | done → db2, db1 cast out
-- repoint
answered            | done, db2                  | examine: 2345                                  | done → db2, db1 cast out
refused             | repoint, db2               | repoint to db2: 345                            | done → db2, db1 cast out
unknown             | repoint, db2               | repoint to db2: 345                            | done → db2, db1 cast out
unreachable         | repoint, db2               | repoint to db2: 345                            | done → db2, db1 cast out
not written         | repoint stuck, db2         |                                                | done → db2, db1 cast out
kernel refuses      | -
epoch not written   | -
old is read-only    | repoint, db2               |                                                | done → db2, db1 quarantined
old is writable     | repoint, db2               |                                                | done → db2, db1 quarantined
old dies            | repoint, db2               |                                                | done → db2, db1 cast out
candidate dies      | repoint, db2               |                                                | done → fence, db1 cast out, db3 cast out, db4 cast out, db5 cast out, barred
another dies        | repoint, db2               |                                                | done → db2, db1 cast out, db3 cast out
stranger writable   | repoint, db2               |                                                | done → db2, db1 cast out
lock lost           | repoint stuck, db2         |                                                | stuck at repoint → db2, db1 cast out
another promotes 2  | repoint stuck, db2         |                                                | stuck at repoint → db2, db1 cast out
another promotes 3  | failed, db2                | examine: 2345                                  | failed → db3, db1 cast out, db2 cast out
stale answer        | repoint, db2               |                                                | done → db2, db1 cast out
stale begun         | repoint, db2               |                                                | done → db2, db1 cast out
operate             | repoint, db2               |                                                | done → db2, db1 cast out
abort               | repoint, db2               |                                                | done → db2, db1 cast out
pin to old          | repoint, db2               |                                                | done → db1, writable db2
pin listener to old | repoint, db2               |                                                | done → db1, writable db2, db1 cast out
pause               | repoint, db2               |                                                | done → db2, db1 cast out
rejoin old          | repoint, db2               |                                                | done → db2, db1 cast out
rejoin candidate    | repoint, db2               |                                                | done → db2, db1 cast out
clear old           | repoint, db2               |                                                | done → db2, db1 cast out
lease lapsed        | repoint, lapsed            |                                                | done → db2, db1 cast out
restarted before    | repoint stuck, db2         |                                                | done → db2, db1 cast out
restarted after     | repoint stuck, db2         |                                                | done → db2, db1 cast out
restarted, no lock  | repoint stuck, db2         |                                                | stuck at repoint → db2, db1 cast out
restarted, too late | failed, db2                | examine: 2345                                  | failed → db3, db1 cast out, db2 cast out
an hour later       | repoint stuck, db2         |                                                | done → db2, db1 cast out
-- undo
answered            | reopen, fence              |                                                | undone → db1
refused             | undo stuck, fence          |                                                | undone → db1
unknown             | undo stuck, fence          |                                                | undone → db1
unreachable         | undo stuck, fence          |                                                | undone → db1
not written         | undo stuck, fence          |                                                | undone → db1
kernel refuses      | -
epoch not written   | -
old is read-only    | undo, fence                |                                                | undone → db1
old is writable     | undo, fence                |                                                | undone → db1
// doubtful: the proof of semi-sync is forgotten with the operation, so an operator is needed
old dies            | disarm, fence              | make read-only: 1; stop receiving: 2345        | failed, done → db2, db1 cast out
candidate dies      | undo, fence                |                                                | undone → db1
another dies        | undo, fence                |                                                | undone → db1
stranger writable   | undo, fence                |                                                | undone → db1
// doubtful: db1 takes writes, and the fence stays while nobody else does anything
lock lost           | reopen, fence              |                                                | undone → db1
another promotes 2  | failed, fence              | examine: 12345                                 | failed → db2
another promotes 3  | failed, fence              | examine: 12345                                 | failed → db3
stale answer        | undo, fence                |                                                | undone → db1
stale begun         | undo, fence                |                                                | undone → db1
operate             | undo, fence                |                                                | undone → db1
abort               | undo, fence                |                                                | undone → db1
pin to old          | undo, fence                |                                                | undone → db1
pin listener to old | undo, fence                |                                                | undone → db1
pause               | undo, fence                |                                                | undone → db1
rejoin old          | undo, fence                |                                                | undone → db1
rejoin candidate    | undo, fence                |                                                | undone → db1
clear old           | undo, fence                |                                                | undone → db1
lease lapsed        | undo, lapsed               |                                                | undone → db1
restarted before    | undo stuck, fence          |                                                | undone → db1
restarted after     | undo stuck, fence          |                                                | undone → db1
restarted, no lock  | undo stuck, fence          |                                                | undone → db1
restarted, too late | failed, fence              | examine: 12345                                 | failed → db3
an hour later       | undo stuck, fence          |                                                | undone → db1
-- reopen
answered            | undone, db1                | examine: 12345                                 | undone → db1
refused             | reopen, fence              |                                                | undone → db1
unknown             | reopen, fence              |                                                | undone → db1
unreachable         | reopen, fence              |                                                | undone → db1
not written         | reopen stuck, fence        |                                                | undone → db1
kernel refuses      | reopen, fence              |                                                | undone → db1
epoch not written   | reopen, fence              |                                                | undone → db1
old is read-only    | reopen, fence              |                                                | undone → fence
old is writable     | reopen, fence              |                                                | undone → db1
old dies            | reopen, fence              |                                                | undone, done → db2, db1 cast out
candidate dies      | reopen, fence              |                                                | undone → db1
another dies        | reopen, fence              |                                                | undone → db1
stranger writable   | reopen, fence              |                                                | undone → db1
lock lost           | reopen, fence              |                                                | undone → db1
another promotes 2  | reopen, fence              |                                                | undone → fence
another promotes 3  | reopen, fence              |                                                | undone → fence
stale answer        | reopen, fence              |                                                | undone → db1
stale begun         | reopen, fence              |                                                | undone → db1
operate             | reopen, fence              |                                                | undone → db1
abort               | reopen, fence              |                                                | undone → db1
pin to old          | reopen, fence              |                                                | undone → db1
pin listener to old | reopen, fence              |                                                | undone → db1
pause               | reopen, fence              |                                                | undone → db1
rejoin old          | reopen, fence              |                                                | undone → db1
rejoin candidate    | reopen, fence              |                                                | undone → db1
clear old           | reopen, fence              |                                                | undone → db1
lease lapsed        | reopen, lapsed             |                                                | undone → db1
restarted before    | undo stuck, fence          |                                                | undone → db1
restarted after     | undo stuck, fence          |                                                | undone → db1
restarted, no lock  | undo stuck, fence          |                                                | undone → db1
restarted, too late | undo stuck, fence          |                                                | failed → db3
an hour later       | reopen, fence              |                                                | undone → db1
";

#[test]
fn what_cannot_be_received_from_a_living_old_primary_is_tried_twice_and_then_left_there() {
    let mut bench = bring(Kind::Failover, Step::Salvage, true);
    (0..2).for_each(|_| bench.ask(1));
    let mut tried = 1;
    for _ in 0..100 {
        bench.write();
        bench.commit();
        let next = bench.orders.first_key_value().map(|(&order, task)| (order, task.clone()));
        match next {
            Some((order, Task::CatchUp { source, .. })) if source == db(1) => {
                tried += 1;
                bench.fail(order, Cause::Refused);
            }
            Some((order, _)) => bench.answer(order),
            None => bench.tick(),
        }
    }
    assert_eq!((bench.endings.as_slice(), tried), ([Outcome::Done].as_slice(), 2), "{:?}", bench.told("stuck"));
    assert_eq!(bench.leads_to(), Some(db(2)));
    assert!(bench.outcasts.iter().any(|outcast| outcast.server == db(1)), "it has what nobody else has");
    assert!(bench.broken.is_empty(), "{:?}", bench.broken);
}
