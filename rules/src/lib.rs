//! Rules.
pub mod element;
pub mod netlink;
pub mod ruleset;
pub mod schema;
pub mod state;
pub mod tlv;
pub mod conntrack;
pub mod notices;
pub mod datapath;
pub mod drift;
pub use notices::Notices;
pub use datapath::{NftDatapath, Options};
