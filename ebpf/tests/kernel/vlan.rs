//! Frames with a VLAN tag: left alone on the link that they come by, and served on the VLAN's own interface.
//!
//! ```text
//! client  vlan7 ── eth0 ══ tagged with 7 ══ to1 ── vlan7  proxy
//! ```

use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use shunt_ebpf::common::counter::Counter;
use shunt_tests::star::{CLIENT, Ip, PATIENCE, PORT, PROXY, Server};
use shunt_tests::{Netns, eventually};

use crate::lab::on_both;
use crate::tagging::Tagging;

const ID: u16 = 7;
const INTERFACE: &str = "vlan7";

/// The interface of the VLAN on a host, with an address.
struct Vlan {
    /// Where the kernel has no such interfaces.
    _tagging: Option<Tagging>,
}

impl Vlan {
    fn on(host: &Netns, link: &str, number: u8) -> Result<Self> {
        let tagging = match host.ip(&format!("link add link {link} name {INTERFACE} type vlan id {ID}")) {
            Ok(()) => None,
            // Without CONFIG_VLAN_8021Q.
            Err(error) if format!("{error:#}").contains("Unknown device type") => {
                Some(Tagging::start(host, link, INTERFACE, ID)?)
            }
            Err(error) => return Err(error),
        };
        host.ip(&format!(
            "address add 10.77.{ID}.{number}/24 dev {INTERFACE}\naddress add fd77:{ID}::{number}/64 dev {INTERFACE} nodad\n\
             link set {INTERFACE} up"
        ))?;
        Ok(Self { _tagging: tagging })
    }
}

/// The proxy's address in the VLAN.
fn listener(ip: Ip) -> SocketAddr {
    (ip.address(ID.to_le_bytes()[0], 1), PORT).into()
}

#[test]
fn a_tagged_packet_is_left_to_the_vlans_own_interface_and_served_there() -> Result<()> {
    on_both("vlan::a_tagged_packet", |mut lab| {
        let (star, listener) = (lab.star, listener(lab.ip));
        let _vlans = [Vlan::on(star.host(PROXY), "to1", 1)?, Vlan::on(star.host(CLIENT), "eth0", 2)?];
        // Attached to the link that the tagged frames come by, and not to the VLAN's interface.
        lab.attach()?;
        lab.lead_from(listener, 0)?;
        // What is left alone gets to the host's own stack.
        let own = star.inside(PROXY, || Server::start(PROXY, PORT))?;
        let before = lab.count(Counter::Vlan);
        let call = star.dial(CLIENT, listener)?;
        call.echo()?;
        // A SYN, its acknowledgement and a line at least.
        let counted = lab.count(Counter::Vlan) - before;
        ensure!(counted >= 3, "{counted} packets were counted: {}", lab.counts());
        assert_eq!(call.server, PROXY, "{}", lab.counts());
        assert_eq!((lab.count(Counter::Opened), lab.flows()?.len()), (0, 0));
        call.abort()?;
        drop(own);

        lab.object.attach(INTERFACE)?;
        let before = lab.count(Counter::Vlan);
        let call = star.dial(CLIENT, listener).with_context(|| lab.counts())?;
        for _ in 0..10 {
            call.echo()?;
        }
        assert_eq!((call.server.as_str(), call.seen_as.ip()), ("db1", lab.ip.address(2, 1)));
        assert_eq!((lab.count(Counter::Opened), lab.flows()?.len()), (1, 2));
        ensure!(lab.count(Counter::Vlan) >= before + 12, "they still come by the link: {}", lab.counts());
        // And it ends there.
        let seen_as = call.seen_as;
        call.abort()?;
        eventually("the server's end", PATIENCE, || Ok(star.server(0).end_of(seen_as)))?;
        Ok(())
    })
}
