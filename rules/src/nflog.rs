//! Copies of packets from our rules: the kernel's nflog, over netlink.
//!
//! Only the packets' own headers: not every kernel can say which flow conntrack counts a packet to (it takes
//! CONFIG_NETFILTER_NETLINK_GLUE_CT).

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use shunt_core::datapath::DatapathError;

use crate::netlink::socket::Netlink;
use crate::netlink::{HEADERS, finish, header, nflog};
use crate::tlv;
use crate::transaction::kernel;
use shunt_wire::packet::Segment;

// linux/netfilter/nfnetlink_log.h
const NFULNL_MSG_PACKET: i32 = 0;
const NFULNL_MSG_CONFIG: i32 = 1;
const NFULA_PAYLOAD: u16 = 9;

/// A subscription to one nflog group. Others cannot have the same group in this network namespace meanwhile.
pub struct Copies {
    netlink: Netlink,
}

impl Copies {
    pub fn subscribe(group: u16) -> Result<Self, DatapathError> {
        let tried = || kernel(format!("listen to nflog group {group}; another program may have it"));
        let mut netlink = Netlink::open().map_err(tried())?;
        let mut failure = None;
        let bytes = configuration(group, || netlink.next_seq());
        netlink
            .request(&bytes, |_, outcome| {
                if let Err(error) = outcome {
                    failure.get_or_insert(error);
                }
            })
            .map_err(tried())?;
        match failure {
            Some(error) => Err(tried()(error)),
            None => Ok(Self { netlink }),
        }
    }

    /// Calls `each` with every packet that has been copied by now, without waiting. `Ok(false)`: the kernel had to leave
    /// some out.
    pub fn read(&mut self, mut each: impl FnMut(Segment)) -> io::Result<bool> {
        self.read_bytes(|packet| {
            if let Some(segment) = Segment::parse(packet) {
                each(segment);
            }
        })
    }

    /// The same with as much of each packet as its rule has copied.
    pub fn read_bytes(&mut self, mut each: impl FnMut(&[u8])) -> io::Result<bool> {
        let mut whole = true;
        loop {
            let read = self.netlink.pending(|message| {
                if message.kind == nflog(NFULNL_MSG_PACKET)
                    && let Some(packet) = packet(message.bytes)
                {
                    each(packet);
                }
            });
            match read {
                Ok(()) => return Ok(whole),
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => whole = false,
                Err(error) => return Err(error),
            }
        }
    }
}

impl AsFd for Copies {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.netlink.as_fd()
    }
}

fn packet(message: &[u8]) -> Option<&[u8]> {
    Some(tlv::find(message.get(HEADERS..)?, NFULA_PAYLOAD)?.payload)
}

/// The messages that make a socket the group's: bind it, and ask for as much of each packet as the rules
/// copy.
fn configuration(group: u16, mut next_seq: impl FnMut() -> u32) -> Vec<u8> {
    const NFULA_CFG_CMD: u16 = 1;
    const NFULA_CFG_MODE: u16 = 2;
    const CMD_BIND: u8 = 1;
    const COPY_PACKET: u8 = 2;
    let mut message = |kind: u16, payload: &[u8]| {
        let mut message = header(nflog(NFULNL_MSG_CONFIG), libc::NLM_F_ACK, next_seq(), libc::AF_UNSPEC);
        // nfgenmsg's res_id names the group.
        message[HEADERS - 2..].copy_from_slice(&group.to_be_bytes());
        tlv::put(&mut message, kind, payload);
        finish(message)
    };
    let whole = [&u32::MAX.to_be_bytes()[..], &[COPY_PACKET, 0]].concat();
    [message(NFULA_CFG_CMD, &[CMD_BIND]), message(NFULA_CFG_MODE, &whole)].concat()
}
