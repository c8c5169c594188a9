//! Promise 6, under fire: a flood of SYNs from many sources on a held listener harms no other listener and takes bounded
//! memory.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use shunt_core::mapping::Route;
use shunt_tests::star::{CLIENT, Conversation, PATIENCE, PROXY};
use socket2::{Domain, Protocol, Socket, Type};

use crate::holding::{Knocking, LONG};
use crate::lab::{Lab, SetOnDrop, mapping, set};

const SYNS: u16 = 20_000;
/// Far less than what a flow each would take in an agent that remembers all of them at a megabyte a thousand.
const MEMORY_KIB: u64 = 32 * 1024;

pub fn p06_a_flood_of_syns_on_a_held_listener_harms_nobody_else(lab: &Lab) {
    let mut datapath = lab.mapped();
    let held = lab.listener_at(4000);
    set(&mut *datapath, mapping(held, Route::Hold(LONG)));
    let established = lab.call();
    let waiting = lab.inside(CLIENT, || Knocking::at(held)).unwrap();
    let memory = resident_kib();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let others = scope.spawn(|| {
            lab.inside(CLIENT, || {
                let mut served = 0;
                while !over.load(Ordering::Relaxed) {
                    Conversation::open(lab.listener(), PATIENCE)
                        .expect("a connection to another listener")
                        .abort()
                        .unwrap();
                    established.echo().expect("a flow through another listener");
                    served += 1;
                    thread::sleep(Duration::from_millis(1));
                }
                served
            })
        });
        let flooded = scope.spawn(|| lab.inside(CLIENT, || flood(lab, held)));
        {
            let _over = SetOnDrop(&over);
            flooded.join().unwrap();
        }
        assert!(others.join().unwrap() > 0);
    });
    let grown = resident_kib().saturating_sub(memory);
    assert!(grown < MEMORY_KIB, "the agent took {grown} KiB more");
    let entries: u64 = lab.host(PROXY).run("conntrack", &["-C"]).unwrap().trim().parse().unwrap();
    assert!(entries < u64::from(SYNS) / 2, "{entries} connections are tracked that nobody made");
    // It opens: whoever was there before gets in, if need be by knocking again.
    set(&mut *datapath, mapping(held, Route::Single(lab.db(1))));
    assert_eq!(waiting.let_in(PATIENCE).unwrap().server, "db2");
    established.echo().unwrap();
}

/// A SYN from each of so many addresses. A socket that is closed while it waits says nothing more.
fn flood(lab: &Lab, to: std::net::SocketAddr) {
    for number in 1..=SYNS {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP)).unwrap();
        socket.set_nonblocking(true).unwrap();
        socket.bind(&std::net::SocketAddr::new(lab.ip.throng(number), 0).into()).unwrap();
        let waits = socket.connect(&to.into()).unwrap_err();
        assert_eq!(waits.raw_os_error(), Some(libc::EINPROGRESS), "{waits}");
    }
}

/// Memory of this process, which is the agent's as well.
fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
