//! What the datapath needs is asked for when it is opened, and not missed when a failover wants it.

mod lab;

use lab::{Lab, PROXY};
use shunt_rules::{NftDatapath, Options};

/// Takes a capability from the calling thread, for as long as it lives.
fn give_up(capability: u32) {
    // linux/capability.h: _LINUX_CAPABILITY_VERSION_3, whose sets are two words each.
    let header = [0x2008_0522u32, 0];
    let mut sets = [[0u32; 3]; 2];
    // SAFETY: both pointers are to memory of the layout and size that capget(2) and capset(2) ask for.
    unsafe {
        assert_eq!(libc::syscall(libc::SYS_capget, header.as_ptr(), sets.as_mut_ptr()), 0);
        for set in &mut sets[(capability / 32) as usize] {
            *set &= !(1 << (capability % 32));
        }
        assert_eq!(libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()), 0);
    }
}

#[test]
fn without_raw_sockets_it_does_not_open_and_says_what_for() {
    const CAP_NET_RAW: u32 = 13;
    let Some(lab) = Lab::new("without_raw_sockets_it_does_not_open_and_says_what_for") else { return };
    let refused = lab.in_host(PROXY, || {
        give_up(CAP_NET_RAW);
        NftDatapath::open(Options::default()).map(drop).unwrap_err().to_string()
    });
    assert!(refused.contains("raw socket") && refused.contains("CAP_NET_RAW"), "{refused}");
    assert_eq!(lab.on_proxy(&["nft", "list", "tables"]), "", "nothing was changed");
}

#[test]
fn two_agents_with_tables_of_their_own_share_a_namespace() {
    let Some(lab) = Lab::new("two_agents_with_tables_of_their_own_share_a_namespace") else { return };
    let open = |table: &str| {
        let options = Options { table: table.to_owned() };
        lab.in_host(PROXY, || NftDatapath::open(options))
    };
    let (first, second) = (open("shunt").unwrap(), open("shunt-other").unwrap());
    let again = open("shunt").map(drop).unwrap_err().to_string();
    assert!(again.contains("another shunt agent"), "{again}");
    drop((first, second));
}
