//! What a segment says, and the RST that answers it.

pub mod flag {
    pub const FIN: u8 = 1;
    pub const SYN: u8 = 2;
    pub const RST: u8 = 4;
    pub const ACK: u8 = 16;
}

/// The head of a segment; numbers in the machine's byte order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    pub sequence: u32,
    pub acknowledgement: u32,
    pub flags: u8,
    /// Bytes of data.
    pub length: u32,
}

/// An RST without data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reset {
    pub sequence: u32,
    pub acknowledgement: u32,
    pub flags: u8,
}

impl Segment {
    #[inline(always)]
    pub const fn has(&self, flags: u8) -> bool {
        self.flags & flags == flags
    }

    /// Asks for a new connection.
    #[inline(always)]
    pub const fn opens(&self) -> bool {
        self.flags & (flag::SYN | flag::ACK | flag::RST | flag::FIN) == flag::SYN
    }

    /// The number that follows it: SYN and FIN take one each.
    #[inline(always)]
    pub const fn next(&self) -> u32 {
        let syn = (self.flags & flag::SYN != 0) as u32;
        let fin = (self.flags & flag::FIN != 0) as u32;
        self.sequence.wrapping_add(self.length).wrapping_add(syn).wrapping_add(fin)
    }

    /// As a closed socket answers it (RFC 9293, 3.5.2, group 1): with the number that its sender expects next, so that
    /// it is in the window. An RST is never answered.
    #[inline(always)]
    pub const fn reset(&self) -> Option<Reset> {
        if self.has(flag::RST) {
            None
        } else if self.has(flag::ACK) {
            Some(Reset { sequence: self.acknowledgement, acknowledgement: 0, flags: flag::RST })
        } else {
            Some(Reset { sequence: 0, acknowledgement: self.next(), flags: flag::RST | flag::ACK })
        }
    }
}

/// Whether an RST of that number ends the connection. Its receiver takes it at its word only if it has the very number that it
/// expects (RFC 5961, 3.2): what it has acknowledged last, or what its sender has sent since, if that acknowledgement is
/// still to come. Any other makes it ask, and the answer is exact. Who has acknowledged nothing yet takes it all the same.
#[inline(always)]
pub const fn is_exact(sequence: u32, sent: u32, acknowledged: Option<u32>) -> bool {
    match acknowledged {
        Some(acknowledged) => sequence == acknowledged || sequence == sent,
        None => true,
    }
}

/// Whether `a` comes after `b`, the numbers being circular.
#[inline(always)]
pub const fn after(a: u32, b: u32) -> bool {
    a.wrapping_sub(b).cast_signed() > 0
}
