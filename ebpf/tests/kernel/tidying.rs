//! What the datapath clears away as time goes by, puts back, and waits for.

use std::io::Write as _;
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, Map, MapData};
use aya::programs::{SchedClassifier, TcAttachType};
use ipnet::IpNet;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use shunt_core::config::Snat;
use shunt_core::datapath::Datapath as _;
use shunt_core::flow;
use shunt_core::mapping::{Admission, Mapping, Route};
use shunt_ebpf::EbpfDatapath;
use shunt_ebpf::common::admission::{Listed, Places, Source};
use shunt_ebpf::common::flow::{Flow, Tuple, mark, state};
use shunt_ebpf::common::kept::{Frame, PACKET, Piece, SYN};
use shunt_ebpf::common::pool::Pool;
use shunt_ebpf::common::tally::Tally;
use shunt_tests::eventually;
use shunt_tests::star::{CLIENT, Conversation, Ip, PATIENCE, PROXY};
use socket2::{Domain, Protocol, Socket, Type};

use crate::datapath::{Lab, amiss, on_the_proxy, set, table, to};

const LONG: Duration = Duration::from_secs(600);

fn sources(lab: &Lab<'_>) -> Result<Vec<(Source, Places)>> {
    Ok(table::<Source, Places>(&lab.folder()?, "SOURCES")?.iter().collect::<Result<_, _>>()?)
}

#[test]
fn clients_that_have_had_no_connection_for_long_are_forgotten_and_others_are_not() -> Result<()> {
    on_the_proxy("tidying::clients_that_have_had_no_connection", |lab| {
        let mut datapath = lab.open();
        set(
            &mut datapath,
            Mapping { admission: Admission { limit_per_source: Some(2), ..Admission::default() }, ..to(0) },
        );
        let listener = Ip::V4.listener();
        let stays = lab.star.dial(CLIENT, listener)?;
        lab.star.dial_from(Ip::V4.second_client(), listener)?.abort()?;
        eventually("the end of one", PATIENCE, || {
            Ok((sources(lab)?.iter().filter(|(_, places)| places.taken == 0).count() == 1).then_some(()))
        })?;
        datapath.upkeep().unwrap();
        assert_eq!(sources(lab)?.len(), 2, "it went a moment ago");
        // As if all of that had been eleven seconds ago.
        let mut map: HashMap<_, Source, Places> = table(&lab.folder()?, "SOURCES")?;
        for (source, places) in sources(lab)? {
            map.insert(source, Places { emptied: places.emptied.saturating_sub(11_000_000_000), ..places }, 0)?;
        }
        // Of a walk that has been ended the next one begins ten seconds later: this agent's, or the next one's first.
        drop(datapath);
        let mut datapath = lab.open();
        datapath.upkeep().unwrap();
        assert_eq!(sources(lab)?.iter().map(|(_, places)| places.taken).collect::<Vec<_>>(), [1]);
        // And is counted anew when it comes back.
        let _again = [0, 1].map(|_| lab.star.dial_from(Ip::V4.second_client(), listener).unwrap());
        ensure!(lab.star.dial_from(Ip::V4.second_client(), listener).is_err());
        stays.echo()?;
        Ok(())
    })
}

fn key(call: &Conversation) -> Result<flow::Tuple> {
    Ok(flow::Tuple { client: call.local()?, listener: Ip::V4.listener() })
}

fn sparing() -> Mapping {
    Mapping { route: Route::Hold(LONG), spared: Some(Ip::V4.db(0)), ..to(0) }
}

fn pieces(lab: &Lab<'_>) -> Result<usize> {
    Ok(table::<Piece, Frame<PACKET>>(&lab.folder()?, "KEPT")?.keys().count())
}

