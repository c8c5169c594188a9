//! Makes a flow of a SYN: asks the listener's mapping where it leads, finds a source port that is free, and enters both
//! directions into the table. The other direction's entry comes first: that it was not there *is* the port's being free.

use aya_ebpf::bindings::{
    BPF_F_CURRENT_NETNS, BPF_NOEXIST, bpf_sock_tuple, bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1,
    bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2,
};
use aya_ebpf::helpers::{bpf_get_prandom_u32, bpf_sk_release, bpf_skc_lookup_tcp};
use aya_ebpf::programs::TcContext;
use shunt_ebpf_common::counter::Counter;
use shunt_ebpf_common::flow::{Address, Endpoint, Flow, Tuple, state};
use shunt_ebpf_common::log::because_it_was;
use shunt_ebpf_common::mapping::{MAX_CHOICES, Pair, Way, kind, source};
use shunt_ebpf_common::tally::Event;

use crate::admit::{free, is_allowed, placed};
use crate::live::{generation_of, now, until};
use crate::log::because;
use crate::maps::{CONTROL, FLOWS, LISTENERS, MAPPINGS, PAIRS, POOLS, SCRATCH, Scratch, committed, count, tell};
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
    Reset,
    /// It is to wait.
    Hold,
}

/// A packet of no flow.
#[inline(never)]
pub fn open<I: Ip>(ctx: &TcContext, tuple: &Tuple, opens: bool) -> Answer {
    let listener = Endpoint { address: tuple.target, port: tuple.target_port, zero: 0 };
    // SAFETY: the value is copied at once; a slot that was just given away is asked itself.
    let Some(&slot) = (unsafe { LISTENERS.get(&listener) }) else { return Answer::Pass };
    let Some(way) = way_of(slot) else { return Answer::Pass };
    // SAFETY: an element of an array lives as long as the map.
    let (kind, until) = unsafe { ((*way).kind, (*way).until) };
    if kind == kind::ABSENT {
        return Answer::Pass;
    }
    if !opens {
        // An answer to a client on the host itself, whose own port is a listener's.
        if route::is_from_host(ctx) && FLOWS.get_ptr(tuple.reversed()).is_some() {
            return Answer::Pass;
        }
        // Of a connection that nobody knows here: a backend would not know it either.
        tell(slot, Event::Reset);
        return Answer::Reset;
    }
    if !is_allowed(way, tuple) {
        return refused(slot, Event::NotAllowed, Counter::Refused);
    }
    match kind {
        kind::LEADS => led::<I>(ctx, tuple, slot, way),
        kind::HOLDS if now() < until => {
            count(Counter::Held);
            tell(slot, Event::Held);
            Answer::Hold
        }
        _ => refused(slot, Event::Fenced, Counter::Refused),
    }
}

#[inline(always)]
fn refused(slot: u32, event: Event, counter: Counter) -> Answer {
    count(counter);
    tell(slot, event);
    tell(slot, Event::Reset);
    because(because_it_was(event));
    Answer::Reset
}

