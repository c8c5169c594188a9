//! What a packet is to us.

use aya_ebpf::bindings::{TC_ACT_REDIRECT, TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::programs::TcContext;
use shunt_ebpf_common::counter::Counter;
use shunt_ebpf_common::flow::{Flow, Tuple, mark, state};
use shunt_ebpf_common::tally::Event;
use shunt_ebpf_common::tcp::{Segment, flag};

use crate::admit::give_back;
use crate::live::{is_live, now};
use crate::manage::forget;
use crate::maps::{FLOWS, count, tell};
use crate::open::Answer;
use crate::packet::v4::{self, V4};
use crate::packet::v6::{self, V6};
use crate::packet::{Content, Headers, IP, Ip, content, gathered};
use crate::{carry, icmp, keep, log, open, reset, route};

/// Not ours: the next program, or the stack. `TCX_NEXT` by another name.
pub const NEXT: i32 = TC_ACT_UNSPEC;
pub const DROP: i32 = TC_ACT_SHOT as i32;

/// linux/if_packet.h, PACKET_HOST: the frame is addressed to this interface.
const HOST: u32 = 0;

pub fn ingress(ctx: &TcContext) -> i32 {
    // SAFETY: the context is valid while the program runs.
    let (protocol, tagged, addressed) =
        unsafe { ((*ctx.skb.skb).protocol as u16, (*ctx.skb.skb).vlan_present, (*ctx.skb.skb).pkt_type) };
    if addressed != HOST {
        // The IP stack would not look at it either (`ip_rcv`). An RST to what a switch has flooded, or a promiscuous
        // interface has overheard, would end another proxy's connection.
        return NEXT;
    }
    let protocol = u16::from_be(protocol);
    if protocol != v4::KIND && protocol != v6::KIND {
        return NEXT;
    }
    if tagged != 0 {
        // It will come in once more by the VLAN's own interface.
        count(Counter::Vlan);
        return NEXT;
    }
    if protocol == v4::KIND { answered::<V4>(ctx) } else { answered::<V6>(ctx) }
}

/// What a packet of one family wants beyond a verdict of the kernel's: numbers that the kernel does not use.
pub mod want {
    /// Its sender is to get an RST.
    pub const RESET: i32 = 0x1_0000;
    /// It is larger than its way allows. The lower half is the MTU.
    pub const SMALLER: i32 = 0x2_0000;
    /// It is a SYN that waits until its listener leads somewhere.
    pub const HELD: i32 = 0x3_0000;
    /// It is of a blocked flow, and waits until that goes on.
    pub const KEPT: i32 = 0x4_0000;
    /// It is to come in once more, without the route that it has.
    pub const AGAIN: i32 = 0x5_0000;
    /// It does not go on. The lower half is what is counted.
    pub const DROPPED: i32 = 0x6_0000;
    /// It has opened a flow, and goes on.
    pub const OPENED: i32 = 0x7_0000;
}

/// What is answered is turned round here and not where that is found out: calls within one another share 512 bytes of stack.
#[inline(always)]
fn answered<I: Ip>(ctx: &TcContext) -> i32 {
    let verdict = of::<I>(ctx);
    log::verdict::<I>(ctx, verdict);
    match verdict & !0xffff {
        want::RESET => reset::answer::<I>(ctx),
        want::DROPPED => DROP,
        want::OPENED => TC_ACT_REDIRECT as i32,
        want::SMALLER => icmp::too_big::<I>(ctx, verdict as u16),
        want::AGAIN => route::again(ctx),
        want::HELD => put_by(keep::syn::<I>(ctx)),
        want::KEPT => put_by(keep::piece::<I>(ctx)),
        _ => verdict,
    }
}

/// Whether it was kept or not, its sender's TCP sends it again.
#[inline(always)]
fn put_by(kept: Option<()>) -> i32 {
    if kept.is_some() {
        count(Counter::Kept);
    }
    DROP
}

/// Counts a packet that does not go on.
#[inline(always)]
pub fn dropped(counter: Counter) -> i32 {
    count(counter);
    want::DROPPED | counter as i32
}

/// A packet of one family.
#[inline(never)]
fn of<I: Ip>(ctx: &TcContext) -> i32 {
    // Shorter than all headers together: whatever that is, it has no TCP header for the stack either.
    let Some(headers) = gathered::<Headers<I>>(ctx) else { return NEXT };
    // SAFETY: gathered() has compared it with the packet's end.
    let head = unsafe { &*headers };
    let mut tuple = head.tuple();
    match content(ctx, &head.ip) {
        Content::Other => return NEXT,
        Content::Icmp => return icmp::translate::<I>(ctx),
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
        let live = is_live(flow, now);
        let over = !live || flow.state & state::CLOSED != 0;
        if !(over && segment.opens() && flow.state & state::FROM_CLIENT != 0) {
            return if !live {
                dead(flow, &tuple)
            } else if flow.marks & mark::BLOCKED != 0 {
                want::KEPT
            } else {
                carried::<I>(ctx, flow, &segment, now)
            };
        }
        // The client begins anew with the port of a connection that is over.
        forget(flow, &tuple);
    }
    match open::open::<I>(ctx, &tuple, segment.opens()) {
        Answer::Pass => NEXT,
        Answer::Reset => want::RESET,
        Answer::Hold => want::HELD,
        Answer::Carry => {
            let Some(flow) = FLOWS.get_ptr_mut(&tuple) else { return DROP };
            // SAFETY: as above.
            let flow = unsafe { &mut *flow };
            if !is_live(flow, now) {
                return want::RESET;
            }
            match carried::<I>(ctx, flow, &segment, now) {
                verdict if verdict == TC_ACT_REDIRECT as i32 => want::OPENED,
                verdict => verdict,
            }
        }
    }
}

/// A packet of a live flow.
#[inline(always)]
fn carried<I: Ip>(ctx: &TcContext, flow: &mut Flow, segment: &Segment, now: u64) -> i32 {
    let verdict = carry::carry::<I>(ctx, flow, segment, now);
    let passed = verdict == NEXT || verdict == TC_ACT_REDIRECT as i32;
    if passed && segment.flags & (flag::FIN | flag::RST) != 0 {
        carry::ends(flow, segment);
    }
    verdict
}

/// A packet of a flow whose pair is not live.
#[inline(always)]
fn dead(flow: &mut Flow, tuple: &Tuple) -> i32 {
    flow.state |= state::RESET;
    if flow.state & state::FROM_CLIENT != 0 {
        give_back(flow, &tuple.source);
    }
    tell(flow.mapping, Event::Reset);
    want::RESET
}

/// What cannot be carried is dropped when it is for a listener or of a flow; the ports are where TCP begins.
#[inline(always)]
fn dropped_if_ours(ctx: &TcContext, tuple: &mut Tuple, tcp: u32, counter: Counter) -> i32 {
    let Ok(ports) = ctx.load::<[u16; 2]>((IP + tcp) as usize) else { return NEXT };
    [tuple.source_port, tuple.target_port] = ports;
    if FLOWS.get_ptr(&*tuple).is_some() || open::listens(tuple) {
        return dropped(counter);
    }
    NEXT
}
