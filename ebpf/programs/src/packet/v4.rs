//! IPv4, as the kernel is asked about it.

use aya_ebpf::bindings::bpf_fib_lookup;
use shunt_ebpf_common::flow::Address;
pub use shunt_ebpf_common::packet::v4::{KIND, V4};

use super::Ip;

impl Ip for V4 {
    const FAMILY: u8 = 2;
    const SOCKET_TUPLE: u32 = 12;

    #[inline(always)]
    fn classify(&self, fib: &mut bpf_fib_lookup) {
        fib.__bindgen_anon_2.tos = self.service();
    }

    #[inline(always)]
    fn enter(fib: &mut bpf_fib_lookup, source: &Address, target: &Address) {
        fib.__bindgen_anon_3.ipv4_src = source.raw_v4();
        fib.__bindgen_anon_4.ipv4_dst = target.raw_v4();
    }

    #[inline(always)]
    fn source(fib: &bpf_fib_lookup) -> Address {
        // SAFETY: the member of this family, which the kernel has filled in.
        Address::v4(unsafe { fib.__bindgen_anon_3.ipv4_src })
    }
}
