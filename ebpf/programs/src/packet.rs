//! Reading and writing headers. What is read lies in the packet's linear part, which the verifier wants to see compared
//! with its end before each use; helpers that change the packet make all of that void. What headers say is
//! `shunt_ebpf_common::packet`'s matter, and tested on the host.
//!
//! The programs are compiled once for each family of addresses: [`Ip`] is what they differ in.

pub mod v4;
pub mod v6;

use aya_ebpf::bindings::bpf_fib_lookup;
use aya_ebpf::programs::TcContext;
use shunt_ebpf_common::flow::Address;
pub use shunt_ebpf_common::packet::{
    Complaint, Content, Ethernet, Halves, Header, Headers, IP, Icmp, TCP, Tcp, halved, sum,
};

/// An IP header, and what the kernel wants to know of it.
pub trait Ip: Header {
    const FAMILY: u8;
    /// In `struct bpf_sock_tuple`.
    const SOCKET_TUPLE: u32;

    /// Enters what routing may look at: class of service, flow label.
    fn classify(&self, fib: &mut bpf_fib_lookup);
    fn enter(fib: &mut bpf_fib_lookup, source: &Address, target: &Address);
    /// The source that routing has chosen.
    fn source(fib: &bpf_fib_lookup) -> Address;
}

/// The headers, if they are all there and in one piece.
#[inline(always)]
pub fn headers<I: Ip>(ctx: &TcContext) -> Option<*mut Headers<I>> {
    start(ctx)
}

/// The packet's beginning: [`Headers`] or a [`Complaint`], if it is as long and in one piece.
#[inline(always)]
fn start<T: Halves>(ctx: &TcContext) -> Option<*mut T> {
    const { assert!(align_of::<T>() == 2) };
    let (start, end) = (ctx.data(), ctx.data_end());
    if start + size_of::<T>() > end { None } else { Some(start as *mut T) }
}

/// The same, gathering it first.
#[inline(always)]
pub fn gathered<T: Halves>(ctx: &TcContext) -> Option<*mut T> {
    if let Some(found) = start(ctx) {
        return Some(found);
    }
    ctx.pull_data(size_of::<T>() as u32).ok()?;
    start(ctx)
}

/// What follows the IP header.
#[inline(always)]
pub fn content<I: Ip>(ctx: &TcContext, ip: &I) -> Content {
    ip.content(|at| ctx.load(at))
}
