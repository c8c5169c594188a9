//! What a packet is to us.

use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::programs::TcContext;
use shunt_ebpf_common::counter::Counter;
use shunt_ebpf_common::flow::{Endpoint, Tuple, state};
use shunt_ebpf_common::mapping::kind;

use crate::live::{is_live, now};
use crate::maps::{FLOWS, LISTENERS, count};
use crate::open::Answer;
use crate::packet::{FRAGMENTED, Headers, LATER, gathered};
use crate::{carry, open, reset};

/// Not ours: the next program, or the stack. `TCX_NEXT` by another name.
pub const NEXT: i32 = TC_ACT_UNSPEC;
pub const DROP: i32 = TC_ACT_SHOT as i32;

const IPV4: u16 = 0x0800;
const TCP: u8 = 6;

pub fn ingress(ctx: &TcContext) -> i32 {
    // SAFETY: the context is valid while the program runs.
    let (protocol, tagged) = unsafe { ((*ctx.skb.skb).protocol, (*ctx.skb.skb).vlan_present) };
    if protocol != u32::from(IPV4.to_be()) {
        return NEXT;
    }
    if tagged != 0 {
        // It will come in once more by the VLAN's own interface.
        count(Counter::Vlan);
        return NEXT;
    }
    // Shorter than Ethernet, IPv4 and TCP together: whatever that is, it has no TCP header for the stack either.
    let Some(headers) = gathered(ctx) else { return NEXT };
    // SAFETY: gathered() has compared it with the packet's end.
    let head = unsafe { &*headers };
    if head.ip.protocol != TCP || head.ip.version_length >> 4 != 4 {
        return NEXT;
    }
    if head.ip.version_length != 0x45 {
        return with_options(ctx, head);
    }
    if head.ip.fragment & FRAGMENTED != 0 {
        return fragment(head);
    }
    let tuple = head.tuple();
    let Some(segment) = head.segment() else {
        return dropped_if_ours(&tuple, Counter::Truncated);
    };
    let now = now();
    if let Some(flow) = FLOWS.get_ptr_mut(&tuple) {
        // SAFETY: an entry that is deleted meanwhile stays memory of the map; what that can do is in the README.
        let flow = unsafe { &mut *flow };
        let live = is_live(flow.pair, flow.generation, now);
        let over = !live || flow.state & state::CLOSED != 0;
        if !(over && segment.opens() && flow.state & state::FROM_CLIENT != 0) {
            return if live { carry::carry(ctx, flow, &segment, now) } else { reset::answer(ctx, &segment) };
        }
        // The client begins anew with the port of a connection that is over.
        let _ = FLOWS.remove(&flow.rewritten.reversed());
        let _ = FLOWS.remove(&tuple);
    }
    match open::open(ctx, &tuple, segment.opens()) {
        Answer::Pass => NEXT,
        Answer::Drop => DROP,
        Answer::Reset => reset::answer(ctx, &segment),
        Answer::Carry => match FLOWS.get_ptr_mut(&tuple) {
            // SAFETY: as above.
            Some(flow) => carry::carry(ctx, unsafe { &mut *flow }, &segment, now),
            None => DROP,
        },
    }
}

/// Where the ports are depends on the options, so they are read where they lie; such a packet is not carried.
#[inline(always)]
fn with_options(ctx: &TcContext, head: &Headers) -> i32 {
    let length = u32::from(head.ip.version_length & 15) * 4;
    if length < 20 || head.ip.fragment & LATER != 0 {
        return NEXT;
    }
    let mut tuple = head.tuple();
    let Ok(ports) = ctx.load::<[u16; 2]>((crate::packet::IP + length) as usize) else { return NEXT };
    [tuple.source_port, tuple.target_port] = ports;
    dropped_if_ours(&tuple, Counter::Options)
}

/// The first fragment says whom all of them are for. Without it, what the others bring to the stack is never put together.
#[inline(always)]
fn fragment(head: &Headers) -> i32 {
    if head.ip.fragment & LATER != 0 {
        return NEXT;
    }
    dropped_if_ours(&head.tuple(), Counter::Fragment)
}

#[inline(always)]
fn dropped_if_ours(tuple: &Tuple, counter: Counter) -> i32 {
    let listener = Endpoint { address: tuple.target, port: tuple.target_port, zero: 0 };
    let listens = || {
        // SAFETY: the value is copied at once; a slot that was just given away is asked itself.
        let slot = unsafe { LISTENERS.get(&listener) }.copied();
        slot.is_some_and(|slot| open::kind_of(slot) != kind::ABSENT)
    };
    if FLOWS.get_ptr(tuple).is_some() || listens() {
        count(counter);
        return DROP;
    }
    NEXT
}
