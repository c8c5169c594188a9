//! Flows follow what changes on their way, though routing is not asked for every packet.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use shunt_tests::star::{CLIENT, DBS, PROXY};
use shunt_tests::{Netns, eventually};

use crate::lab::on_both;

/// A neighbour that nobody hears of is asked for after seconds, by default; here after one.
const LONG: Duration = Duration::from_secs(30);
/// Then it is tried again.
const SOON: Duration = Duration::from_millis(500);

fn ask_soon(host: &Netns, interface: &str) -> Result<()> {
    for family in ["ipv4", "ipv6"] {
        let set = |name: &str, value| host.sysctl(&format!("{family}/neigh/{interface}/{name}"), value);
        set("base_reachable_time_ms", "100")?;
        set("delay_first_probe_time", "1")?;
        set("retrans_time_ms", "100")?;
    }
    Ok(())
}

/// Programs that send frames by themselves would believe in a neighbour's address for ever.
#[test]
fn a_neighbour_whose_address_has_changed_without_a_word_is_found_again() -> Result<()> {
    on_both("routing::a_neighbour_whose_address_has_changed", |mut lab| {
        let (proxy, db) = (lab.star.host(PROXY), lab.star.host(DBS[0]));
        ask_soon(proxy, "to2")?;
        lab.attach()?;
        lab.lead(0)?;
        let call = lab.star.dial(CLIENT, lab.listener())?;
        call.echo()?;
        // As it is when nobody has needed it for long. From now on the flow alone does.
        let (backend, former) = (lab.ip.db(0).ip(), address_of(db, "eth0")?);
        proxy.ip(&format!("neigh replace {backend} lladdr {former} dev to2 nud stale"))?;
        // It keeps quiet: it does not say that it has moved, and whom it speaks to it knows for good.
        let (own, address) = (lab.ip.address(2, 1), address_of(proxy, "to2")?);
        db.ip(&format!(
            "link set eth0 address 02:00:00:00:77:02\nneigh replace {own} lladdr {address} dev eth0 nud permanent"
        ))?;
        call.stream.set_read_timeout(Some(SOON))?;
        eventually("an answer from the neighbour's new address", LONG, || Ok(call.echo().is_ok().then_some(())))
            .with_context(|| lab.counts())
    })
}

fn address_of(host: &Netns, interface: &str) -> Result<String> {
    let text = host.run("ip", &["-o", "link", "show", interface])?;
    let mut words = text.split_whitespace().skip_while(|word| *word != "link/ether");
    words.nth(1).map(str::to_owned).with_context(|| format!("{text} tells no address"))
}

#[test]
fn a_route_that_changes_is_followed_by_established_flows() -> Result<()> {
    on_both("routing::a_route_that_changes_is_followed", |mut lab| {
        lab.attach()?;
        lab.lead(0)?;
        let call = lab.star.dial(CLIENT, lab.listener())?;
        call.echo()?;
        let (first, length) = (lab.ip.db(0).ip(), if lab.ip.db(0).is_ipv4() { 32 } else { 128 });
        // Somebody else has that address now, by another way, and knows nothing of the connection.
        lab.star.host(DBS[1]).ip(&format!("address add {first}/{length} dev lo"))?;
        lab.star.host(PROXY).ip(&format!("route add {first}/{length} via {}", lab.ip.db(1).ip()))?;
        call.stream.set_read_timeout(Some(SOON))?;
        eventually("the word of whoever has that address now", LONG, || Ok(call.is_reset().then_some(())))?;
        ensure!(lab.star.server(0).end_of(call.seen_as).is_none(), "the former one was told");
        Ok(())
    })
}
