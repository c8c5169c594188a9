//! Why this datapath cannot hold a mapping.

use std::net::{IpAddr, SocketAddr};

use shunt_core::config::Snat;
use shunt_core::mapping::{Mapping, Route};
use shunt_ebpf_common::mapping::MAX_CHOICES;
use shunt_ebpf_common::pool::MAX_RANGES;

use super::lists::pool;

/// The error says which mapping it is.
pub fn check(mapping: &Mapping) -> Result<(), String> {
    let listener = mapping.listener;
    let refuse = |why: String| Err(format!("listener {listener}: {why}"));
    if listener.ip().is_unspecified() {
        return refuse("the eBPF datapath maps exact addresses, not the unspecified one".to_owned());
    }
    if let Snat::Pool(ranges) = &mapping.snat {
        if pool(ranges).is_none() {
            let limit = format!("1 to {MAX_RANGES} ranges, each of at most {} addresses", u32::MAX);
            return refuse(format!("a pool of source addresses has {limit}"));
        }
        if let Some((other, _)) = ranges.iter().find(|(first, _)| first.is_ipv4() != listener.is_ipv4()) {
            return refuse(format!("source address {other} is of another address family, and NAT stays within one"));
        }
    }
    let admission = &mapping.admission;
    if let Some(other) = admission.allow.iter().find(|net| net.addr().is_ipv4() != listener.is_ipv4()) {
        return refuse(format!("network {other} is of another address family"));
    }
    if admission.limit == Some(0) || admission.limit_per_source == Some(0) {
        return refuse("a limit of no connections, which a fence is for".to_owned());
    }
    if mapping.spared.is_some() && !mapping.route.is_fenced() {
        return refuse("it spares a backend, which only a fenced one does".to_owned());
    }
    let backends = mapping.route.backends();
    if let Route::Spread(weighted) = &mapping.route {
        if !(1..=MAX_CHOICES).contains(&weighted.len()) {
            return refuse(format!("{} backends; 1 to {MAX_CHOICES} can share a listener", weighted.len()));
        }
        let total = weighted.iter().try_fold(0_u32, |total, backend| total.checked_add(backend.weight));
        if total.is_none_or(|total| total == 0) {
            return refuse(format!("the weights come to more than {}, or to nothing", u32::MAX));
        }
    }
    for address in std::iter::once(&listener).chain(&backends).chain(&mapping.spared) {
        if matches!(address, SocketAddr::V6(v6) if v6.scope_id() != 0) {
            return refuse(format!("{address} has a scope, which NAT does not know"));
        }
        if matches!(address.ip(), IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some()) {
            return refuse(format!("{address} is an IPv4 address in the clothes of IPv6"));
        }
        if address.is_ipv4() != listener.is_ipv4() {
            return refuse(format!("backend {address} is of another address family, and NAT stays within one"));
        }
    }
    Ok(())
}
