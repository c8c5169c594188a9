//! The nftables datapath.

use shunt_core::datapath::{Datapath, DatapathError};
use shunt_rules::{NftDatapath, Options};
use shunt_tests::star::{Ip, PROXY};

use crate::lab::{Lab, Subject};

pub struct Nft;

impl Subject for Nft {
    fn open() -> Result<Box<dyn Datapath>, DatapathError> {
        Ok(Box::new(NftDatapath::open(Options::default())?))
    }

    fn unblock_by_hand(lab: &Lab) {
        lab.host(PROXY).nft(&format!("flush set inet shunt {}\n", of_family("blocked", lab))).unwrap();
    }

    fn remains_of_sparing(lab: &Lab) -> String {
        let list = |set| lab.host(PROXY).run("nft", &["list", "set", "inet", "shunt", &of_family(set, lab)]).unwrap();
        ["sparing", "blocked"].map(list).into_iter().filter(|listed| listed.contains("elements")).collect()
    }
}

fn of_family(set: &str, lab: &Lab) -> String {
    format!("{set}{}", if lab.ip == Ip::V4 { 4 } else { 6 })
}