/// A SYN to a listener that leads somewhere, from somebody who may connect.
#[inline(always)]
fn led<I: Ip>(ctx: &TcContext, tuple: &Tuple, slot: u32, way: *const Way) -> Answer {
    let places = match placed(slot, way, &tuple.source) {
        Ok(places) => places,
        Err(event) => return refused(slot, event, Counter::Refused),
    };
    match entered::<I>(ctx, tuple, slot, way, places) {
        Ok(true) => {
            count(Counter::Opened);
            tell(slot, Event::Opened);
            Answer::Carry
        }
        Ok(false) => {
            free(slot, places, &tuple.source);
            Answer::Carry
        }
        Err(counter) => {
            free(slot, places, &tuple.source);
            refused(slot, Event::Unavailable, counter)
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

/// Enters a new flow, which takes these places; `false`: the same SYN came twice, and another processor was faster.
#[inline(always)]
fn entered<I: Ip>(ctx: &TcContext, tuple: &Tuple, slot: u32, way: *const Way, places: u64) -> Result<bool, Counter> {
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
    let scratch = SCRATCH.get_ptr_mut(0).ok_or(Counter::Failed)?;
    // SAFETY: this processor's own element.
    let Scratch { flow, rewritten, fib, socket } = unsafe { &mut *scratch };
    *rewritten = Tuple {
        source: tuple.source,
        target: backend.address,
        source_port: tuple.source_port,
        target_port: backend.port,
        zero: 0,
    };
    // SAFETY: likewise.
    let (kind, pool) = unsafe { ((*way).source, (*way).pool) };
    let mut here = 0;
    if kind == source::MASQUERADE {
        if let Some(source) = route::source::<I>(ctx, rewritten, fib) {
            rewritten.source = source;
        } else if has_socket::<I>(ctx, rewritten, socket) {
            // The backend is on the proxy itself. The host speaks to itself from the very address that it speaks to.
            rewritten.source = backend.address;
            here = state::TO_HOST;
        } else {
            return Err(Counter::Unroutable);
        }
    } else if kind == source::POOL {
        rewritten.source = pooled(pool).ok_or(Counter::NoPort)?;
    }
    // The other direction first: its packets come from the backend, and leave as the listener's.
    *flow = Flow { pair: at, generation, mapping: slot, opened: now, seen: now, ..Flow::default() };
    flow.rewritten = tuple.reversed();
    if route::is_from_host(ctx) && !route::leads_on::<I>(ctx, &flow.rewritten, fib) {
        flow.state = state::TO_HOST;
    }
    if kind != source::CLIENT {
        port_taken::<I>(ctx, flow, rewritten, socket)?;
    } else {
        taken::<I>(flow, rewritten).map_err(|error| if error == EEXIST { Counter::NoPort } else { Counter::Full })?;
    }
    flow.rewritten = *rewritten;
    flow.state = state::FROM_CLIENT | here;
    flow.marks = places;
    (flow.address_sum, flow.port_sum) = carry::sums::<I>(tuple, rewritten);
    if let Err(error) = FLOWS.insert(tuple, &*flow, BPF_NOEXIST.into()) {
        let _ = FLOWS.remove(&rewritten.reversed());
        if error != EEXIST {
            return Err(Counter::Full);
        }
        return Ok(false);
    }
    Ok(true)
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

/// Any address of a pool.
#[inline(always)]
fn pooled(slot: u32) -> Option<Address> {
    let pool = POOLS.get_ptr(slot)?;
    // SAFETY: an element of an array lives as long as the map, and a pool does not change; no arguments.
    unsafe { (*pool).address(bpf_get_prandom_u32()) }
}

/// Takes a port that no other flow and no socket of the host's own has towards this backend.
#[inline(always)]
fn port_taken<I: Ip>(
    ctx: &TcContext,
    flow: &mut Flow,
    rewritten: &mut Tuple,
    socket: &mut bpf_sock_tuple,
) -> Result<(), Counter> {
    let control = CONTROL.get_ptr(0).ok_or(Counter::NoPort)?;
    // SAFETY: the only element of an array; no arguments.
    let (control, start) = unsafe { (&*control, bpf_get_prandom_u32() >> 8) };
    for step in 0..TRIES {
        let port = control.port(start + step).ok_or(Counter::NoPort)?;
        rewritten.source_port = port.to_be();
        if is_the_hosts_own::<I>(ctx, rewritten, socket) {
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
fn is_the_hosts_own<I: Ip>(ctx: &TcContext, rewritten: &Tuple, question: &mut bpf_sock_tuple) -> bool {
    has_socket::<I>(ctx, &rewritten.reversed(), question)
}

/// Whether a socket of the host would take packets with these addresses. `question` is room to ask in.
#[inline(always)]
fn has_socket<I: Ip>(ctx: &TcContext, packet: &Tuple, question: &mut bpf_sock_tuple) -> bool {
    if I::SOCKET_TUPLE == size_of::<bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2>() as u32 {
        question.__bindgen_anon_1.ipv6 = bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2 {
            saddr: packet.source.0,
            daddr: packet.target.0,
            sport: packet.source_port,
            dport: packet.target_port,
        };
    } else {
        question.__bindgen_anon_1.ipv4 = bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1 {
            saddr: packet.source.raw_v4(),
            daddr: packet.target.raw_v4(),
            sport: packet.source_port,
            dport: packet.target_port,
        };
    }
    // SAFETY: both live, and the size is that of the family's member.
    let socket = unsafe {
        let here = BPF_F_CURRENT_NETNS as u64;
        bpf_skc_lookup_tcp(ctx.skb.skb.cast(), question, I::SOCKET_TUPLE, here, 0)
    };
    if socket.is_null() {
        return false;
    }
    // SAFETY: the lookup has taken a reference.
    unsafe { bpf_sk_release(socket.cast()) };
    true
}
