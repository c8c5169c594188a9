//! The interface of a VLAN for a kernel that has none: a tap, and a thread that takes the tag off and puts it on. What goes
//! over the link is tagged all the same.

use std::fs::{File, OpenOptions};
use std::io::{self, PipeWriter, Read as _, Write as _};
use std::mem::{size_of, size_of_val};
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::thread::JoinHandle;

use anyhow::{Context as _, Result};
use nix::net::if_::if_nametoindex;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use shunt_tests::Netns;

/// The two addresses of an Ethernet header; behind them is the place of a tag, four bytes.
const ADDRESSES: usize = 12;
/// More than any link of a test takes, with header and tag.
const FRAME: usize = 2048;
/// linux/if_packet.h
const PACKET_IGNORE_OUTGOING: libc::c_int = 23;

pub struct Tagging {
    /// Closed, it ends the thread.
    stop: Option<PipeWriter>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Tagging {
    /// Makes `name` on a host, for what has that tag on `link`.
    pub fn start(host: &Netns, link: &str, name: &str, id: u16) -> Result<Self> {
        let (tap, tagged) = host.inside(|| -> Result<_> { Ok((tap(name)?, socket(link)?)) })??;
        // As the kernel's would have it.
        let told = host.run("ip", &["-brief", "link", "show", "dev", link])?;
        let address = told.split_whitespace().nth(2).context("a link has an address")?;
        host.ip(&format!("link set dev {name} address {address}"))?;
        let (stopped, stop) = io::pipe()?;
        let work = move || loop {
            let mut fds = [tap.as_fd(), tagged.as_fd(), stopped.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
            match poll(&mut fds, PollTimeout::NONE) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
            if fds[2].any() == Some(true) {
                return Ok(());
            }
            tag(&tap, &tagged, id)?;
            untag(&tap, &tagged, id)?;
        };
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(work)?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Tagging {
    fn drop(&mut self) {
        self.stop.take();
        let ended = self.thread.take().map(JoinHandle::join);
        if !std::thread::panicking() {
            assert!(matches!(ended, Some(Ok(Ok(())))), "{ended:?}");
        }
    }
}

/// What the host sends by the interface.
fn tag(mut tap: &File, tagged: &OwnedFd, id: u16) -> io::Result<()> {
    let mut frame = [0; FRAME];
    loop {
        let length = match tap.read(&mut frame[4..]) {
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            // Not yet up.
            Err(error) if error.raw_os_error() == Some(libc::EIO) => return Ok(()),
            Err(error) => return Err(error),
        };
        frame.copy_within(4..4 + ADDRESSES, 0);
        frame[ADDRESSES..][..2].copy_from_slice(&0x8100_u16.to_be_bytes());
        frame[ADDRESSES + 2..][..2].copy_from_slice(&id.to_be_bytes());
        // SAFETY: the kernel reads that many bytes of the frame.
        let sent = unsafe { libc::send(tagged.as_raw_fd(), frame.as_ptr().cast(), length + 4, 0) };
        // A link that is down loses what is sent by it.
        if sent < 0 && io::Error::last_os_error().raw_os_error() != Some(libc::ENETDOWN) {
            return Err(io::Error::last_os_error());
        }
    }
}

/// What comes in on the link with that tag. The kernel has taken it off and says what it was, packet(7).
fn untag(mut tap: &File, tagged: &OwnedFd, id: u16) -> io::Result<()> {
    let mut frame = [0_u8; FRAME];
    loop {
        let mut control = [0_u64; 8];
        let mut part = libc::iovec { iov_base: frame.as_mut_ptr().cast(), iov_len: FRAME };
        // SAFETY: all zeros are a header without anything.
        let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
        (header.msg_iov, header.msg_iovlen) = (&raw mut part, 1);
        (header.msg_control, header.msg_controllen) = (control.as_mut_ptr().cast(), size_of_val(&control));
        // SAFETY: the header points to a frame and to room for what is told of it, with their sizes.
        let length = unsafe { libc::recvmsg(tagged.as_raw_fd(), &raw mut header, libc::MSG_DONTWAIT) };
        let Ok(length) = usize::try_from(length) else {
            let error = io::Error::last_os_error();
            let idle = [libc::EAGAIN, libc::ENETDOWN].map(Some).contains(&error.raw_os_error());
            return if idle { Ok(()) } else { Err(error) };
        };
        // SAFETY: the kernel has filled in the header; what it points to is still there.
        let first = unsafe { libc::CMSG_FIRSTHDR(&raw const header).as_ref() };
        let told = first.filter(|told| (told.cmsg_level, told.cmsg_type) == (libc::SOL_PACKET, libc::PACKET_AUXDATA));
        // SAFETY: that kind of message carries this, perhaps not aligned.
        let told = told.map(|told| unsafe { libc::CMSG_DATA(told).cast::<libc::tpacket_auxdata>().read_unaligned() });
        let is_ours = |told: libc::tpacket_auxdata| {
            told.tp_status & libc::TP_STATUS_VLAN_VALID != 0 && told.tp_vlan_tci & 0xfff == id
        };
        if told.is_some_and(is_ours) {
            match tap.write(&frame[..length]) {
                Ok(_) => {}
                // Not yet up.
                Err(error) if error.raw_os_error() == Some(libc::EIO) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// A tap in the calling thread's namespace, which goes with its descriptor. tun.rst in the kernel's documentation.
fn tap(name: &str) -> Result<File> {
    let tap = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun");
    let tap = tap.context("cannot open /dev/net/tun")?;
    // SAFETY: all zeros are a request without a name.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (place, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *place = libc::c_char::from_ne_bytes([byte]);
    }
    request.ifr_ifru.ifru_flags = i16::try_from(libc::IFF_TAP | libc::IFF_NO_PI)?;
    // SAFETY: the descriptor is tun's, the request has a name with a zero behind it, and flags.
    let made = unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    if made < 0 {
        return Err(io::Error::last_os_error()).with_context(|| format!("cannot make the tap {name}"));
    }
    Ok(tap)
}

/// Hears and says whole frames on a link of the calling thread's namespace.
fn socket(link: &str) -> Result<OwnedFd> {
    let all = i32::from(u16::try_from(libc::ETH_P_ALL)?.to_be());
    let checked = |returned: libc::c_int| if returned < 0 { Err(io::Error::last_os_error()) } else { Ok(returned) };
    // SAFETY: a bare system call.
    let fd = checked(unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) });
    // SAFETY: it was opened just now, and nobody else has it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd.context("cannot open a packet socket")?) };
    for option in [libc::PACKET_AUXDATA, PACKET_IGNORE_OUTGOING] {
        let (on, length) = (1_i32, libc::socklen_t::try_from(size_of::<i32>())?);
        // SAFETY: the value is an int, as these options want it.
        let set =
            unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_PACKET, option, (&raw const on).cast(), length) };
        checked(set).context("cannot set an option of a packet socket")?;
    }
    // SAFETY: all zeros are an address without anything.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = u16::try_from(libc::AF_PACKET)?;
    address.sll_protocol = u16::try_from(all)?;
    address.sll_ifindex = i32::try_from(if_nametoindex(link)?)?;
    let length = libc::socklen_t::try_from(size_of_val(&address))?;
    // SAFETY: the address is whole, and its length is that of its type.
    let bound = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
    checked(bound).with_context(|| format!("cannot listen on {link}"))?;
    Ok(socket)
}
