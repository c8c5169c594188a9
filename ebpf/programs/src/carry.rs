//! Passes a packet of a live flow on: counts it, asks for its way, rewrites it, and hands it to the interface. Whatever
//! fails, the packet is dropped and counted: it never goes on half rewritten.
//!
//! What every packet of an established flow goes through is in one piece here, and short; routing is asked elsewhere, a few
//! times a second.

use aya_ebpf::bindings::BPF_F_PSEUDO_HDR;
use aya_ebpf::helpers::bpf_csum_update;
use aya_ebpf::programs::TcContext;
use shunt_ebpf_common::checksum::{add, difference};
use shunt_ebpf_common::counter::Counter;
use shunt_ebpf_common::flow::{Flow, Tuple, state};
use shunt_ebpf_common::tcp::{Segment, after, flag, is_exact};

use crate::admit::give_back;
use crate::ingress::{dropped, want};
use crate::maps::FLOWS;
use crate::packet::{Ip, headers};
use crate::route::{self, NoWay, Way};
use crate::signal;

#[inline(never)]
pub fn carry<I: Ip>(ctx: &TcContext, flow: &mut Flow, segment: &Segment, now: u64) -> i32 {
    match passed_on::<I>(ctx, flow, segment, now) {
        Ok(verdict) => verdict,
        Err(Stopped::Counted(counter)) => dropped(counter),
        Err(Stopped::Misled) => want::AGAIN,
        Err(Stopped::Narrow(mtu)) => want::SMALLER | i32::from(mtu),
    }
}

/// Why a packet does not go on.
pub enum Stopped {
    Counted(Counter),
    /// It is larger than its way allows: so many bytes.
    Narrow(u16),
    /// It must lose the route that it came with.
    Misled,
}

impl From<Counter> for Stopped {
    #[inline(always)]
    fn from(counter: Counter) -> Self {
        Self::Counted(counter)
    }
}

impl From<NoWay> for Stopped {
    #[inline(always)]
    fn from(none: NoWay) -> Self {
        match none {
            NoWay::Unroutable => Self::Counted(Counter::Unroutable),
            NoWay::Narrow(mtu) => Self::Narrow(mtu),
        }
    }
}

#[inline(always)]
fn passed_on<I: Ip>(ctx: &TcContext, flow: &mut Flow, segment: &Segment, now: u64) -> Result<i32, Stopped> {
    let head = headers::<I>(ctx).ok_or(Counter::Failed)?;
    // SAFETY: headers() has compared it with the packet's end.
    let ip = unsafe { &(*head).ip };
    let length = ip.length();
    // What the stack has put together is cut again on its way out, into pieces of that much data.
    // SAFETY: the context is valid while the program runs.
    let piece = unsafe { (*ctx.skb.skb).gso_size };
    let widest = if piece == 0 { length } else { length - segment.length + piece };
    if flow.state & state::TO_HOST != 0 {
        note(flow, segment, now, length);
        rewrite::<I>(ctx, flow, 0)?;
        return Ok(route::to_host(ctx));
    }
    if ip.ttl() <= 1 {
        return Err(Counter::Expired.into());
    }
    if !flow.hop.takes(widest, now) {
        let mut way = Way::of(ctx, &flow.rewritten, ip, widest as u16);
        way.find(ctx)?;
        if way.is_misled(ctx) {
            return Err(Stopped::Misled);
        }
        note(flow, segment, now, length);
        way.name(&mut flow.hop, now);
        rewrite::<I>(ctx, flow, 1)?;
        return Ok(way.send(ctx));
    }
    note(flow, segment, now, length);
    rewrite::<I>(ctx, flow, 1)?;
    Ok(route::by(&flow.hop))
}

/// What the packet says about its connection.
#[inline(always)]
fn note(flow: &mut Flow, segment: &Segment, now: u64, length: u32) {
    if flow.state & state::FROM_CLIENT != 0 {
        signal::from_client(flow, segment, now);
    } else {
        signal::from_backend(flow, segment, now);
    }
    flow.seen = now;
    flow.bytes += u64::from(length);
    flow.packets += 1;
    if segment.flags & flag::RST != 0 {
        // Anybody can send one. What it says of numbers is to be compared, and not to be believed.
        return;
    }
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
}

