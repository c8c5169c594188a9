//! The internet checksum (RFC 1071) and its incremental change (RFC 1624). Sums are of 16-bit words as they lie in memory:
//! one's complement addition does not mind the byte order as long as it is the same everywhere.

/// Adds with the carry coming round.
#[inline(always)]
pub const fn add(sum: u32, more: u32) -> u32 {
    let total = sum as u64 + more as u64;
    (total as u32).wrapping_add((total >> 32) as u32)
}

/// What replacing these words adds to a sum. This is what `bpf_csum_diff` computes.
#[inline(always)]
pub fn difference<const N: usize>(old: &[u32; N], new: &[u32; N]) -> u32 {
    let mut sum = 0;
    let mut at = 0;
    while at < N {
        sum = add(add(sum, !old[at]), new[at]);
        at += 1;
    }
    sum
}

/// Folds a sum into 16 bits.
#[inline(always)]
pub const fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// A checksum after a difference: RFC 1624, equation 3.
#[inline(always)]
pub const fn replaced(checksum: u16, difference: u32) -> u16 {
    !fold(add(!checksum as u32, difference))
}

/// The sum of a TCP pseudo-header over IPv4, of which this is also what stands in a packet whose checksum the device is to finish.
/// `length` is that of the segment, in the machine's byte order.
#[inline(always)]
pub const fn pseudo(source: u32, target: u32, length: u16) -> u32 {
    add(add(source, target), (6_u16.to_be() as u32) + (length.to_be() as u32))
}

/// The same over IPv6 (RFC 8200, 8.1).
#[inline(always)]
pub fn pseudo_v6(source: &[u32; 4], target: &[u32; 4], length: u16) -> u32 {
    let mut sum = pseudo(source[0], target[0], length);
    let mut at = 1;
    while at < 4 {
        sum = add(add(sum, source[at]), target[at]);
        at += 1;
    }
    sum
}
