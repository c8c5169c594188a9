//! Who is who in a flow.

use std::net::SocketAddr;

use shunt_core::flow;
use shunt_ebpf_common::flow::{Address, Endpoint, Tuple};

use crate::flows::Both;
use crate::{endpoint, socket_address};

pub fn client(flow: &Both) -> SocketAddr {
    source(&flow.tuple)
}

pub fn listener(flow: &Both) -> SocketAddr {
    target(&flow.tuple)
}

pub fn backend(flow: &Both) -> SocketAddr {
    target(&flow.client.rewritten)
}

/// The client, as the backend sees it.
pub fn seen_as(flow: &Both) -> SocketAddr {
    source(&flow.client.rewritten)
}

pub fn source(tuple: &Tuple) -> SocketAddr {
    at(tuple.source, tuple.source_port)
}

pub fn target(tuple: &Tuple) -> SocketAddr {
    at(tuple.target, tuple.target_port)
}

/// The flow of which this is the client's direction.
pub fn flow(key: &Tuple) -> flow::Tuple {
    flow::Tuple { client: source(key), listener: target(key) }
}

/// Its client's direction.
pub fn key(flow: &flow::Tuple) -> Tuple {
    tuple(flow.client, flow.listener)
}

/// As a packet says it.
pub fn tuple(from: SocketAddr, to: SocketAddr) -> Tuple {
    let (from, to) = (endpoint(from), endpoint(to));
    Tuple { source: from.address, target: to.address, source_port: from.port, target_port: to.port, zero: 0 }
}

fn at(address: Address, port: u16) -> SocketAddr {
    socket_address(&Endpoint { address, port, zero: 0 })
}
