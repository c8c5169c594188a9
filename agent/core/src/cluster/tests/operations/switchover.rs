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

/// An event | the step or the ending right after it, and where the listeners lead | what is asked of which servers | the
/// ending, where the listeners lead then, who else takes writes, and who is not trusted. `-`: it cannot be at that step.
#[rustfmt::skip]
const TABLE: &str = "
-- precheck
answered            | hold, db1                  |                                                | done → db2
refused             | refused, db1               | examine: 12345                                 | refused → db1
unknown             | refused, db1               | examine: 12345                                 | refused → db1
unreachable         | refused, db1               | examine: 12345                                 | refused → db1
not written         | precheck stuck, db1        |                                                | done → db2
kernel refuses      | -
epoch not written   | -
old is read-only    | precheck, db1              |                                                | refused → fence
old is writable     | precheck, db1              |                                                | done → db2
old dies            | precheck, db1              |                                                | refused, done → db2, db1 cast out
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
-- hold
answered            | sessions, fence but db1    | end sessions: 1                                | done → db2
refused             | -
unknown             | -
unreachable         | -
not written         | hold stuck, db1            |                                                | done → db2
kernel refuses      | hold, db1                  |                                                | done → db2
epoch not written   | hold, db1                  |                                                | done → db2
old is read-only    | hold, db1                  |                                                | done → db2
old is writable     | hold, db1                  |                                                | done → db2
// doubtful: the proof of semi-sync is forgotten with the switchover, so an operator is needed
old dies            | hold, db1                  |                                                | failed, done → db2, db1 cast out
candidate dies      | hold, db1                  |                                                | done → db3, db2 cast out
another dies        | hold, db1                  |                                                | done → db2, db3 cast out
stranger writable   | failed, db1                | examine: 12345                                 | failed → db1, writable db5
lock lost           | reopen, db1                |                                                | undone → db1
another promotes 2  | failed, db1                | examine: 12345                                 | failed → db2
another promotes 3  | failed, db1                | examine: 12345                                 | failed → db3
stale answer        | hold, db1                  |                                                | done → db2
stale begun         | hold, db1                  |                                                | done → db2
operate             | hold, db1                  |                                                | done → db2
abort               | reopen, db1                |                                                | undone → db1
pin to old          | hold, db1                  |                                                | done → db1, writable db2
pin listener to old | hold, db1                  |                                                | done → db1, writable db2
pause               | hold, db1                  |                                                | done → db2
rejoin old          | hold, db1                  |                                                | done → db2
rejoin candidate    | hold, db1                  |                                                | done → db2
clear old           | hold, db1                  |                                                | done → db2
lease lapsed        | hold, lapsed               |                                                | done → db2
restarted before    | undo stuck, db1            |                                                | undone → db1
restarted after     | undo stuck, db1            |                                                | undone → db1
restarted, no lock  | undo stuck, db1            |                                                | undone → db1
restarted, too late | failed, db1                | examine: 12345                                 | failed → db3
an hour later       | reopen, db1                |                                                | undone → db1
-- sessions
answered            | fence, fence but db1       |                                                | done → db2
refused             | undo, fence but db1        | make writable: 1                               | undone → db1
unknown             | undo, fence but db1        | make writable: 1                               | undone → db1
unreachable         | undo, fence but db1        | make writable: 1                               | undone → db1
not written         | sessions stuck, fence but db1|                                                | done → db2
kernel refuses      | -
epoch not written   | -
old is read-only    | sessions, fence but db1    |                                                | done → db2
old is writable     | sessions, fence but db1    |                                                | done → db2
// doubtful: the proof of semi-sync is forgotten with the switchover, so an operator is needed
old dies            | undo, fence but db1        | make writable: 1                               | failed, done → db2, db1 cast out
candidate dies      | sessions, fence but db1    |                                                | done → db3, db2 cast out
another dies        | sessions, fence but db1    |                                                | done → db2, db3 cast out
stranger writable   | failed, fence but db1      | examine: 12345                                 | failed → db1, writable db5
lock lost           | reopen, fence but db1      |                                                | undone → db1
another promotes 2  | failed, fence but db1      | examine: 12345                                 | failed → db2
another promotes 3  | failed, fence but db1      | examine: 12345                                 | failed → db3
stale answer        | sessions, fence but db1    |                                                | done → db2
stale begun         | sessions, fence but db1    |                                                | done → db2
operate             | sessions, fence but db1    |                                                | done → db2
abort               | reopen, fence but db1      |                                                | undone → db1
pin to old          | sessions, fence but db1    |                                                | done → db1, writable db2
pin listener to old | sessions, fence but db1    |                                                | done → db1, writable db2
pause               | sessions, fence but db1    |                                                | done → db2
rejoin old          | sessions, fence but db1    |                                                | done → db2
rejoin candidate    | sessions, fence but db1    |                                                | done → db2
clear old           | sessions, fence but db1    |                                                | done → db2
lease lapsed        | sessions, lapsed           |                                                | done → db2
restarted before    | undo stuck, fence but db1  |                                                | undone → db1
restarted after     | undo stuck, fence but db1  |                                                | undone → db1
restarted, no lock  | undo stuck, fence but db1  |                                                | undone → db1
restarted, too late | failed, fence but db1      | examine: 12345                                 | failed → db3
an hour later       | reopen, fence but db1      |                                                | undone → db1
-- fence
answered            | disarm, fence              | make read-only: 1; examine: 2345               | done → db2
refused             | -
unknown             | -
unreachable         | -
not written         | fence stuck, fence but db1 |                                                | done → db2
kernel refuses      | fence, fence but db1       |                                                | done → db2
epoch not written   | fence, fence but db1       |                                                | done → db2
old is read-only    | fence, fence but db1       |                                                | done → db2
old is writable     | fence, fence but db1       |                                                | done → db2
// doubtful: the proof of semi-sync is forgotten with the switchover, so an operator is needed
old dies            | fence, fence but db1       |                                                | failed, done → db2, db1 cast out
candidate dies      | fence, fence but db1       |                                                | done → db3, db2 cast out
another dies        | fence, fence but db1       |                                                | done → db2, db3 cast out
stranger writable   | failed, fence but db1      | examine: 12345                                 | failed → db1, writable db5
lock lost           | reopen, fence but db1      |                                                | undone → db1
another promotes 2  | failed, fence but db1      | examine: 12345                                 | failed → db2
another promotes 3  | failed, fence but db1      | examine: 12345                                 | failed → db3
stale answer        | fence, fence but db1       |                                                | done → db2
stale begun         | fence, fence but db1       |                                                | done → db2
operate             | fence, fence but db1       |                                                | done → db2
abort               | undo, fence but db1        | make writable: 1                               | undone → db1
pin to old          | fence, fence but db1       |                                                | done → db1, writable db2
pin listener to old | fence, fence but db1       |                                                | done → db1, writable db2
pause               | fence, fence but db1       |                                                | done → db2
rejoin old          | fence, fence but db1       |                                                | done → db2
rejoin candidate    | fence, fence but db1       |                                                | done → db2
clear old           | fence, fence but db1       |                                                | done → db2
lease lapsed        | fence, lapsed              |                                                | done → db2
restarted before    | undo stuck, fence but db1  |                                                | undone → db1
restarted after     | undo stuck, fence but db1  |                                                | undone → db1
restarted, no lock  | undo stuck, fence but db1  |                                                | undone → db1
restarted, too late | failed, fence but db1      | examine: 12345                                 | failed → db3
an hour later       | reopen, fence but db1      |                                                | undone → db1
-- disarm
answered            | drain, fence               | apply what was received: 2                     | done → db2
refused             | undo, fence                | make writable: 1                               | undone → db1
unknown             | undo, fence                | make writable: 1                               | undone → db1
unreachable         | undo, fence                | make writable: 1                               | undone → db1
not written         | disarm stuck, fence        |                                                | done → db2
kernel refuses      | -
epoch not written   | -
old is read-only    | disarm, fence              |                                                | done → db2
old is writable     | disarm, fence              |                                                | done → db2
// doubtful: the proof of semi-sync is forgotten with the switchover, so an operator is needed
old dies            | disarm, fence              |                                                | failed, done → db2, db1 cast out
candidate dies      | disarm, fence              |                                                | done → db3, db2 cast out
another dies        | disarm, fence              |                                                | done → db2, db3 cast out
stranger writable   | failed, fence              | examine: 12345                                 | failed → db1, writable db5
lock lost           | failed, fence              | examine: 12345                                 | failed → db1
another promotes 2  | failed, fence              | examine: 12345                                 | failed → db2
another promotes 3  | failed, fence              | examine: 12345                                 | failed → db3
stale answer        | disarm, fence              |                                                | done → db2
stale begun         | disarm, fence              |                                                | done → db2
operate             | disarm, fence              |                                                | done → db2
abort               | undo, fence                | make writable: 1                               | undone → db1
pin to old          | disarm, fence              |                                                | done → db1, writable db2
pin listener to old | disarm, fence              |                                                | done → db1, writable db2
pause               | disarm, fence              |                                                | done → db2
rejoin old          | disarm, fence              |                                                | done → db2
rejoin candidate    | disarm, fence              |                                                | done → db2
clear old           | disarm, fence              |                                                | done → db2
lease lapsed        | disarm, lapsed             |                                                | done → db2
restarted before    | undo stuck, fence          |                                                | undone → db1
restarted after     | undo stuck, fence          |                                                | undone → db1
restarted, no lock  | undo stuck, fence          |                                                | undone → db1
restarted, too late | failed, fence              | examine: 12345                                 | failed → db3
an hour later       | disarm stuck, fence        |                                                | done → db2
-- drain
answered            | recheck, fence             | examine: 1                                     | done → db2
refused             | drain, fence               | apply what was received: 2                     | done → db2
unknown             | drain, fence               | apply what was received: 2                     | done → db2
unreachable         | drain, fence               | apply what was received: 2                     | done → db2
not written         | drain stuck, fence         |                                                | done → db2
kernel refuses      | -
epoch not written   | -
old is read-only    | drain, fence               |                                                | done → db2
old is writable     | drain, fence               |                                                | done → db2
// doubtful: what it still lacks is nowhere, and it waits its whole patience for that
old dies            | drain, fence               |                                                | failed, done → db2, db1 cast out
candidate dies      | undo, fence                | make writable: 1                               | undone → db1
another dies        | drain, fence               |                                                | done → db2, db3 cast out
// doubtful: db1 was made read-only and is looked after by nobody
stranger writable   | failed, fence              | examine: 12345                                 | failed → db5
lock lost           | failed, fence              | examine: 12345                                 | failed → fence
another promotes 2  | failed, fence              | examine: 12345                                 | failed → db2
another promotes 3  | failed, fence              | examine: 12345                                 | failed → db3
stale answer        | drain, fence               |                                                | done → db2
stale begun         | drain, fence               |                                                | done → db2
operate             | drain, fence               |                                                | done → db2
abort               | undo, fence                | make writable: 1                               | undone → db1
pin to old          | drain, fence               |                                                | done → db1, writable db2
pin listener to old | drain, fence               |                                                | done → db1, writable db2
pause               | drain, fence               |                                                | done → db2
rejoin old          | drain, fence               |                                                | done → db2
rejoin candidate    | drain, fence               |                                                | done → db2
clear old           | drain, fence               |                                                | done → db2
lease lapsed        | drain, lapsed              |                                                | done → db2
restarted before    | undo stuck, fence          |                                                | undone → db1
restarted after     | undo stuck, fence          |                                                | undone → db1
restarted, no lock  | undo stuck, fence          |                                                | failed → fence
restarted, too late | failed, fence              | examine: 12345                                 | failed → db3
an hour later       | drain stuck, fence         |                                                | done → db2
-- recheck
answered            | promote, fence             | promote: 2                                     | done → db2
refused             | promote, fence             | promote: 2                                     | done → db2
// doubtful: uncertain, and before the promotion
unknown             | promote, fence             | promote: 2                                     | done → db2
unreachable         | promote, fence             | promote: 2                                     | done → db2
not written         | recheck stuck, fence       |                                                | done → db2
kernel refuses      | -
epoch not written   | -
old is read-only    | recheck, fence             |                                                | done → db2
old is writable     | recheck, fence             |                                                | done → db2
old dies            | promote, fence             | promote: 2                                     | done → db2, db1 cast out
candidate dies      | recheck, fence             |                                                | done → db3, db2 cast out
another dies        | recheck, fence             |                                                | done → db2, db3 cast out
stranger writable   | failed, fence              | examine: 12345                                 | failed → db5
lock lost           | failed, fence              | examine: 12345                                 | failed → fence
another promotes 2  | failed, fence              | examine: 12345                                 | failed → db2
another promotes 3  | failed, fence              | examine: 12345                                 | failed → db3
stale answer        | recheck, fence             |                                                | done → db2
stale begun         | recheck, fence             |                                                | done → db2
operate             | recheck, fence             |                                                | done → db2
abort               | undo, fence                | make writable: 1                               | undone → db1
pin to old          | recheck, fence             |                                                | done → db1, writable db2
pin listener to old | recheck, fence             |                                                | done → db1, writable db2
pause               | recheck, fence             |                                                | done → db2
rejoin old          | recheck, fence             |                                                | done → db2
rejoin candidate    | recheck, fence             |                                                | done → db2
clear old           | recheck, fence             |                                                | done → db2
lease lapsed        | recheck, lapsed            |                                                | done → db2
restarted before    | undo stuck, fence          |                                                | undone → db1
restarted after     | undo stuck, fence          |                                                | undone → db1
restarted, no lock  | undo stuck, fence          |                                                | failed → fence
restarted, too late | failed, fence              | examine: 12345                                 | failed → db3
an hour later       | recheck stuck, fence       |                                                | done → db2
-- promote
answered            | open, fence                | repoint to db2: 1345                           | done → db2
refused             | promote stuck, fence       |                                                | done → db2
unknown             | promote stuck, fence       |                                                | done → db2
unreachable         | promote stuck, fence       |                                                | done → db2
not written         | promote stuck, fence       |                                                | done → db2
kernel refuses      | -
epoch not written   | -
old is read-only    | promote, fence             |                                                | done → db2
old is writable     | promote, fence             |                                                | done → db2
old dies            | promote, fence             |                                                | done → db2, db1 cast out
candidate dies      | disarm, fence              | examine: 345                                   | done → db3, db2 cast out
another dies        | promote, fence             |                                                | done → db2, db3 cast out
stranger writable   | failed, fence              | make read-only: 12; examine: 12345             | failed → db5, db1 quarantined, db2 quarantined
lock lost           | promote stuck, fence       |                                                | stuck at promote → fence, writable db2, db1 cast out
another promotes 2  | failed, fence              | examine: 12345                                 | failed → db2, db1 cast out
another promotes 3  | failed, fence              | examine: 12345                                 | failed → db3, db1 cast out, db2 cast out
stale answer        | promote, fence             |                                                | done → db2
stale begun         | promote, fence             |                                                | done → db2
operate             | promote, fence             |                                                | done → db2
abort               | promote, fence             |                                                | done → db2
pin to old          | promote, fence             |                                                | done → db1, writable db2
pin listener to old | promote, fence             |                                                | done → db1, writable db2
pause               | promote, fence             |                                                | done → db2
rejoin old          | promote, fence             |                                                | done → db2
rejoin candidate    | promote, fence             |                                                | done → db2
clear old           | promote, fence             |                                                | done → db2
lease lapsed        | promote, lapsed            |                                                | done → db2
restarted before    | promote stuck, fence       |                                                | done → db2
restarted after     | promote stuck, fence       |                                                | done → db2
restarted, no lock  | promote stuck, fence       |                                                | stuck at promote → fence, db1 cast out
restarted, too late | failed, fence              | examine: 12345                                 | failed → db3, db1 cast out, db2 cast out
an hour later       | promote stuck, fence       |                                                | done → db2
-- open
answered            | open, fence                |                                                | done → db2
refused             | open, fence                |                                                | done → db2
unknown             | open, fence                |                                                | done → db2
unreachable         | open, fence                |                                                | done → db2
not written         | open stuck, fence          |                                                | done → db2
kernel refuses      | open, fence                |                                                | done → db2
epoch not written   | open, fence                |                                                | done → db2
old is read-only    | open, fence                |                                                | done → db2
old is writable     | open, fence                |                                                | done → db2
old dies            | open, fence                |                                                | done → db2, db1 cast out
candidate dies      | open, fence                |                                                | done → fence, db1 cast out, db3 cast out, db4 cast out, db5 cast out, barred
another dies        | open, fence                |                                                | done → db2, db3 cast out
stranger writable   | open, fence                |                                                | done → db2
lock lost           | open stuck, fence          |                                                | stuck at open → db2, db1 cast out
another promotes 2  | open stuck, fence          |                                                | stuck at open → db2, db1 cast out
// what was ordered before goes on: db3 is made a replica of db2, and nobody takes writes
another promotes 3  | failed, fence              | examine: 12345                                 | failed → db3, db1 cast out, db2 cast out
stale answer        | open, fence                |                                                | done → db2
stale begun         | open, fence                |                                                | done → db2
operate             | open, fence                |                                                | done → db2
abort               | open, fence                |                                                | done → db2
pin to old          | open, fence                |                                                | done → db1, writable db2
pin listener to old | open, fence                |                                                | done → db1, writable db2
pause               | open, fence                |                                                | done → db2
rejoin old          | open, fence                |                                                | done → db2
rejoin candidate    | open, fence                |                                                | done → db2
clear old           | open, fence                |                                                | done → db2
lease lapsed        | open, lapsed               |                                                | done → db2
restarted before    | open stuck, fence          |                                                | done → db2
restarted after     | open stuck, fence          |                                                | done → db2
restarted, no lock  | open stuck, fence          |                                                | stuck at open → db2, db1 cast out
restarted, too late | failed, fence              | examine: 12345                                 | failed → db3, db1 cast out, db2 cast out
an hour later       | open stuck, fence          |                                                | done → db2
-- repoint
answered            | done, db2                  | examine: 12345                                 | done → db2
refused             | repoint, db2               | repoint to db2: 1345                           | done → db2
unknown             | repoint, db2               | repoint to db2: 1345                           | done → db2
unreachable         | repoint, db2               | repoint to db2: 1345                           | done → db2
not written         | repoint stuck, db2         |                                                | done → db2
kernel refuses      | -
epoch not written   | -
old is read-only    | repoint, db2               |                                                | done → db2
old is writable     | repoint, db2               |                                                | done → db2
old dies            | repoint, db2               |                                                | done → db2, db1 cast out
candidate dies      | repoint, db2               |                                                | done → fence, db1 cast out, db3 cast out, db4 cast out, db5 cast out, barred
another dies        | repoint, db2               |                                                | done → db2, db3 cast out
stranger writable   | repoint, db2               |                                                | done → db2
lock lost           | repoint stuck, db2         |                                                | stuck at repoint → db2, db1 cast out
another promotes 2  | repoint stuck, db2         |                                                | stuck at repoint → db2, db1 cast out
another promotes 3  | failed, db2                | examine: 12345                                 | failed → db3, db1 cast out, db2 cast out
stale answer        | repoint, db2               |                                                | done → db2
stale begun         | repoint, db2               |                                                | done → db2
operate             | repoint, db2               |                                                | done → db2
abort               | repoint, db2               |                                                | done → db2
pin to old          | repoint, db2               |                                                | done → db1, writable db2
pin listener to old | repoint, db2               |                                                | done → db1, writable db2
pause               | repoint, db2               |                                                | done → db2
rejoin old          | repoint, db2               |                                                | done → db2
rejoin candidate    | repoint, db2               |                                                | done → db2
clear old           | repoint, db2               |                                                | done → db2
lease lapsed        | repoint, lapsed            |                                                | done → db2
restarted before    | repoint stuck, db2         |                                                | done → db2
restarted after     | repoint stuck, db2         |                                                | done → db2
restarted, no lock  | repoint stuck, db2         |                                                | stuck at repoint → db2, db1 cast out
restarted, too late | failed, db2                | examine: 12345                                 | failed → db3, db1 cast out, db2 cast out
an hour later       | repoint stuck, db2         |                                                | done → db2
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
old dies            | disarm, fence              | make read-only: 1; stop receiving: 2345        | failed, done → db2, db1 cast out
candidate dies      | undo, fence                |                                                | undone → db1
another dies        | undo, fence                |                                                | undone → db1
stranger writable   | undo, fence                |                                                | undone → db1, writable db5
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
an hour later       | reopen, fence              |                                                | undone → db1
-- reopen
answered            | undone, db1                | examine: 12345                                 | undone → db1
refused             | -
unknown             | -
unreachable         | -
not written         | reopen stuck, fence        |                                                | undone → db1
kernel refuses      | reopen, fence              |                                                | undone → db1
epoch not written   | reopen, fence              |                                                | undone → db1
old is read-only    | reopen, fence              |                                                | undone → fence
old is writable     | reopen, fence              |                                                | undone → db1
old dies            | reopen, fence              |                                                | undone, done → db2, db1 cast out
candidate dies      | reopen, fence              |                                                | undone → db1
another dies        | reopen, fence              |                                                | undone → db1
stranger writable   | reopen, fence              |                                                | undone → db1, writable db5
lock lost           | reopen, fence              |                                                | undone → db1
another promotes 2  | reopen, fence              |                                                | undone → db2
another promotes 3  | reopen, fence              |                                                | undone → db3
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