#[test]
fn what_is_kept_of_a_blocked_flow_goes_with_it() -> Result<()> {
    on_the_proxy("tidying::what_is_kept_of_a_blocked_flow", |lab| {
        let mut datapath = lab.mapped();
        let [ends, stays] = [0, 1].map(|_| lab.star.dial(CLIENT, Ip::V4.listener()).unwrap());
        set(&mut datapath, sparing());
        datapath.block(&[key(&ends)?, key(&stays)?]).unwrap();
        for call in [&ends, &stays] {
            (&call.stream).write_all(b"ping\n")?;
        }
        eventually("both words", PATIENCE, || Ok((pieces(lab)? >= 2).then_some(())))?;
        datapath.upkeep().unwrap();
        ensure!(pieces(lab)? >= 2, "both flows are there");
        // One of them ends without the agent's doing: as if the programs had forgotten it.
        let mut flows: HashMap<_, Tuple, Flow> = table(&lab.folder()?, "FLOWS")?;
        let port = ends.local()?.port().to_be();
        let gone: Vec<_> = flows.keys().filter(|key| key.as_ref().is_ok_and(|key| key.source_port == port)).collect();
        for key in gone {
            flows.remove(&key?)?;
        }
        drop(ends);
        datapath.upkeep().unwrap();
        let left: HashMap<_, Piece, Frame<PACKET>> = table(&lab.folder()?, "KEPT")?;
        let left: Vec<Piece> = left.keys().collect::<Result<_, _>>()?;
        ensure!(!left.is_empty() && left.iter().all(|piece| piece.tuple.source_port != port), "{left:?}");
        datapath.unblock(&[key(&stays)?]).unwrap();
        stays.echo()?;
        datapath.upkeep().unwrap();
        assert_eq!(pieces(lab)?, 0);
        Ok(())
    })
}

#[test]
fn a_flow_that_somebody_else_blocked_goes_on() -> Result<()> {
    on_the_proxy("tidying::a_flow_that_somebody_else_blocked", |lab| {
        let mut datapath = lab.mapped();
        let call = lab.star.dial(CLIENT, Ip::V4.listener())?;
        let mut flows: HashMap<_, Tuple, Flow> = table(&lab.folder()?, "FLOWS")?;
        let all: Vec<(Tuple, Flow)> = flows.iter().collect::<Result<_, _>>()?;
        let (key, flow) = all.iter().find(|(_, flow)| flow.state & state::FROM_CLIENT != 0).context("no client's")?;
        flows.insert(key, Flow { marks: flow.marks | mark::BLOCKED, ..*flow }, 0)?;
        datapath.upkeep().unwrap();
        call.echo()?;
        Ok(())
    })
}

