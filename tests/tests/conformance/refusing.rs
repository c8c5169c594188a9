//! Promise 6, refusing: a fenced listener that refuses answers at once, and ends what was established.

use std::io::ErrorKind;

use shunt_core::mapping::Route;
use shunt_tests::star::{CLIENT, DBS, PROXY};

use crate::lab::{Lab, set};

pub fn p06_a_refusing_listener_refuses_at_once(lab: &Lab) {
    let mut datapath = lab.open();
    set(&mut *datapath, lab.mapping(Route::Refuse));
    for host in [CLIENT, PROXY, DBS[0]] {
        let refused = lab.dial(host, lab.listener()).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "from {host}");
    }
}

pub fn p06_a_refusing_listener_resets_what_was_established(lab: &Lab) {
    let mut datapath = lab.mapped();
    let old = lab.call();
    set(&mut *datapath, lab.mapping(Route::Refuse));
    assert!(old.is_reset());
}
