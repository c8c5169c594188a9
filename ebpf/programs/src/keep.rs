//! Puts packets by that are neither answered nor passed on, to be played again by the agent: a client need not wait for its
//! own TCP to send them once more. What finds no room is sent again all the same.

use core::hint::black_box;

use aya_ebpf::bindings::{BPF_EXIST, BPF_NOEXIST};
use aya_ebpf::helpers::bpf_skb_load_bytes;
use aya_ebpf::programs::TcContext;
use shunt_ebpf_common::flow::Endpoint;
use shunt_ebpf_common::kept::{Frame, MAX_WAITING, Piece};
use shunt_ebpf_common::tcp::flag;

use crate::atomic;
use crate::live::now;
use crate::maps::{FLOWS, HELD, KEPT, LISTENERS, PACKET_SCRATCH, SYN_SCRATCH, TALLIES};
use crate::packet::{Ip, headers};
use crate::reset::is_unfinished;

/// Keeps the SYN of a connection that is held. `None`: it is not kept.
#[inline(never)]
pub fn syn<I: Ip>(ctx: &TcContext) -> Option<()> {
    // SAFETY: headers() has compared it with the packet's end.
    let tuple = unsafe { &*headers::<I>(ctx)? }.tuple();
    let listener = Endpoint { address: tuple.target, port: tuple.target_port, zero: 0 };
    // SAFETY: the value is copied at once.
    let slot = *unsafe { LISTENERS.get(&listener) }?;
    let frame = SYN_SCRATCH.get_ptr_mut(0)?;
    // SAFETY: this processor's own element.
    let frame = unsafe { &mut *frame };
    copied::<I, _>(ctx, frame, slot)?;
    // The newest of a client is kept, with its own numbers and times.
    if HELD.insert(&tuple, &*frame, BPF_EXIST.into()).is_ok() {
        return Some(());
    }
    // SAFETY: an element of an array lives as long as the map.
    let (waiting, before) = unsafe {
        let waiting = &raw mut (*TALLIES.get_ptr_mut(slot)?).waiting;
        (waiting, atomic::add(waiting, 1))
    };
    if before < MAX_WAITING && HELD.insert(&tuple, &*frame, BPF_NOEXIST.into()).is_ok() {
        return Some(());
    }
    // SAFETY: as above.
    unsafe { atomic::decrement(waiting) };
    None
}

/// Keeps what the client of a blocked flow sends, if it says anything. `None`: it is not kept.
#[inline(never)]
pub fn piece<I: Ip>(ctx: &TcContext) -> Option<()> {
    // SAFETY: headers() has compared it with the packet's end.
    let head = unsafe { &*headers::<I>(ctx)? };
    let segment = head.segment()?;
    if segment.length == 0 && segment.flags & (flag::FIN | flag::RST) == 0 {
        return None;
    }
    let tuple = head.tuple();
    // SAFETY: as in ingress.rs.
    let slot = unsafe { &*FLOWS.get_ptr(&tuple)? }.mapping;
    let frame = PACKET_SCRATCH.get_ptr_mut(0)?;
    // SAFETY: this processor's own element.
    let frame = unsafe { &mut *frame };
    copied::<I, _>(ctx, frame, slot)?;
    let piece = Piece { tuple, sequence: segment.sequence, length: frame.length };
    KEPT.insert(&piece, &*frame, BPF_NOEXIST.into()).ok()
}

/// The packet as it came. It is changed afterwards, and not to be passed on.
#[inline(always)]
fn copied<I: Ip, const N: usize>(ctx: &TcContext, frame: &mut Frame<N>, mapping: u32) -> Option<()> {
    // Compared one by one: from both at once the compiler would make one of another number, which says nothing to the
    // verifier about this one.
    let length = ctx.len();
    if length > N as u32 {
        return None;
    }
    // Eight bytes: of fewer on the stack the verifier forgets what it knows.
    let length = black_box(u64::from(length));
    if length == 0 {
        return None;
    }
    let length = length as u32;
    // SAFETY: the context is valid while the program runs; the bytes have room, as just asked.
    let interface = unsafe {
        if bpf_skb_load_bytes(ctx.skb.skb.cast(), 0, frame.bytes.as_mut_ptr().cast(), length) != 0 {
            return None;
        }
        (*ctx.skb.skb).ifindex
    };
    (frame.came, frame.mapping, frame.interface, frame.length) = (now(), mapping, interface, length);
    frame.unfinished = is_unfinished::<I>(ctx)?.into();
    Some(())
}
