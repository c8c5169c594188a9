//! Servers that must not come back unexamined: former primaries, and those that were almost made one. What is known of one
//! may become unreadable; that it is cast out does not.

use std::net::SocketAddr;

use rusqlite::params;
use shunt_core::operation::{Outcast, Quarantine};
use shunt_core::{ClusterName, Epoch};

use super::{Store, StoreError};

/// The form of an outcast's JSON; see that of operations.
const FORMAT: i64 = 1;

impl Store {
    /// Keeps who is cast out of the cluster, in place of all that were before. When this returns, that is on the disk.
    pub fn keep_outcasts(&mut self, cluster: &ClusterName, outcasts: &[Outcast]) -> Result<(), StoreError> {
        let rows: Vec<(String, String)> = outcasts
            .iter()
            .map(|outcast| {
                let state = serde_json::to_string(outcast).expect("addresses, numbers and words have a JSON form");
                (outcast.server.to_string(), state)
            })
            .collect();
        self.write_dear("keep the outcasts", |db| {
            let transaction = db.unchecked_transaction()?;
            transaction.prepare_cached("DELETE FROM outcasts WHERE cluster = ?1")?.execute([cluster.as_str()])?;
            let sql = "INSERT INTO outcasts (cluster, server, format, state) VALUES (?1, ?2, ?3, ?4)";
            for (server, state) in &rows {
                transaction.prepare_cached(sql)?.execute(params![cluster.as_str(), server, FORMAT, state])?;
            }
            transaction.commit()
        })
    }

    /// Who is cast out of the cluster. One of whom nothing more can be read is in quarantine for that.
    pub fn outcasts(&self, cluster: &ClusterName) -> Result<Vec<Outcast>, StoreError> {
        let failed = |source| self.failed("read the outcasts")(source);
        let mut query = self
            .db
            .prepare_cached("SELECT server, format, state FROM outcasts WHERE cluster = ?1 ORDER BY server")
            .map_err(failed)?;
        let mut rows = query.query([cluster.as_str()]).map_err(failed)?;
        let mut outcasts = Vec::new();
        while let Some(row) = rows.next().map_err(failed)? {
            let server: SocketAddr = self.parse("outcasts", &row.get::<_, String>(0).map_err(failed)?)?;
            let (format, state): (i64, String) = (row.get(1).map_err(failed)?, row.get(2).map_err(failed)?);
            outcasts.push(read(server, format, &state));
        }
        Ok(outcasts)
    }
}

fn read(server: SocketAddr, format: i64, state: &str) -> Outcast {
    let detail = match serde_json::from_str::<Outcast>(state) {
        _ if format != FORMAT => format!("its form is {format}, this shunt knows {FORMAT}"),
        Ok(outcast) if outcast.server == server => return outcast,
        Ok(outcast) => format!("it is about {}", outcast.server),
        Err(error) => error.to_string(),
    };
    let reason = format!("it is cast out, but the record of why cannot be read: {detail}");
    Outcast { server, epoch: Epoch(0), quarantine: Some(Quarantine { reason, errant: String::new(), salvaged: None }) }
}
