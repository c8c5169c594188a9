//! Clients on the proxy itself, and a backend that is its own client.

use std::io::ErrorKind;
use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use shunt_ebpf::common::flow::state;
use shunt_ebpf::common::mapping::{FOR_EVER, kind};
use shunt_ebpf::endpoint;
use shunt_tests::eventually;
use shunt_tests::star::{CLIENT, DBS, PATIENCE, PROXY, Server};

use crate::lab::{LISTENER, PAIRS, fence, on_both, to};

#[test]
fn a_client_on_the_proxy_is_served_and_reset() -> Result<()> {
    on_both("local::a_client_on_the_proxy", |mut lab| {
        lab.attach()?;
        lab.lead(0)?;
        let call = lab.star.dial(PROXY, lab.listener()).with_context(|| lab.counts())?;
        assert_eq!((call.server.as_str(), call.seen_as.ip()), (DBS[0], lab.ip.address(2, 1)));
        call.echo()?;
        let idle = lab.star.dial(PROXY, lab.listener())?;
        assert_eq!(lab.flows()?.iter().filter(|(_, flow)| flow.state & state::TO_HOST != 0).count(), 2);
        lab.lead(1)?;
        ensure!(call.is_reset(), "the client was not reset");
        lab.star.server(0).say(idle.seen_as, "hello")?;
        eventually("the old server's end", PATIENCE, || Ok(lab.star.server(0).end_of(idle.seen_as)))?;
        assert_eq!(lab.star.dial(PROXY, lab.listener())?.server, DBS[1]);
        Ok(())
    })
}

#[test]
fn a_client_on_the_proxy_is_refused() -> Result<()> {
    on_both("local::a_client_on_the_proxy_is_refused", |mut lab| {
        lab.attach()?;
        lab.lead(0)?;
        let mut change = lab.tables.begin();
        change.lead(LISTENER, fence(kind::REFUSES));
        change.commit();
        let refused = lab.star.dial(PROXY, lab.listener()).map(drop).map_err(|error| error.kind());
        assert_eq!(refused, Err(ErrorKind::ConnectionRefused));
        Ok(())
    })
}

#[test]
fn a_backend_on_the_proxy_itself_is_reached_and_reset() -> Result<()> {
    const OWN: u16 = 3399;
    on_both("local::a_backend_on_the_proxy", |mut lab| {
        let server = Server::start("own", OWN)?;
        let (listener, backend) = (lab.listener(), SocketAddr::new(lab.ip.address(2, 1), OWN));
        lab.attach()?;
        let mut change = lab.tables.begin();
        change.assign(PAIRS[0], endpoint(listener), endpoint(backend));
        change.live(PAIRS[0], FOR_EVER);
        change.lead(LISTENER, to(PAIRS[0]));
        change.listen(endpoint(listener), LISTENER)?;
        change.commit();
        let mut idle = Vec::new();
        for host in [CLIENT, PROXY, DBS[0]] {
            let call = lab.star.dial(host, listener).with_context(|| lab.counts())?;
            assert_eq!((call.server.as_str(), call.seen_as.ip()), ("own", backend.ip()), "{host}");
            call.echo()?;
            idle.push(call);
        }
        let mut change = lab.tables.begin();
        change.live(PAIRS[0], 0);
        change.commit();
        ensure!(idle[0].is_reset(), "the client was not reset");
        for call in &idle[1..] {
            server.say(call.seen_as, "hello")?;
            eventually("the server's end", PATIENCE, || Ok(server.end_of(call.seen_as)))?;
        }
        Ok(())
    })
}

#[test]
fn a_backend_that_is_its_own_client_is_served() -> Result<()> {
    on_both("local::a_backend_that_is_its_own_client", |mut lab| {
        lab.attach()?;
        lab.lead(0)?;
        let call = lab.star.dial(DBS[0], lab.listener()).with_context(|| lab.counts())?;
        assert_eq!((call.server.as_str(), call.seen_as.ip()), (DBS[0], lab.ip.address(2, 1)));
        call.echo()?;
        lab.lead(1)?;
        ensure!(call.is_reset(), "the client was not reset");
        Ok(())
    })
}
