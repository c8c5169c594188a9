//! What the eBPF programs and the agent share: how the maps are laid out, and arithmetic on packets. Pure, and tested on
//! the host.
//!
//! **The ABI.** Everything in a map is `repr(C)`, without padding, and of a size that is asserted below. Addresses and
//! ports stand as they do in packets, in network byte order; everything else in the machine's. Whoever changes a layout or
//! what a value means raises [`ABI`]: the maps outlive the agent, and the next one must know what it finds.

#![no_std]
#![expect(clippy::inline_always, reason = "calls in a BPF program cost stack, of which it has 512 bytes")]

pub mod admission;
pub mod checksum;
pub mod control;
pub mod counter;
pub mod flow;
pub mod kept;
pub mod log;
pub mod manage;
pub mod mapping;
pub mod note;
pub mod packet;
pub mod pool;
pub mod signal;
pub mod tally;
pub mod tcp;

/// The version of everything that lies in the maps.
pub const ABI: u32 = 3;

/// Asserts the size and that types lie in maps as they are: no padding that the verifier would find uninitialised, or
/// that would make two equal keys differ.
macro_rules! abi {
    ($($type:ty: $size:literal = $($part:ty)*;)*) => {$(
        const _: () = {
            assert!(size_of::<$type>() == $size);
            assert!($size == 0 $(+ size_of::<$part>())*, "there is padding");
        };
        // SAFETY: repr(C), without padding, and every pattern of bits is a value.
        #[cfg(feature = "aya")]
        unsafe impl aya::Pod for $type {}
    )*};
}
pub(crate) use abi;
