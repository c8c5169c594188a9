//! The sets and maps of shunt's table: their names, keys and values.
//!
//! Every set exists twice, for IPv4 and for IPv6, because an address of 16 bytes makes another key. All keys are
//! concatenations and each field fills whole 32-bit registers, so a port is two bytes in network order and two zeros.

use std::net::SocketAddr;

/// Version of everything below and of the chains in [`crate::ruleset`]. It stands in the table's comment; a table with
/// another number is rebuilt.
pub const SCHEMA: u32 = 3;

/// How the table's comment begins. A table of our name without it belongs to somebody else.
pub const SIGNATURE: &str = "shunt schema ";

/// Slots of a weighted listener: a weight counts to within half of a slot, 0.4 %.
pub const SLOTS: u32 = 120;

/// Sources that connections are counted for at a time, over all listeners with a limit per source. One that finds no room
/// is not limited; the listener's own limit still holds.
pub const SOURCES: u32 = 65_536;

/// On the packets that ask an end of a severed flow where it stands, so that conntrack leaves them alone.
pub const TICKLE_MARK: u32 = u32::from_be_bytes(*b"shnt");

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
    /// listener . backend: pairs that take no new connections, and whose packets pass by the guard's slow way.
    Sparing,
    /// client . listener: the spared flows whose clients are not heard for a moment.
    Blocked,
    /// The listeners that the guard answers for, removed ones with flows included.
    Listeners,
    /// Listeners that lead nowhere: their SYNs are refused.
    Fenced,
    /// Fenced listeners whose SYNs stay unanswered instead; the timeout bounds it.
    Hold,
    /// Listeners whose connections get the outgoing interface's address as their source.
    Masquerade,
    /// listener . slot → source address: the same for a listener with a pool of addresses.
    Pool,
    /// Every backend of a live pair.
    Backends,
    /// Listeners that not everybody may connect to.
    Restricted,
    /// listener . network: who may.
    Allow,
    /// Listeners with a limit; their elements count connections.
    Limited,
    /// listener . limit: listeners with a limit per source.
    PerSource,
    /// listener . source . limit: the kernel's own, which counts connections in them.
    Sources,
    /// listener . reason: counts what was refused.
    Refused,
}

impl Kind {
    pub const ALL: [Self; 17] = [
        Self::Primary,
        Self::Spread,
        Self::Live,
        Self::Sparing,
        Self::Blocked,
        Self::Listeners,
        Self::Fenced,
        Self::Hold,
        Self::Masquerade,
        Self::Pool,
        Self::Backends,
        Self::Restricted,
        Self::Allow,
        Self::Limited,
        Self::PerSource,
        Self::Sources,
        Self::Refused,
    ];

    pub const fn is_map(self) -> bool {
        matches!(self, Self::Primary | Self::Spread | Self::Pool)
    }

    /// Its elements are ranges: the kernel needs to know where each field ends.
    pub const fn is_interval(self) -> bool {
        matches!(self, Self::Allow)
    }

    /// Its elements are the kernel's own.
    pub const fn is_dynamic(self) -> bool {
        matches!(self, Self::Sources)
    }

