//! Whether a MariaDB shows everything that a planned switchover waits for. MySQL does.

use mysql_async::Conn;
use mysql_async::prelude::Queryable;

use super::Finding;
use crate::operate::grants::account;
use crate::operate::{Shows, WITNESSES};

const CHECK: &str = "sessions";

/// What the server shows, and what may be read.
#[derive(Clone, Copy, Debug)]
struct Facts {
    schema: Schema,
    transactions: bool,
    locks: bool,
}

/// Its `performance_schema`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Schema {
    Off,
    Forbidden,
    On,
}

/// Asks and judges.
pub async fn look(conn: &mut Conn, server: &str, current_user: &str) -> Result<Option<Finding>, mysql_async::Error> {
    let is_on: Option<bool> = conn.query_first("SELECT @@global.performance_schema").await?;
    let probe = "SELECT COUNT(*) FROM performance_schema.setup_consumers";
    let schema = match is_on {
        Some(true) if refused(conn.query_first::<u64, _>(probe).await)?.is_some() => Schema::On,
        Some(true) => Schema::Forbidden,
        _ => Schema::Off,
    };
    let mut facts = Facts { schema, transactions: false, locks: false };
    for witness in &WITNESSES {
        let is_there = refused(conn.query_first::<bool, _>(witness.is_there).await)?.flatten() == Some(true);
        let shown = is_there && refused(conn.query_drop(witness.busy).await)?.is_some();
        match witness.shows {
            Shows::Transactions => facts.transactions |= shown,
            Shows::Locks => facts.locks |= shown,
        }
    }
    Ok(judge(server, facts, &account(current_user)))
}

/// `None`: the server said no.
fn refused<T>(answer: Result<T, mysql_async::Error>) -> Result<Option<T>, mysql_async::Error> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(mysql_async::Error::Server(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

fn judge(server: &str, facts: Facts, account: &str) -> Option<Finding> {
    let (mut hidden, mut advice) = (Vec::new(), Vec::new());
    let grant = format!("GRANT SELECT ON performance_schema.* TO {account}");
    let start = "performance-schema-instrument = 'transaction=ON'` and \
                 `performance-schema-consumer-events-transactions-current = ON` in its my.cnf";
    if !facts.transactions {
        hidden.push("a transaction that has touched no table yet");
        advice.push(match facts.schema {
            Schema::Off => format!("write `performance_schema = ON`, `{start}, restart it, and {grant}"),
            Schema::Forbidden => grant,
            Schema::On => format!(
                "UPDATE performance_schema.setup_instruments SET ENABLED = 'YES' WHERE NAME = 'transaction'; \
                 UPDATE performance_schema.setup_consumers SET ENABLED = 'YES' \
                 WHERE NAME = 'events_transactions_current'; and for every start, `{start}"
            ),
        });
    }
    if !facts.locks {
        hidden.push("who holds LOCK TABLES");
        advice.push("for locks: INSTALL SONAME 'metadata_lock_info'".to_owned());
    }
    let what = format!("{server}: it does not show {}", hidden.join(", nor "));
    let consequence = "a switchover takes such a session for idle and ends it at once";
    (!hidden.is_empty()).then(|| Finding::note(CHECK, what, format!("{consequence}; to see it: {}", advice.join("; "))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn advice(facts: Facts) -> Option<(String, String)> {
        judge("db1", facts, "'s'@'%'").map(|found| (found.what, found.advice.unwrap_or_default()))
    }

    #[test]
    fn a_server_that_shows_everything_has_no_finding() {
        assert_eq!(advice(Facts { schema: Schema::On, transactions: true, locks: true }), None);
    }

    #[test]
    fn what_is_hidden_is_said_with_what_shows_it() {
        let hidden = |schema| advice(Facts { schema, transactions: false, locks: true }).unwrap();
        let (what, off) = hidden(Schema::Off);
        assert_eq!(what, "db1: it does not show a transaction that has touched no table yet");
        assert!(off.contains("`performance_schema = ON`") && off.contains("restart") && off.contains("GRANT SELECT"));
        assert!(off.contains("'transaction=ON'") && off.contains("events-transactions-current = ON"), "{off}");
        let (_, on) = hidden(Schema::On);
        assert!(on.contains("UPDATE performance_schema.setup_consumers") && on.contains("my.cnf"), "{on}");
        let (_, forbidden) = hidden(Schema::Forbidden);
        assert!(forbidden.ends_with("GRANT SELECT ON performance_schema.* TO 's'@'%'"), "{forbidden}");
    }

    #[test]
    fn locks_have_a_plugin_of_their_own() {
        let (what, both) = advice(Facts { schema: Schema::Off, transactions: false, locks: false }).unwrap();
        assert!(what.ends_with("yet, nor who holds LOCK TABLES"), "{what}");
        assert!(both.ends_with("INSTALL SONAME 'metadata_lock_info'"), "{both}");
    }
}
