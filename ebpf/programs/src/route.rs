//! The host's own routing, asked for a packet that it has not seen.

use aya_ebpf::bindings::{
    BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_SUCCESS, BPF_FIB_LOOKUP_SKIP_NEIGH,
    BPF_FIB_LOOKUP_SRC, bpf_fib_lookup as Fib,
};
use aya_ebpf::helpers::bpf_fib_lookup;
use aya_ebpf::programs::TcContext;
use shunt_ebpf_common::counter::Counter;
use shunt_ebpf_common::flow::{Address, Tuple};

use crate::packet::{Ip, TCP};

/// The way out.
pub struct Way {
    pub interface: u32,
    /// Addresses for the frame; `None`: the stack has to ask for the neighbour first.
    pub frame: Option<([u16; 3], [u16; 3])>,
}

/// The way of a packet with these addresses; `length` 0 asks for no MTU.
#[inline(always)]
pub fn way<I: Ip>(ctx: &TcContext, tuple: &Tuple, ip: &I, length: u16) -> Result<Way, Counter> {
    let mut fib = question::<I>(ctx, tuple);
    ip.classify(&mut fib);
    fib.__bindgen_anon_1.tot_len = length;
    match ask(ctx, &mut fib, 0) {
        BPF_FIB_LKUP_RET_SUCCESS => {
            let half = |bytes: [u8; 6], at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
            let address = |bytes: [u8; 6]| [half(bytes, 0), half(bytes, 2), half(bytes, 4)];
            Ok(Way { interface: fib.ifindex, frame: Some((address(fib.smac), address(fib.dmac))) })
        }
        BPF_FIB_LKUP_RET_NO_NEIGH => Ok(Way { interface: fib.ifindex, frame: None }),
        BPF_FIB_LKUP_RET_FRAG_NEEDED => Err(Counter::TooBig),
        _ => Err(Counter::Unroutable),
    }
}

/// The address that the host would itself choose for the way to the tuple's target (from Linux 6.7 on).
#[inline(always)]
pub fn source<I: Ip>(ctx: &TcContext, tuple: &Tuple) -> Option<Address> {
    let mut fib = question::<I>(ctx, tuple);
    match ask(ctx, &mut fib, BPF_FIB_LOOKUP_SRC | BPF_FIB_LOOKUP_SKIP_NEIGH) {
        BPF_FIB_LKUP_RET_SUCCESS => Some(I::source(&fib)),
        _ => None,
    }
}

#[inline(always)]
fn question<I: Ip>(ctx: &TcContext, tuple: &Tuple) -> Fib {
    // SAFETY: plain data, of which all zeros is a value.
    let mut fib: Fib = unsafe { core::mem::zeroed() };
    fib.family = I::FAMILY;
    fib.l4_protocol = TCP;
    fib.sport = tuple.source_port;
    fib.dport = tuple.target_port;
    I::enter(&mut fib, &tuple.source, &tuple.target);
    // SAFETY: the context is valid while the program runs.
    fib.ifindex = unsafe { (*ctx.skb.skb).ifindex };
    fib
}

#[inline(always)]
fn ask(ctx: &TcContext, fib: &mut Fib, flags: u32) -> u32 {
    // SAFETY: both live, and the size is that of the structure. A negative answer (a bad argument) is no known number.
    unsafe { bpf_fib_lookup(ctx.skb.skb.cast(), fib, size_of::<Fib>() as i32, flags) as u32 }
}
