//! What a packet is to us.

use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::programs::TcContext;
use shunt_ebpf_common::counter::Counter;
use shunt_ebpf_common::flow::{Tuple, state};

use crate::live::{is_live, now};
use crate::maps::{FLOWS, count};
use crate::open::Answer;
use crate::packet::v4::{self, V4};
use crate::packet::v6::{self, V6};
use crate::packet::{Content, IP, Ip, gathered};
use crate::{carry, open, reset};

/// Not ours: the next program, or the stack. `TCX_NEXT` by another name.
pub const NEXT: i32 = TC_ACT_UNSPEC;
pub const DROP: i32 = TC_ACT_SHOT as i32;

pub fn ingress(ctx: &TcContext) -> i32 {
    // SAFETY: the context is valid while the program runs.
    let (protocol, tagged) = unsafe { ((*ctx.skb.skb).protocol as u16, (*ctx.skb.skb).vlan_present) };
    let protocol = u16::from_be(protocol);
    if protocol != v4::KIND && protocol != v6::KIND {
        return NEXT;
    }
    if tagged != 0 {
        // It will come in once more by the VLAN's own interface.
        count(Counter::Vlan);
        return NEXT;
    }
    if protocol == v4::KIND { of::<V4>(ctx) } else { of::<V6>(ctx) }
}

/// A packet of one family.
#[inline(never)]
fn of<I: Ip>(ctx: &TcContext) -> i32 {
    // Shorter than all headers together: whatever that is, it has no TCP header for the stack either.
    let Some(headers) = gathered::<I>(ctx) else { return NEXT };
    // SAFETY: gathered() has compared it with the packet's end.
    let head = unsafe { &*headers };
    let mut tuple = head.tuple();
    match head.ip.content(ctx) {
        Content::Other => return NEXT,
        // The first fragment says whom all are for. Without it, what the others bring to the stack is never put together.
        Content::Fragment(at) => return dropped_if_ours(ctx, &mut tuple, at, Counter::Fragment),
        Content::Behind(at) => return dropped_if_ours(ctx, &mut tuple, at, Counter::Options),
        Content::Tcp => {}
    }
    let Some(segment) = head.segment() else {
        return dropped_if_ours(ctx, &mut tuple, I::LENGTH, Counter::Truncated);
    };
    let now = now();
    if let Some(flow) = FLOWS.get_ptr_mut(&tuple) {
        // SAFETY: an entry that is deleted meanwhile stays memory of the map; what that can do is in the README.
        let flow = unsafe { &mut *flow };
        let live = is_live(flow.pair, flow.generation, now);
        let over = !live || flow.state & state::CLOSED != 0;
        if !(over && segment.opens() && flow.state & state::FROM_CLIENT != 0) {
            return if live { carry::carry::<I>(ctx, flow, &segment, now) } else { reset::answer::<I>(ctx, &segment) };
        }
        // The client begins anew with the port of a connection that is over.
        let _ = FLOWS.remove(&flow.rewritten.reversed());
        let _ = FLOWS.remove(&tuple);
    }
    match open::open::<I>(ctx, &tuple, segment.opens()) {
        Answer::Pass => NEXT,
        Answer::Drop => DROP,
        Answer::Reset => reset::answer::<I>(ctx, &segment),
        Answer::Carry => match FLOWS.get_ptr_mut(&tuple) {
            // SAFETY: as above.
            Some(flow) => carry::carry::<I>(ctx, unsafe { &mut *flow }, &segment, now),
            None => DROP,
        },
    }
}

/// What cannot be carried is dropped when it is for a listener or of a flow; the ports are where TCP begins.
#[inline(always)]
fn dropped_if_ours(ctx: &TcContext, tuple: &mut Tuple, tcp: u32, counter: Counter) -> i32 {
    let Ok(ports) = ctx.load::<[u16; 2]>((IP + tcp) as usize) else { return NEXT };
    [tuple.source_port, tuple.target_port] = ports;
    if FLOWS.get_ptr(&*tuple).is_some() || open::listens(tuple) {
        count(counter);
        return DROP;
    }
    NEXT
}