/// A client's socket that has sent its SYN and waits.
fn knock(lab: &Lab<'_>, host: &str) -> Result<Socket> {
    lab.star.inside(host, || {
        let listener = Ip::V4.listener();
        let socket = Socket::new(Domain::for_address(listener), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        let waits = socket.connect(&listener.into()).map_err(|error| error.raw_os_error());
        ensure!(waits == Err(Some(libc::EINPROGRESS)), "{waits:?}");
        Ok(socket)
    })
}

fn held(lab: &Lab<'_>) -> Result<HashMap<MapData, Tuple, Frame<SYN>>> {
    table(&lab.folder()?, "HELD")
}

fn waiting(lab: &Lab<'_>) -> Result<u64> {
    let tallies: Array<_, Tally> = Array::try_from(Map::Array(MapData::from_pin(lab.folder()?.join("maps/TALLIES"))?))?;
    Ok(tallies.iter().map(|tally| tally.unwrap().waiting).sum())
}

#[test]
fn a_held_client_that_has_given_up_is_forgotten_and_others_are_not() -> Result<()> {
    on_the_proxy("tidying::a_held_client_that_has_given_up", |lab| {
        let mut datapath = lab.open();
        set(&mut datapath, Mapping { route: Route::Hold(LONG), ..to(0) });
        let [_gone, stays] = [0, 1].map(|_| knock(lab, CLIENT).unwrap());
        let stays_at = stays.local_addr()?.as_socket().context("no address")?.port().to_be();
        eventually("both SYNs", PATIENCE, || Ok((held(lab)?.keys().count() == 2).then_some(())))?;
        datapath.upkeep().unwrap();
        assert_eq!((held(lab)?.keys().count(), waiting(lab)?), (2, 2));
        let mut map = held(lab)?;
        for (tuple, frame) in map.iter().collect::<Result<Vec<_>, _>>()? {
            if tuple.source_port != stays_at {
                map.insert(tuple, Frame { came: frame.came.saturating_sub(71_000_000_000), ..frame }, 0)?;
            }
        }
        datapath.upkeep().unwrap();
        let left: Vec<Tuple> = held(lab)?.keys().collect::<Result<_, _>>()?;
        assert_eq!(left.iter().map(|tuple| tuple.source_port).collect::<Vec<_>>(), [stays_at]);
        assert_eq!(waiting(lab)?, 1);
        Ok(())
    })
}

#[test]
fn held_clients_are_refused_when_the_hold_is_over_wherever_they_are() -> Result<()> {
    on_the_proxy("tidying::held_clients_are_refused", |lab| {
        let mut datapath = lab.open();
        let span = Duration::from_millis(1500);
        set(&mut datapath, Mapping { route: Route::Hold(span), ..to(0) });
        // Their next SYNs come three and seven seconds after the first.
        let begin = std::time::Instant::now();
        let waiting = [CLIENT, PROXY].map(|host| (host, knock(lab, host).unwrap()));
        for (host, socket) in &waiting {
            eventually("the refusal", PATIENCE, || {
                datapath.upkeep().unwrap();
                let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
                Ok((poll(&mut fds, PollTimeout::ZERO)? > 0).then_some(()))
            })
            .with_context(|| (*host).to_owned())?;
            let refused = socket.take_error()?.map(|error| error.kind());
            assert_eq!(refused, Some(std::io::ErrorKind::ConnectionRefused), "{host}");
        }
        ensure!(begin.elapsed() >= span);
        assert_eq!(held(lab)?.keys().count(), 0);
        Ok(())
    })
}

#[test]
fn an_interface_that_is_asked_for_and_not_there_is_attached_to_when_it_comes() -> Result<()> {
    on_the_proxy("tidying::an_interface_that_is_asked_for", |lab| {
        let mut options = lab.options.clone();
        options.interfaces = ["lo", "to1", "to2", "to3", "late0", "never0"].map(str::to_owned).into();
        let mut datapath = EbpfDatapath::open(options).unwrap();
        set(&mut datapath, to(0));
        lab.star.dial(CLIENT, Ip::V4.listener())?.echo()?;
        assert_eq!(amiss(&mut datapath), [""; 0], "what is not there is not amiss");
        let proxy = lab.star.host(PROXY);
        let runs = || -> Result<bool> { Ok(!SchedClassifier::query_tcx("late0", TcAttachType::Ingress)?.1.is_empty()) };
        for turn in ["first", "again"] {
            // No address: it was named.
            proxy.ip("link add late0 type veth peer name late1\nlink set late0 up")?;
            datapath.upkeep().unwrap();
            ensure!(runs()?, "{turn}");
            proxy.ip("link delete late0")?;
            datapath.upkeep().unwrap();
            assert_eq!(amiss(&mut datapath), [""; 0]);
        }
        Ok(())
    })
}

#[test]
fn lists_and_pools_are_put_back() -> Result<()> {
    on_the_proxy("tidying::lists_and_pools", |lab| {
        let mut datapath = lab.open();
        let allow: Vec<IpNet> = vec!["10.77.1.0/24".parse()?, "192.0.2.0/24".parse()?];
        let pool = (Ip::V4.address(200, 1), Ip::V4.address(200, 4));
        let admission = Admission { allow, ..Admission::default() };
        set(&mut datapath, Mapping { admission, snat: Snat::Pool(vec![pool]), ..to(0) });
        assert_eq!(amiss(&mut datapath), [""; 0]);
        let maps = lab.folder()?.join("maps");
        let pinned = |name: &str| MapData::from_pin(maps.join(name));
        let mut allowed: LpmTrie<_, Listed, u32> = LpmTrie::try_from(Map::LpmTrie(pinned("ALLOWED")?))?;
        let keys: Vec<Key<Listed>> = allowed.keys().collect::<Result<_, _>>()?;
        let list = keys[0].data().list;
        let entry = |list: u32, text: &str| -> Result<Key<Listed>> {
            let net: IpNet = text.parse()?;
            let address = shunt_ebpf::endpoint(SocketAddr::new(net.addr(), 0)).address;
            Ok(Key::new(Listed::prefix(net.prefix_len(), true), Listed { list, address }))
        };
        allowed.remove(&entry(list, "10.77.1.0/24")?)?;
        allowed.insert(&entry(list, "0.0.0.0/0")?, 1, 0)?;
        allowed.insert(&entry(list + 1, "0.0.0.0/0")?, 1, 0)?;
        let mut pools: Array<_, Pool> = Array::try_from(Map::Array(pinned("POOLS")?))?;
        let ours = pools.iter().position(|pool| pool.is_ok_and(|pool| pool.addresses > 0)).context("no pool")?;
        pools.set(ours as u32, Pool::default(), 0)?;
        let told = amiss(&mut datapath);
        assert_eq!(told.len(), 4, "{told:?}");
        assert_eq!(amiss(&mut datapath), [""; 0]);
        assert_eq!(allowed.keys().count(), 2);
        let seen = lab.star.dial(CLIENT, Ip::V4.listener())?.seen_as.ip();
        ensure!((pool.0..=pool.1).contains(&seen), "{seen}");
        Ok(())
    })
}
