//! Which of the wanted transactions there are.

use std::collections::BTreeMap;

use shunt_core::gtid::{GtidSet, History};

use super::event::Gtid;

#[derive(Debug, Default)]
pub(super) struct Got {
    mysql: GtidSet,
    /// MariaDB's numbers have gaps: only the last ones are sure to come. By domain and server.
    mariadb: BTreeMap<(u32, u32), u64>,
}

impl Got {
    /// Remembers a transaction; `false` if it was there already.
    pub(super) fn note(&mut self, gtid: &Gtid) -> bool {
        match gtid {
            Gtid::Mysql { origin, number } => {
                let new = !self.mysql.contains(origin, *number);
                self.mysql.insert(origin.clone(), *number);
                new
            }
            Gtid::Mariadb { domain, server, sequence, .. } => {
                let last = self.mariadb.entry((*domain, *server)).or_insert(0);
                *last = sequence.max(last).to_owned();
                true
            }
        }
    }

    /// What is wanted and not there; empty if everything is.
    pub(super) fn absent(&self, wanted: &History) -> String {
        match wanted {
            History::Mysql(wanted) => wanted.minus(&self.mysql).to_string(),
            History::Mariadb(wanted) => {
                let got = |place| self.mariadb.get(&place).copied().unwrap_or(0);
                let absent = wanted.spans().filter(|(place, _, last)| got(*place) < *last);
                absent
                    .map(|((domain, server), _, last)| format!("{domain}-{server}-{last}"))
                    .collect::<Vec<_>>()
                    .join(",")
            }
        }
    }
}
