//! The eBPF datapath's programs. `ebpf/README.md` tells a packet's way through them; each step is a file here:
//!
//! `ingress` decides what a packet is to us → `open` makes a flow of a SYN → `carry` passes a flow's packet on, asking
//! `live` and `route` → `reset` answers what may not pass. `admit` asks lists and limits, `icmp` translates and makes ICMP
//! errors, `keep` puts packets by, `signal` notes how backends answer, `manage` does what the agent asks for. `log` says
//! what becomes of packets, `packet` reads and writes headers, `maps` is what is shared with the agent.
//!
//! A packet that is no listener's leaves as it came, `TCX_NEXT`: other programs and the host's stack see it untouched.

#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod admit;
mod atomic;
mod carry;
mod icmp;
mod ingress;
mod keep;
mod live;
mod log;
mod manage;
mod maps;
mod open;
mod packet;
mod reset;
mod route;
mod signal;

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;

/// Attached (TCX, ingress) to every interface that clients' or servers' packets come in by.
#[classifier]
pub fn shunt_ingress(ctx: TcContext) -> i32 {
    ingress::ingress(&ctx)
}

/// Attached to nothing: the agent runs it on commands, see `shunt_ebpf_common::manage`.
#[classifier]
pub fn shunt_manage(ctx: TcContext) -> i32 {
    manage::manage(&ctx)
}

/// Attached to nothing: the agent runs it on a packet that was kept, in the name of the interface that the packet came in
/// by, and the packet comes in once more.
#[classifier]
pub fn shunt_replay(ctx: TcContext) -> i32 {
    manage::replay(&ctx)
}

/// The helpers that route and redirect ask for a licence that is compatible with the GPL.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
