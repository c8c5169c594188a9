//! Passes a packet of a live flow on: counts it, asks for its way, rewrites it, and hands it to the interface. Whatever
//! fails, the packet is dropped and counted: it never goes on half rewritten.

use aya_ebpf::bindings::BPF_F_PSEUDO_HDR;
use aya_ebpf::helpers::{bpf_redirect, bpf_redirect_neigh};
use aya_ebpf::programs::TcContext;
use shunt_ebpf_common::checksum::{add, difference};
use shunt_ebpf_common::counter::Counter;
use shunt_ebpf_common::flow::{Flow, Tuple, state};
use shunt_ebpf_common::tcp::{Segment, after, flag};

use crate::ingress::DROP;
use crate::maps::{FLOWS, count};
use crate::packet::{Ip, headers};
use crate::route::{self, Way};

#[inline(never)]
pub fn carry<I: Ip>(ctx: &TcContext, flow: &mut Flow, segment: &Segment, now: u64) -> i32 {
    match passed_on::<I>(ctx, flow, segment, now) {
        Ok(verdict) => verdict,
        Err(counter) => {
            count(counter);
            DROP
        }
    }
}

#[inline(always)]
fn passed_on<I: Ip>(ctx: &TcContext, flow: &mut Flow, segment: &Segment, now: u64) -> Result<i32, Counter> {
    let head = headers::<I>(ctx).ok_or(Counter::Failed)?;
    // SAFETY: headers() has compared it with the packet's end.
    let ip = unsafe { &(*head).ip };
    let length = ip.length();
    if ip.ttl() <= 1 {
        return Err(Counter::Expired);
    }
    // What the stack has put together is cut again on its way out.
    // SAFETY: the context is valid while the program runs.
    let whole = unsafe { (*ctx.skb.skb).gso_size } != 0;
    let way = route::way(ctx, &flow.rewritten, ip, if whole { 0 } else { length as u16 })?;
    note(flow, segment, now, length);
    rewrite::<I>(ctx, flow, &way)?;
    Ok(match way.frame {
        // SAFETY: plain numbers.
        Some(_) => unsafe { bpf_redirect(way.interface, 0) as i32 },
        None => {
            count(Counter::Unresolved);
            // SAFETY: without a structure the stack looks the next hop up.
            unsafe { bpf_redirect_neigh(way.interface, core::ptr::null_mut(), 0, 0) as i32 }
        }
    })
}

/// What the packet says about its connection.
#[inline(always)]
fn note(flow: &mut Flow, segment: &Segment, now: u64, length: u32) {
    flow.seen = now;
    flow.bytes += u64::from(length);
    flow.packets += 1;
    let next = segment.next();
    if flow.packets == 1 || after(next, flow.next) {
        flow.next = next;
    }
    if segment.has(flag::ACK) {
        if flow.state & state::ACKNOWLEDGED == 0 || after(segment.acknowledgement, flow.acknowledged) {
            flow.acknowledged = segment.acknowledgement;
        }
        flow.state |= state::ACKNOWLEDGED;
    }
    if segment.flags & (flag::FIN | flag::RST) != 0 {
        ends(flow, segment.has(flag::RST));
    }
}

/// An RST closes both directions, a FIN its own; and both when the other has gone before.
#[inline(never)]
fn ends(flow: &mut Flow, at_once: bool) {
    flow.state |= state::FINISHED;
    if let Some(other) = FLOWS.get_ptr_mut(&flow.rewritten.reversed()) {
        // SAFETY: as in ingress.rs.
        let other = unsafe { &mut *other };
        if at_once || other.state & state::FINISHED != 0 {
            other.state |= state::CLOSED;
            flow.state |= state::CLOSED;
        }
    }
}

/// The differences are the flow's, computed once. Sums go by helpers, because only they know whether the device is to
/// finish the packet's checksum; then it holds the pseudo-header's sum only, and the ports must not be added.
#[inline(always)]
fn rewrite<I: Ip>(ctx: &TcContext, flow: &Flow, way: &Way) -> Result<(), Counter> {
    let failed = |_| Counter::Failed;
    // A step less to live. Time to live stands in the upper half of its word in a packet, the protocol in the lower.
    const STEP: u32 = (!0x0100_u16.to_be()) as u32;
    if let Some(checksum) = I::CHECKSUM {
        ctx.l3_csum_replace(checksum as usize, 0, add(flow.address_sum, STEP).into(), 0).map_err(failed)?;
    }
    let checksum = I::TCP_CHECKSUM as usize;
    ctx.l4_csum_replace(checksum, 0, flow.address_sum.into(), BPF_F_PSEUDO_HDR.into()).map_err(failed)?;
    ctx.l4_csum_replace(checksum, 0, flow.port_sum.into(), 0).map_err(failed)?;
    let head = headers::<I>(ctx).ok_or(Counter::Failed)?;
    // SAFETY: headers() has compared it with the packet's end, anew after the helpers.
    let head = unsafe { &mut *head };
    let ttl = head.ip.ttl();
    head.ip.set_ttl(ttl - 1);
    head.ip.set_addresses(&flow.rewritten.source, &flow.rewritten.target);
    head.tcp.source_port = flow.rewritten.source_port;
    head.tcp.target_port = flow.rewritten.target_port;
    if let Some((source, target)) = way.frame {
        head.ethernet.source = source;
        head.ethernet.target = target;
    }
    Ok(())
}

/// Of a rewriting: of the addresses, and of the ports.
#[inline(always)]
pub fn sums<I: Ip>(from: &Tuple, to: &Tuple) -> (u32, u32) {
    let ports = |tuple: &Tuple| [u32::from(tuple.source_port), u32::from(tuple.target_port)];
    (I::difference(from, to), difference(&ports(from), &ports(to)))
}
