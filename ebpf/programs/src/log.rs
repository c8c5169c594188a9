//! Says what becomes of packets, if an operator wants to hear it; see `shunt_ebpf_common::log`. Called by the outermost
//! function and by nobody else: what is said is put together on the stack. Of a flow that goes on nothing is ever said, and the
//! level is asked before anything else.

use aya_ebpf::programs::TcContext;
use aya_log_ebpf::macro_support::Level;
use shunt_ebpf_common::counter::Counter;
use shunt_ebpf_common::flow::Tuple;
use shunt_ebpf_common::log::{because_of, deed, level, reason};

use crate::maps::{CONTROL, FLOWS, SAID};
use crate::packet::{Headers, Ip, gathered};

/// What is said of the packet that this processor is at.
#[inline(always)]
pub fn because(why: u32) {
    if let Some(said) = SAID.get_ptr_mut(0) {
        // SAFETY: this processor's own element.
        unsafe { *said = why };
    }
}

/// A packet that is about to be answered with RST.
#[inline(always)]
pub fn reset<I: Ip>(ctx: &TcContext) {
    if is_wanted(level::INFO) {
        tell::<I>(ctx, deed::RESET, u32::MAX);
    }
}

#[inline(always)]
pub fn dropped<I: Ip>(ctx: &TcContext, counter: u32) {
    let least = if counter == Counter::Failed as u32 { level::ERROR } else { level::INFO };
    if is_wanted(least) {
        tell::<I>(ctx, deed::DROPPED, counter + 1);
    }
}

#[inline(always)]
pub fn held<I: Ip>(ctx: &TcContext) {
    if is_wanted(level::DEBUG) {
        tell::<I>(ctx, deed::HELD, reason::NONE);
    }
}

/// The packet is as it leaves.
#[inline(always)]
pub fn opened<I: Ip>(ctx: &TcContext) {
    if is_wanted(level::DEBUG) {
        tell::<I>(ctx, deed::OPENED, because_of(Counter::Opened));
    }
}

#[inline(always)]
fn is_wanted(least: u32) -> bool {
    // SAFETY: the only element; volatile, because the agent writes it meanwhile.
    CONTROL.get_ptr(0).is_some_and(|control| unsafe { (&raw const (*control).log).read_volatile() } >= least)
}

#[inline(never)]
fn tell<I: Ip>(ctx: &TcContext, deed: u32, why: u32) {
    // Not headers(): of a function that only reads the context, the compiler makes one that is handed what it reads, and the
    // verifier does not take a packet's end from a caller.
    let Some(head) = gathered::<Headers<I>>(ctx) else { return };
    // SAFETY: gathered() has compared it with the packet's end.
    let head = unsafe { &*head };
    let mut tuple = head.tuple();
    let mut why = why;
    if !head.ip.precedes_tcp() {
        (tuple.source_port, tuple.target_port) = (0, 0);
    } else if deed == deed::OPENED {
        // The client instead of the address that the backend sees.
        if let Some(flow) = FLOWS.get_ptr(tuple.reversed()) {
            // SAFETY: as in ingress.rs.
            let rewritten = unsafe { &(*flow).rewritten };
            (tuple.source, tuple.source_port) = (rewritten.target, rewritten.target_port);
        }
    } else if deed == deed::RESET {
        // A SYN was refused just now, and it was said why. Of another segment there is nothing to say.
        let opens = head.segment().is_some_and(|segment| segment.opens());
        // SAFETY: this processor's own element.
        why = if opens { SAID.get_ptr(0).map_or(0, |said| unsafe { *said }) } else { reason::NONE };
    }
    say(&tuple, deed, why);
}

/// In the order in which the agent reads it.
#[inline(never)]
fn say(tuple: &Tuple, deed: u32, why: u32) {
    let [source, target] = [tuple.source.bytes(), tuple.target.bytes()];
    let [source_port, target_port] = [u16::from_be(tuple.source_port), u16::from_be(tuple.target_port)];
    aya_log_ebpf::log!(&(), Level::Info, "{} {} {:i} {} {:i} {}", deed, why, source, source_port, target, target_port);
}
