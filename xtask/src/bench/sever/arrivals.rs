//! Every packet that arrives at a host for one port, with the moment of its arrival as the kernel stamped it: whether
//! any of a client's came after a swap is a matter of microseconds.
//!
//! A counter of the host's own nftables counts along. It has no moments, but it misses nothing, so it tells whether this
//! did.

use std::io::IoSliceMut;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context as _, Result, anyhow};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockProtocol, SockType, recvmsg, setsockopt, socket,
    sockopt,
};
use nix::sys::time::{TimeSpec, TimeVal, TimeValLike as _};
use shunt_tests::Host;

use crate::bench::moment;

const TABLE: &str = "lab_arrivals";

/// A busy host's packets of some tenths of a second.
const BUFFER: usize = 64 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Ends a connection.
    Reset,
    /// A client's: data, or an acknowledgement. Clients' segments carry timestamps (RFC 7323).
    Client,
    /// Neither data nor timestamps: what a datapath sends to have an end tell its exact numbers.
    Probe,
}

#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    pub at: i64,
    pub kind: Kind,
}

/// What arrived.
#[derive(Debug, Default)]
pub struct Arrived {
    pub packets: Vec<Arrival>,
    /// Packets that the counter saw and this did not.
    pub missed: u64,
}

pub struct Arrivals<'a> {
    host: &'a Host,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<Vec<Arrival>>>>,
}

impl<'a> Arrivals<'a> {
    pub fn watch(host: &'a Host, port: u16) -> Result<Self> {
        let socket =
            host.ns().inside(open)?.with_context(|| format!("cannot watch what arrives at {}", host.name()))?;
        let offset = moment::wall_offset()?;
        let stop = Arc::new(AtomicBool::new(false));
        let ending = Arc::clone(&stop);
        let thread = std::thread::spawn(move || listen(&socket, port, offset, &ending));
        let this = Self { host, stop, thread: Some(thread) };
        // After the socket, so that it cannot count what that has not seen.
        host.ns().nft(&format!(
            "table inet {TABLE} {{
                chain in {{ type filter hook prerouting priority -310; tcp dport {port} counter; }}
            }}"
        ))?;
        Ok(this)
    }

    pub fn finish(mut self) -> Result<Arrived> {
        let text = self.host.ns().run("nft", &["list", "table", "inet", TABLE])?;
        let counted = text.split_once("counter packets ").and_then(|(_, rest)| rest.split(' ').next());
        let counted: u64 = counted.context("the counter is gone")?.parse()?;
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("finished already")?;
        let packets = thread.join().map_err(|_| anyhow!("the thread that watches packets panicked"))??;
        Ok(Arrived { missed: counted.saturating_sub(packets.len() as u64), packets })
    }
}

impl Drop for Arrivals<'_> {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        let _ = self.host.ns().nft(&format!("table inet {TABLE} {{}}\ndelete table inet {TABLE}"));
    }
}

/// A socket that gets every IPv4 packet that comes in.
fn open() -> Result<OwnedFd> {
    // Of this protocol only what comes in is told; of all protocols it would be what goes out, too.
    let socket = socket(AddressFamily::Packet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, SockProtocol::EthIp)?;
    setsockopt(&socket, sockopt::RcvBufForce, &BUFFER)?;
    setsockopt(&socket, sockopt::ReceiveTimestampns, &true)?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::milliseconds(50))?;
    Ok(socket)
}

fn listen(socket: &OwnedFd, port: u16, offset: i64, stop: &AtomicBool) -> Result<Vec<Arrival>> {
    let mut arrivals = Vec::new();
    let mut bytes = [0; 128];
    let mut control = nix::cmsg_space!(TimeSpec);
    loop {
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let flags = MsgFlags::empty();
        match recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut control), flags) {
            Ok(message) => {
                let stamp = message.cmsgs()?.find_map(|one| match one {
                    ControlMessageOwned::ScmTimestampns(time) => Some(time),
                    _ => None,
                });
                let length = message.bytes;
                let time = stamp.context("the kernel stamps no packets")?;
                if let Some(kind) = kind_of(&bytes[..length], port) {
                    let at = time.tv_sec() * 1_000_000_000 + time.tv_nsec() - offset;
                    arrivals.push(Arrival { at, kind });
                }
            }
            // Nothing more has come for a while.
            Err(Errno::EAGAIN) if stop.load(Ordering::Relaxed) => return Ok(arrivals),
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(error) => return Err(error).context("while watching packets"),
        }
    }
}

/// What kind of packet this is, if it is a TCP segment for that port. It begins with its IPv4 header (RFC 791, RFC 9293).
fn kind_of(packet: &[u8], port: u16) -> Option<Kind> {
    const TCP: u8 = 6;
    const RST: u8 = 4;
    const BARE_HEADER: usize = 20;
    let ip_length = usize::from(packet.first()? & 0x0f) * 4;
    let total = usize::from(u16::from_be_bytes([*packet.get(2)?, *packet.get(3)?]));
    let tcp = packet.get(ip_length..)?;
    if *packet.get(9)? != TCP || u16::from_be_bytes([*tcp.get(2)?, *tcp.get(3)?]) != port {
        return None;
    }
    let header = usize::from(tcp.get(12)? >> 4) * 4;
    let kind = if tcp.get(13)? & RST != 0 {
        Kind::Reset
    } else if header == BARE_HEADER && total == ip_length + header {
        Kind::Probe
    } else {
        Kind::Client
    };
    Some(kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(flags: u8, options: usize, data: usize) -> Vec<u8> {
        let total = 20 + 20 + options + data;
        let mut packet = vec![0; total];
        packet[0] = 0x45;
        packet[2..4].copy_from_slice(&(total as u16).to_be_bytes());
        packet[9] = 6;
        packet[22..24].copy_from_slice(&7000_u16.to_be_bytes());
        packet[32] = ((20 + options) as u8 / 4) << 4;
        packet[33] = flags;
        packet
    }

    #[test]
    fn a_bare_acknowledgement_is_nobodys_but_the_datapaths() {
        assert_eq!(kind_of(&packet(0x10, 0, 0), 7000), Some(Kind::Probe));
        assert_eq!(kind_of(&packet(0x10, 12, 0), 7000), Some(Kind::Client));
        assert_eq!(kind_of(&packet(0x18, 0, 5), 7000), Some(Kind::Client));
    }

    #[test]
    fn a_reset_is_a_reset_whatever_it_carries() {
        assert_eq!(kind_of(&packet(0x14, 12, 0), 7000), Some(Kind::Reset));
    }

    #[test]
    fn what_is_for_another_port_does_not_count() {
        assert_eq!(kind_of(&packet(0x10, 12, 0), 7001), None);
        assert_eq!(kind_of(&[0x45, 0, 0], 7000), None);
    }
}
