//! What can be said about this host before anything is installed on it: does nf_tables do all we need, and is a table of
//! ours there?

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use shunt_core::datapath::DatapathError;

use crate::element::{Key, Pair, Value};
use crate::netlink::batch::Batch;
use crate::netlink::read;
use crate::netlink::socket::Netlink;
use crate::netlink::write;
use crate::owner::own;
use crate::ruleset::Layout;
use crate::schema::Reason;
use crate::state::plan::Op;
use crate::transaction::{Rejected, kernel};

/// Installs our whole table under another name and takes it away again, in one transaction: the kernel checks all of it
/// and no packet ever meets it. The error names the object that this kernel, or this user, cannot have. A table that
/// has this name already stays as it is, and is an error.
pub fn scratch_transaction(table: &str) -> Result<(), DatapathError> {
    let mut netlink = Netlink::open().map_err(kernel("open a netlink socket to netfilter"))?;
    let mut batch = Batch::new(netlink.next_seq());
    let layout = Layout { source_limits: [100].into(), ..Layout::of(table) };
    write::create(&mut batch, table, &layout);
    let now = Instant::now();
    write::ops(&mut batch, table, &samples(now), now);
    write::delete_table(&mut batch, table);
    Rejected::commit(&mut netlink, batch).map(drop).map_err(|rejected| rejected.name(table))
}

/// Whether a table of that name is there and is ours. A kernel that knows no nf_tables has none.
pub fn holds_table(table: &str) -> Result<bool, DatapathError> {
    let tried = |(what, source)| DatapathError::Kernel { what, source };
    let found = match Netlink::open() {
        Ok(mut netlink) => read::table(&mut netlink, table).map_err(tried),
        Err(source) => Err(tried(("open a netlink socket to netfilter".to_owned(), source))),
    };
    match found {
        Ok(found) => Ok(found.is_some_and(|found| own(table, found.comment.as_deref()).is_ok())),
        // No netlink for netfilter, or nothing behind it that answers (nfnetlink_rcv_msg).
        Err(DatapathError::Kernel { source, .. })
            if matches!(source.raw_os_error(), Some(libc::EPROTONOSUPPORT | libc::EOPNOTSUPP | libc::EINVAL)) =>
        {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// An element for every set.
fn samples(now: Instant) -> Vec<Op> {
    let mut ops = Vec::new();
    // Of RFC 5737 and RFC 3849: addresses for examples.
    for (listener, backend) in [("192.0.2.1:3306", "192.0.2.2:3306"), ("[2001:db8::1]:3306", "[2001:db8::2]:3306")] {
        let (Ok(listener), Ok(backend)) = (listener.parse(), backend.parse()) else { continue };
        let plain = Value::default;
        let mapped = || Value { backend: Some(backend), ..Value::default() };
        let timed = || Value { deadline: Some(now + Duration::from_secs(1)), ..Value::default() };
        let elements = [
            (Key::Primary(listener), mapped()),
            (Key::Spread(listener, 0), mapped()),
            (Key::Live(Pair { listener, backend }), timed()),
            (Key::Listener(listener), plain()),
            (Key::Fenced(listener), plain()),
            (Key::Hold(listener), timed()),
            (Key::Masquerade(listener), plain()),
            (Key::Backend(backend), plain()),
            (Key::Restricted(listener), plain()),
            (Key::Allow(listener, IpNet::from(backend.ip())), plain()),
            (Key::Limited(listener), Value { limit: Some(100), ..plain() }),
            (Key::PerSource(listener, 100), plain()),
            (Key::Refused(listener, Reason::OverLimit), plain()),
            (Key::Pool(listener, 0), Value { backend: Some(SocketAddr::new(backend.ip(), 0)), ..plain() }),
        ];
        ops.extend(elements.map(|(key, value)| Op::Add(key, value)));
    }
    ops
}
