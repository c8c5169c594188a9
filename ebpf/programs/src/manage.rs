//! What the agent asks for, see `shunt_ebpf_common::manage`.

use aya_ebpf::bindings::{BPF_F_INGRESS, TC_ACT_SHOT};
use aya_ebpf::programs::TcContext;
use shunt_ebpf_common::admission::Source;
use shunt_ebpf_common::flow::{Flow, Tuple, mark, state};
use shunt_ebpf_common::manage::{Command, MAX_COMMANDS, OFFSET, what};

use crate::admit::{forgotten, give_back};
use crate::atomic;
use crate::live::{is_live, now};
use crate::maps::FLOWS;
use crate::route::{AGAIN, LOOPBACK};

/// Carries out the commands of one packet; how many of them.
pub fn manage(ctx: &TcContext) -> i32 {
    let mut done = 0;
    for number in 0..MAX_COMMANDS {
        let Ok(command) = ctx.load::<Command>(OFFSET + number * size_of::<Command>()) else { break };
        done += i32::from(carried_out(&command).is_some());
    }
    done
}

#[inline(never)]
fn carried_out(command: &Command) -> Option<()> {
    if command.what == what::FORGET_SOURCE {
        let source = Source { mapping: command.mapping, address: command.flow.source };
        return forgotten(&source, command.unseen_since);
    }
    let flow = FLOWS.get_ptr_mut(&command.flow)?;
    // SAFETY: as in ingress.rs.
    let flow = unsafe { &mut *flow };
    match command.what {
        what::BLOCK | what::UNBLOCK => {
            if flow.state & state::FROM_CLIENT == 0 {
                return None;
            }
            // SAFETY: a word of an entry.
            unsafe {
                match command.what {
                    what::BLOCK => atomic::or(&raw mut flow.marks, mark::BLOCKED),
                    _ => atomic::and(&raw mut flow.marks, !mark::BLOCKED),
                }
            };
            Some(())
        }
        what::END => {
            // SAFETY: a word of an entry.
            unsafe { atomic::or(&raw mut flow.marks, mark::ENDED) };
            if let Some(other) = FLOWS.get_ptr_mut(flow.rewritten.reversed()) {
                // SAFETY: likewise.
                unsafe { atomic::or(&raw mut (*other).marks, mark::ENDED) };
            }
            Some(())
        }
        what::FORGET_DEAD if is_live(flow, now()) => None,
        what::FORGET_CLOSED if flow.state & state::CLOSED == 0 => None,
        what::FORGET_DEAD | what::FORGET_CLOSED | what::FORGET_IDLE => {
            if flow.seen >= command.unseen_since {
                return None;
            }
            let other = flow.rewritten.reversed();
            if let Some(other) = FLOWS.get_ptr_mut(&other) {
                // SAFETY: as above.
                if unsafe { (*other).seen } >= command.unseen_since {
                    return None;
                }
            }
            forget(flow, &command.flow);
            Some(())
        }
        _ => None,
    }
}

/// Takes both entries of a flow away, of which `key` is one's, and gives back its places.
#[inline(always)]
pub fn forget(flow: &mut Flow, key: &Tuple) {
    let other = flow.rewritten.reversed();
    if flow.state & state::FROM_CLIENT != 0 {
        give_back(flow, &key.source);
    }
    if let Some(entry) = FLOWS.get_ptr_mut(&other) {
        // SAFETY: as above.
        let entry = unsafe { &mut *entry };
        // Otherwise another flow's: ours was taken away and used again since it was looked up.
        if entry.rewritten.reversed() == *key {
            if flow.state & state::FROM_CLIENT == 0 {
                give_back(entry, &other.source);
            }
            let _ = FLOWS.remove(&other);
        }
    }
    let _ = FLOWS.remove(key);
}

/// Lets the packet come in again by the interface in whose name this runs.
pub fn replay(ctx: &TcContext) -> i32 {
    // SAFETY: the context is valid while the program runs.
    let interface = unsafe { (*ctx.skb.skb).ifindex };
    if interface == LOOPBACK {
        // SAFETY: likewise.
        unsafe { (*ctx.skb.skb).tc_index = AGAIN };
    }
    match ctx.clone_redirect(interface, BPF_F_INGRESS.into()) {
        Ok(()) => 1,
        Err(_) => TC_ACT_SHOT as i32,
    }
}
