//! Addresses of the proxy's choice that backends see. Like a list of those who may connect, a pool is never changed: a
//! mapping is given another one.

use crate::abi;
use crate::flow::Address;

/// Of all mappings: those that have the same share one.
pub const MAX_POOLS: u32 = 1024;

/// Ranges that one pool can have.
pub const MAX_RANGES: usize = 8;

/// Addresses in a row. Only the last 32 bits count up: a range that goes beyond is two.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Range {
    pub first: Address,
    pub number: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pool {
    /// Of all ranges together.
    pub addresses: u32,
    /// How many of `list` count.
    pub ranges: u32,
    pub list: [Range; MAX_RANGES],
}

impl Pool {
    /// Of these ranges; `None`: they are too many, or too wide.
    pub fn of(ranges: &[Range]) -> Option<Self> {
        let mut pool = Self { ranges: u32::try_from(ranges.len()).ok()?, ..Self::default() };
        pool.list.get_mut(..ranges.len())?.copy_from_slice(ranges);
        for range in ranges {
            u32::from_be(range.first.0[3]).checked_add(range.number.checked_sub(1)?)?;
            pool.addresses = pool.addresses.checked_add(range.number)?;
        }
        Some(pool)
    }

    /// The address of that number, around the end.
    #[inline(always)]
    pub fn address(&self, number: u32) -> Option<Address> {
        if self.addresses == 0 {
            return None;
        }
        let mut number = number % self.addresses;
        for (at, range) in self.list.iter().enumerate() {
            if at as u32 >= self.ranges {
                return None;
            }
            if number < range.number {
                let [a, b, c, last] = range.first.0;
                return Some(Address([a, b, c, u32::from_be(last).wrapping_add(number).to_be()]));
            }
            number -= range.number;
        }
        None
    }
}

abi! {
    Range: 20 = Address u32;
    Pool: 168 = u32 u32 [Range; MAX_RANGES];
}
