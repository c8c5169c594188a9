//! Reading numbers and texts out of bytes that a server sent. They may be anything: what is not there is `None`.

/// What has not been read yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bytes<'a>(pub(super) &'a [u8]);

impl<'a> Bytes<'a> {
    pub(super) fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, left) = self.0.split_at_checked(count)?;
        self.0 = left;
        Some(taken)
    }

    /// A little-endian number of so many bytes, at most 8.
    pub(super) fn number(&mut self, bytes: usize) -> Option<u64> {
        let mut wide = [0; 8];
        wide.get_mut(..bytes)?.copy_from_slice(self.take(bytes)?);
        Some(u64::from_le_bytes(wide))
    }

    pub(super) fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|taken| taken[0])
    }

    /// A number in the protocol's own packing.
    pub(super) fn packed(&mut self) -> Option<u64> {
        match self.byte()? {
            small @ 0..=250 => Some(small.into()),
            252 => self.number(2),
            253 => self.number(3),
            254 => self.number(8),
            _ => None,
        }
    }

    /// A text with its length before it, in the protocol's own packing.
    pub(super) fn packed_text(&mut self) -> Option<&'a [u8]> {
        let length = self.packed()?;
        self.take(usize::try_from(length).ok()?)
    }

    /// A text up to a zero, which is taken, too; without one the rest.
    pub(super) fn text(&mut self) -> &'a [u8] {
        let end = self.0.iter().position(|byte| *byte == 0);
        let text = &self.0[..end.unwrap_or(self.0.len())];
        self.0 = self.0.get(text.len() + 1..).unwrap_or_default();
        text
    }

    /// A number in the packing of MySQL's serialization library: the ones at the low end of the first byte count the bytes
    /// that follow it.
    pub(super) fn varlen(&mut self) -> Option<u64> {
        let first = self.byte()?;
        match first.trailing_ones() as usize {
            8 => self.number(8),
            more => {
                let high = self.number(more)?;
                // The first byte has 7 - more bits of the number.
                let low = u64::from(first) >> (more + 1);
                Some(if more == 7 { high } else { low | high << (7 - more) })
            }
        }
    }

    /// The same of a number that may be negative: its sign is in the lowest bit.
    pub(super) fn varlen_signed(&mut self) -> Option<i64> {
        let folded = self.varlen()?;
        let half = i64::try_from(folded >> 1).ok()?;
        Some(if folded & 1 == 0 { half } else { -half - 1 })
    }
}

/// Writes a number as [`Bytes::varlen`] reads it.
pub(super) fn put_varlen(into: &mut Vec<u8>, number: u64) {
    let bits = 64 - number.leading_zeros() as usize;
    let more = (bits.max(1) - 1) / 7;
    if more >= 8 {
        into.push(0xff);
        into.extend(number.to_le_bytes());
        return;
    }
    let marked = u128::from(number) << (more + 1) | ((1 << more) - 1);
    into.extend(&marked.to_le_bytes()[..=more]);
}

/// Writes a number in the protocol's own packing.
pub(super) fn put_packed(into: &mut Vec<u8>, number: u64) {
    let wide = number.to_le_bytes();
    match number {
        0..=250 => into.push(wide[0]),
        251..=0xffff => {
            into.push(252);
            into.extend(&wide[..2]);
        }
        0x1_0000..=0xff_ffff => {
            into.push(253);
            into.extend(&wide[..3]);
        }
        _ => {
            into.push(254);
            into.extend(wide);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn numbers_read_back_the_same(number in prop_oneof![any::<u64>(), 0..300_u64, 0..70_000_u64], shift in 0..64) {
            let number = number >> shift;
            let mut text = Vec::new();
            put_varlen(&mut text, number);
            put_packed(&mut text, number);
            let mut bytes = Bytes(&text);
            prop_assert_eq!(bytes.varlen(), Some(number));
            prop_assert_eq!(bytes.packed(), Some(number));
            prop_assert!(bytes.0.is_empty());
        }

        #[test]
        fn nothing_makes_it_panic(text in prop::collection::vec(any::<u8>(), 0..40)) {
            let mut bytes = Bytes(&text);
            while bytes.varlen_signed().is_some() {}
            let mut bytes = Bytes(&text);
            while bytes.packed_text().is_some() {}
            let mut bytes = Bytes(&text);
            while !bytes.0.is_empty() {
                bytes.text();
            }
        }
    }
}
