//! From texts to values, purely: durations, addresses, networks, address pools, words to choose from. What is refused comes
//! back as a [`Complaint`]; where it stands in a file is the caller's business.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;

use super::diagnostic::quote;

/// Why a text is refused, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Complaint {
    pub(super) message: String,
    pub(super) hint: Option<String>,
}

impl Complaint {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None }
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

pub(super) fn duration(key: &str, text: &str, (least, most): (Duration, Duration)) -> Result<Duration, Complaint> {
    let duration = humantime::parse_duration(text)
        .map_err(|_| Complaint::new(format!("{} is not a duration", quote(text))).hint(duration_hint(text)))?;
    let words = humantime::format_duration;
    if duration < least {
        let message = format!("`{key}` must be at least {}, not {}", words(least), words(duration));
        return Err(Complaint::new(message));
    }
    if duration > most {
        let message = format!("`{key}` must be at most {}, not {}", words(most), words(duration));
        return Err(Complaint::new(message));
    }
    Ok(duration)
}

fn duration_hint(text: &str) -> String {
    let number = text.trim();
    if !number.is_empty() && number.len() < 10 && number.bytes().all(|b| b.is_ascii_digit()) {
        return format!("which unit? \"{number}ms\", \"{number}s\" or \"{number}m\"");
    }
    "write it as \"500ms\", \"30s\", \"10m\" or \"1h\"".into()
}

/// One of a few words.
pub(super) fn choice<T: Copy>(key: &str, text: &str, choices: &[(&'static str, T)]) -> Result<T, Complaint> {
    if let Some((_, value)) = choices.iter().find(|(word, _)| *word == text) {
        return Ok(*value);
    }
    let words = || choices.iter().map(|(word, _)| *word);
    let all = words().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(", ");
    let meant = did_you_mean(text, words()).map_or(String::new(), |meant| format!("{meant} "));
    Err(Complaint::new(format!("{} is not a value of `{key}`", quote(text))).hint(format!("{meant}one of: {all}")))
}

/// Words of older texts, and what they are called here.
const OLD_WORDS: [(&str, &str); 5] = [
    ("master", "primary"),
    ("source", "primary"),
    ("slave", "replica"),
    ("secondary", "replica"),
    ("reject", "refuse"),
];

/// A hint at the word that somebody who wrote `text` may have meant.
pub(super) fn did_you_mean<'w>(text: &str, words: impl Iterator<Item = &'w str>) -> Option<String> {
    let plain: String = text.chars().take(64).map(|c| if c == '-' { '_' } else { c.to_ascii_lowercase() }).collect();
    let plain = OLD_WORDS.iter().find(|(old, _)| *old == plain).map_or(plain, |(_, now)| (*now).to_owned());
    let (distance, word) = words.map(|word| (strsim::damerau_levenshtein(&plain, word), word)).min()?;
    let near = distance <= (word.len().max(plain.len()) / 3).max(1);
    near.then(|| format!("did you mean `{word}`?"))
}

/// The name of a data centre; any word will do.
pub(super) fn data_centre(text: &str) -> Result<&str, Complaint> {
    if text.is_empty() { Err(Complaint::new("`dc` is empty").hint("leave it out")) } else { Ok(text) }
}

/// Where a server is: by its address, or by a name that still has to be resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Location {
    Address(SocketAddr),
    Name { host: String, port: u16 },
}

const MYSQL_PORT: u16 = 3306;

/// `db1.example:3306`, `10.0.0.11:3306`, `[fd00::11]:3306`; without a port it is 3306.
pub(super) fn location(text: &str) -> Result<Location, Complaint> {
    let (host, port) = split_port(text)?;
    let port = port.unwrap_or(MYSQL_PORT);
    match host {
        Host::Address(ip) => Ok(Location::Address(SocketAddr::new(reachable(ip)?, port))),
        Host::Name(host) => Ok(Location::Name { host: host.to_owned(), port }),
    }
}

/// The address of a listener or a socket: an IP address and a port, no name.
pub(super) fn socket_address(text: &str, example: &str) -> Result<SocketAddr, Complaint> {
    match split_port(text)? {
        (Host::Name(host), _) => Err(Complaint::new(format!("{} is not an IP address", quote(host)))
            .hint(format!("an address of this host is needed here, such as \"{example}\"; a name may change"))),
        (Host::Address(ip), None) => {
            let example = SocketAddr::new(ip, MYSQL_PORT);
            Err(Complaint::new(format!("{} has no port", quote(text))).hint(format!("such as \"{example}\"")))
        }
        (Host::Address(ip), Some(port)) => Ok(SocketAddr::new(ip, port)),
    }
}

enum Host<'t> {
    Address(IpAddr),
    Name(&'t str),
}

