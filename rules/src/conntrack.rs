//! Conntrack's entries: counted, found and deleted.
//!
//! Dumps are streamed; memory does not grow with the number of flows. The kernel is asked to leave out what cannot be
//! ours, and since older kernels ignore that, every entry is looked at again here.

pub mod details;
pub mod entry;
pub mod filter;
#[cfg(test)]
mod recorded_tests;
pub mod stats;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::ops::ControlFlow;

use shunt_core::flow::Tuple as Flow;

use crate::element::Pair;
use crate::netlink::socket::Netlink;
use crate::netlink::{ctnetlink, finish, header};
use crate::schema::Family;
use crate::state::upkeep::Remaining;
use crate::tlv;
use entry::{Entry, Tuple, put_tuple};
use filter::Filter;

/// linux/netfilter/nf_conntrack_tcp.h
pub(crate) const TCP_ESTABLISHED: u8 = 3;

/// linux/netfilter/nfnetlink_conntrack.h
pub(crate) const CTA_TUPLE_ORIG: u16 = 1;
pub(crate) const CTA_TUPLE_REPLY: u16 = 2;
pub(crate) const CTA_STATUS: u16 = 3;
pub(crate) const CTA_PROTOINFO: u16 = 4;
pub(crate) const CTA_TIMEOUT: u16 = 7;
pub(crate) const CTA_COUNTERS_ORIG: u16 = 9;
pub(crate) const CTA_COUNTERS_REPLY: u16 = 10;
pub(crate) const CTA_ID: u16 = 12;
pub(crate) const CTA_ZONE: u16 = 18;
pub(crate) const CTA_TIMESTAMP: u16 = 20;

pub(crate) const IPCTNL_MSG_CT_GET: i32 = 1;
const IPCTNL_MSG_CT_DELETE: i32 = 2;

pub(crate) const IPS_SRC_NAT: u32 = 1 << 4;
pub(crate) const IPS_DST_NAT: u32 = 1 << 5;

/// Up to so many pairs are looked for one by one, in the kernel; more are picked out of one dump of everything.
const FILTERED: usize = 8;

/// Up to so many single flows are asked for one by one, some microseconds each; more are picked out of one dump. A dump
/// walks the whole of conntrack's hash table, which takes milliseconds however few entries there are.
const ASKED: usize = 1024;

/// Deletions per send, each of which is acknowledged.
const PER_SEND: usize = 64;

/// A socket for conntrack.
pub struct Conntrack {
    netlink: Netlink,
}

impl Conntrack {
    pub fn open() -> io::Result<Self> {
        Ok(Self { netlink: Netlink::open()? })
    }

    /// The established connections through each of `listeners`; those without any are there with 0.
    pub fn count(&mut self, listeners: impl IntoIterator<Item = SocketAddr>) -> io::Result<BTreeMap<SocketAddr, u64>> {
        let mut counts: BTreeMap<SocketAddr, u64> = listeners.into_iter().map(|listener| (listener, 0)).collect();
        for family in families(counts.keys()) {
            let found = self.dump(family, Filter::Mapped, BTreeMap::<SocketAddr, u64>::new, |found, entry| {
                let listener = entry.original.destination;
                if entry.tcp_state == Some(TCP_ESTABLISHED) && counts.contains_key(&listener) {
                    *found.entry(listener).or_default() += 1;
                }
            })?;
            counts.extend(found);
        }
        Ok(counts)
    }

    /// Which of these listeners and pairs still have flows, in whatever state.
    pub fn remaining(&mut self, listeners: &BTreeSet<SocketAddr>, pairs: &BTreeSet<Pair>) -> io::Result<Remaining> {
        let mut remaining = Remaining::default();
        for family in families(listeners.iter().chain(pairs.iter().map(|pair| &pair.listener))) {
            let found = self.dump(family, Filter::Mapped, Remaining::default, |found, entry| {
                let pair = entry.pair();
                if listeners.contains(&pair.listener) {
                    found.listeners.insert(pair.listener);
                }
                if pairs.contains(&pair) {
                    found.pairs.insert(pair);
                }
            })?;
            remaining.listeners.extend(found.listeners);
            remaining.pairs.extend(found.pairs);
        }
        Ok(remaining)
    }

    /// The pairs of `listeners` that have flows and are not among the `live` ones.
    pub fn strays(&mut self, listeners: &BTreeSet<SocketAddr>, live: &BTreeSet<Pair>) -> io::Result<BTreeSet<Pair>> {
        let mut strays = BTreeSet::new();
        for family in families(listeners.iter()) {
            strays.extend(self.dump(family, Filter::Mapped, BTreeSet::new, |found, entry| {
                let pair = entry.pair();
                if listeners.contains(&pair.listener) && !live.contains(&pair) {
                    found.insert(pair);
                }
            })?);
        }
        Ok(strays)
    }

