//! Turns a packet into the RST that answers it, and sends that back the way it came. Whoever sent the packet learns at
//! once that its connection is over, and not a byte of the packet goes anywhere else.

use aya_ebpf::bindings::BPF_F_RECOMPUTE_CSUM;
use aya_ebpf::helpers::bpf_skb_change_tail;
use aya_ebpf::programs::TcContext;
use shunt_ebpf_common::checksum::{add, fold};
use shunt_ebpf_common::counter::Counter;
use shunt_ebpf_common::flow::Tuple;
use shunt_ebpf_common::tcp::Reset;

use crate::ingress::DROP;
use crate::maps::count;
use crate::packet::{Headers, IP, Ip, TCP, Tcp, halved, headers, sum};
use crate::route;

/// Answers the packet, or drops it if it asks for no answer.
#[inline(never)]
pub fn answer<I: Ip>(ctx: &TcContext) -> i32 {
    // SAFETY: headers() has compared it with the packet's end.
    let segment = headers::<I>(ctx).and_then(|head| unsafe { (*head).segment() });
    let Some(reset) = segment.and_then(|segment| segment.reset()) else {
        count(Counter::Stray);
        return DROP;
    };
    match turn::<I>(ctx, &reset) {
        Some(()) => {
            count(Counter::Reset);
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
fn turn<I: Ip>(ctx: &TcContext, reset: &Reset) -> Option<()> {
    const LENGTH: u16 = size_of::<Tcp>() as u16;
    // SAFETY: the context is valid, the length is that of headers which are there.
    if unsafe { bpf_skb_change_tail(ctx.skb.skb, size_of::<Headers<I>>() as u32, 0) } != 0 {
        return None;
    }
    let unfinished = is_unfinished::<I>(ctx)?;
    let head = headers::<I>(ctx)?;
    // SAFETY: headers() has compared it with the packet's end.
    let head = unsafe { &mut *head };
    let ethernet = &mut head.ethernet;
    core::mem::swap(&mut ethernet.source, &mut ethernet.target);
    let Tuple { source: target, target: source, source_port: target_port, target_port: source_port, .. } = head.tuple();
    let ip = I::with(&source, &target, TCP, LENGTH);
    let mut tcp = Tcp {
        source_port,
        target_port,
        sequence: halved(reset.sequence.to_be()),
        acknowledgement: halved(reset.acknowledgement.to_be()),
        offset: 5 << 4,
        flags: reset.flags,
        window: 0,
        checksum: 0,
        urgent: 0,
    };
    let pseudo = I::pseudo(&source, &target, LENGTH);
    tcp.checksum = if unfinished { fold(pseudo) } else { !fold(add(pseudo, sum(&tcp))) };
    ctx.store(IP as usize, &ip, BPF_F_RECOMPUTE_CSUM.into()).ok()?;
    ctx.store(I::TCP as usize, &tcp, BPF_F_RECOMPUTE_CSUM.into()).ok()
}

/// Whether the device is to finish the checksum (CHECKSUM_PARTIAL), which no helper tells: only then does a difference
/// that is not of the pseudo-header leave the field alone.
#[inline(always)]
pub fn is_unfinished<I: Ip>(ctx: &TcContext) -> Option<bool> {
    let field = I::TCP_CHECKSUM as usize;
    // Neither 0 nor 0xffff: 1 can be added to it, and is seen.
    ctx.store(field, &1_u16, 0).ok()?;
    ctx.l4_csum_replace(field, 0, 1, 0).ok()?;
    Some(ctx.load::<u16>(field).ok()? == 1)
}