fn split_port(text: &str) -> Result<(Host<'_>, Option<u16>), Complaint> {
    let bad = |why: &str| Complaint::new(format!("{} is not an address: {why}", quote(text)));
    if text.is_empty() {
        return Err(Complaint::new("the address is empty").hint("such as \"10.0.0.11:3306\""));
    }
    if let Some(rest) = text.strip_prefix('[') {
        let (inside, after) = rest.split_once(']').ok_or_else(|| bad("`]` is missing"))?;
        let ip: Ipv6Addr = inside.parse().map_err(|_| bad(&format!("{} is not IPv6", quote(inside))))?;
        let port = match after {
            "" => None,
            _ => Some(port(after.strip_prefix(':').ok_or_else(|| bad("after `]` comes `:` and the port"))?)?),
        };
        return Ok((Host::Address(ip.into()), port));
    }
    if let Ok(ip) = text.parse::<Ipv6Addr>() {
        // `fd00::1:3306` is an address without a port, whatever its writer meant.
        let complaint = Complaint::new(format!("{} is IPv6 without brackets", quote(text)));
        return Err(complaint.hint(format!("such as \"[{ip}]:{MYSQL_PORT}\"")));
    }
    if text.contains("://") {
        return Err(bad("it is a URL").hint("only host and port, such as \"10.0.0.11:3306\""));
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, number)) => (host, Some(port(number)?)),
        None => (text, None),
    };
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok((Host::Address(ip), port));
    }
    host_name(host).map_err(|why| bad(&why))?;
    Ok((Host::Name(host), port))
}

fn port(text: &str) -> Result<u16, Complaint> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match text.parse::<u16>() {
        Ok(0) if digits => Err(Complaint::new("port 0 is no port").hint("1 to 65535; MySQL's own is 3306")),
        Ok(port) if digits => Ok(port),
        _ => Err(Complaint::new(format!("{} is not a port", quote(text))).hint("1 to 65535; MySQL's own is 3306")),
    }
}

/// RFC 1123, and `_`, which resolvers take and people use.
fn host_name(host: &str) -> Result<(), String> {
    let host = host.strip_suffix('.').unwrap_or(host);
    if host.is_empty() {
        return Err("the host is missing".into());
    }
    if let Some(c) = host.chars().find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'))) {
        return Err(format!("{} cannot be in a host's name", quote(&c.to_string())));
    }
    if host.len() > 253 || host.split('.').any(|label| label.is_empty() || label.len() > 63) {
        return Err("a host's name has at most 253 characters, between two dots 1 to 63".into());
    }
    // A name whose last label is a number is a mistyped IPv4 address (so says the URL standard, too).
    if host.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit())) {
        return Err("IPv4 is four numbers from 0 to 255".into());
    }
    Ok(())
}

/// Refuses addresses that NAT cannot lead to, or from.
pub(super) fn reachable(ip: IpAddr) -> Result<IpAddr, Complaint> {
    let refused = |what: &str| Err(Complaint::new(format!("{ip} is {what}")));
    match ip {
        _ if ip.is_unspecified() => {
            Err(Complaint::new(format!("{ip} is every address at once: NAT needs a single one"))
                .hint("write the address that clients connect to"))
        }
        _ if ip.is_multicast() => refused("a multicast address"),
        IpAddr::V4(v4) if v4.is_broadcast() => refused("the broadcast address"),
        IpAddr::V6(v6) if v6.is_unicast_link_local() => {
            refused("a link-local address, which means nothing without its interface")
        }
        IpAddr::V6(v6) => {
            match v6.to_ipv4_mapped() {
                Some(v4) => Err(Complaint::new(format!("{ip} is an IPv4 address in IPv6's clothes"))
                    .hint(format!("write it as {v4}"))),
                None => Ok(ip),
            }
        }
        IpAddr::V4(_) => Ok(ip),
    }
}

/// A network in CIDR form, or a single address. What lies beyond the prefix must be zero.
pub(super) fn network(text: &str) -> Result<IpNet, Complaint> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Ok(IpNet::from(ip));
    }
    let net: IpNet = text.parse().map_err(|_| {
        Complaint::new(format!("{} is not a network", quote(text))).hint("such as \"10.0.0.0/8\" or \"fd00::/8\"")
    })?;
    if net.trunc() != net {
        let complaint = Complaint::new(format!("{} has bits beyond its prefix", quote(text)));
        return Err(complaint.hint(format!("did you mean \"{}\" or \"{}\"?", net.trunc(), IpNet::from(net.addr()))));
    }
    Ok(net)
}

/// `10.0.0.240-10.0.0.247`, first and last, or a single address.
pub(super) fn address_range(text: &str) -> Result<(IpAddr, IpAddr), Complaint> {
    let bad = || {
        let hint = "such as \"10.0.0.240-10.0.0.247\" or \"10.0.0.240\"";
        Complaint::new(format!("{} is not a range of addresses", quote(text))).hint(hint)
    };
    let address = |text: &str| text.trim().parse::<IpAddr>().map_err(|_| bad()).and_then(reachable);
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (address(first)?, address(last)?);
    if first.is_ipv4() != last.is_ipv4() {
        return Err(Complaint::new(format!("{} begins in one address family and ends in the other", quote(text))));
    }
    if first > last {
        let complaint = Complaint::new(format!("{} ends before it begins", quote(text)));
        return Err(complaint.hint(format!("did you mean \"{last}-{first}\"?")));
    }
    Ok((first, last))
}
