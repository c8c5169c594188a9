//! The kernel's notices that somebody changed nftables, so that drift is repaired at once and not on a timer.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use crate::netlink::nf_tables;
use crate::netlink::socket::Netlink;

/// A subscription to all changes of nftables in this network namespace. It can be polled: readable means that
/// [`Notices::others_changed`] has something to read.
pub struct Notices {
    netlink: Netlink,
    ours: Vec<u32>,
}

impl Notices {
    /// Changes made through the sockets with these port ids are our own and not reported.
    pub fn subscribe(ours: Vec<u32>) -> io::Result<Self> {
        let group = 1 << (libc::NFNLGRP_NFTABLES - 1);
        Ok(Self { netlink: Netlink::subscribed(group)?, ours })
    }

    /// Reads what has come in, without waiting. True when somebody else committed a change to any table, or when so
    /// much came in that the kernel dropped some of it.
    pub fn others_changed(&mut self) -> io::Result<bool> {
        let Self { netlink, ours } = self;
        let mut others = false;
        loop {
            let read = netlink.pending(|message| {
                // Every commit ends with this one, whatever was in it.
                others |= message.kind == nf_tables(libc::NFT_MSG_NEWGEN) && !ours.contains(&message.port);
            });
            match read {
                Ok(()) => return Ok(others),
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => others = true,
                Err(error) => return Err(error),
            }
        }
    }
}

impl AsRawFd for Notices {
    fn as_raw_fd(&self) -> RawFd {
        self.netlink.as_raw_fd()
    }
}