/// A packet that ends its direction has been passed on: an RST closes both directions, if its receiver takes it at its word, a
/// FIN its own; and both when the other has gone before.
#[inline(never)]
pub fn ends(flow: &mut Flow, segment: &Segment) {
    let key = flow.rewritten.reversed();
    let Some(other) = FLOWS.get_ptr_mut(&key) else { return };
    // SAFETY: as in ingress.rs.
    let other = unsafe { &mut *other };
    let at_once = segment.has(flag::RST);
    if at_once {
        let acknowledged = (other.state & state::ACKNOWLEDGED != 0).then_some(other.acknowledged);
        if !is_exact(segment.sequence, flow.next, acknowledged) {
            return;
        }
        signal::reset(flow, other);
    }
    flow.state |= state::FINISHED;
    if at_once || other.state & state::FINISHED != 0 {
        other.state |= state::CLOSED;
        flow.state |= state::CLOSED;
        // Each entry leads to the other's addresses: the client is where the server's packets go.
        if flow.state & state::FROM_CLIENT != 0 {
            give_back(flow, &other.rewritten.target);
        } else {
            give_back(other, &key.source);
        }
    }
}

/// What a step less to live adds to IPv4's sum: time to live stands in the upper half of its word, the protocol in the lower.
pub const STEP: u32 = (!0x0100_u16.to_be()) as u32;

/// The differences are the flow's, computed once. TCP's sum goes by helpers, because only they know whether the device is
/// to finish the packet's checksum; then it holds the pseudo-header's sum only, and the ports must not be added. IPv4's own
/// is nobody's but the header's, which adds up to nothing before and after.
#[inline(always)]
fn rewrite<I: Ip>(ctx: &TcContext, flow: &Flow, steps: u8) -> Result<(), Counter> {
    let failed = |_| Counter::Failed;
    let checksum = I::TCP_CHECKSUM as usize;
    ctx.l4_csum_replace(checksum, 0, flow.address_sum.into(), BPF_F_PSEUDO_HDR.into()).map_err(failed)?;
    if flow.port_sum != 0 {
        ctx.l4_csum_replace(checksum, 0, flow.port_sum.into(), 0).map_err(failed)?;
    }
    if !I::SUMMED && steps == 0 {
        // The helper has taken the addresses out of the sum of the whole packet, as a header with a checksum of its own would
        // balance them. Nobody asks for that sum but the host's own stack. It fails where there is none.
        // SAFETY: the context is valid while the program runs.
        unsafe { bpf_csum_update(ctx.skb.skb, flow.address_sum) };
    }
    let head = headers::<I>(ctx).ok_or(Counter::Failed)?;
    // SAFETY: headers() has compared it with the packet's end, anew after the helpers.
    let head = unsafe { &mut *head };
    if steps != 0 {
        let ttl = head.ip.ttl();
        head.ip.set_ttl(ttl - steps);
        (head.ethernet.source, head.ethernet.target) = (flow.hop.source, flow.hop.target);
    }
    head.ip.correct(if steps == 0 { flow.address_sum } else { add(flow.address_sum, STEP) });
    head.ip.set_addresses(&flow.rewritten.source, &flow.rewritten.target);
    head.tcp.source_port = flow.rewritten.source_port;
    head.tcp.target_port = flow.rewritten.target_port;
    Ok(())
}

/// Of a rewriting: of the addresses, and of the ports.
#[inline(always)]
pub fn sums<I: Ip>(from: &Tuple, to: &Tuple) -> (u32, u32) {
    let ports = |tuple: &Tuple| [u32::from(tuple.source_port), u32::from(tuple.target_port)];
    (I::difference(from, to), difference(&ports(from), &ports(to)))
}
