//! The configuration: `shunt.toml` and the files of `clusters.d`, read, checked and typed in one go. [`load`] finds every
//! error at once, over all files, and gives back every cluster whose own file is good: a bad one takes no other down.
//!
//! The way of a file: a `page` parses it, a `section` reads a table's keys by type, `agent` and `cluster` know which keys
//! there are; names are resolved (`resolve`), files compared (`across`), and what was found is rendered.

mod across;
mod agent;
mod cluster;
mod diagnostic;
mod hooks;
mod listen;
mod page;
mod password;
mod render;
mod resolve;
mod section;
mod servers;
mod values;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use shunt_core::ClusterName;
use shunt_core::config::ClusterConfig;

pub use agent::{AgentConfig, Credentials, DatapathKind, EbpfLog};
pub use diagnostic::{Diagnostic, Place, Severity};
pub use hooks::{Call, Hook, Hooks, Secret, Webhook};
pub use password::Password;
pub use render::render;
pub use resolve::{Resolver, system_resolver};

use agent::{AgentDraft, DEFAULT_CREDENTIALS, PasswordFolders};
use cluster::AgentSays;
use page::Page;

/// A configuration folder as it was read.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub dir: PathBuf,
    /// `None`: the agent's file has an error.
    pub agent: Option<AgentConfig>,
    /// Of the good files, in the order of the files' names.
    pub clusters: Vec<ClusterConfig>,
    /// The file of each of these. Whoever remembers this knows whose file is broken when not even its name can be read.
    pub files: BTreeMap<PathBuf, ClusterName>,
    pub broken: Vec<BrokenFile>,
    /// Whether the folder of clusters could be listed. If not, a cluster that is not here may well exist: whoever serves
    /// clusters then removes none.
    pub is_complete: bool,
    /// By file, then by place.
    pub diagnostics: Vec<Diagnostic>,
}

/// A cluster's file with an error in it, and what could be made out of it nevertheless: with that, whoever serves the
/// cluster already knows what to keep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokenFile {
    pub path: PathBuf,
    pub cluster: Option<ClusterName>,
    pub listeners: Vec<SocketAddr>,
}

impl Loaded {
    pub fn has_errors(&self) -> bool {
        self.diagnostics.iter().any(|d| d.severity == Severity::Error)
    }

    /// For people; see [`render()`].
    pub fn render(&self, colour: bool) -> String {
        render(&self.dir, &self.diagnostics, colour)
    }
}

/// Reads the configuration folder `dir`. It blocks: files are read and names resolved.
pub fn load(dir: &Path, resolver: &Resolver<'_>) -> Loaded {
    let systemd = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
    load_with(dir, systemd.as_deref(), resolver)
}

/// As [`load`], with systemd's folder of credentials as an argument.
pub fn load_with(dir: &Path, systemd_credentials: Option<&Path>, resolver: &Resolver<'_>) -> Loaded {
    let mut loaded = Loaded {
        dir: dir.to_owned(),
        agent: None,
        clusters: Vec::new(),
        files: BTreeMap::new(),
        broken: Vec::new(),
        is_complete: false,
        diagnostics: Vec::new(),
    };
    if let Err(source) = std::fs::read_dir(dir) {
        let message = format!("cannot read the configuration folder: {source}");
        let hint = if source.kind() == io::ErrorKind::NotFound {
            "create it, or name another with --config DIR".to_owned()
        } else {
            page::permission_hint(&source).unwrap_or_else(|| "--config DIR names a folder".into())
        };
        loaded.diagnostics.push(Diagnostic::error(Place::file(dir), message).hint(hint));
        return loaded;
    }
    let folders = PasswordFolders { config: dir, systemd: systemd_credentials };
    let agent = read_agent(dir.join("shunt.toml"), &folders);
    let paths = list_clusters(&dir.join("clusters.d"), &mut loaded);

    let says = AgentSays {
        probe: agent.config.probe,
        lease: agent.config.lease,
        dc: agent.config.dc.as_deref(),
        hooks: &agent.config.hooks,
        credential_names: (!agent.page.is_torn()).then_some(&agent.credential_names),
    };
    let read = |path| {
        let (page, text) = Page::open(path);
        let draft = cluster::read(&page, &text, &says);
        (page, draft)
    };
    let mut files: Vec<_> = paths.into_iter().map(read).collect();
    let names: BTreeSet<String> =
        files.iter().flat_map(|(_, draft)| draft.names_to_resolve()).map(str::to_owned).collect();
    let resolved = resolve::resolve_all(names, resolver);
    for (page, draft) in &mut files {
        draft.settle(page, &resolved);
    }
    across::check(&files, agent.config.http);

    let wants_default = files.iter().filter(|(page, _)| !page.is_torn()).any(|(_, draft)| {
        [&draft.credentials, &draft.replication_credentials].iter().any(|name| *name == DEFAULT_CREDENTIALS)
    });
    finish_agent(agent, wants_default, &mut loaded);
    for (page, draft) in files {
        finish_cluster(page, draft, &mut loaded);
    }
    loaded
}

