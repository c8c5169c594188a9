//! How full conntrack's table is, and what it has turned away.

use std::io;

use super::Conntrack;
use crate::netlink::{HEADERS, ctnetlink, finish, header};
use crate::tlv;

// linux/netfilter/nfnetlink_conntrack.h
const IPCTNL_MSG_CT_GET_STATS_CPU: i32 = 4;
const IPCTNL_MSG_CT_GET_STATS: i32 = 5;
const CTA_STATS_INSERT_FAILED: u16 = 9;
const CTA_STATS_DROP: u16 = 10;
const CTA_STATS_GLOBAL_ENTRIES: u16 = 1;
const CTA_STATS_GLOBAL_MAX_ENTRIES: u16 = 2;

/// The entries of the socket's network namespace, and how many fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filling {
    pub entries: u64,
    pub max: u64,
}

impl Conntrack {
    pub fn filling(&mut self) -> io::Result<Filling> {
        let seq = self.netlink.next_seq();
        let answer = self.netlink.ask(&finish(header(ctnetlink(IPCTNL_MSG_CT_GET_STATS), 0, seq, libc::AF_UNSPEC)))?;
        filling(&answer).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the answer has no numbers"))
    }

    /// Packets of new flows that found no place in the table, or whose ports were taken: what every CPU has counted since
    /// the namespace was made. A flow that tries again is counted again, and one that lost a race for its ports twice.
    pub fn turned_away(&mut self) -> io::Result<u64> {
        let request =
            |seq| finish(header(ctnetlink(IPCTNL_MSG_CT_GET_STATS_CPU), libc::NLM_F_DUMP, seq, libc::AF_UNSPEC));
        self.netlink.dump(
            request,
            || 0,
            |sum, message| {
                *sum += turned_away(message);
                Ok(())
            },
        )
    }
}

fn filling(message: &[u8]) -> Option<Filling> {
    let attributes = message.get(HEADERS..)?;
    let number = |kind| tlv::find(attributes, kind)?.be_u32().map(u64::from);
    Some(Filling { entries: number(CTA_STATS_GLOBAL_ENTRIES)?, max: number(CTA_STATS_GLOBAL_MAX_ENTRIES)? })
}

/// One CPU's.
fn turned_away(message: &[u8]) -> u64 {
    let attributes = message.get(HEADERS..).unwrap_or_default();
    [CTA_STATS_INSERT_FAILED, CTA_STATS_DROP]
        .into_iter()
        .filter_map(|kind| tlv::find(attributes, kind)?.be_u32())
        .map(u64::from)
        .sum()
}
