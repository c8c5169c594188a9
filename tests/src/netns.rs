//! A named network namespace. Any `ip netns exec NAME` works on it; no `/run/netns` mount of iproute2's is needed, so
//! nothing is left in the mount table afterwards.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, anyhow, bail};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::scratch;

/// Deleted when dropped, with every process that is still in it.
pub struct Netns {
    name: String,
    file: PathBuf,
}

impl Netns {
    /// `shunt-<pid>-<n>-<label>`, loopback up.
    pub fn new(label: &str) -> Result<Self> {
        scratch::root()?; // the undertaker must be there first
        let name = format!("{}-{}-{label}", scratch::prefix(), scratch::unique());
        let file = Path::new(scratch::NETNS_DIR).join(&name);
        fs::create_dir_all(scratch::NETNS_DIR)?;
        File::create(&file).with_context(|| format!("cannot make {}", file.display()))?;
        let ns = Self { name, file };
        let target = ns.file.clone();
        // A thread, because unshare changes the thread that calls it for good.
        std::thread::spawn(move || -> Result<()> {
            unshare(CloneFlags::CLONE_NEWNET).context("cannot make a network namespace (root is needed)")?;
            let none: Option<&str> = None;
            mount(Some("/proc/thread-self/ns/net"), &target, none, MsFlags::MS_BIND, none)
                .with_context(|| format!("cannot name a network namespace {}", target.display()))?;
            Ok(())
        })
        .join()
        .map_err(|_| anyhow!("the thread that makes namespaces panicked"))??;
        // No duplicate address detection: an address is usable at once.
        ns.sysctl("ipv6/conf/default/accept_dad", "0")?;
        ns.sysctl("ipv6/conf/all/accept_dad", "0")?;
        ns.ip("link set lo up")?;
        Ok(ns)
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn path(&self) -> &Path {
        &self.file
    }

    /// A command that will run in this namespace.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Result<Command> {
        let mut command = Command::new(program);
        enter_before_exec(&mut command, &self.file)?;
        Ok(command)
    }

    /// Runs a command in the namespace to its end; its stdout, or an error with its stderr.
    pub fn run(&self, program: &str, args: &[&str]) -> Result<String> {
        let output = self.command(program)?.args(args).stdin(Stdio::null()).output();
        said(output.with_context(|| format!("cannot run {program}"))?, || {
            format!("{program} {} in {}", args.join(" "), self.name)
        })
    }

    /// Runs a command with that text on its stdin.
    pub fn feed(&self, program: &str, args: &[&str], stdin: &str) -> Result<String> {
        let mut child = self
            .command(program)?
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run {program}"))?;
        if let Some(mut pipe) = child.stdin.take() {
            pipe.write_all(stdin.as_bytes())?;
        }
        said(child.wait_with_output()?, || format!("{program} {} in {} on:\n{stdin}", args.join(" "), self.name))
    }

    /// `ip` commands, one a line, in one go.
    pub fn ip(&self, batch: &str) -> Result<()> {
        self.feed("ip", &["-batch", "-"], batch).map(drop)
    }

    /// An nft script, in one transaction.
    pub fn nft(&self, script: &str) -> Result<()> {
        self.feed("nft", &["-f", "-"], script).map(drop)
    }

    /// Sets `/proc/sys/net/<key>` of this namespace.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        // /proc/sys/net shows the namespace of the thread that opens it.
        let path = Path::new("/proc/sys/net").join(key);
        self.inside(|| fs::write(&path, value))?.with_context(|| format!("cannot set {}", path.display()))
    }

    /// Runs a closure on a thread of its own that is in the namespace.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let file = File::open(&self.file).with_context(|| format!("cannot open {}", self.file.display()))?;
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || -> Result<T> {
                setns(file.as_fd(), CloneFlags::CLONE_NEWNET).context("cannot enter a network namespace")?;
                Ok(work())
            });
            match thread.join() {
                Ok(done) => done,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Runs async work in the namespace, on a runtime that lives only for it. The future is made in there, too.
    pub fn inside_async<T: Send, F: Future<Output = T>>(&self, work: impl FnOnce() -> F + Send) -> Result<T> {
        self.inside(|| -> Result<T> {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            Ok(runtime.block_on(work()))
        })?
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        delete(&self.name);
    }
}

/// Makes a command enter the namespace between fork and exec.
pub fn enter_before_exec(command: &mut Command, namespace: &Path) -> Result<()> {
    let file = File::open(namespace).with_context(|| format!("cannot open {}", namespace.display()))?;
    // SAFETY: between fork and exec only setns is called, which is a bare system call.
    unsafe {
        command.pre_exec(move || Ok(setns(file.as_fd(), CloneFlags::CLONE_NEWNET)?));
    }
    Ok(())
}

/// Names of the machine's namespaces that begin so.
pub fn names_with(prefix: &str) -> Vec<String> {
    let entries = fs::read_dir(scratch::NETNS_DIR).into_iter().flatten().flatten();
    entries.map(|e| e.file_name().to_string_lossy().into_owned()).filter(|n| n.starts_with(prefix)).collect()
}

/// Kills what is in a namespace of that name and removes the name. The kernel frees it once nobody is in it.
pub fn delete(name: &str) {
    for pid in pids(name) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    let file = Path::new(scratch::NETNS_DIR).join(name);
    let _ = umount2(&file, MntFlags::MNT_DETACH);
    let _ = fs::remove_file(&file);
}

/// Processes in the namespace of that name. Compared by inode, as `ip netns pids` does.
fn pids(name: &str) -> Vec<i32> {
    use std::os::unix::fs::MetadataExt as _;
    let Ok(wanted) = fs::metadata(Path::new(scratch::NETNS_DIR).join(name)) else { return Vec::new() };
    let mine = fs::metadata("/proc/self/ns/net").map(|m| m.ino()).unwrap_or_default();
    // A name whose mount failed is an ordinary file on another device: its inode means nothing.
    let Ok(kind) = fs::metadata("/proc/self/ns/net").map(|m| m.dev()) else { return Vec::new() };
    if wanted.ino() == mine || wanted.dev() != kind {
        return Vec::new();
    }
    let numbers = fs::read_dir("/proc").into_iter().flatten().flatten();
    numbers
        .filter_map(|entry| entry.file_name().to_string_lossy().parse::<i32>().ok())
        .filter(|pid| fs::metadata(format!("/proc/{pid}/ns/net")).is_ok_and(|m| m.ino() == wanted.ino()))
        .collect()
}

fn said(output: std::process::Output, what: impl FnOnce() -> String) -> Result<String> {
    if !output.status.success() {
        bail!("{} failed ({}): {}", what(), output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