fn read_agent(path: PathBuf, folders: &PasswordFolders<'_>) -> AgentDraft {
    let absent = matches!(std::fs::symlink_metadata(&path), Err(error) if error.kind() == io::ErrorKind::NotFound);
    let (page, text) = if absent { (Page::blank(path), String::new()) } else { Page::open(path) };
    agent::read(page, &text, folders)
}

/// The files `*.toml` of a folder by name, without the hidden ones. No folder: no files.
fn list_clusters(dir: &Path, loaded: &mut Loaded) -> Vec<PathBuf> {
    let read = || -> io::Result<Vec<PathBuf>> {
        let mut paths = Vec::new();
        for entry in std::fs::read_dir(dir)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.ends_with(".toml") && !name.starts_with('.') {
                paths.push(path);
            }
        }
        paths.sort();
        Ok(paths)
    };
    let listed = read();
    loaded.is_complete = match &listed {
        Ok(_) => true,
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    };
    match listed {
        Ok(paths) => return paths,
        Err(_) if loaded.is_complete => {
            if !loaded.dir.join("shunt.toml").exists() {
                let message = "there is neither a shunt.toml nor a clusters.d here: shunt has nothing to do";
                loaded.diagnostics.push(Diagnostic {
                    severity: Severity::Warning,
                    ..Diagnostic::error(Place::file(&loaded.dir), message)
                        .hint("write a cluster into clusters.d/NAME.toml, or name another folder with --config DIR")
                });
            }
        }
        Err(source) => {
            let error = Diagnostic::error(Place::file(dir), format!("cannot read the folder of clusters: {source}"));
            loaded.diagnostics.push(Diagnostic { hint: page::permission_hint(&source), ..error });
        }
    }
    Vec::new()
}

fn finish_agent(agent: AgentDraft, wants_default: bool, loaded: &mut Loaded) {
    // A file with a syntax error may well say which password to take.
    let implied = agent.implied.filter(|_| wants_default && !agent.page.is_torn());
    if !agent.page.has_errors() && implied.is_none() {
        loaded.agent = Some(agent.config);
    }
    loaded.diagnostics.extend(agent.page.into_notes());
    loaded.diagnostics.extend(implied);
}

fn finish_cluster(page: Page, draft: cluster::Draft, loaded: &mut Loaded) {
    let cluster = draft.name.as_ref().map(|(name, _)| name.clone());
    let listeners = draft.listeners.iter().filter_map(|l| l.address.as_ref().map(|(address, _)| *address)).collect();
    let path = page.path.clone();
    let has_errors = page.has_errors();
    loaded.diagnostics.extend(page.into_notes());
    match draft.finish() {
        Some(config) if !has_errors => {
            loaded.files.insert(path, config.name.clone());
            loaded.clusters.push(config);
        }
        _ => loaded.broken.push(BrokenFile { path, cluster, listeners }),
    }
}
