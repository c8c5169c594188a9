//! The host's own routing, asked for a packet that it has not seen.

use aya_ebpf::bindings::{
    BPF_F_INGRESS, BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_SUCCESS,
    BPF_FIB_LOOKUP_SKIP_NEIGH, BPF_FIB_LOOKUP_SRC, bpf_fib_lookup as Fib, bpf_redir_neigh,
    bpf_redir_neigh__bindgen_ty_1,
};
use aya_ebpf::helpers::{bpf_fib_lookup, bpf_redirect, bpf_redirect_neigh};
use aya_ebpf::programs::TcContext;
use shunt_ebpf_common::counter::Counter;
use shunt_ebpf_common::flow::{Address, Hop, Tuple};

use crate::ingress::{DROP, NEXT};
use crate::maps::count;
use crate::packet::{Ethernet, Ip, TCP};

/// The way out of a packet. What routing has answered stays where it was asked: an enumeration would be copied with its
/// unused parts, which the verifier does not take.
pub struct Way {
    fib: Fib,
    next: Next,
}

/// Who is next.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    /// Somebody whose address for the frame is known.
    Known,
    /// The stack has to ask for it.
    Unknown,
    /// The host itself.
    Host,
}

/// Of the loopback interface, in every network namespace.
const LOOPBACK: u32 = 1;

/// Why there is none.
pub enum NoWay {
    /// The host has no way, or may not forward.
    Unroutable,
    /// Packets of that many bytes would pass.
    Narrow(u16),
}

impl Way {
    /// Of a packet with these addresses, still to be found; `length` 0 asks for no MTU.
    #[inline(always)]
    pub fn of<I: Ip>(ctx: &TcContext, tuple: &Tuple, ip: &I, length: u16) -> Self {
        // SAFETY: plain data, of which all zeros is a value.
        let mut way = Self { fib: unsafe { core::mem::zeroed() }, next: Next::Unknown };
        enter::<I>(&mut way.fib, ctx, tuple);
        ip.classify(&mut way.fib);
        way.fib.__bindgen_anon_1.tot_len = length;
        way
    }

    #[inline(always)]
    pub fn find(&mut self, ctx: &TcContext) -> Result<(), NoWay> {
        match ask(ctx, &mut self.fib, 0) {
            BPF_FIB_LKUP_RET_SUCCESS => self.next = Next::Known,
            BPF_FIB_LKUP_RET_NO_NEIGH => {}
            // SAFETY: the member that goes with this answer.
            BPF_FIB_LKUP_RET_FRAG_NEEDED => return Err(NoWay::Narrow(unsafe { self.fib.__bindgen_anon_1.mtu_result })),
            _ => return Err(NoWay::Unroutable),
        }
        Ok(())
    }

    /// The way to a client on the host itself, which routing does not tell: it knows what is forwarded only.
    #[inline(always)]
    pub fn ends_here(&mut self) {
        self.next = Next::Host;
    }

    /// How much less the packet has to live on it.
    #[inline(always)]
    pub fn steps(&self) -> u8 {
        if self.next == Next::Host { 0 } else { 1 }
    }

    /// Whether the stack would ask for the neighbour and then send the packet by the route that it came with: one of the
    /// host's own, which has its route from the socket, back to the host.
    #[inline(always)]
    pub fn is_misled(&self, ctx: &TcContext) -> bool {
        // SAFETY: the context is valid while the program runs.
        self.next == Next::Unknown && is_from_host(ctx) && unsafe { (*ctx.skb.skb).tc_index } != AGAIN
    }

    /// Addresses the frame, as far as the next hop is known.
    #[inline(always)]
    pub fn address(&self, ethernet: &mut Ethernet) {
        if self.next == Next::Known {
            (ethernet.source, ethernet.target) = (halves(self.fib.smac), halves(self.fib.dmac));
        }
    }

    /// Notes the next hop for the packets to come. Of one whose address is not known yet there is nothing to note.
    #[inline(always)]
    pub fn name(&self, hop: &mut Hop, now: u64) {
        let mut named = Hop::default();
        if self.next == Next::Known {
            named.interface = self.fib.ifindex;
            named.named = Hop::tick(now);
            // SAFETY: the member that goes with this answer.
            named.mtu = unsafe { self.fib.__bindgen_anon_1.mtu_result };
            (named.source, named.target) = (halves(self.fib.smac), halves(self.fib.dmac));
        }
        *hop = named;
    }

