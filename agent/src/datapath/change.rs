//! From one datapath to another. Two must never be in force: the former one is fenced, its connections are ended at both
//! ends, and it is taken out of the kernel, before the new one is opened.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use shunt_core::cluster::Entry;
use shunt_core::datapath::{Change as Mappings, Datapath, DatapathError};
use shunt_core::mapping::Leaving;

use super::{OpenError, Place, leftover};
use crate::config::AgentConfig;

/// An end that has not answered after five seconds is given up by either datapath.
const PATIENCE: Duration = Duration::from_secs(6);
const LOOK: Duration = Duration::from_millis(20);

/// A datapath that was taken out of the kernel because another one takes its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub from: Place,
    pub to: Place,
    /// The connections through it.
    pub connections: u64,
    /// Those of them that did not end while they were waited for. They end at their next packet.
    pub silent: u64,
}

impl Change {
    pub fn entry(&self) -> Entry {
        let Self { from, to, connections, silent } = self;
        let silent_in_words = match silent {
            0 => String::new(),
            n => format!("; {n} of them did not answer, and are told at their next packet"),
        };
        Entry {
            kind: "datapath_changed",
            message: format!(
                "the datapath is {to} from now on; {from} was fenced, its {connections} connections were ended\
                 {silent_in_words}, and it was taken out of the kernel"
            ),
            data: vec![
                ("from", from.kind().word().to_owned()),
                ("to", to.kind().word().to_owned()),
                ("connections", connections.to_string()),
                ("silent", silent.to_string()),
            ],
        }
    }
}

/// Takes away every other datapath of this agent's, and remembers that it is this one from now on. Before that it has to
/// succeed in opening the new one, by `attempt`: what cannot be opened must not cost the one that works.
pub(super) fn settle(
    settings: &AgentConfig,
    state: &Path,
    attempt: impl Fn() -> Result<(), OpenError>,
) -> Result<Vec<Change>, OpenError> {
    let (to, record) = (&Place::of(settings), Record::of(state));
    let former = record.read();
    let mut changes = Vec::new();
    for from in places(settings, former.as_ref()).into_iter().filter(|other| other != to) {
        if let Some(datapath) = leftover(&from)? {
            // Of one kind there is one lock in a network namespace, and it is ours now.
            if from.kind() != to.kind() {
                attempt()?;
            }
            tracing::warn!(%from, %to, "another datapath is still there, and is taken away");
            let (connections, silent) = take_down(datapath).map_err(|source| failed(&from, source))?;
            changes.push(Change { from, to: to.clone(), connections, silent });
        }
    }
    if former.as_ref() != Some(to) {
        record.write(to).map_err(|source| {
            let what = format!("write {}", record.0.display());
            OpenError { hint: HINT.to_owned(), ..failed(to, DatapathError::Kernel { what, source }) }
        })?;
    }
    Ok(changes)
}

/// Everywhere that a datapath of this agent may be: where the configuration says, where either kind usually is, for the record
/// may be lost, and where it was when the agent last started.
fn places(settings: &AgentConfig, former: Option<&Place>) -> Vec<Place> {
    let mut places = Place::all(settings).to_vec();
    places.extend(former.filter(|former| !Place::all(settings).contains(former)).cloned());
    places
}

/// The same for whoever only wants to take everything away.
pub fn everywhere(settings: &AgentConfig, state: &Path) -> Vec<Place> {
    places(settings, Record::of(state).read().as_ref())
}

/// Ends everything that goes through it. The connections that there were, and those that did not answer.
pub fn take_down(mut datapath: Box<dyn Datapath>) -> Result<(u64, u64), DatapathError> {
    let listeners: Vec<SocketAddr> = datapath.committed().into_iter().map(|held| held.listener).collect();
    let mut meter = datapath.meter()?;
    let mut open = || meter.connections(&listeners).map(|counts| counts.values().sum::<u64>());
    let connections = open()?;
    let remove = listeners.iter().map(|listener| (*listener, Leaving::Sever)).collect();
    datapath.apply(&Mappings { set: Vec::new(), remove })?;
    let deadline = Instant::now() + PATIENCE;
    let mut silent = open()?;
    while silent > 0 && Instant::now() < deadline {
        thread::sleep(LOOK);
        silent = open()?;
    }
    datapath.purge()?;
    Ok((connections, silent))
}

const HINT: &str = "the state folder must be writable for the agent";

fn failed(place: &Place, source: DatapathError) -> OpenError {
    OpenError {
        what: format!("{place} is in force still, and cannot be taken away"),
        source,
        hint: "two datapaths must not be in force: stop whoever uses it, and have it taken away by `shunt purge`"
            .to_owned(),
    }
}

/// Where it is written down which datapath this agent uses, should its configuration not say so any more.
struct Record(PathBuf);

impl Record {
    fn of(state: &Path) -> Self {
        Self(state.join("datapath.json"))
    }

    fn read(&self) -> Option<Place> {
        let text = match fs::read_to_string(&self.0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            read => read,
        };
        let place = text.and_then(|text| serde_json::from_str(&text).map_err(io::Error::other));
        place.inspect_err(|error| tracing::warn!(%error, path = %self.0.display(), "cannot be read")).ok()
    }

    fn write(&self, place: &Place) -> io::Result<()> {
        let beside = self.0.with_extension("new");
        fs::write(&beside, serde_json::to_string(place)?)?;
        fs::rename(beside, &self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_down_is_read_again_and_what_cannot_be_read_is_nothing() {
        let dir = tempfile::TempDir::new().unwrap();
        let record = Record(dir.path().join("datapath.json"));
        assert_eq!(record.read(), None);
        for place in [Place::Nft { table: "shunt".to_owned() }, Place::Ebpf { pins: "/sys/fs/bpf/shunt".into() }] {
            record.write(&place).unwrap();
            assert_eq!(record.read(), Some(place));
        }
        fs::write(&record.0, "x").unwrap();
        assert_eq!(record.read(), None);
    }

    #[test]
    fn a_change_is_told_with_what_it_cost() {
        let change = Change {
            from: Place::Nft { table: "shunt".to_owned() },
            to: Place::Ebpf { pins: "/sys/fs/bpf/shunt".into() },
            connections: 12,
            silent: 1,
        };
        assert_eq!(
            change.entry().message,
            "the datapath is the eBPF datapath pinned in /sys/fs/bpf/shunt from now on; table inet shunt was fenced, its 12 \
             connections were ended; 1 of them did not answer, and are told at their next packet, and it was taken out of \
             the kernel"
        );
    }
}
