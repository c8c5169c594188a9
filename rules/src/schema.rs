//! The sets and maps of shunt's table: their names, keys and values.
//!
//! Every set exists twice, for IPv4 and for IPv6, because an address of 16 bytes makes another key. All keys are
//! concatenations and each field fills whole 32-bit registers, so a port is two bytes in network order and two zeros.

use std::net::SocketAddr;

/// Version of everything below and of the chains in [`crate::ruleset`]. It stands in the table's comment; a table with
/// another number is rebuilt.
pub const SCHEMA: u32 = 1;

/// How the table's comment begins. A table of our name without it belongs to somebody else.
pub const SIGNATURE: &str = "shunt schema ";

/// Slots of a weighted listener: a weight counts to within half of a slot, 0.4 %.
pub const SLOTS: u32 = 120;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    pub const fn of(address: &SocketAddr) -> Self {
        match address {
            SocketAddr::V4(_) => Self::V4,
            SocketAddr::V6(_) => Self::V6,
        }
    }

    pub const fn address_len(self) -> usize {
        match self {
            Self::V4 => 4,
            Self::V6 => 16,
        }
    }
}

/// What a set or map says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// listener → backend: where new connections of a listener with one backend go.
    Primary,
    /// listener . slot → backend: the same for a listener with several.
    Spread,
    /// listener . backend: the pairs whose packets may pass. An element with a timeout is draining.
    Live,
    /// The listeners that the guard answers for, removed ones with flows included.
    Listeners,
    /// Listeners that lead nowhere: their SYNs are refused.
    Fenced,
    /// Fenced listeners whose SYNs stay unanswered instead; the timeout bounds it.
    Hold,
    /// Listeners whose connections get the outgoing interface's address as their source.
    Masquerade,
    /// Every backend of a live pair.
    Backends,
}

impl Kind {
    pub const ALL: [Self; 8] = [
        Self::Primary,
        Self::Spread,
        Self::Live,
        Self::Listeners,
        Self::Fenced,
        Self::Hold,
        Self::Masquerade,
        Self::Backends,
    ];

    pub const fn is_map(self) -> bool {
        matches!(self, Self::Primary | Self::Spread)
    }

    pub const fn is_timed(self) -> bool {
        matches!(self, Self::Live | Self::Hold)
    }
}

/// One set or map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SetId {
    pub kind: Kind,
    pub family: Family,
}

/// A field of a key or a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    Address,
    Port,
    Slot,
}

impl SetId {
    pub fn all() -> impl Iterator<Item = Self> {
        Kind::ALL.into_iter().flat_map(|kind| Family::BOTH.into_iter().map(move |family| Self { kind, family }))
    }

    pub fn named(name: &str) -> Option<Self> {
        Self::all().find(|set| set.name() == name)
    }

    pub const fn name(self) -> &'static str {
        match (self.kind, self.family) {
            (Kind::Primary, Family::V4) => "primary4",
            (Kind::Primary, Family::V6) => "primary6",
            (Kind::Spread, Family::V4) => "spread4",
            (Kind::Spread, Family::V6) => "spread6",
            (Kind::Live, Family::V4) => "live4",
            (Kind::Live, Family::V6) => "live6",
            (Kind::Listeners, Family::V4) => "listeners4",
            (Kind::Listeners, Family::V6) => "listeners6",
            (Kind::Fenced, Family::V4) => "fenced4",
            (Kind::Fenced, Family::V6) => "fenced6",
            (Kind::Hold, Family::V4) => "hold4",
            (Kind::Hold, Family::V6) => "hold6",
            (Kind::Masquerade, Family::V4) => "masq4",
            (Kind::Masquerade, Family::V6) => "masq6",
            (Kind::Backends, Family::V4) => "backends4",
            (Kind::Backends, Family::V6) => "backends6",
        }
    }

    /// `set` or `map`, as `nft` calls it.
    pub const fn noun(self) -> &'static str {
        if self.kind.is_map() { "map" } else { "set" }
    }

    pub const fn key(self) -> &'static [Field] {
        match self.kind {
            Kind::Spread => &[Field::Address, Field::Port, Field::Slot],
            Kind::Live => &[Field::Address, Field::Port, Field::Address, Field::Port],
            _ => &[Field::Address, Field::Port],
        }
    }

    pub const fn value(self) -> &'static [Field] {
        if self.kind.is_map() { &[Field::Address, Field::Port] } else { &[] }
    }

    /// Bytes of `fields`, each padded to whole registers.
    pub fn len(self, fields: &[Field]) -> usize {
        fields.iter().map(|field| if *field == Field::Address { self.family.address_len() } else { 4 }).sum()
    }

    /// The type number by which `nft list` knows how to print a concatenation: six bits per field (its datatype.h).
    pub fn type_number(self, fields: &[Field]) -> u32 {
        fields.iter().fold(0, |number, field| {
            (number << 6)
                | match (field, self.family) {
                    (Field::Address, Family::V4) => 7, // ipv4_addr
                    (Field::Address, Family::V6) => 8, // ipv6_addr
                    (Field::Port, _) => 13,            // inet_service
                    (Field::Slot, _) => 19,            // mark: the only 32-bit integer in host order
                }
        })
    }
}

/// A text in the form in which `nft` keeps comments: type, length, text, NUL (libnftnl's udata.h). The type of a
/// comment is 0 for tables, rules and elements alike.
pub fn comment(text: &str) -> Vec<u8> {
    let text = &text.as_bytes()[..text.len().min(127)];
    let mut bytes = vec![0, text.len() as u8 + 1];
    bytes.extend_from_slice(text);
    bytes.push(0);
    bytes
}

/// The comment in an object's user data, if there is one.
pub fn comment_in(mut userdata: &[u8]) -> Option<String> {
    while let [kind, len, rest @ ..] = userdata {
        let value = rest.get(..usize::from(*len))?;
        if *kind == 0 {
            return Some(String::from_utf8_lossy(value.strip_suffix(&[0]).unwrap_or(value)).into_owned());
        }
        userdata = &rest[value.len()..];
    }
    None
}

/// The comment of a table of this version.
pub fn table_comment() -> String {
    format!("{SIGNATURE}{SCHEMA}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comment_survives_the_way_into_userdata_and_back() {
        assert_eq!(comment("shunt schema 1"), b"\x00\x0fshunt schema 1\0");
        assert_eq!(comment_in(&comment("orders")).as_deref(), Some("orders"));
        assert_eq!(comment_in(&[]), None);
        assert_eq!(comment_in(&[0, 9, b'x']), None, "a length beyond the end");
        assert_eq!(comment_in(b"\x01\x01z\x00\x02a\0").as_deref(), Some("a"), "behind another entry");
    }

    #[test]
    fn every_set_has_a_name_of_its_own_and_a_key_that_fits_the_registers() {
        let names: std::collections::BTreeSet<_> = SetId::all().map(SetId::name).collect();
        assert_eq!(names.len(), 16);
        for set in SetId::all() {
            assert_eq!(SetId::named(set.name()), Some(set));
            assert!(set.len(set.key()) <= 64, "nf_tables has 16 registers of 4 bytes");
        }
    }
}
