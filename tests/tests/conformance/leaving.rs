//! Promise 3: nothing reaches a backend that left. Packets are counted on the backend's own host, from the moment at
//! which `apply` has returned.
//!
//! The datapath itself may still speak to the old server, to end its sockets: resets, and bare ACKs that provoke them.
//! What comes from the proxy itself has the TTL of a packet that nobody has forwarded; everything else was passed on.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use shunt_core::datapath::Datapath;
use shunt_core::mapping::{Leaving, Route};
use shunt_tests::star::{Counters, DBS, PORT};

use crate::lab::{Lab, SetOnDrop, eventually, remove, set};

const BUSY: usize = 32;
const IDLE: usize = 32;

pub fn p03_nothing_reaches_a_backend_that_left(lab: &Lab) {
    nothing_reaches_the_old_backend_after(lab, |lab, datapath| set(datapath, lab.to(1)));
}

pub fn p03_nothing_reaches_the_backend_of_a_listener_that_is_fenced(lab: &Lab) {
    nothing_reaches_the_old_backend_after(lab, |lab, datapath| set(datapath, lab.mapping(Route::Refuse)));
}

pub fn p03_nothing_reaches_the_backend_of_a_listener_that_is_removed(lab: &Lab) {
    nothing_reaches_the_old_backend_after(lab, |lab, datapath| remove(datapath, lab.listener(), Leaving::Sever));
}

fn nothing_reaches_the_old_backend_after(lab: &Lab, change: impl FnOnce(&Lab, &mut dyn Datapath)) {
    let mut datapath = lab.mapped();
    let (busy, idle) = (lab.calls(BUSY), lab.calls(IDLE));
    let mut counters = at_the_backend(lab);
    let done = AtomicBool::new(false);
    let after = thread::scope(|scope| {
        let _done = SetOnDrop(&done);
        for conversation in &busy {
            scope.spawn(|| while !done.load(Ordering::Relaxed) && conversation.echo().is_ok() {});
        }
        eventually("traffic", || counters.read().unwrap()["passed_on"] > 1000);
        change(lab, &mut *datapath);
        let before = counters.reset().unwrap();
        assert_eq!(before["own_data"], 0, "the counters take forwarded packets for the proxy's own: {before:?}");
        eventually("the end of every busy connection", || busy.iter().all(|conversation| conversation.has_ended()));
        // The idle ones speak now, and so does everybody who calls again.
        for conversation in &idle {
            let _ = conversation.echo();
        }
        for _ in 0..20 {
            // Another backend, or a refusal.
            let _ = lab.dial(shunt_tests::star::CLIENT, lab.listener());
        }
        counters.read().unwrap()
    });
    let clients = |counted: &BTreeMap<String, u64>| counted["passed_on"] + counted["own_data"];
    assert_eq!(clients(&after), 0, "{after:?}");
}

/// What the proxy passed on, and what it sent itself: resets, bare ACKs, and anything that opens, closes or carries data.
fn at_the_backend(lab: &Lab) -> Counters {
    let hops = if lab.ip.listener().is_ipv4() { "ip ttl" } else { "ip6 hoplimit" };
    let to = format!("tcp dport {PORT}");
    let wanted = [
        ("passed_on", format!("{hops} != 64 {to}")),
        ("own_resets", format!("{hops} 64 {to} tcp flags & rst != 0x0")),
        ("own_data", format!("{hops} 64 {to} tcp flags & rst == 0x0 tcp flags & (syn | fin | psh) != 0x0")),
    ];
    Counters::incoming(lab.host(DBS[0]), &wanted.each_ref().map(|(name, of)| (*name, of.as_str()))).unwrap()
}
