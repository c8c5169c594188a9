//! ICMP errors. One about a packet that we sent is translated like the flow that it is about, and goes to the end that sent
//! the packet; one about a flow that is dead goes nowhere. A packet of a flow that is too large for its way becomes the
//! error that says so.

use aya_ebpf::bindings::bpf_adj_room_mode::BPF_ADJ_ROOM_MAC;
use aya_ebpf::helpers::bpf_skb_change_tail;
use aya_ebpf::programs::TcContext;
use shunt_ebpf_common::checksum::{add, fold, replaced};
use shunt_ebpf_common::counter::Counter;
use shunt_ebpf_common::flow::{Flow, Tuple, state};

use crate::carry::STEP;
use crate::ingress::{DROP, NEXT, dropped};
use crate::live::{is_live, now};
use crate::maps::{FLOWS, count};
use crate::packet::{Complaint, Headers, Icmp, Ip, Tcp, gathered, headers, sum};
use crate::reset::is_unfinished;
use crate::route::{self, Way};

/// An ICMP message: translated if it is about a flow of ours, otherwise nothing to us.
#[inline(never)]
pub fn translate<I: Ip>(ctx: &TcContext) -> i32 {
    let Some(complaint) = gathered::<Complaint<I>>(ctx) else { return NEXT };
    // SAFETY: gathered() has compared it with the packet's end.
    let complaint = unsafe { &mut *complaint };
    if !complaint.is_about_tcp() {
        return NEXT;
    }
    let answer = complaint.answer();
    let Some(flow) = FLOWS.get_ptr(&answer) else { return NEXT };
    // SAFETY: as in ingress.rs.
    let flow = unsafe { &*flow };
    if !is_live(flow, now()) {
        return dropped(Counter::AboutDead);
    }
    match passed_on(ctx, flow, complaint) {
        Ok(verdict) => {
            count(Counter::Translated);
            verdict
        }
        Err(counter) => dropped(counter),
    }
}

/// An ICMP message's checksum is never left to a device. What is written here leaves the whole packet's sum as it was.
#[inline(always)]
fn passed_on<I: Ip>(ctx: &TcContext, flow: &Flow, complaint: &mut Complaint<I>) -> Result<i32, Counter> {
    let ttl = complaint.ip.ttl();
    let mut way = Way::of(ctx, &flow.rewritten, &complaint.ip, 0);
    if flow.state & state::TO_HOST == 0 {
        if ttl <= 1 {
            return Err(Counter::Expired);
        }
        way.find(ctx).map_err(|_| Counter::Unroutable)?;
    } else {
        way.ends_here();
    }
    way.address(&mut complaint.ethernet);
    let (source, target) = complaint.ip.addresses();
    let outside = I::difference(&Tuple { source, target, ..Tuple::default() }, &flow.rewritten);
    // From the flow's own address: whoever complained may be nobody whom that end has a way to.
    complaint.ip.set_addresses(&flow.rewritten.source, &flow.rewritten.target);
    complaint.ip.set_ttl(ttl - way.steps());
    complaint.ip.correct(if way.steps() == 0 { outside } else { add(outside, STEP) });
    // The packet as its sender knows it. TCP's checksum is left alone where it is quoted: nobody can check it without
    // all of the data.
    complaint.about.set_addresses(&flow.rewritten.target, &flow.rewritten.source);
    complaint.about.correct(flow.address_sum);
    complaint.source_port = flow.rewritten.target_port;
    complaint.target_port = flow.rewritten.source_port;
    // IPv4's header balances its own change, and its addresses are none of ICMP's checksum's.
    let addresses = if I::SUMMED { 0 } else { add(flow.address_sum, outside) };
    complaint.icmp.checksum = replaced(complaint.icmp.checksum, add(addresses, flow.port_sum));
    Ok(way.send(ctx))
}

/// A flow's packet that is larger than `mtu` becomes the error that its sender is to be told, and goes back the way it came.
/// Bytes are cut off and put in front: the stack would answer only for what it has routed itself.
#[inline(never)]
pub fn too_big<I: Ip>(ctx: &TcContext, mtu: u16) -> i32 {
    match turned::<I>(ctx, mtu) {
        Some(()) => {
            count(Counter::TooBig);
            route::back(ctx)
        }
        None => {
            count(Counter::Failed);
            DROP
        }
    }
}

/// `None` if the kernel would not have it.
#[inline(always)]
fn turned<I: Ip>(ctx: &TcContext, mtu: u16) -> Option<()> {
    const ICMP: u32 = size_of::<Icmp>() as u32;
    // SAFETY: the context is valid, the length is that of headers which are there.
    if unsafe { bpf_skb_change_tail(ctx.skb.skb, size_of::<Headers<I>>() as u32, 0) } != 0 {
        return None;
    }
    let unfinished = is_unfinished::<I>(ctx)?;
    let quoted = {
        let head = headers::<I>(ctx)?;
        // SAFETY: headers() has compared it with the packet's end.
        let head = unsafe { &mut *head };
        core::mem::swap(&mut head.ethernet.source, &mut head.ethernet.target);
        head.tcp.checksum = 0;
        // A device that is to finish the segment's checksum will let it sum up to nothing.
        let tcp = if unfinished { 0 } else { sum(&head.tcp) };
        add(tcp, sum(&head.ip))
    };
    ctx.adjust_room((I::LENGTH + ICMP) as i32, BPF_ADJ_ROOM_MAC, 0).ok()?;
    let complaint = gathered::<Complaint<I>>(ctx)?;
    // SAFETY: gathered() has compared it with the packet's end.
    let complaint = unsafe { &mut *complaint };
    let (target, source) = complaint.about.addresses();
    let length = (ICMP + I::LENGTH + size_of::<Tcp>() as u32) as u16;
    complaint.ip = I::with(&source, &target, I::ICMP, length);
    let mut icmp = I::too_big(mtu);
    icmp.checksum = !fold(add(add(sum(&icmp), quoted), I::icmp_pseudo(&source, &target, length)));
    complaint.icmp = icmp;
    Some(())
}
