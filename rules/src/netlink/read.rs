//! The table read back: what the kernel really holds.
//!
//! It takes several dumps, and the table may change between them, so the ruleset's generation is asked for before and
//! after; a snapshot is of one generation or not at all.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use nftnl_sys as sys;

use super::nftnl::{self, Chain, Definition, FoundHook, Rule, Set, Table};
use super::socket::Netlink;
use super::{HEADERS, finish, header, nf_tables};
use crate::element::Key;
use crate::schema::{Family, Kind, Reason, SetId};
use crate::state::Elements;
use crate::tlv;

/// A table, as one generation of the ruleset has it.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    pub comment: Option<String>,
    pub chains: BTreeMap<String, Option<FoundHook>>,
    pub rules: BTreeMap<String, Vec<Vec<String>>>,
    pub sets: BTreeMap<String, Definition>,
    /// Of the sets that are as we define them. Deadlines are of our clock.
    pub elements: Elements,
    /// What is in the table and cannot be ours.
    pub strange: Vec<String>,
}

/// Reads a table of the family inet. `Ok(None)`: there is none.
pub fn table(netlink: &mut Netlink, name: &str) -> Result<Option<Snapshot>, (String, io::Error)> {
    for _ in 0..16 {
        let tried = |what: String| move |error| (what, error);
        let before = generation(netlink).map_err(tried("ask for the ruleset's generation".to_owned()))?;
        let snapshot = match table_once(netlink, name) {
            // It went away between two dumps: the generation will tell.
            Err((_, error)) if error.raw_os_error() == Some(libc::ENOENT) => None,
            other => other?,
        };
        if generation(netlink).map_err(tried("ask for the ruleset's generation".to_owned()))? == before {
            return Ok(snapshot);
        }
    }
    Err((
        format!("read table inet {name} back"),
        io::Error::new(io::ErrorKind::ResourceBusy, "the ruleset keeps changing"),
    ))
}

fn table_once(netlink: &mut Netlink, name: &str) -> Result<Option<Snapshot>, (String, io::Error)> {
    let tried = |what: &str| {
        let what = format!("read {what} of table inet {name} back");
        move |error| (what, error)
    };
    let Some(table) = find(netlink, name).map_err(tried("the comment"))? else { return Ok(None) };
    let mut snapshot = Snapshot { comment: table.comment(), ..Snapshot::default() };
    snapshot.chains = chains(netlink, name).map_err(tried("the chains"))?;
    snapshot.rules = rules(netlink, name).map_err(tried("the rules"))?;
    snapshot.sets = sets(netlink, name).map_err(tried("the sets"))?;
    for set in SetId::all() {
        if !set.kind.is_dynamic() && snapshot.sets.get(set.name()) == Some(&Definition::of(set)) {
            elements(netlink, name, set, &mut snapshot).map_err(tried(set.name()))?;
        }
    }
    Ok(Some(snapshot))
}

/// A number that changes with every commit to any table.
pub fn generation(netlink: &mut Netlink) -> io::Result<u32> {
    const NFTA_GEN_ID: u16 = 1;
    let seq = netlink.next_seq();
    let answer = netlink.ask(&finish(header(nf_tables(libc::NFT_MSG_GETGEN), 0, seq, libc::AF_UNSPEC)))?;
    let id = answer.get(HEADERS..).and_then(|attributes| tlv::find(attributes, NFTA_GEN_ID)?.be_u32());
    id.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the answer has no generation"))
}

/// The table of this name and the family inet; without its contents.
fn find(netlink: &mut Netlink, name: &str) -> io::Result<Option<Table>> {
    let request = |seq| dump(libc::NFT_MSG_GETTABLE, libc::NFPROTO_INET, seq, |_| {});
    netlink.dump(
        request,
        || None,
        |found, message| {
            let table = Table::parse(message).ok_or_else(unreadable)?;
            if table.family() == libc::NFPROTO_INET as u32 && table.name() == name {
                *found = Some(table);
            }
            Ok(())
        },
    )
}

fn chains(netlink: &mut Netlink, table: &str) -> io::Result<BTreeMap<String, Option<FoundHook>>> {
    let request = |seq| dump(libc::NFT_MSG_GETCHAIN, libc::NFPROTO_INET, seq, |_| {});
    netlink.dump(request, BTreeMap::new, |found, message| {
        let chain = Chain::parse(message).ok_or_else(unreadable)?;
        if chain.family() == libc::NFPROTO_INET as u32 && chain.table() == table {
            found.insert(chain.name(), chain.hook());
        }
        Ok(())
    })
}

