//! Says what becomes of packets, if an operator wants to hear it; see `shunt_ebpf_common::log`. Called by the outermost
//! function and by nobody else: what is said is put together on the stack. Of a flow that goes on nothing is ever said, and the
//! level is asked before anything else.

use aya_ebpf::programs::TcContext;
use aya_log_ebpf::macro_support::Level;
use shunt_ebpf_common::counter::Counter;
use shunt_ebpf_common::flow::Tuple;
use shunt_ebpf_common::log::{deed, level, reason};
use shunt_ebpf_common::tcp::flag;

use crate::ingress::want;
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

/// Says it of a packet of which that is wanted, before it is done. One call for all: each is another way for the verifier.
#[inline(always)]
pub fn verdict<I: Ip>(ctx: &TcContext, verdict: i32) {
    const FAILED: i32 = want::DROPPED | Counter::Failed as i32;
    let least = match verdict & !0xffff {
        _ if verdict == FAILED => level::ERROR,
        want::RESET | want::DROPPED => level::INFO,
        want::HELD | want::KEPT | want::OPENED => level::DEBUG,
        _ => return,
    };
    if is_wanted(least) {
        tell::<I>(ctx, verdict);
    }
}

#[inline(always)]
fn is_wanted(least: u32) -> bool {
    // SAFETY: the only element; volatile, because the agent writes it meanwhile.
    CONTROL.get_ptr(0).is_some_and(|control| unsafe { (&raw const (*control).log).read_volatile() } >= least)
}

#[inline(never)]
fn tell<I: Ip>(ctx: &TcContext, verdict: i32) {
    // Not headers(): of a function that only reads the context, the compiler makes one that is handed what it reads, and the
    // verifier does not take a packet's end from a caller.
    let Some(head) = gathered::<Headers<I>>(ctx) else { return };
    // SAFETY: gathered() has compared it with the packet's end.
    let head = unsafe { &*head };
    let mut tuple = head.tuple();
    let (mut deed, mut why) = (deed::HELD, reason::NONE);
    match verdict & !0xffff {
        want::DROPPED => (deed, why) = (deed::DROPPED, (verdict as u32 & 0xffff) + 1),
        want::RESET => {
            deed = deed::RESET;
            // A SYN was refused just now, and it was said why. Of another segment there is nothing to say.
            if head.tcp.flags & (flag::SYN | flag::ACK) == flag::SYN {
                // SAFETY: this processor's own element.
                why = SAID.get_ptr(0).map_or(reason::NONE, |said| unsafe { *said });
            }
        }
        want::OPENED => {
            deed = deed::OPENED;
            // It is as it leaves: the client instead of the address that the backend sees.
            if let Some(flow) = FLOWS.get_ptr(tuple.reversed()) {
                // SAFETY: as in ingress.rs.
                let rewritten = unsafe { &(*flow).rewritten };
                (tuple.source, tuple.source_port) = (rewritten.target, rewritten.target_port);
            }
        }
        _ => {}
    }
    if !head.ip.precedes_tcp() {
        (tuple.source_port, tuple.target_port) = (0, 0);
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
