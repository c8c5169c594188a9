//! The eBPF datapath's programs. `ebpf/README.md` tells a packet's way through them; each step is a file here:
//!
//! `ingress` decides what a packet is to us → `open` makes a flow of a SYN → `carry` passes a flow's packet on, asking
//! `live` and `route` → `reset` answers what may not pass. `packet` reads and writes headers, `maps` is what is shared
//! with the agent.
//!
//! A packet that is no listener's leaves as it came, `TCX_NEXT`: other programs and the host's stack see it untouched.

#![no_std]
#![no_main]

mod carry;
mod ingress;
mod live;
mod maps;
mod open;
mod packet;
mod reset;
mod route;

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;

/// Attached (TCX, ingress) to every interface that clients' or servers' packets come in by.
#[classifier]
pub fn shunt_ingress(ctx: TcContext) -> i32 {
    ingress::ingress(&ctx)
}

/// The helpers that route and redirect ask for a licence that is compatible with the GPL.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