    pub const fn is_timed(self) -> bool {
        matches!(self, Self::Live | Self::Sparing | Self::Hold)
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
    /// In host order.
    Number,
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
            (Kind::Sparing, Family::V4) => "sparing4",
            (Kind::Sparing, Family::V6) => "sparing6",
            (Kind::Blocked, Family::V4) => "blocked4",
            (Kind::Blocked, Family::V6) => "blocked6",
            (Kind::Listeners, Family::V4) => "listeners4",
            (Kind::Listeners, Family::V6) => "listeners6",
            (Kind::Fenced, Family::V4) => "fenced4",
            (Kind::Fenced, Family::V6) => "fenced6",
            (Kind::Hold, Family::V4) => "hold4",
            (Kind::Hold, Family::V6) => "hold6",
            (Kind::Masquerade, Family::V4) => "masq4",
            (Kind::Masquerade, Family::V6) => "masq6",
            (Kind::Pool, Family::V4) => "pool4",
            (Kind::Pool, Family::V6) => "pool6",
            (Kind::Backends, Family::V4) => "backends4",
            (Kind::Backends, Family::V6) => "backends6",
            (Kind::Restricted, Family::V4) => "restricted4",
            (Kind::Restricted, Family::V6) => "restricted6",
            (Kind::Allow, Family::V4) => "allow4",
            (Kind::Allow, Family::V6) => "allow6",
            (Kind::Limited, Family::V4) => "limited4",
            (Kind::Limited, Family::V6) => "limited6",
            (Kind::PerSource, Family::V4) => "persource4",
            (Kind::PerSource, Family::V6) => "persource6",
            (Kind::Sources, Family::V4) => "sources4",
            (Kind::Sources, Family::V6) => "sources6",
            (Kind::Refused, Family::V4) => "refused4",
            (Kind::Refused, Family::V6) => "refused6",
        }
    }

    /// `set` or `map`, as `nft` calls it.
    pub const fn noun(self) -> &'static str {
        if self.kind.is_map() { "map" } else { "set" }
    }

    pub const fn key(self) -> &'static [Field] {
        match self.kind {
            Kind::Spread | Kind::Pool | Kind::PerSource | Kind::Refused => {
                &[Field::Address, Field::Port, Field::Number]
            }
            Kind::Live | Kind::Sparing | Kind::Blocked => &[Field::Address, Field::Port, Field::Address, Field::Port],
            Kind::Allow => &[Field::Address, Field::Port, Field::Address],
            Kind::Sources => &[Field::Address, Field::Port, Field::Address, Field::Number],
            _ => &[Field::Address, Field::Port],
        }
    }

    pub const fn value(self) -> &'static [Field] {
        match self.kind {
            Kind::Primary | Kind::Spread => &[Field::Address, Field::Port],
            Kind::Pool => &[Field::Address],
            _ => &[],
        }
    }

    /// Bytes of `fields`, each padded to whole registers.
    pub fn len(self, fields: &[Field]) -> usize {
        fields.iter().map(|field| if *field == Field::Address { self.family.address_len() } else { 4 }).sum()
    }

    /// The bytes of a field that count, without its padding.
    pub const fn exact_len(self, field: Field) -> u8 {
        match field {
            Field::Address => self.family.address_len() as u8,
            Field::Port => 2,
            Field::Number => 4,
        }
    }

    /// The type number by which `nft list` knows how to print a concatenation: six bits per field (its datatype.h).
    pub fn type_number(self, fields: &[Field]) -> u32 {
        fields.iter().fold(0, |number, field| {
            (number << 6)
                | match (field, self.family) {
                    (Field::Address, Family::V4) => 7, // ipv4_addr
                    (Field::Address, Family::V6) => 8, // ipv6_addr
                    (Field::Port, _) => 13,            // inet_service
                    (Field::Number, _) => 19,          // mark: the only 32-bit integer in host order
                }
        })
    }
}

/// The nflog groups of a table: two tables in one network namespace must not share any. They are a function of the name,
/// so that a restarted agent finds the rules as it would write them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Groups {
    /// SYNs that were not answered and may be put back.
    pub syns: u16,
    /// Packets of severed flows that were answered with a RST.
    pub resets: u16,
    /// What clients of blocked flows sent meanwhile.
    pub blocked: u16,
}

impl Groups {
    pub fn of(table: &str) -> Self {
        // FNV-1a. Others number their groups from 0 up; ours lie between 16,384 and 65,535.
        let hash = table.bytes().fold(0x811c_9dc5u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
        let syns = 16_384 + (hash % 16_384) as u16 * 3;
        Self { syns, resets: syns + 1, blocked: syns + 2 }
    }
}

/// Why a new connection was refused, as the sets of refusals number it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    NotAllowed,
    OverLimit,
    OverSourceLimit,
}

impl Reason {
    pub const ALL: [Self; 3] = [Self::NotAllowed, Self::OverLimit, Self::OverSourceLimit];

    pub const fn number(self) -> u32 {
        self as u32
    }

    pub fn numbered(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.number() == number)
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
        assert_eq!(names.len(), 34);
        for set in SetId::all() {
            assert_eq!(SetId::named(set.name()), Some(set));
            assert!(set.len(set.key()) <= 64, "nf_tables has 16 registers of 4 bytes");
        }
    }
}
