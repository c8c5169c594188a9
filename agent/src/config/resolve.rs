//! From host names to addresses, while a configuration is loaded. How a name is resolved is the caller's word, so that
//! tests need no DNS; that it may block is why names are resolved side by side.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, ToSocketAddrs};
use std::sync::Mutex;

/// The addresses of a host.
pub type Resolver<'a> = dyn Fn(&str) -> io::Result<Vec<IpAddr>> + Sync + 'a;

/// What became of each name: its addresses, or the resolver's words.
pub(super) type Resolved = BTreeMap<String, Result<Vec<IpAddr>, String>>;

/// Asks the operating system (`getaddrinfo`: hosts file, DNS).
pub fn system_resolver(host: &str) -> io::Result<Vec<IpAddr>> {
    Ok((host, 0).to_socket_addrs()?.map(|address| address.ip()).collect())
}

/// A resolver that does not answer costs seconds a name: so many are asked at once.
const AT_ONCE: usize = 16;

pub(super) fn resolve_all(names: BTreeSet<String>, resolver: &Resolver<'_>) -> Resolved {
    let threads = names.len().min(AT_ONCE);
    let waiting = Mutex::new(names.into_iter());
    let done = Mutex::new(Resolved::new());
    // A poisoned lock means that the resolver panicked in its thread, and the scope passes that panic on.
    let next = || waiting.lock().ok().and_then(|mut names| names.next());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(name) = next() {
                    let addresses = match resolver(&name) {
                        Ok(addresses) if addresses.is_empty() => Err("it has no address".to_owned()),
                        Ok(addresses) => Ok(addresses),
                        Err(error) => Err(error.to_string()),
                    };
                    if let Ok(mut done) = done.lock() {
                        done.insert(name, addresses);
                    }
                }
            });
        }
    });
    done.into_inner().unwrap_or_default()
}
