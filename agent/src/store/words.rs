//! An operator's words that outlive the agent: pins and pauses. Times are Unix time in milliseconds.

use std::net::SocketAddr;

use rusqlite::params;
use shunt_core::ClusterName;

use super::{Store, StoreError};

/// This listener, or all listeners of this cluster, lead to that server until it is unpinned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin {
    pub cluster: ClusterName,
    /// `None`: all of the cluster's.
    pub listener: Option<SocketAddr>,
    pub server: SocketAddr,
    pub since_ms: i64,
    pub by: String,
}

/// No automatic failover of this cluster meanwhile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pause {
    pub cluster: ClusterName,
    /// `None`: until it is resumed. One that has run out stays here until somebody removes it.
    pub until_ms: Option<i64>,
    pub reason: String,
    pub since_ms: i64,
    pub by: String,
}

impl Store {
    pub fn pins(&self) -> Result<Vec<Pin>, StoreError> {
        let failed = |source| self.failed("read the pins")(source);
        let sql = "SELECT cluster, listener, server, since, by FROM pins ORDER BY cluster, listener";
        let mut query = self.db.prepare_cached(sql).map_err(failed)?;
        let mut rows = query.query([]).map_err(failed)?;
        let mut pins = Vec::new();
        while let Some(row) = rows.next().map_err(failed)? {
            let listener: Option<String> = row.get(1).map_err(failed)?;
            pins.push(Pin {
                cluster: self.name("pins", row.get(0).map_err(failed)?)?,
                listener: listener.map(|text| self.parse("pins", &text)).transpose()?,
                server: self.parse("pins", &row.get::<_, String>(2).map_err(failed)?)?,
                since_ms: row.get(3).map_err(failed)?,
                by: row.get(4).map_err(failed)?,
            });
        }
        Ok(pins)
    }

    /// Keeps a pin, in place of an earlier one for the same cluster and listener.
    pub fn pin(&mut self, pin: &Pin) -> Result<(), StoreError> {
        let sql = "INSERT INTO pins (cluster, listener, server, since, by) VALUES (?1, ?2, ?3, ?4, ?5)
                   ON CONFLICT (cluster, ifnull(listener, '')) DO UPDATE SET server = ?3, since = ?4, by = ?5";
        let listener = pin.listener.map(|address| address.to_string());
        let server = pin.server.to_string();
        self.write_dear("keep a pin", |db| {
            let values = params![pin.cluster.as_str(), listener, server, pin.since_ms, pin.by];
            db.prepare_cached(sql)?.execute(values)
        })?;
        Ok(())
    }

    /// Forgets a pin. False if there was none for exactly this cluster and listener.
    pub fn unpin(&mut self, cluster: &ClusterName, listener: Option<SocketAddr>) -> Result<bool, StoreError> {
        let listener = listener.map(|address| address.to_string());
        let sql = "DELETE FROM pins WHERE cluster = ?1 AND listener IS ?2";
        let gone =
            self.write_dear("forget a pin", |db| db.prepare_cached(sql)?.execute(params![cluster.as_str(), listener]))?;
        Ok(gone > 0)
    }

    pub fn pauses(&self) -> Result<Vec<Pause>, StoreError> {
        let failed = |source| self.failed("read the pauses")(source);
        let sql = "SELECT cluster, until, reason, since, by FROM pauses ORDER BY cluster";
        let mut query = self.db.prepare_cached(sql).map_err(failed)?;
        let mut rows = query.query([]).map_err(failed)?;
        let mut pauses = Vec::new();
        while let Some(row) = rows.next().map_err(failed)? {
            pauses.push(Pause {
                cluster: self.name("pauses", row.get(0).map_err(failed)?)?,
                until_ms: row.get(1).map_err(failed)?,
                reason: row.get(2).map_err(failed)?,
                since_ms: row.get(3).map_err(failed)?,
                by: row.get(4).map_err(failed)?,
            });
        }
        Ok(pauses)
    }

    /// Keeps a pause, in place of an earlier one of the same cluster.
    pub fn pause(&mut self, pause: &Pause) -> Result<(), StoreError> {
        let sql = "INSERT INTO pauses (cluster, until, reason, since, by) VALUES (?1, ?2, ?3, ?4, ?5)
                   ON CONFLICT (cluster) DO UPDATE SET until = ?2, reason = ?3, since = ?4, by = ?5";
        self.write_dear("keep a pause", |db| {
            let values = params![pause.cluster.as_str(), pause.until_ms, pause.reason, pause.since_ms, pause.by];
            db.prepare_cached(sql)?.execute(values)
        })?;
        Ok(())
    }

    /// Forgets a cluster's pause. False if there was none.
    pub fn resume(&mut self, cluster: &ClusterName) -> Result<bool, StoreError> {
        let sql = "DELETE FROM pauses WHERE cluster = ?1";
        let gone = self.write_dear("forget a pause", |db| db.prepare_cached(sql)?.execute([cluster.as_str()]))?;
        Ok(gone > 0)
    }
}