    /// Sends the packet, which is as it is to leave. By the stack's neighbours: whoever sends frames to them by himself
    /// never has them asked whether they are still there, so that one that went silent would be believed for ever.
    #[inline(always)]
    pub fn send(&self, ctx: &TcContext) -> i32 {
        match self.next {
            Next::Host => return to_host(ctx),
            // It would be sent by the route that it came with.
            // SAFETY: plain numbers.
            Next::Known if is_from_host(ctx) => return unsafe { bpf_redirect(self.fib.ifindex, 0) as i32 },
            Next::Known => {}
            Next::Unknown => count(Counter::Unresolved),
        }
        // The gateway stands where the target stood; it can be of the other family.
        // SAFETY: either member is plain numbers, and the question was all zeros.
        let gateway = bpf_redir_neigh__bindgen_ty_1 { ipv6_nh: unsafe { self.fib.__bindgen_anon_4.ipv6_dst } };
        let mut next = bpf_redir_neigh { nh_family: self.fib.family.into(), __bindgen_anon_1: gateway };
        // SAFETY: the structure lives, with its size.
        unsafe { bpf_redirect_neigh(self.fib.ifindex, &raw mut next, size_of::<bpf_redir_neigh>() as i32, 0) as i32 }
    }
}

/// Sends a packet that is addressed to a next hop.
#[inline(always)]
pub fn by(hop: &Hop) -> i32 {
    // SAFETY: plain numbers.
    unsafe { bpf_redirect(hop.interface, 0) as i32 }
}

/// Sends a packet, which is as it is to arrive, to the host itself.
#[inline(always)]
pub fn to_host(ctx: &TcContext) -> i32 {
    // It is on its way there already, and has been routed.
    if is_from_host(ctx) {
        return NEXT;
    }
    // Out by the loopback interface, with a route that the stack looks up: it comes in there as one of the host's own. If
    // it went up from here, its source would be one of the host's addresses and it a Martian.
    // SAFETY: without a structure the stack looks the way up.
    unsafe { bpf_redirect_neigh(LOOPBACK, core::ptr::null_mut(), 0, 0) as i32 }
}

/// An Ethernet address as it stands in a frame.
#[inline(always)]
fn halves(bytes: [u8; 6]) -> [u16; 3] {
    let half = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
    [half(0), half(2), half(4)]
}

/// In `tc_index`, which nobody else looks at on the loopback interface: the packet has come in for the second time.
const AGAIN: u32 = 0x5348;

/// Lets one of the host's own packets come in again, without the route that its socket gave it.
#[inline(never)]
pub fn again(ctx: &TcContext) -> i32 {
    // SAFETY: the context is valid while the program runs.
    unsafe { (*ctx.skb.skb).tc_index = AGAIN };
    if ctx.clone_redirect(LOOPBACK, BPF_F_INGRESS.into()).is_err() {
        count(Counter::Failed);
    }
    DROP
}

/// Whether the packet came in by the loopback interface: it is of the host's own, or was put back by it.
#[inline(always)]
pub fn is_from_host(ctx: &TcContext) -> bool {
    // SAFETY: the context is valid while the program runs.
    unsafe { (*ctx.skb.skb).ifindex == LOOPBACK }
}

/// Whether packets with these addresses leave the host. `fib` is room for the question.
#[inline(always)]
pub fn leads_on<I: Ip>(ctx: &TcContext, tuple: &Tuple, fib: &mut Fib) -> bool {
    enter::<I>(fib, ctx, tuple);
    ask(ctx, fib, BPF_FIB_LOOKUP_SKIP_NEIGH) == BPF_FIB_LKUP_RET_SUCCESS
}

/// The address that the host would itself choose for the way to the tuple's target (from Linux 6.7 on).
#[inline(always)]
pub fn source<I: Ip>(ctx: &TcContext, tuple: &Tuple, fib: &mut Fib) -> Option<Address> {
    enter::<I>(fib, ctx, tuple);
    match ask(ctx, fib, BPF_FIB_LOOKUP_SRC | BPF_FIB_LOOKUP_SKIP_NEIGH) {
        BPF_FIB_LKUP_RET_SUCCESS => Some(I::source(fib)),
        _ => None,
    }
}

/// Asks about packets with these addresses.
#[inline(always)]
fn enter<I: Ip>(fib: &mut Fib, ctx: &TcContext, tuple: &Tuple) {
    // SAFETY: plain data, of which all zeros is a value.
    *fib = unsafe { core::mem::zeroed() };
    fib.family = I::FAMILY;
    fib.l4_protocol = TCP;
    fib.sport = tuple.source_port;
    fib.dport = tuple.target_port;
    I::enter(fib, &tuple.source, &tuple.target);
    // SAFETY: the context is valid while the program runs.
    fib.ifindex = unsafe { (*ctx.skb.skb).ifindex };
}

#[inline(always)]
fn ask(ctx: &TcContext, fib: &mut Fib, flags: u32) -> u32 {
    // SAFETY: both live, and the size is that of the structure. A negative answer (a bad argument) is no known number.
    unsafe { bpf_fib_lookup(ctx.skb.skb.cast(), fib, size_of::<Fib>() as i32, flags) as u32 }
}
