//! Operations: changes of a cluster that take several steps on several servers — failover, switchover, rejoin.

mod choose;
mod outcast;
mod record;
pub mod sessions;
mod standing;
mod task;

pub use choose::{Candidates, Choice, choose};
pub use outcast::{Outcast, Quarantine};
pub use record::{Ending, Intent, Kind, LeftBehind, OpId, Operation, Origin, Outcome, Step, Trigger};
pub use standing::{Obstacle, Replication, SemiSyncRole, Standing};
pub use task::{Cause, Hook, Notice, Order, OrderId, Report, Salvaged, Sessions, Task, TaskError};
