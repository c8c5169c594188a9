//! Our objects as messages of a batch.

use std::time::Instant;

use nftnl_sys as sys;

use super::batch::{Batch, Subject};
use super::nftnl::{Chain, Rule, Set, Table};
use crate::element::{Key, Value};
use crate::ruleset::{self, Layout, chains};
use crate::schema::{self, SetId};
use crate::state::plan::Op;

/// Elements per message. At most 228 bytes each (a live pair of IPv6 with the longest comment and a timeout), so that
/// the list stays below the 64 KiB of an attribute.
const PER_MESSAGE: usize = 250;

/// Creates the table, its sets, chains and rules. Fails when a table of the name exists.
pub fn create(batch: &mut Batch, table: &str, layout: &Layout) {
    let object = Table::named(table, Some(&schema::table_comment()));
    let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
    // SAFETY: a table's name and comment are far below the limit.
    unsafe {
        batch.message(libc::NFT_MSG_NEWTABLE, flags, Subject::Table, |header| {
            sys::nftnl_table_nlmsg_build_payload(header, object.raw());
        });
    }
    for (number, set) in (1..).zip(SetId::all()) {
        let object = Set::of(table, set, number);
        // SAFETY: a set's definition without elements is far below the limit.
        unsafe {
            batch.message(libc::NFT_MSG_NEWSET, flags, Subject::Set(set), |header| {
                sys::nftnl_set_nlmsg_build_payload(header, object.raw());
            });
        }
    }
    let chains = chains(layout);
    for chain in &chains {
        let object = Chain::of(table, chain);
        // SAFETY: a chain without rules is far below the limit.
        unsafe {
            batch.message(libc::NFT_MSG_NEWCHAIN, flags, Subject::Chain(chain.name.to_owned()), |header| {
                sys::nftnl_chain_nlmsg_build_payload(header, object.raw());
            });
        }
    }
    for chain in &chains {
        add_rules(batch, table, chain);
    }
}

fn add_rules(batch: &mut Batch, table: &str, chain: &ruleset::Chain) {
    for rule in &chain.rules {
        let object = Rule::of(table, chain.name, rule);
        let subject = Subject::Rule { chain: chain.name.to_owned(), comment: rule.comment.to_owned() };
        // SAFETY: our longest rule has a dozen expressions of some 50 bytes.
        unsafe {
            batch.message(libc::NFT_MSG_NEWRULE, libc::NLM_F_CREATE | libc::NLM_F_APPEND, subject, |header| {
                sys::nftnl_rule_nlmsg_build_payload(header, object.raw());
            });
        }
    }
}

/// Replaces the rules of chains that are there.
pub fn rewrite<'a>(batch: &mut Batch, table: &str, chains: impl Iterator<Item = &'a ruleset::Chain>) {
    for chain in chains {
        flush(batch, table, chain.name);
        add_rules(batch, table, chain);
    }
}

/// Takes all rules out of a chain.
fn flush(batch: &mut Batch, table: &str, chain: &str) {
    let object = Rule::in_chain(table, chain);
    // SAFETY: two names are far below the limit.
    unsafe {
        batch.message(libc::NFT_MSG_DELRULE, 0, Subject::Chain(chain.to_owned()), |header| {
            sys::nftnl_rule_nlmsg_build_payload(header, object.raw());
        });
    }
}

pub fn delete_table(batch: &mut Batch, table: &str) {
    let object = Table::named(table, None);
    // SAFETY: a name is far below the limit.
    unsafe {
        batch.message(libc::NFT_MSG_DELTABLE, 0, Subject::Table, |header| {
            sys::nftnl_table_nlmsg_build_payload(header, object.raw());
        });
    }
}

/// Element changes, in their order; neighbours of one set share a message. A deletion of an element that may have
/// expired gets a message of its own, so that its failure can be told from all others.
pub fn ops(batch: &mut Batch, table: &str, ops: &[Op], now: Instant) {
    let mut rest = ops;
    while let Some(first) = rest.first() {
        let (delete, set, alone) = shape(first);
        let run = rest.iter().take(if alone { 1 } else { PER_MESSAGE });
        let len = run.take_while(|op| shape(op) == (delete, set, alone)).count().max(1);
        let (message, after) = rest.split_at(len);
        elements(batch, table, set, message, delete, now);
        rest = after;
    }
}

fn shape(op: &Op) -> (bool, SetId, bool) {
    match op {
        Op::Delete { key, timed } => (true, key.set(), *timed),
        Op::Add(key, _) => (false, key.set(), false),
    }
}

fn elements(batch: &mut Batch, table: &str, set: SetId, ops: &[Op], delete: bool, now: Instant) {
    let object = Set::named(table, set.name());
    let mut keys: Vec<Key> = Vec::with_capacity(ops.len());
    for op in ops {
        match op {
            Op::Delete { key, .. } => {
                keys.push(*key);
                object.add(key, None);
            }
            Op::Add(key, value) => {
                keys.push(*key);
                object.add(key, Some((value, timeout_ms(value, now))));
            }
        }
    }
    let (message, flags) = if delete {
        (libc::NFT_MSG_DELSETELEM, 0)
    } else {
        (libc::NFT_MSG_NEWSETELEM, libc::NLM_F_CREATE | libc::NLM_F_EXCL)
    };
    // SAFETY: at most PER_MESSAGE elements, each of no more than 228 bytes.
    unsafe {
        batch.message(message, flags, Subject::Elements(keys), |header| {
            sys::nftnl_set_elems_nlmsg_build_payload(header, object.raw());
        });
    }
}

/// What is left of an element's time; the kernel takes zero for "no timeout".
fn timeout_ms(value: &Value, now: Instant) -> u64 {
    value.deadline.map_or(0, |deadline| (deadline.saturating_duration_since(now).as_millis() as u64).max(1))
}