    /// The entries of these pairs. Memory grows with what is found, and only with that.
    pub fn find(&mut self, pairs: &BTreeSet<Pair>) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        if pairs.len() <= FILTERED {
            for pair in pairs {
                let family = Family::of(&pair.listener);
                entries.extend(self.dump(family, Filter::Pair(*pair), Vec::new, Vec::push)?);
            }
        } else {
            for family in families(pairs.iter().map(|pair| &pair.listener)) {
                entries.extend(self.dump(family, Filter::Mapped, Vec::new, |found, entry| {
                    if pairs.contains(&entry.pair()) {
                        found.push(entry);
                    }
                })?);
            }
        }
        Ok(entries)
    }

    /// The entries of single flows.
    pub fn find_flows(&mut self, flows: &[Flow]) -> io::Result<Vec<Entry>> {
        let mut wanted: BTreeSet<Flow> = flows.iter().copied().collect();
        let mut entries = Vec::new();
        if wanted.len() <= ASKED {
            for flow in &wanted {
                entries.extend(self.ask(*flow)?.filter(|entry| Filter::Mapped.lets_through(entry)));
            }
            let found: BTreeSet<Flow> = entries.iter().map(Entry::flow).collect();
            wanted = &wanted - &found;
            // Those that have ended meanwhile, and those in a zone, which one would have to know to ask for them.
        }
        for family in families(wanted.iter().map(|flow| &flow.listener)) {
            entries.extend(self.dump(family, Filter::Mapped, Vec::new, |found, entry| {
                if wanted.contains(&entry.flow()) {
                    found.push(entry);
                }
            })?);
        }
        Ok(entries)
    }

    /// Calls `each` with the entries of the flows that `backend` sees as these clients', as far as they are in no zone, and
    /// with the messages that they were read from.
    pub fn seen_as(
        &mut self,
        backend: SocketAddr,
        clients: &[SocketAddr],
        mut each: impl FnMut(&Entry, &[u8]),
    ) -> io::Result<()> {
        for client in clients.iter().filter(|client| client.is_ipv4() == backend.is_ipv4()) {
            let reply = Tuple { source: backend, destination: *client };
            if let Some((entry, answer)) = self.look_up(CTA_TUPLE_REPLY, &reply)? {
                each(&entry, &answer);
            }
        }
        Ok(())
    }

    /// The entry of one flow outside of all zones.
    fn ask(&mut self, flow: Flow) -> io::Result<Option<Entry>> {
        let original = Tuple { source: flow.client, destination: flow.listener };
        Ok(self.look_up(CTA_TUPLE_ORIG, &original)?.map(|(entry, _)| entry))
    }

    /// The entry of which this is the tuple of that kind, and the message that it was read from.
    fn look_up(&mut self, kind: u16, tuple: &Tuple) -> io::Result<Option<(Entry, Vec<u8>)>> {
        let family = nfproto(Family::of(&tuple.destination));
        let mut message = header(ctnetlink(IPCTNL_MSG_CT_GET), 0, self.netlink.next_seq(), family);
        put_tuple(&mut message, kind, tuple);
        match self.netlink.ask(&finish(message)) {
            Ok(answer) => Ok(Entry::parse(&answer).map(|entry| (entry, answer))),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Deletes entries and returns how many were still there.
    pub fn delete(&mut self, entries: &[Entry]) -> io::Result<u64> {
        let mut deleted = 0;
        for some in entries.chunks(PER_SEND) {
            let mut bytes = Vec::new();
            for entry in some {
                let seq = self.netlink.next_seq();
                let family = nfproto(Family::of(&entry.original.destination));
                let mut message = header(ctnetlink(IPCTNL_MSG_CT_DELETE), libc::NLM_F_ACK, seq, family);
                put_tuple(&mut message, CTA_TUPLE_ORIG, &entry.original);
                // An entry that took the place of the one we saw has another id.
                tlv::put(&mut message, CTA_ID, &entry.id.to_be_bytes());
                if let Some(zone) = entry.zone {
                    tlv::put(&mut message, CTA_ZONE, &zone.to_be_bytes());
                }
                bytes.extend(finish(message));
            }
            let mut failure = None;
            self.netlink.request(&bytes, |_, outcome| match outcome {
                Ok(()) => deleted += 1,
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
                Err(error) => failure = Some(error),
            })?;
            if let Some(failure) = failure {
                return Err(failure);
            }
        }
        Ok(deleted)
    }

    /// Calls `each` with the entries of these families that `filter` is for, and with the messages that they were read
    /// from, until it breaks off. Memory does not grow with what is found.
    pub fn stream(
        &mut self,
        families: BTreeSet<Family>,
        filter: Filter,
        mut each: impl FnMut(&Entry, &[u8]) -> ControlFlow<()>,
    ) -> io::Result<()> {
        for family in families {
            let flow = self.netlink.stream(
                |seq| filter.request(family, seq),
                |message| match Entry::parse(message) {
                    Some(entry) if filter.lets_through(&entry) => each(&entry, message),
                    Some(_) | None => ControlFlow::Continue(()),
                },
            )?;
            if flow.is_break() {
                break;
            }
        }
        Ok(())
    }

    fn dump<T>(
        &mut self,
        family: Family,
        filter: Filter,
        start: impl Fn() -> T,
        mut each: impl FnMut(&mut T, Entry),
    ) -> io::Result<T> {
        let request = |seq| filter.request(family, seq);
        self.netlink.dump(request, start, |all, message| {
            if let Some(entry) = Entry::parse(message).filter(|entry| filter.lets_through(entry)) {
                each(all, entry);
            }
            Ok(())
        })
    }
}

pub fn families<'a>(addresses: impl Iterator<Item = &'a SocketAddr>) -> BTreeSet<Family> {
    addresses.map(Family::of).collect()
}

const fn nfproto(family: Family) -> i32 {
    match family {
        Family::V4 => libc::AF_INET,
        Family::V6 => libc::AF_INET6,
    }
}
