//! What only shows when files are laid side by side: a name or a listener that is claimed twice, and listeners that are
//! somebody's server, which would be a loop. Of two files at odds the first by name stands, be it broken or not: whether
//! the second is served must not hang on a typing error in the first.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;

use shunt_core::ClusterName;

use super::cluster::Draft;
use super::diagnostic::{Diagnostic, Place, Severity};
use super::page::Page;

/// Compares the files, which are in the order of their names, and notes what is at odds on the later page.
pub(super) fn check(files: &[(Page, Draft)], http: Option<SocketAddr>) {
    let mut names: BTreeMap<&ClusterName, Place> = BTreeMap::new();
    let mut listeners: BTreeMap<SocketAddr, Place> = BTreeMap::new();
    let mut servers: BTreeMap<SocketAddr, Place> = BTreeMap::new();
    for (page, draft) in files {
        if let Some((name, span)) = &draft.name {
            claim(&mut names, name, page, span, |_| format!("there are two clusters `{name}`"), None);
        }
        check_servers(page, draft, &listeners, &mut servers);
        for (address, span) in draft.listeners.iter().filter_map(|listener| listener.address.as_ref()) {
            let message = |elsewhere: bool| {
                let whose = if elsewhere { "another cluster" } else { "this file" };
                format!("the listener {address} overlaps with one of {whose}")
            };
            claim(&mut listeners, *address, page, span, message, None);
            if let Some(server) = servers.get(address) {
                let message = format!("the listener {address} is also a server: its connections would come back to it");
                let error = Diagnostic::error(page.place(span), message);
                let other = Some((server.clone(), "the server".into()));
                page.report(Diagnostic { other, ..error });
            }
            let http = http.filter(|http| {
                http.port() == address.port() && (http.ip() == address.ip() || http.ip().is_unspecified())
            });
            if let Some(http) = http {
                let message = format!("the listener {address} takes the place of the agent's own `http` at {http}");
                page.error(span, message, Some("give one of them another port".into()));
            }
        }
    }
}

fn check_servers(
    page: &Page,
    draft: &Draft,
    listeners: &BTreeMap<SocketAddr, Place>,
    servers: &mut BTreeMap<SocketAddr, Place>,
) {
    for server in &draft.servers {
        let Some(address) = server.address else { continue };
        if let Some(listener) = listeners.get(&address) {
            let message = format!("the server {address} is a listener of another cluster, not a server");
            let error = Diagnostic::error(page.place(&server.span), message);
            let other = Some((listener.clone(), "the listener".into()));
            page.report(Diagnostic { other, ..error.hint("name the MySQL server itself") });
        }
        let message = |_| format!("the server {address} is in two clusters");
        claim(servers, address, page, &server.span, message, Some("it can only follow one of them".into()));
    }
}

/// Notes on the page that something is claimed a second time. Servers are only warned about: two listeners' clusters
/// may share one for a while, as when a cluster is split.
fn claim<K: Ord>(
    claims: &mut BTreeMap<K, Place>,
    key: K,
    page: &Page,
    span: &Range<usize>,
    message: impl Fn(bool) -> String,
    only_a_warning: Option<String>,
) {
    let Some(first) = claims.get(&key) else {
        claims.insert(key, page.place(span));
        return;
    };
    let severity = if only_a_warning.is_some() { Severity::Warning } else { Severity::Error };
    let message = message(first.file != page.path);
    let other = Some((first.clone(), "the first one".to_owned()));
    page.report(Diagnostic { severity, hint: only_a_warning, other, ..Diagnostic::error(page.place(span), message) });
}
