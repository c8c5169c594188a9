//! Epochs: the one number that must never go back, and the primary that it began with. A cluster whose file is removed
//! keeps its row: should the file come back, the epoch goes on from there.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use rusqlite::{OptionalExtension, params};
use shunt_core::{ClusterName, Epoch};

use super::{Store, StoreError};

impl Store {
    /// Every cluster's epoch and the primary of that epoch.
    pub fn epochs(&self) -> Result<BTreeMap<ClusterName, (Epoch, Option<SocketAddr>)>, StoreError> {
        let failed = |source| self.failed("read the epochs")(source);
        let mut query = self.db.prepare_cached("SELECT name, epoch, primary_address FROM clusters").map_err(failed)?;
        let rows = query
            .query_map([], |row| {
                Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?, row.get::<_, Option<String>>(2)?))
            })
            .map_err(failed)?;
        let mut epochs = BTreeMap::new();
        for row in rows {
            let (name, epoch, primary) = row.map_err(failed)?;
            let primary = primary.map(|text| self.parse("clusters", &text)).transpose()?;
            epochs.insert(self.name("clusters", name)?, (self.epoch(epoch)?, primary));
        }
        Ok(epochs)
    }

    /// Takes a cluster to an epoch. When this returns, the epoch is on the disk.
    ///
    /// It refuses to go back, and it refuses another primary, or none, for an epoch that has one; to say the same again is
    /// fine.
    pub fn advance(
        &mut self,
        cluster: &ClusterName,
        epoch: Epoch,
        primary: Option<SocketAddr>,
    ) -> Result<(), StoreError> {
        let stored: Option<(i64, Option<String>)> = self
            .db
            .prepare_cached("SELECT epoch, primary_address FROM clusters WHERE name = ?1")
            .and_then(|mut query| query.query_row([cluster.as_str()], |row| Ok((row.get(0)?, row.get(1)?))).optional())
            .map_err(self.failed("read an epoch"))?;
        let primary = primary.map(|address| address.to_string());
        if let Some((stored, stored_primary)) = stored {
            let stored = self.epoch(stored)?;
            if epoch < stored {
                return Err(StoreError::EpochWentBack { cluster: cluster.clone(), stored, asked: epoch });
            }
            if epoch == stored && stored_primary == primary {
                return Ok(());
            }
            if epoch == stored && stored_primary.is_some() {
                return Err(StoreError::EpochTaken { cluster: cluster.clone(), epoch });
            }
        }
        let number = i64::try_from(epoch.0).map_err(|source| {
            self.failed("advance an epoch")(rusqlite::Error::ToSqlConversionFailure(Box::new(source)))
        })?;
        // The condition again, in the statement itself: no reordering of this code can ever take an epoch back.
        let sql = "INSERT INTO clusters (name, epoch, primary_address) VALUES (?1, ?2, ?3)
                   ON CONFLICT (name) DO UPDATE SET epoch = ?2, primary_address = ?3 WHERE ?2 >= epoch";
        self.write_dear("advance an epoch", |db| {
            db.prepare_cached(sql)?.execute(params![cluster.as_str(), number, primary])
        })?;
        Ok(())
    }

    /// SQLite has no unsigned numbers.
    fn epoch(&self, number: i64) -> Result<Epoch, StoreError> {
        u64::try_from(number).map(Epoch).map_err(|_| StoreError::Corrupt {
            path: self.path.clone(),
            detail: format!("table clusters has the epoch {number}"),
        })
    }

    pub(super) fn name(&self, table: &str, name: String) -> Result<ClusterName, StoreError> {
        ClusterName::new(name)
            .map_err(|bad| StoreError::Corrupt { path: self.path.clone(), detail: format!("table {table}: {bad}") })
    }
}
