//! `shunt.toml`: what the agent itself is told. Every key has a default, so the file may be absent.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use shunt_core::ClusterName;
use shunt_core::config::ProbeConfig;

use super::diagnostic::{Diagnostic, Place, Severity, quote};
use super::hooks::{self, Hooks};
use super::page::{Page, permission_hint};
use super::password::{self, Password};
use super::section::Section;
use super::values::{self, Complaint};

/// The agent's own configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentConfig {
    pub datapath: DatapathKind,
    /// eBPF: where clients and servers are; empty: those that route to them.
    pub interfaces: Vec<String>,
    /// eBPF: the folder of a bpf file system that programs and maps are pinned in.
    pub pins: PathBuf,
    /// eBPF: how many connections the flow table has room for.
    pub max_flows: u32,
    /// eBPF: how much the programs say.
    pub ebpf_log: EbpfLog,
    /// nftables: the private table's name.
    pub table: String,
    /// Where metrics and the status page are; `None`: nowhere.
    pub http: Option<SocketAddr>,
    /// How long the kernel goes on without the agent; `None`: for ever.
    pub lease: Option<Duration>,
    /// The data centre that the agent is in.
    pub dc: Option<String>,
    /// What clusters start from.
    pub probe: ProbeConfig,
    /// By name. `default` is absent when nobody uses it and it has no password.
    pub credentials: BTreeMap<String, Credentials>,
    pub hooks: Hooks,
}

/// What an agent without a file is told, but for its password.
impl Default for AgentConfig {
    fn default() -> Self {
        Self {
            datapath: DatapathKind::Nft,
            interfaces: Vec::new(),
            pins: DEFAULT_PINS.into(),
            max_flows: DEFAULT_MAX_FLOWS,
            ebpf_log: EbpfLog::Off,
            table: DEFAULT_TABLE.into(),
            http: Some(DEFAULT_HTTP),
            lease: None,
            dc: None,
            probe: ProbeConfig::default(),
            credentials: BTreeMap::new(),
            hooks: Hooks::default(),
        }
    }
}

impl AgentConfig {
    /// Whether the two are the same in what is read only when the agent starts.
    pub fn runs_as(&self, other: &Self) -> bool {
        let ebpf = |config: &Self| (config.max_flows, config.ebpf_log);
        (self.datapath, &self.interfaces, &self.pins, ebpf(self), &self.table, self.http)
            == (other.datapath, &other.interfaces, &other.pins, ebpf(other), &other.table, other.http)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DatapathKind {
    Nft,
    Ebpf,
}

impl DatapathKind {
    /// As the configuration says it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Nft => "nft",
            Self::Ebpf => "ebpf",
        }
    }
}

/// How much the eBPF programs say of what becomes of packets, by the log's target `shunt::ebpf`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EbpfLog {
    Off,
    /// What should not be.
    Error,
    /// Also connections that are refused, and packets that are dropped.
    Info,
    /// Also connections that are opened or held.
    Debug,
}

/// Whom to log in as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    pub user: String,
    pub password_file: PathBuf,
    pub password: Password,
}

/// The credentials that a cluster has when it names none.
pub(super) const DEFAULT_CREDENTIALS: &str = "default";
const DEFAULT_USER: &str = "shunt";
const DEFAULT_TABLE: &str = "shunt";
const DEFAULT_PINS: &str = "/sys/fs/bpf/shunt";
const DEFAULT_MAX_FLOWS: u32 = 1_000_000;
const DEFAULT_HTTP: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9306);

