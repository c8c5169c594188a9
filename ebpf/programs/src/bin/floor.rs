//! For the benchmark only, and in no shunt: the least that a tc program can do to carry a connection. One client, one
//! server, their addresses and the proxy's fixed when it is loaded; the client's port stays what it is. No table, no
//! routing, nothing counted. What `shunt_ingress` takes more than this is what its promises cost.
//!
//! It looks at headers and changes checksums by the same helpers as `shunt_ingress` does. IPv4 only.

#![no_std]
#![no_main]

use aya_ebpf::bindings::{BPF_F_PSEUDO_HDR, TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::helpers::bpf_redirect;
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use shunt_ebpf_common::checksum::{add, difference};
use shunt_ebpf_common::flow::Address;
use shunt_ebpf_common::packet::v4::V4;
use shunt_ebpf_common::packet::{Header as _, Headers};

const NEXT: i32 = TC_ACT_UNSPEC;
const DROP: i32 = TC_ACT_SHOT as i32;

/// `protocol` of IPv4's packets.
const IPV4: u16 = 0x0800;

/// What a step less to live adds to IPv4's sum, as in `carry.rs`.
const STEP: u32 = (!0x0100_u16.to_be()) as u32;

/// Set when the program is loaded. Addresses are as in a packet.
#[unsafe(no_mangle)]
static CLIENT: u32 = 0;
#[unsafe(no_mangle)]
static PROXY: u32 = 0;
#[unsafe(no_mangle)]
static SERVER: u32 = 0;
#[unsafe(no_mangle)]
static CLIENT_MAC: [u16; 3] = [0; 3];
#[unsafe(no_mangle)]
static PROXY_MAC: [u16; 3] = [0; 3];
#[unsafe(no_mangle)]
static SERVER_MAC: [u16; 3] = [0; 3];
/// By which packets come in and leave.
#[unsafe(no_mangle)]
static INTERFACE: u32 = 0;

#[classifier]
pub fn floor(ctx: TcContext) -> i32 {
    // SAFETY: the context is valid while the program runs.
    if u16::from_be(unsafe { (*ctx.skb.skb).protocol } as u16) != IPV4 {
        return NEXT;
    }
    let Some(head) = gathered(&ctx) else { return NEXT };
    // SAFETY: gathered() has compared it with the packet's end.
    let head = unsafe { &*head };
    let (source, target) = head.ip.addresses();
    let (source, target) = (source.raw_v4(), target.raw_v4());
    if !head.ip.precedes_tcp() || target != set(&PROXY) {
        return NEXT;
    }
    let (to, mac) = match source {
        client if client == set(&CLIENT) => (set(&SERVER), &SERVER_MAC),
        server if server == set(&SERVER) => (set(&CLIENT), &CLIENT_MAC),
        _ => return NEXT,
    };
    if rewrite(&ctx, difference(&[source, target], &[target, to]), target, to, mac).is_none() {
        return DROP;
    }
    // SAFETY: plain numbers.
    unsafe { bpf_redirect(set(&INTERFACE), 0) as i32 }
}

#[inline(always)]
fn rewrite(ctx: &TcContext, sum: u32, from: u32, to: u32, mac: &[u16; 3]) -> Option<()> {
    ctx.l4_csum_replace(V4::TCP_CHECKSUM as usize, 0, sum.into(), BPF_F_PSEUDO_HDR.into()).ok()?;
    let head = start(ctx)?;
    // SAFETY: start() has compared it with the packet's end, anew after the helper.
    let head = unsafe { &mut *head };
    let ttl = head.ip.ttl();
    head.ip.set_ttl(ttl.wrapping_sub(1));
    head.ip.correct(add(sum, STEP));
    head.ip.set_addresses(&Address::v4(from), &Address::v4(to));
    (head.ethernet.source, head.ethernet.target) = (set(&PROXY_MAC), set(mac));
    Some(())
}

/// What the loader has put there, which the compiler must not take for zero.
#[inline(always)]
fn set<T: Copy>(of: &T) -> T {
    // SAFETY: a static of this program.
    unsafe { core::ptr::from_ref(of).read_volatile() }
}

/// The headers, put together if they are not in one piece.
#[inline(always)]
fn gathered(ctx: &TcContext) -> Option<*mut Headers<V4>> {
    if let Some(found) = start(ctx) {
        return Some(found);
    }
    ctx.pull_data(size_of::<Headers<V4>>() as u32).ok()?;
    start(ctx)
}

#[inline(always)]
fn start(ctx: &TcContext) -> Option<*mut Headers<V4>> {
    let (start, end) = (ctx.data(), ctx.data_end());
    if start + size_of::<Headers<V4>>() > end { None } else { Some(start as *mut Headers<V4>) }
}

/// As `shunt_ingress` is licensed.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
