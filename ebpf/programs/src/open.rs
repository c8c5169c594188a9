//! Makes a flow of a SYN: asks the listener's mapping where it leads, finds a source port that is free, and enters both
//! directions into the table. The other direction's entry comes first: that it was not there *is* the port's being free.

use aya_ebpf::bindings::{
    BPF_F_CURRENT_NETNS, BPF_NOEXIST, bpf_sock_tuple, bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1,
    bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2,
};
use aya_ebpf::helpers::{bpf_get_prandom_u32, bpf_sk_release, bpf_skc_lookup_tcp};
use aya_ebpf::programs::TcContext;
use shunt_ebpf_common::counter::Counter;
use shunt_ebpf_common::flow::{Endpoint, Flow, Tuple, state};
use shunt_ebpf_common::mapping::{MAX_CHOICES, Pair, Way, kind, source};

use crate::live::{generation_of, now, until};
use crate::maps::{CONTROL, FLOWS, LISTENERS, MAPPINGS, PAIRS, SCRATCH, committed, count};
use crate::packet::Ip;
use crate::{carry, route};

/// Ports that are tried before a flow is turned away: with nine tenths of them taken, one in five would be.
const TRIES: u32 = 16;

const EEXIST: i32 = -17;

/// What is to be done with a packet of no flow. It is done by the caller: a program's calls share 512 bytes of stack.
pub enum Answer {
    /// It is for no listener.
    Pass,
    /// It has a flow now.
    Carry,
    Drop,
    Reset,
}

/// A packet of no flow.
#[inline(never)]
pub fn open<I: Ip>(ctx: &TcContext, tuple: &Tuple, opens: bool) -> Answer {
    let listener = Endpoint { address: tuple.target, port: tuple.target_port, zero: 0 };
    // SAFETY: the value is copied at once; a slot that was just given away is asked itself.
    let Some(&slot) = (unsafe { LISTENERS.get(&listener) }) else { return Answer::Pass };
    let Some(way) = way_of(slot) else { return Answer::Pass };
    // SAFETY: an element of an array lives as long as the map.
    match unsafe { (*way).kind } {
        kind::ABSENT => Answer::Pass,
        // Of a connection that nobody knows here: a backend would not know it either.
        _ if !opens => Answer::Reset,
        kind::LEADS => match entered::<I>(ctx, tuple, slot, way) {
            Ok(()) => {
                count(Counter::Opened);
                Answer::Carry
            }
            Err(counter) => {
                count(counter);
                Answer::Reset
            }
        },
        kind::HOLDS => {
            count(Counter::Held);
            Answer::Drop
        }
        _ => {
            count(Counter::Refused);
            Answer::Reset
        }
    }
}

/// Whether there is a listener that the packet is for.
#[inline(always)]
pub fn listens(tuple: &Tuple) -> bool {
    let listener = Endpoint { address: tuple.target, port: tuple.target_port, zero: 0 };
    // SAFETY: the value is copied at once; a slot that was just given away is asked itself.
    let Some(&slot) = (unsafe { LISTENERS.get(&listener) }) else { return false };
    // SAFETY: an element of an array lives as long as the map.
    way_of(slot).is_some_and(|way| unsafe { (*way).kind } != kind::ABSENT)
}

#[inline(always)]
fn way_of(slot: u32) -> Option<*const Way> {
    let mapping = MAPPINGS.get_ptr(slot)?;
    // SAFETY: an element of an array lives as long as the map; volatile, because the agent writes meanwhile.
    let transaction = unsafe { (&raw const (*mapping).transaction).read_volatile() };
    // SAFETY: likewise.
    Some(unsafe { if transaction <= committed() { &raw const (*mapping).new } else { &raw const (*mapping).old } })
}

