//! How full conntrack's table is, and what it has turned away.

use std::io;

use super::Conntrack;
use crate::netlink::{HEADERS, ctnetlink, finish, header};
use crate::tlv;

// linux/netfilter/nfnetlink_conntrack.h
const IPCTNL_MSG_CT_GET_STATS_CPU: i32 = 4;
const IPCTNL_MSG_CT_GET_STATS: i32 = 5;
const CTA_STATS_DROP: u16 = 10;
const CTA_STATS_CHAIN_TOOLONG: u16 = 15;
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

    /// Packets of new flows that found no place in the table, or no free port, as every CPU has counted them since the
    /// namespace was made. A client that tries again is counted again.
    ///
    /// A full table counts as `drop`, taken ports as `drop` and `insert_failed`, a bucket with too many entries as
    /// `chaintoolong` and `insert_failed` (nf_conntrack_core.c): these two together count each packet once.
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
    [CTA_STATS_DROP, CTA_STATS_CHAIN_TOOLONG]
        .into_iter()
        .filter_map(|kind| tlv::find(attributes, kind)?.be_u32())
        .map(u64::from)
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_that_is_counted_in_two_ways_is_counted_once() {
        const CTA_STATS_INSERT_FAILED: u16 = 9;
        let mut message = vec![0; HEADERS];
        // Two lost their ports, one found the table full, four a bucket too long.
        for (kind, count) in [(CTA_STATS_INSERT_FAILED, 6u32), (CTA_STATS_DROP, 3), (CTA_STATS_CHAIN_TOOLONG, 4)] {
            tlv::put(&mut message, kind, &count.to_be_bytes());
        }
        assert_eq!(turned_away(&message), 7);
        assert_eq!(turned_away(&[]), 0);
    }

    #[test]
    fn an_answer_without_numbers_is_none() {
        let mut message = vec![0; HEADERS];
        assert_eq!(filling(&message), None);
        tlv::put(&mut message, CTA_STATS_GLOBAL_ENTRIES, &5u32.to_be_bytes());
        assert_eq!(filling(&message), None);
        tlv::put(&mut message, CTA_STATS_GLOBAL_MAX_ENTRIES, &7u32.to_be_bytes());
        assert_eq!(filling(&message), Some(Filling { entries: 5, max: 7 }));
    }
}
