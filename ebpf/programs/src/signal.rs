//! Notes how backends answer their clients, see `shunt_ebpf_common::signal`. Called with a packet that is being passed on,
//! before its numbers are the flow's last ones.

use shunt_ebpf_common::flow::{Flow, state};
use shunt_ebpf_common::signal::{Sign, Signals, bucket, is_first_to_ask, is_news};
use shunt_ebpf_common::tcp::{Segment, after, flag};

use crate::atomic;
use crate::maps::SIGNALS;

/// A client's packet. A bare acknowledgement asks for nothing.
#[inline(always)]
pub fn from_client(flow: &Flow, segment: &Segment, now: u64) {
    if segment.length == 0 && segment.flags & (flag::SYN | flag::FIN) == 0 {
        return;
    }
    let Some(signals) = SIGNALS.get_ptr_mut(flow.pair) else { return };
    let (asked, heard) = moments(signals);
    if is_first_to_ask(asked, heard) {
        // SAFETY: an element of an array lives as long as the map.
        unsafe { (&raw mut (*signals).asked).write_volatile(now) };
    }
    if segment.opens() {
        if flow.packets == 0 {
            count(signals, Sign::Syn);
        } else if flow.state & state::ACKNOWLEDGED == 0 {
            count(signals, Sign::SynAgain);
        }
    } else if !after(segment.next(), flow.next) {
        count(signals, Sign::DataAgain);
    }
}

/// A backend's packet.
#[inline(always)]
pub fn from_backend(flow: &Flow, segment: &Segment, now: u64) {
    let Some(signals) = SIGNALS.get_ptr_mut(flow.pair) else { return };
    let (asked, heard) = moments(signals);
    if is_news(asked, heard, now) {
        // SAFETY: as above.
        unsafe { (&raw mut (*signals).heard).write_volatile(now) };
    }
    if flow.packets == 0 && segment.has(flag::SYN) {
        count(signals, Sign::SynAck);
        connected(signals, now.saturating_sub(flow.opened));
    }
}

/// An RST that its receiver takes at its word, already counted among its end's packets. Behind a client's FIN it is no news: MySQL answers the goodbye of a
/// client by TLS with one.
#[inline(always)]
pub fn reset(flow: &Flow, other: &Flow) {
    if flow.state & state::FROM_CLIENT != 0 || other.state & state::FINISHED != 0 {
        return;
    }
    if let Some(signals) = SIGNALS.get_ptr_mut(flow.pair) {
        count(signals, if flow.packets == 1 { Sign::Refused } else { Sign::Reset });
    }
}

#[inline(always)]
fn moments(signals: *const Signals) -> (u64, u64) {
    // SAFETY: as above; volatile, because other processors write meanwhile.
    unsafe { ((&raw const (*signals).asked).read_volatile(), (&raw const (*signals).heard).read_volatile()) }
}

#[inline(always)]
fn count(signals: *mut Signals, sign: Sign) {
    // SAFETY: as above.
    unsafe { atomic::add(&raw mut (*signals).counts[sign as usize], 1) };
}

/// A connection was answered after that time.
#[inline(always)]
fn connected(signals: *mut Signals, nanoseconds: u64) {
    // SAFETY: as above, and bucket() is one of them.
    unsafe {
        atomic::add(&raw mut (*signals).connecting, nanoseconds);
        atomic::add((&raw mut (*signals).connects).cast::<u64>().add(bucket(nanoseconds)), 1);
    }
}
