//! What a configuration folder is read as, and what is said about a bad one. A test writes a folder of its own.

mod good;
mod hostile;
mod passwords;
mod rendered;

use std::io;
use std::net::IpAddr;
use std::path::Path;

use tempfile::TempDir;

use super::{Loaded, load_with};

/// A configuration folder for one test: files by their path below it.
fn folder(files: &[(&str, &str)]) -> TempDir {
    let dir = TempDir::new().expect("a temporary folder");
    let write = |path: &str, text: &str| {
        let path = dir.path().join(path);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        std::fs::write(&path, text).expect("a file");
        secret(&path);
    };
    write("password", "swordfish\n");
    for (path, text) in files {
        write(path, text);
    }
    dir
}

fn secret(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).expect("a mode");
}

fn load(files: &[(&str, &str)]) -> Loaded {
    load_with(folder(files).path(), None, &resolver)
}

/// The diagnostics as people see them, with `/etc/shunt` in place of the test's own folder.
fn rendered(files: &[(&str, &str)]) -> String {
    let dir = folder(files);
    rendered_dir(dir.path())
}

fn rendered_dir(dir: &Path) -> String {
    load_with(dir, None, &resolver).render(false).replace(&*dir.to_string_lossy(), "/etc/shunt")
}

/// The messages of one cluster's file, without places, each with its hint.
fn messages(cluster: &str) -> Vec<String> {
    let loaded = load(&[("clusters.d/a.toml", cluster)]);
    let message = |d: &super::Diagnostic| match &d.hint {
        Some(hint) => format!("{} | {hint}", d.message),
        None => d.message.clone(),
    };
    loaded.diagnostics.iter().map(message).collect()
}

/// A DNS of four names.
fn resolver(host: &str) -> io::Result<Vec<IpAddr>> {
    let addresses: &[&str] = match host {
        "db1.example" => &["10.0.0.11"],
        "both.example" => &["fd00::12", "10.0.0.12"],
        "many.example" => &["10.0.0.22", "10.0.0.21"],
        "empty.example" => &[],
        _ => return Err(io::Error::other("Name or service not known")),
    };
    Ok(addresses.iter().map(|a| a.parse().expect("an address")).collect())
}

/// A cluster's file with a primary listener, to be extended.
fn cluster(name: &str, listener: &str, server: &str) -> String {
    format!(
        "name = \"{name}\"\nservers = [\"{server}\"]\nfailover = \"follow\"\n\n\
         [[listen]]\nrole = \"primary\"\naddress = \"{listener}\"\n"
    )
}
