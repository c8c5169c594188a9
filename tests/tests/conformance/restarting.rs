//! Promise 8: an agent that starts adopts what it finds, and no flow notices.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use shunt_core::config::Snat;
use shunt_core::mapping::{Admission, Leaving, Mapping, Route};
use shunt_tests::star::{CLIENT, Conversation};

use crate::lab::{Lab, SetOnDrop, mapping, set, set_all, spread};

pub fn p08_no_flow_notices_a_restart(lab: &Lab) {
    let mut datapath = lab.open();
    let (many, drained, direct, limited) =
        (lab.listener_at(4001), lab.listener_at(4002), lab.listener_at(4003), lab.listener_at(4004));
    let admission = Admission { limit: Some(10), limit_per_source: Some(10), ..Admission::default() };
    let mut all = vec![
        Mapping { lease: Some(Duration::from_secs(60)), ..lab.to(0) },
        mapping(many, spread([(lab.db(0), 1), (lab.db(1), 2)])),
        Mapping { leaving: Leaving::Drain(Duration::from_secs(60)), ..mapping(drained, Route::Single(lab.db(0))) },
        Mapping { snat: Snat::None, ..mapping(direct, Route::Single(lab.db(0))) },
        Mapping { admission, ..mapping(limited, Route::Single(lab.db(0))) },
    ];
    set_all(&mut *datapath, all.clone());
    let listeners = [lab.listener(), many, many, drained, direct, limited];
    let flows: Vec<Conversation> = listeners.iter().map(|listener| lab.dial(CLIENT, *listener).unwrap()).collect();
    all[2].route = Route::Single(lab.db(1));
    set_all(&mut *datapath, all.clone());
    let before = datapath.committed();
    let done = AtomicBool::new(false);
    let (idle, busy) = flows.split_at(1);
    let mut datapath = thread::scope(|scope| {
        let talking: Vec<_> = busy
            .iter()
            .map(|conversation| {
                scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        conversation.echo().expect("a flow over a restart");
                    }
                })
            })
            .collect();
        let reopened = {
            let _done = SetOnDrop(&done);
            (0..5).fold(datapath, |former, _| {
                drop(former);
                let mut datapath = lab.open();
                set_all(&mut *datapath, all.clone());
                datapath
            })
        };
        for thread in talking {
            thread.join().unwrap();
        }
        reopened
    });
    assert_eq!(datapath.committed(), before);
    assert_eq!(datapath.reconcile().unwrap(), []);
    assert_eq!(datapath.renew().unwrap(), []);
    for conversation in idle.iter().chain(busy) {
        conversation.echo().unwrap();
    }
    for listener in listeners {
        lab.dial(CLIENT, listener).unwrap().echo().unwrap();
    }
}

pub fn p08_new_connections_are_served_while_nobody_is_there(lab: &Lab) {
    let datapath = lab.mapped();
    drop(datapath);
    let meanwhile = lab.call();
    meanwhile.echo().unwrap();
    let mut datapath = lab.open();
    meanwhile.echo().unwrap();
    // And a flow that came about meanwhile is severed like any other.
    set(&mut *datapath, lab.to(1));
    crate::lab::eventually("the end of the flow", || meanwhile.has_ended());
}