/// Enters a new flow.
#[inline(always)]
fn entered<I: Ip>(ctx: &TcContext, tuple: &Tuple, slot: u32, way: *const Way) -> Result<(), Counter> {
    // SAFETY: all of these are elements of arrays, which live as long as their maps.
    let (pair, at) = unsafe { drawn(way) }.ok_or(Counter::Refused)?;
    let now = now();
    // SAFETY: likewise.
    let (generation, live_until, backend) = unsafe { (generation_of(pair), until(pair), (*pair).backend) };
    if now >= live_until {
        return Err(Counter::Refused);
    }
    // No packet changes its family here.
    if backend.address.is_v4() != tuple.target.is_v4() {
        return Err(Counter::Refused);
    }
    let mut rewritten = Tuple {
        source: tuple.source,
        target: backend.address,
        source_port: tuple.source_port,
        target_port: backend.port,
        zero: 0,
    };
    // SAFETY: likewise.
    let masquerades = unsafe { (*way).source } == source::MASQUERADE;
    if masquerades {
        rewritten.source = route::source::<I>(ctx, &rewritten).ok_or(Counter::Unroutable)?;
    }
    let flow = SCRATCH.get_ptr_mut(0).ok_or(Counter::Failed)?;
    // SAFETY: this processor's own element.
    let flow = unsafe { &mut *flow };
    // The other direction first: its packets come from the backend, and leave as the listener's.
    *flow = Flow { pair: at, generation, mapping: slot, opened: now, seen: now, ..Flow::default() };
    flow.rewritten = tuple.reversed();
    if masquerades {
        port_taken::<I>(ctx, flow, &mut rewritten)?;
    } else {
        taken::<I>(flow, &rewritten).map_err(|error| if error == EEXIST { Counter::NoPort } else { Counter::Full })?;
    }
    flow.rewritten = rewritten;
    flow.state = state::FROM_CLIENT;
    (flow.address_sum, flow.port_sum) = carry::sums::<I>(tuple, &rewritten);
    if let Err(error) = FLOWS.insert(tuple, &*flow, BPF_NOEXIST.into()) {
        let _ = FLOWS.remove(&rewritten.reversed());
        if error != EEXIST {
            return Err(Counter::Full);
        }
        // The same SYN came twice, and another processor was faster: its flow is as good.
    }
    Ok(())
}

/// One of the way's backends, by weight: the pair and its slot.
///
/// # Safety
/// `way` lies in [`MAPPINGS`].
#[inline(always)]
unsafe fn drawn(way: *const Way) -> Option<(*const Pair, u32)> {
    let (backends, weight) = unsafe { ((*way).backends as usize, (*way).weight) };
    if weight == 0 {
        return None;
    }
    // SAFETY: no arguments.
    let random = if backends == 1 { 0 } else { unsafe { bpf_get_prandom_u32() } };
    let draw = random % weight;
    for at in 0..MAX_CHOICES {
        if at >= backends {
            return None;
        }
        let choice = unsafe { (*way).choices[at] };
        if draw < choice.upto {
            return Some((PAIRS.get_ptr(choice.pair)?, choice.pair));
        }
    }
    None
}

/// Takes a port that no other flow and no socket of the host's own has towards this backend.
#[inline(always)]
fn port_taken<I: Ip>(ctx: &TcContext, flow: &mut Flow, rewritten: &mut Tuple) -> Result<(), Counter> {
    let control = CONTROL.get_ptr(0).ok_or(Counter::NoPort)?;
    // SAFETY: the only element of an array; no arguments.
    let (control, start) = unsafe { (&*control, bpf_get_prandom_u32() >> 8) };
    for step in 0..TRIES {
        let port = control.port(start + step).ok_or(Counter::NoPort)?;
        rewritten.source_port = port.to_be();
        if is_the_hosts_own::<I>(ctx, rewritten) {
            continue;
        }
        match taken::<I>(flow, rewritten) {
            Ok(()) => return Ok(()),
            Err(EEXIST) => {}
            Err(_) => return Err(Counter::Full),
        }
    }
    Err(Counter::NoPort)
}

/// Enters the backend's direction of a flow whose packets are to leave like that.
#[inline(always)]
fn taken<I: Ip>(flow: &mut Flow, rewritten: &Tuple) -> Result<(), i32> {
    let key = rewritten.reversed();
    let to = flow.rewritten;
    (flow.address_sum, flow.port_sum) = carry::sums::<I>(&key, &to);
    FLOWS.insert(key, &*flow, BPF_NOEXIST.into())
}

/// Whether the backend's answers would belong to a connection of the host itself, as its probes are.
#[inline(always)]
fn is_the_hosts_own<I: Ip>(ctx: &TcContext, rewritten: &Tuple) -> bool {
    // SAFETY: plain data, of which all zeros is a value.
    let mut question: bpf_sock_tuple = unsafe { core::mem::zeroed() };
    // As the backend's packet would have them.
    if I::SOCKET_TUPLE == size_of::<bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2>() as u32 {
        question.__bindgen_anon_1.ipv6 = bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2 {
            saddr: rewritten.target.0,
            daddr: rewritten.source.0,
            sport: rewritten.target_port,
            dport: rewritten.source_port,
        };
    } else {
        question.__bindgen_anon_1.ipv4 = bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1 {
            saddr: rewritten.target.raw_v4(),
            daddr: rewritten.source.raw_v4(),
            sport: rewritten.target_port,
            dport: rewritten.source_port,
        };
    }
    // SAFETY: both live, and the size is that of the family's member.
    let socket = unsafe {
        let here = BPF_F_CURRENT_NETNS as u64;
        bpf_skc_lookup_tcp(ctx.skb.skb.cast(), &raw mut question, I::SOCKET_TUPLE, here, 0)
    };
    if socket.is_null() {
        return false;
    }
    // SAFETY: the lookup has taken a reference.
    unsafe { bpf_sk_release(socket.cast()) };
    true
}
