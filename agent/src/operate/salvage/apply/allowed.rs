//! Whether the user may do what applying takes, asked before anything is changed.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use shunt_core::gtid::History;

use crate::operate::grants::{self, Granted};
use crate::operate::salvage::rows::Change;
use crate::operate::salvage::trouble::Trouble;
use crate::operate::salvage::wire::Wire;

/// What the user lacks, in a sentence; `None`: nothing that is known of. Statements may take more than can be told here.
pub(super) async fn bar(
    wire: &mut Wire,
    server: SocketAddr,
    lacking: &History,
    changes: &BTreeSet<(String, Change)>,
) -> Result<Option<String>, Trouble> {
    let (tags, by_table) = match lacking {
        History::Mysql(set) => {
            // A user's grants may be in a role that is none of its default roles.
            wire.run(b"SET ROLE ALL").await?;
            (set.origins().any(|(_, tag, _)| !tag.as_str().is_empty()), true)
        }
        // Who may say BINLOG may change any row by it.
        History::Mariadb(_) => (false, false),
    };
    let account = grants::account(&wire.value("SELECT CURRENT_USER()").await?);
    let rows = wire.query(b"SHOW GRANTS").await?;
    let lines: Vec<String> = rows.into_iter().filter_map(|row| row.into_iter().next().flatten()).collect();
    let changes = changes.iter().filter(|_| by_table).map(|(table, change)| (table.as_str(), change.privilege()));
    let missing = Granted::parse(&lines).missing_for(lacking.flavour(), tags, changes, &account);
    let what =
        || format!("the agent's user may not do that on {server}, which is as it was (run: {})", missing.join("; "));
    Ok((!missing.is_empty()).then(what))
}