fn rules(netlink: &mut Netlink, table: &str) -> io::Result<BTreeMap<String, Vec<Vec<String>>>> {
    const NFTA_RULE_TABLE: u16 = 1;
    let request =
        |seq| dump(libc::NFT_MSG_GETRULE, libc::NFPROTO_INET, seq, |bytes| name(bytes, NFTA_RULE_TABLE, table));
    netlink.dump(request, BTreeMap::new, |found: &mut BTreeMap<String, Vec<_>>, message| {
        let rule = Rule::parse(message).ok_or_else(unreadable)?;
        if rule.table() == table {
            found.entry(rule.chain()).or_default().push(rule.text());
        }
        Ok(())
    })
}

fn sets(netlink: &mut Netlink, table: &str) -> io::Result<BTreeMap<String, Definition>> {
    const NFTA_SET_TABLE: u16 = 1;
    let request = |seq| dump(libc::NFT_MSG_GETSET, libc::NFPROTO_INET, seq, |bytes| name(bytes, NFTA_SET_TABLE, table));
    netlink.dump(request, BTreeMap::new, |found, message| {
        let set = Set::new();
        // SAFETY: `message` is a whole netlink message in aligned memory; strings stay the set's.
        unsafe {
            if sys::nftnl_set_nlmsg_parse(message.as_ptr().cast(), set.raw()) < 0 {
                return Err(unreadable());
            }
            let string = |attribute: u32| nftnl::string(sys::nftnl_set_get_str(set.raw(), attribute as u16));
            let number = |attribute: u32| sys::nftnl_set_get_u32(set.raw(), attribute as u16);
            if string(sys::NFTNL_SET_TABLE) == table {
                let definition = Definition {
                    flags: number(sys::NFTNL_SET_FLAGS),
                    key_type: number(sys::NFTNL_SET_KEY_TYPE),
                    key_len: number(sys::NFTNL_SET_KEY_LEN),
                    data_type: number(sys::NFTNL_SET_DATA_TYPE),
                    data_len: number(sys::NFTNL_SET_DATA_LEN),
                };
                found.insert(string(sys::NFTNL_SET_NAME), definition);
            }
        }
        Ok(())
    })
}

/// How often new connections were refused, by listener and reason.
pub fn refusals(netlink: &mut Netlink, table: &str) -> io::Result<Vec<(SocketAddr, Reason, u64)>> {
    let mut refusals = Vec::new();
    for family in Family::BOTH {
        let set = SetId { kind: Kind::Refused, family };
        refusals.extend(each_element(netlink, table, set, Vec::new, |all, found| {
            if let (Some(Key::Refused(listener, reason)), Some(times)) = (found.key, found.packets) {
                all.push((listener, reason, times));
            }
        })?);
    }
    Ok(refusals)
}

fn elements(netlink: &mut Netlink, table: &str, set: SetId, into: &mut Snapshot) -> io::Result<()> {
    let now = Instant::now();
    let start = || (Elements::new(), 0usize);
    let (elements, strange) = each_element(netlink, table, set, start, |(elements, strange), found| {
        let Some(key) = found.key else {
            *strange += 1;
            return;
        };
        let mut value = found.value;
        value.deadline = found.expires_in_ms.map(|ms| now + Duration::from_millis(ms));
        elements.insert(key, value);
    })?;
    if strange > 0 {
        into.strange.push(format!("a catch-all element in {} {}", set.noun(), set.name()));
    }
    into.elements.extend(elements);
    Ok(())
}

fn each_element<T>(
    netlink: &mut Netlink,
    table: &str,
    set: SetId,
    start: impl Fn() -> T,
    mut each: impl FnMut(&mut T, nftnl::Found),
) -> io::Result<T> {
    const NFTA_SET_ELEM_LIST_TABLE: u16 = 1;
    const NFTA_SET_ELEM_LIST_SET: u16 = 2;
    let request = |seq| {
        dump(libc::NFT_MSG_GETSETELEM, libc::NFPROTO_INET, seq, |bytes| {
            name(bytes, NFTA_SET_ELEM_LIST_TABLE, table);
            name(bytes, NFTA_SET_ELEM_LIST_SET, set.name());
        })
    };
    netlink.dump(request, start, |all, message| {
        let object = Set::new();
        // SAFETY: `message` is a whole netlink message in aligned memory.
        if unsafe { sys::nftnl_set_elems_nlmsg_parse(message.as_ptr().cast(), object.raw()) } < 0 {
            return Err(unreadable());
        }
        nftnl::elements(&object, set, |found| each(all, found));
        Ok(())
    })
}

pub fn dump(message: i32, family: i32, seq: u32, fill: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = header(nf_tables(message), libc::NLM_F_DUMP, seq, family);
    fill(&mut bytes);
    finish(bytes)
}

fn name(bytes: &mut Vec<u8>, attribute: u16, name: &str) {
    let mut text = name.as_bytes().to_vec();
    text.push(0);
    tlv::put(bytes, attribute, &text);
}

fn unreadable() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "libnftnl cannot read the kernel's answer")
}