/// Which other section a key belongs to.
pub(super) const HOMES: [(&str, &str); 23] = [
    ("datapath", "in `[agent]`"),
    ("interfaces", "in `[agent]`"),
    ("pins", "in `[agent]`"),
    ("max_flows", "in `[agent]`"),
    ("ebpf_log", "in `[agent]`"),
    ("table", "in `[agent]`"),
    ("http", "in `[agent]`"),
    ("lease", "in `[agent]`"),
    ("dc", "in `[agent]`"),
    ("interval", "in `[probe]`"),
    ("timeout", "in `[probe]`"),
    ("failures", "in `[probe]`"),
    ("user", "in `[credentials.default]`"),
    ("password_file", "in `[credentials.default]`"),
    ("fence", "in `[hooks]`"),
    ("before_promote", "in `[hooks]`"),
    ("after_failover", "in `[hooks]`"),
    ("notify", "in `[hooks]`"),
    ("command", IN_A_HOOK),
    ("secret_file", IN_A_HOOK),
    ("name", "in a cluster's own file, in clusters.d"),
    ("servers", "in a cluster's own file, in clusters.d"),
    ("listen", "in a cluster's own file, in clusters.d"),
];

const IN_A_HOOK: &str = "to a hook: `notify = { url = \"https://chat.example/x\", secret_file = \"chat.key\" }`";

/// The agent's file as far as it could be read.
pub(super) struct AgentDraft {
    pub(super) page: Page,
    pub(super) config: AgentConfig,
    /// All credentials that the file names, usable or not.
    pub(super) credential_names: BTreeSet<String>,
    /// What stands against the credentials `default` that no section asks for: an error only if some cluster uses them.
    pub(super) implied: Option<Diagnostic>,
}

/// The folders in which passwords are looked for.
pub(super) struct PasswordFolders<'a> {
    pub(super) config: &'a Path,
    /// `$CREDENTIALS_DIRECTORY`, where systemd puts what `LoadCredential=` names.
    pub(super) systemd: Option<&'a Path>,
}

impl PasswordFolders<'_> {
    /// The password file of credentials that name none.
    fn usual(&self, name: &str) -> PathBuf {
        let file = if name == DEFAULT_CREDENTIALS { "password".to_owned() } else { format!("password.{name}") };
        let systemd = self.systemd.map(|folder| folder.join(&file)).filter(|path| path.exists());
        systemd.unwrap_or_else(|| self.config.join(file))
    }
}

pub(super) fn read(page: Page, text: &str, folders: &PasswordFolders<'_>) -> AgentDraft {
    let document = page.parse(text);
    let mut top = Section::new(&page, "the file", page.top(), &document);
    let mut config = AgentConfig::default();
    if let Some(section) = top.section("agent") {
        read_agent(section, &mut config);
    }
    if let Some(section) = top.section("probe") {
        config.probe = read_probe(section, config.probe, &HOMES);
    }
    if let Some(section) = top.section("hooks") {
        config.hooks = hooks::read(section, folders);
    }
    let mut credential_names = BTreeSet::from([DEFAULT_CREDENTIALS.to_owned()]);
    let mut default_is_written = false;
    for (name, span, section) in top.named_sections("credentials") {
        credential_names.insert(name.to_owned());
        default_is_written |= name == DEFAULT_CREDENTIALS;
        if ClusterName::new(name).is_err() {
            let message = format!("{} cannot be the name of credentials", quote(name));
            page.error(&span, message, Some("letters, digits, `.`, `_` and `-`".into()));
        } else if let Some(credentials) = section.and_then(|section| read_credentials(name, section, folders)) {
            config.credentials.insert(name.to_owned(), credentials);
        }
    }
    top.finish(&HOMES);
    let mut implied = None;
    if !default_is_written {
        match implied_credentials(folders) {
            Ok((credentials, warning)) => {
                if let Some(warning) = warning {
                    page.report(warning);
                }
                config.credentials.insert(DEFAULT_CREDENTIALS.into(), credentials);
            }
            Err(diagnostic) => implied = Some(*diagnostic),
        }
    }
    AgentDraft { page, config, credential_names, implied }
}

