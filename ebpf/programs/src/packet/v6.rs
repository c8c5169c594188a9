//! IPv6, as the kernel is asked about it.

use aya_ebpf::bindings::bpf_fib_lookup;
use shunt_ebpf_common::flow::Address;
pub use shunt_ebpf_common::packet::v6::{KIND, V6};

use super::Ip;

impl Ip for V6 {
    const FAMILY: u8 = 10;
    const SOCKET_TUPLE: u32 = 36;

    #[inline(always)]
    fn classify(&self, fib: &mut bpf_fib_lookup) {
        fib.__bindgen_anon_2.flowinfo = self.label();
    }

    #[inline(always)]
    fn enter(fib: &mut bpf_fib_lookup, source: &Address, target: &Address) {
        fib.__bindgen_anon_3.ipv6_src = source.0;
        fib.__bindgen_anon_4.ipv6_dst = target.0;
    }

    #[inline(always)]
    fn source(fib: &bpf_fib_lookup) -> Address {
        // SAFETY: the member of this family, which the kernel has filled in.
        Address(unsafe { fib.__bindgen_anon_3.ipv6_src })
    }
}
