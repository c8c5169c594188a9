//! Netlink attributes: a length, a type and a payload, padded to four bytes (netlink(7)). Pure.
//!
//! Reading never trusts a length: what does not fit ends the walk.

/// An attribute as it stands in a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attribute<'a> {
    /// Without the flag bits.
    pub kind: u16,
    pub payload: &'a [u8],
    /// Where the attribute begins, from the start of the bytes that were walked.
    pub offset: usize,
}

impl Attribute<'_> {
    pub fn be_u16(&self) -> Option<u16> {
        self.payload.try_into().ok().map(u16::from_be_bytes)
    }

    pub fn be_u32(&self) -> Option<u32> {
        self.payload.try_into().ok().map(u32::from_be_bytes)
    }

    pub fn be_u64(&self) -> Option<u64> {
        self.payload.try_into().ok().map(u64::from_be_bytes)
    }

    pub fn ne_u32(&self) -> Option<u32> {
        self.payload.try_into().ok().map(u32::from_ne_bytes)
    }
}

/// The attributes in `bytes`, one after the other.
pub fn attributes(bytes: &[u8]) -> impl Iterator<Item = Attribute<'_>> {
    let mut offset = 0;
    std::iter::from_fn(move || {
        let rest = bytes.get(offset..)?;
        let (len, rest) = rest.split_first_chunk::<2>()?;
        let (kind, _) = rest.split_first_chunk::<2>()?;
        let len = usize::from(u16::from_ne_bytes(*len));
        let payload = bytes.get(offset + 4..offset + len)?;
        let kind = u16::from_ne_bytes(*kind) & (libc::NLA_TYPE_MASK as u16);
        let attribute = Attribute { kind, payload, offset };
        offset += len.next_multiple_of(4);
        Some(attribute)
    })
}

/// The first attribute of a kind.
pub fn find(bytes: &[u8], kind: u16) -> Option<Attribute<'_>> {
    attributes(bytes).find(|attribute| attribute.kind == kind)
}

/// Appends an attribute.
pub fn put(bytes: &mut Vec<u8>, kind: u16, payload: &[u8]) {
    bytes.extend_from_slice(&(payload.len() as u16 + 4).to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(payload);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// Appends an attribute that consists of the attributes that `fill` puts.
pub fn nest(bytes: &mut Vec<u8>, kind: u16, fill: impl FnOnce(&mut Vec<u8>)) {
    let mut inner = Vec::new();
    fill(&mut inner);
    put(bytes, kind | libc::NLA_F_NESTED as u16, &inner);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_come_back_as_they_were_put() {
        let mut bytes = Vec::new();
        put(&mut bytes, 3, b"abc");
        nest(&mut bytes, 4, |inner| put(inner, 1, &7u32.to_be_bytes()));
        let found: Vec<_> = attributes(&bytes).collect();
        assert_eq!((found[0].kind, found[0].payload, found[0].offset), (3, &b"abc"[..], 0));
        assert_eq!((found[1].kind, found[1].offset), (4, 8));
        assert_eq!(find(found[1].payload, 1).and_then(|a| a.be_u32()), Some(7));
        assert_eq!(find(&bytes, 9), None);
    }

    #[test]
    fn a_length_that_lies_ends_the_walk() {
        for lie in [0u16, 3, 9, u16::MAX] {
            let mut bytes = lie.to_ne_bytes().to_vec();
            bytes.extend_from_slice(&[1, 0, 0, 0]);
            assert_eq!(attributes(&bytes).count(), 0, "length {lie}");
        }
    }
}
