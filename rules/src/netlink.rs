//! The edge to the kernel: sockets, transactions, dumps, and libnftnl's objects. All unsafe code of the crate is here.

pub mod batch;
pub mod nftnl;
pub mod read;
pub mod socket;
pub mod write;

/// `subsystem << 8 | message`, the type of a netfilter message.
pub const fn nf_tables(message: i32) -> u16 {
    ((libc::NFNL_SUBSYS_NFTABLES << 8) | message) as u16
}

/// The same of conntrack.
pub const fn ctnetlink(message: i32) -> u16 {
    ((libc::NFNL_SUBSYS_CTNETLINK << 8) | message) as u16
}

/// The same of nflog.
pub const fn nflog(message: i32) -> u16 {
    ((libc::NFNL_SUBSYS_ULOG << 8) | message) as u16
}

/// A netlink header and netfilter's own (`nfgenmsg`), with the length still to be set by [`finish`].
pub fn header(kind: u16, flags: i32, seq: u32, family: i32) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(128);
    bytes.extend_from_slice(&0u32.to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(&((libc::NLM_F_REQUEST | flags) as u16).to_ne_bytes());
    bytes.extend_from_slice(&seq.to_ne_bytes());
    bytes.extend_from_slice(&0u32.to_ne_bytes());
    bytes.extend_from_slice(&[family as u8, libc::NFNETLINK_V0 as u8, 0, 0]);
    bytes
}

/// Writes the length of a message that begins with [`header`].
pub fn finish(mut message: Vec<u8>) -> Vec<u8> {
    let len = message.len() as u32;
    message[..4].copy_from_slice(&len.to_ne_bytes());
    message
}

/// Length of both headers: where the attributes begin.
pub const HEADERS: usize = 20;
