//! Clients on the proxy itself, and a backend that is its own client.

use std::io::ErrorKind;

use anyhow::{Context as _, Result, ensure};
use shunt_ebpf::common::flow::state;
use shunt_tests::eventually;
use shunt_tests::star::{DBS, PATIENCE, PROXY};

use crate::lab::on_both;

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
        change.lead(crate::lab::LISTENER, crate::lab::fence(shunt_ebpf::common::mapping::kind::REFUSES));
        change.commit();
        let refused = lab.star.dial(PROXY, lab.listener()).map(drop).map_err(|error| error.kind());
        assert_eq!(refused, Err(ErrorKind::ConnectionRefused));
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
