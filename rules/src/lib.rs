//! The nftables datapath: desired mappings as one transaction, and back.
//!
//! [`NftDatapath`] keeps one private `inet` table. New connections are mapped by lookup; the packets of a flow pass only
//! while its pair of listener and backend is in the table's set `live`. Everything is spoken to the kernel directly
//! (libnftnl and libmnl for nf_tables, by hand for conntrack); the `nft` command is never run.
//!
//! - `state`: what was committed, and the elements that say so. Pure.
//! - `ruleset`, `schema`, `element`, `tlv`: chains, sets and bytes as data. Pure.
//! - `drift`: what was read back against what was committed. Pure but for libnftnl's wording of rules.
//! - `netlink`: the edge, and all unsafe code.
//! - `conntrack`: flows, counted and deleted; `meter` tells of them.
//! - `sever`, `hold`, `block`: threads that end flows at both ends, put the SYNs of held connections back, and what the
//!   clients of blocked flows sent.
//! - `nflog`: copies of packets on their way, which `shunt-wire` reads, as it writes our own.

mod block;
mod conntrack;
mod datapath;
mod drift;
mod element;
mod foreign;
mod hold;
mod meter;
mod netlink;
mod nflog;
mod notices;
mod owner;
mod preflight;
mod ruleset;
mod schema;
mod sever;
mod state;
mod thread;
mod tlv;
mod transaction;

pub use datapath::{NftDatapath, Options};
pub use foreign::{ForeignNat, foreign_nat};
pub use notices::Notices;
pub use preflight::{holds_table, scratch_transaction};