fn read_agent(mut section: Section<'_>, config: &mut AgentConfig) {
    let datapath = section.get("datapath");
    // With a word that is neither, nothing is said about the keys of either.
    let mut chosen = Some(DatapathKind::Nft);
    if let Some(value) = &datapath {
        chosen = value.choice(&[("nft", DatapathKind::Nft), ("ebpf", DatapathKind::Ebpf)]);
        if chosen == Some(DatapathKind::Ebpf) && !cfg!(feature = "ebpf") {
            value.complain(Complaint::new("this shunt is built without the eBPF datapath").hint(
                "write \"nft\", or install a build with it: shunt never falls back to another datapath by itself",
            ));
        }
        config.datapath = chosen.unwrap_or(config.datapath);
    }
    let keys = ["interfaces", "pins", "max_flows", "ebpf_log"].map(|key| section.get(key));
    if chosen == Some(DatapathKind::Nft) {
        let found = keys.iter().flatten();
        found.for_each(|value| value.complain(Complaint::new(only_with_ebpf(value.key)).hint(EITHER)));
    }
    let [interfaces, pins, max_flows, ebpf_log] = keys;
    if let Some(list) = interfaces.and_then(|value| value.list()) {
        config.interfaces = list.iter().filter_map(|value| value.parsed(interface)).collect();
    }
    if let Some(pins) = pins.and_then(|value| value.parsed(pins_folder)) {
        config.pins = pins;
    }
    if let Some(max_flows) = max_flows.and_then(|value| value.integer(MAX_FLOWS)) {
        config.max_flows = max_flows;
    }
    if let Some(level) = ebpf_log.and_then(|value| value.choice(&EBPF_LOG)) {
        config.ebpf_log = level;
    }
    if let Some(table) = section.get("table").and_then(|value| value.parsed(table_name)) {
        config.table = table;
    }
    if let Some(http) = section.get("http").and_then(|value| value.parsed(http)) {
        config.http = http;
    }
    config.lease = section.duration("lease", LEASE);
    config.dc = section.get("dc").and_then(|value| value.parsed(values::data_centre)).map(str::to_owned);
    section.finish(&HOMES);
}

const EITHER: &str = "take it out, or write `datapath = \"ebpf\"`";

fn only_with_ebpf(key: &str) -> String {
    format!("`{key}` is for the eBPF datapath, and this agent's is nftables")
}

/// Two entries of the table a flow, and the kernel makes room for all of them at once: 482 bytes each flow.
const MAX_FLOWS: (u32, u32) = (1_000, 100_000_000);

const EBPF_LOG: [(&str, EbpfLog); 4] =
    [("off", EbpfLog::Off), ("error", EbpfLog::Error), ("info", EbpfLog::Info), ("debug", EbpfLog::Debug)];

/// Shorter than the lower bound, a lease would end in a moment's load; longer than the upper one, it protects nobody.
const LEASE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(3600));

/// Bounds of what is asked of servers: below the lower ones probing is load, above the upper ones it is no probing.
const INTERVAL: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(3600));
const TIMEOUT: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(600));
const FAILURES: (u32, u32) = (1, 1000);

/// A `[probe]`, of the agent or of a cluster; what it leaves out is as in `defaults`.
pub(super) fn read_probe(mut section: Section<'_>, defaults: ProbeConfig, homes: &[(&str, &str)]) -> ProbeConfig {
    let probe = ProbeConfig {
        interval: section.duration("interval", INTERVAL).unwrap_or(defaults.interval),
        timeout: section.duration("timeout", TIMEOUT).unwrap_or(defaults.timeout),
        failures: section.integer("failures", FAILURES).unwrap_or(defaults.failures),
    };
    section.finish(homes);
    probe
}

