//! What the programs count, per processor, over all mappings.

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident = $word:literal,)*) => {
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Counter { $($(#[$doc])* $name,)* }

        impl Counter {
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// As an operator reads it.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $word,)* }
            }
        }
    };
}

counters! {
    /// Flows that were opened.
    Opened = "opened",
    /// Packets that were answered with RST.
    Reset = "reset",
    /// Of a fenced listener: SYNs that were not answered.
    Held = "held",
    /// Of those, and of what blocked clients sent: what was kept to be played again.
    Kept = "kept",
    /// SYNs that a listener refuses.
    Refused = "refused",
    /// New flows for which the table had no place.
    Full = "table_full",
    /// New flows that found no free source port.
    NoPort = "no_port",
    /// Packets for which the host has no way, or may not forward.
    Unroutable = "unroutable",
    /// Packets whose neighbour the stack had to find first.
    Unresolved = "unresolved",
    /// Packets that are larger than the way allows: answered with an ICMP error that says how large they may be.
    TooBig = "too_big",
    /// ICMP errors about flows that were translated and sent on.
    Translated = "icmp_translated",
    /// ICMP errors about flows that may not pass any more: dropped.
    AboutDead = "icmp_about_dead",
    /// Packets at the end of their time to live.
    Expired = "ttl_expired",
    /// Packets for a listener with IP options: dropped.
    Options = "ip_options",
    /// Fragments for a listener that say whom they are for: dropped.
    Fragment = "fragments",
    /// Packets for a listener that end within their headers: dropped.
    Truncated = "truncated",
    /// Packets with a VLAN tag: left to the VLAN's own interface.
    Vlan = "vlan",
    /// RSTs and other packets that belong to no flow and get no answer.
    Stray = "stray",
    /// The kernel refused to change a packet: dropped.
    Failed = "failed",
}
