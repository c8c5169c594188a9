//! What a lab leaves on the machine while it runs: a folder with mounts in it, and namespaces, both named after this process,
//! so that anybody can tell whose they are and whether their owner still lives.
//!
//! Three lines of defence: guards (Drop), the undertaker (after kill -9), and [`sweep`] (`cargo xtask clean`).

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use anyhow::{Context, Result, ensure};
use nix::mount::{MntFlags, MsFlags, umount2};

use crate::flavour::cache;
use crate::netns;

/// Where `ip netns` keeps names.
pub const NETNS_DIR: &str = "/run/netns";

/// `shunt-<pid>`: the beginning of every name this process gives.
pub fn prefix() -> String {
    format!("shunt-{}", std::process::id())
}

/// A number that this process has not used yet.
pub fn unique() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// This process's folder. Short, because sockets live in it and their paths end at 108 bytes.
pub fn root() -> Result<&'static Path> {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    // Two tests of one process that come here first would hire two undertakers, and the one that is not kept would begin.
    static HIRING: Mutex<()> = Mutex::new(());
    let _alone = HIRING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(path) = ROOT.get() {
        return Ok(path);
    }
    let path = std::env::temp_dir().join(prefix());
    match fs::create_dir(&path) {
        // The name can be guessed, so somebody else may have been there first.
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            let owner = fs::symlink_metadata(&path)?.uid();
            ensure!(owner == nix::unistd::geteuid().as_raw(), "{} belongs to user {owner}", path.display());
        }
        made => made.with_context(|| format!("cannot make {}", path.display()))?,
    }
    hire_undertaker(&path)?;
    Ok(ROOT.get_or_init(|| path))
}

/// The end of the name of something in the cache that this process has not finished making.
pub fn part() -> String {
    format!(".part-{}", prefix())
}

/// Whether files are to stay for inspection: `SHUNT_KEEP=1`.
pub fn keeps_files() -> bool {
    std::env::var_os("SHUNT_KEEP").is_some_and(|v| !v.is_empty() && v != "0")
}

/// A folder that goes away with its guard.
pub struct Dir(PathBuf);

impl Dir {
    pub fn new(label: &str) -> Result<Self> {
        let path = root()?.join(format!("{}-{label}", unique()));
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self(path))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        if keeps_files() {
            return;
        }
        let _ = fs::remove_dir_all(&self.0);
        // Succeeds only for the last one; the next `Dir` makes it again.
        if let Some(parent) = self.0.parent() {
            let _ = fs::remove_dir(parent);
        }
    }
}

/// A bpf file system in a test's folder: what agents pin there outlives them, and goes with the guard.
pub struct BpfFs(PathBuf);

/// The folder's name, by which the undertaker and [`sweep`] know what is mounted.
const BPF: &str = "bpf";

impl BpfFs {
    pub fn mount(dir: &Dir) -> Result<Self> {
        let path = Self::of(dir);
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        let none: Option<&str> = None;
        nix::mount::mount(Some(BPF), &path, Some(BPF), MsFlags::empty(), none)
            .with_context(|| format!("cannot mount a bpf file system at {}", path.display()))?;
        Ok(Self(path))
    }

    /// Where it is in a folder, or would be.
    pub fn of(dir: &Dir) -> PathBuf {
        dir.0.join(BPF)
    }
}

impl Drop for BpfFs {
    fn drop(&mut self) {
        // Also with SHUNT_KEEP: files may stay, programs must not.
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

/// Unmounts what is mounted in the folders of a process's folder.
fn unmount_all(root: &Path) {
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        // Most have none.
        let _ = umount2(&entry.path().join(BPF), MntFlags::MNT_DETACH);
    }
}

/// Waits for this process's end on a pipe that closes with it, then removes what it left. In a process group of its
/// own, so that Ctrl-C and a test runner's SIGTERM do not reach it.
const UNDERTAKER: &str = r#"
trap '' INT TERM HUP
read -r _
for file in "$1"/"$2"-*; do
    [ -e "$file" ] || continue
    name=${file##*/}
    for pid in $(ip netns pids "$name" 2>/dev/null); do kill -9 "$pid" 2>/dev/null; done
    umount -l "$file" 2>/dev/null
    rm -f "$file"
done
for bpf in "$3"/*/bpf; do umount -l "$bpf" 2>/dev/null; done
# Twice: what was just killed may still have been making files.
[ -n "$4" ] || rm -rf "$3" || { sleep 1; rm -rf "$3"; }
"#;

fn hire_undertaker(dir: &Path) -> Result<()> {
    use std::os::unix::process::CommandExt as _;
    static UNDERTAKER_CHILD: OnceLock<Child> = OnceLock::new();
    let child = Command::new("sh")
        .args(["-c", UNDERTAKER, "undertaker", NETNS_DIR, &prefix()])
        .arg(dir)
        .arg(if keeps_files() { "keep" } else { "" })
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .current_dir("/")
        .process_group(0)
        .spawn()
        .context("cannot start the shell that cleans up after this process")?;
    // Kept for its stdin: the pipe must stay open as long as this process lives, and statics are never dropped.
    let _ = UNDERTAKER_CHILD.set(child);
    Ok(())
}

/// Removes what this process itself made, at once and without waiting for guards: for signal handlers.
pub fn bury() {
    for name in netns::names_with(&format!("{}-", prefix())) {
        netns::delete(&name);
    }
    let root = std::env::temp_dir().join(prefix());
    unmount_all(&root);
    if !keeps_files() {
        let _ = fs::remove_dir_all(root);
    }
}

/// What [`sweep`] removed.
#[derive(Debug, Default)]
pub struct Swept {
    pub namespaces: Vec<String>,
    pub folders: Vec<PathBuf>,
}

/// Removes what runs left whose process is dead. Never touches a living one's.
pub fn sweep() -> Swept {
    let mut swept = Swept::default();
    for name in netns::names_with("shunt-") {
        if owner(&name).is_some_and(is_dead) {
            netns::delete(&name);
            swept.namespaces.push(name);
        }
    }
    for dir in [std::env::temp_dir(), cache()] {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let name = name.split_once(".part-").map_or(name.as_str(), |(_, owner)| owner);
            if owner(name).is_some_and(is_dead) {
                unmount_all(&entry.path());
                if fs::remove_dir_all(entry.path()).is_ok() {
                    swept.folders.push(entry.path());
                }
            }
        }
    }
    swept
}

/// The process that `shunt-<pid>` or `shunt-<pid>-…` belongs to.
fn owner(name: &str) -> Option<u32> {
    name.strip_prefix("shunt-")?.split('-').next()?.parse().ok()
}

fn is_dead(pid: u32) -> bool {
    !Path::new("/proc").join(pid.to_string()).exists()
}