fn read_credentials(name: &str, mut section: Section<'_>, folders: &PasswordFolders<'_>) -> Option<Credentials> {
    let user = section.get("user").map_or(Some(DEFAULT_USER), |value| value.parsed(user_name));
    let file = section.get("password_file");
    let written = file.as_ref().map(|value| value.parsed(file_name));
    let page = section.page;
    let span = file.map_or_else(|| section.span.clone(), |value| value.span);
    section.finish(&HOMES);
    let path = match written {
        Some(path) => folders.config.join(path?),
        None => folders.usual(name),
    };
    match password::read(&path) {
        Ok(file) => {
            if file.readable_by_all {
                page.warning(&span, readable_by_all(&path), Some(chmod(&path)));
            }
            Some(Credentials { user: user?.to_owned(), password_file: path, password: file.password })
        }
        Err(source) => {
            let message = format!("cannot read the password file {}: {source}", path.display());
            page.error(&span, message, permission_hint(&source));
            None
        }
    }
}

/// The credentials `default` when no section writes them down, and a warning about their file.
fn implied_credentials(folders: &PasswordFolders<'_>) -> Result<(Credentials, Option<Diagnostic>), Box<Diagnostic>> {
    let path = folders.usual(DEFAULT_CREDENTIALS);
    match password::read(&path) {
        Ok(file) => {
            let warning = file.readable_by_all.then(|| Diagnostic {
                severity: Severity::Warning,
                ..Diagnostic::error(Place::file(&path), readable_by_all(&path)).hint(chmod(&path))
            });
            let user = DEFAULT_USER.to_owned();
            Ok((Credentials { user, password_file: path, password: file.password }, warning))
        }
        Err(source) => {
            let message = format!("cannot read the password file of the credentials `default`: {source}");
            let hint = format!(
                "write the password of the MySQL user `{DEFAULT_USER}` into it, or name another file by \
                 `password_file` in `[credentials.default]` of shunt.toml"
            );
            Err(Box::new(Diagnostic::error(Place::file(path), message).hint(hint)))
        }
    }
}

fn readable_by_all(path: &Path) -> String {
    format!("everybody on this host can read the password file {}", path.display())
}

pub(super) fn chmod(path: &Path) -> String {
    format!("chmod 640 {0} && chgrp shunt {0}", path.display())
}

fn user_name(text: &str) -> Result<&str, Complaint> {
    if text.is_empty() || text.contains('\0') { Err(Complaint::new("the user has no name")) } else { Ok(text) }
}

pub(super) fn file_name(text: &str) -> Result<&str, Complaint> {
    if text.is_empty() || text.contains('\0') { Err(Complaint::new("the file has no name")) } else { Ok(text) }
}

fn http(text: &str) -> Result<Option<SocketAddr>, Complaint> {
    if text.is_empty() { Ok(None) } else { values::socket_address(text, "127.0.0.1:9306").map(Some) }
}

/// IFNAMSIZ is 16 with the final NUL; the kernel refuses `/`, blanks, `.` and `..` (`dev_valid_name`).
fn interface(text: &str) -> Result<String, Complaint> {
    let good = (1..=15).contains(&text.len())
        && !matches!(text, "." | "..")
        && !text.contains(|c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control());
    if good { Ok(text.to_owned()) } else { Err(Complaint::new(format!("{} is not an interface's name", quote(text)))) }
}

/// A folder is removed when it is purged, so it is one of its own, never a bpf file system's root.
fn pins_folder(text: &str) -> Result<PathBuf, Complaint> {
    let path = Path::new(text);
    let is_plain = path.components().all(|part| !matches!(part, Component::ParentDir));
    if path.is_absolute() && is_plain && path.parent().is_some() && !text.contains('\0') {
        return Ok(path.to_path_buf());
    }
    Err(Complaint::new(format!("{} is not an absolute path", quote(text)))
        .hint(format!("a folder in a bpf file system, such as \"{DEFAULT_PINS}\"")))
}

/// What `nft` itself can write without quotes, so that an operator can look at the table.
fn table_name(text: &str) -> Result<String, Complaint> {
    let good = (1..=63).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
        && text.as_bytes()[0].is_ascii_alphabetic();
    if good {
        return Ok(text.to_owned());
    }
    Err(Complaint::new(format!("{} cannot be the name of a table", quote(text)))
        .hint("1 to 63 letters, digits, `_`, `-` and `.`, beginning with a letter"))
}
