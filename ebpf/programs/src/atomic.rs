//! Changes of a word that several processors make. `core` has no such operations for a target that is not known to have
//! compare-and-swap; BPF has them from Linux 5.12 on.
//!
//! Each returns what was there before.

use core::arch::asm;

macro_rules! fetch {
    ($(#[$doc:meta])* $name:ident: $operation:literal) => {
        $(#[$doc])*
        ///
        /// # Safety
        /// `word` is one of a map's value.
        #[inline(always)]
        pub unsafe fn $name(word: *mut u64, mut with: u64) -> u64 {
            // SAFETY: one instruction, on a word that the caller answers for.
            unsafe {
                asm!(
                    concat!("r2 = ", $operation, "((u64 *)(r1 + 0), r2)"),
                    in("r1") word,
                    inlateout("r2") with,
                    options(nostack),
                );
            }
            with
        }
    };
}

fetch! {
    /// Adds, around the end.
    add: "atomic_fetch_add"
}

fetch! {
    /// Keeps these bits only.
    and: "atomic_fetch_and"
}

fetch! {
    /// Sets these bits.
    or: "atomic_fetch_or"
}

/// Puts `new` into the place of `old`, if that is what is there; whether it was.
///
/// # Safety
/// `word` is one of a map's value.
#[inline(always)]
pub unsafe fn exchange(word: *mut u64, old: u64, new: u64) -> bool {
    let mut found = old;
    // SAFETY: one instruction, on a word that the caller answers for.
    unsafe {
        asm!(
            "r0 = cmpxchg_64(r1 + 0, r0, r2)",
            in("r1") word,
            in("r2") new,
            inlateout("r0") found,
            options(nostack),
        );
    }
    found == old
}

/// Takes one away.
///
/// # Safety
/// `word` is one of a map's value.
#[inline(always)]
pub unsafe fn decrement(word: *mut u64) {
    // SAFETY: as the caller says.
    unsafe { add(word, u64::MAX) };
}
