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
pub fn scratch_transaction(_: &str) -> Result<(), shunt_core::datapath::DatapathError> { Ok(()) }
pub fn foreign_nat(_: &str, _: &[std::net::SocketAddr]) -> Result<Vec<String>, shunt_core::datapath::DatapathError> { Ok(vec![]) }
