//! Turns a packet into the RST that answers it, and sends that back the way it came. Whoever sent the packet learns at
//! once that its connection is over, and not a byte of the packet goes anywhere else.

use aya_ebpf::bindings::BPF_F_RECOMPUTE_CSUM;
use aya_ebpf::helpers::{bpf_redirect, bpf_skb_change_tail};
use aya_ebpf::programs::TcContext;
use shunt_ebpf_common::checksum::{add, fold, pseudo};
use shunt_ebpf_common::counter::Counter;
use shunt_ebpf_common::tcp::{Reset, Segment};

use crate::ingress::DROP;
use crate::maps::count;
use crate::packet::{Headers, IP, Ipv4, TCP, TCP_CHECKSUM, Tcp, halved, headers, joined};

const TTL: u8 = 64;

/// Answers the packet, or drops it if it asks for no answer.
pub fn answer(ctx: &TcContext, segment: &Segment) -> i32 {
    let Some(reset) = segment.reset() else {
        count(Counter::Stray);
        return DROP;
    };
    match turn(ctx, &reset) {
        Some(()) => {
            count(Counter::Reset);
            // SAFETY: plain numbers.
            unsafe { bpf_redirect((*ctx.skb.skb).ifindex, 0) as i32 }
        }
        None => {
            count(Counter::Failed);
            DROP
        }
    }
}

/// `None` if the kernel would not have it.
#[inline(always)]
fn turn(ctx: &TcContext, reset: &Reset) -> Option<()> {
    // SAFETY: the context is valid, the length is that of headers which are there.
    if unsafe { bpf_skb_change_tail(ctx.skb.skb, size_of::<Headers>() as u32, 0) } != 0 {
        return None;
    }
    let unfinished = is_unfinished(ctx)?;
    let head = headers(ctx)?;
    // SAFETY: headers() has compared it with the packet's end.
    let (source, target) = unsafe { (joined((*head).ip.source), joined((*head).ip.target)) };
    // SAFETY: likewise.
    let (source_port, target_port) = unsafe { ((*head).tcp.source_port, (*head).tcp.target_port) };
    // SAFETY: likewise.
    unsafe {
        let ethernet = &mut (*head).ethernet;
        core::mem::swap(&mut ethernet.source, &mut ethernet.target);
    }
    let mut ip = Ipv4 {
        version_length: 0x45,
        service: 0,
        length: (size_of::<Ipv4>() + size_of::<Tcp>()) as u16,
        id: 0,
        fragment: crate::packet::DO_NOT_FRAGMENT,
        ttl: TTL,
        protocol: 6,
        checksum: 0,
        source: halved(target),
        target: halved(source),
    };
    ip.length = ip.length.to_be();
    ip.checksum = !fold(sum(&ip));
    let mut tcp = Tcp {
        source_port: target_port,
        target_port: source_port,
        sequence: halved(reset.sequence.to_be()),
        acknowledgement: halved(reset.acknowledgement.to_be()),
        offset: 5 << 4,
        flags: reset.flags,
        window: 0,
        checksum: 0,
        urgent: 0,
    };
    let pseudo = pseudo(target, source, size_of::<Tcp>() as u16);
    tcp.checksum = if unfinished { fold(pseudo) } else { !fold(add(pseudo, sum(&tcp))) };
    ctx.store(IP as usize, &ip, BPF_F_RECOMPUTE_CSUM.into()).ok()?;
    ctx.store(TCP as usize, &tcp, BPF_F_RECOMPUTE_CSUM.into()).ok()
}

/// Whether the device is to finish the checksum (CHECKSUM_PARTIAL), which no helper tells: only then does a difference
/// that is not of the pseudo-header leave the field alone.
#[inline(always)]
fn is_unfinished(ctx: &TcContext) -> Option<bool> {
    let field = TCP_CHECKSUM as usize;
    // Neither 0 nor 0xffff: 1 can be added to it, and is seen.
    ctx.store(field, &1_u16, 0).ok()?;
    ctx.l4_csum_replace(field, 0, 1, 0).ok()?;
    Some(ctx.load::<u16>(field).ok()? == 1)
}

/// The sum of a header of twenty bytes.
#[inline(always)]
fn sum<T>(header: &T) -> u32 {
    const { assert!(size_of::<T>() == 20) };
    let words = core::ptr::from_ref(header).cast::<u16>();
    let mut total = 0;
    let mut at = 0;
    while at < 10 {
        // SAFETY: within its twenty bytes, and aligned: headers are made of halves.
        total += u32::from(unsafe { *words.add(at) });
        at += 1;
    }
    total
}
