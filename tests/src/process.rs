//! A child that cannot outlive the lab: killed by its guard, and by the kernel when this process dies.

use std::fs::File;
use std::io;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{eventually, logs};

/// Killed with -9 and reaped when dropped; its log's end is kept for a failure report.
pub struct Process {
    child: Child,
    name: String,
    log: Option<PathBuf>,
    ended: Option<ExitStatus>,
}

impl Process {
    /// Starts a command whose output goes to `log`, or nowhere.
    pub fn spawn(name: &str, mut command: Command, log: Option<&Path>) -> Result<Self> {
        command.stdin(Stdio::null());
        match log {
            Some(path) => {
                let file = File::options().create(true).append(true).open(path);
                let file = file.with_context(|| format!("cannot open {}", path.display()))?;
                command.stdout(file.try_clone()?).stderr(file);
            }
            None => {
                command.stdout(Stdio::null()).stderr(Stdio::null());
            }
        }
        Self::spawn_as_is(name, command, log)
    }

    /// The same, with the command's standard streams left as they are.
    pub fn spawn_as_is(name: &str, command: Command, log: Option<&Path>) -> Result<Self> {
        let child = spawn_bound(command, Signal::SIGKILL).with_context(|| format!("cannot start {name}"))?;
        Ok(Self { child, name: name.to_owned(), log: log.map(Path::to_path_buf), ended: None })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn take_stdin(&mut self) -> Option<std::process::ChildStdin> {
        self.child.stdin.take()
    }

    pub fn take_stdout(&mut self) -> Option<std::process::ChildStdout> {
        self.child.stdout.take()
    }

    /// Sends a signal, unless the process has already been reaped (its number could be somebody else's by now).
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        if self.status()?.is_some() {
            return Err(anyhow!("{} has ended already", self.name));
        }
        kill(self.raw_pid(), signal).with_context(|| format!("cannot send {signal} to {}", self.name))
    }

    /// The exit status, if it has ended.
    pub fn status(&mut self) -> Result<Option<ExitStatus>> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait()?;
        }
        Ok(self.ended)
    }

    pub fn is_running(&mut self) -> bool {
        matches!(self.status(), Ok(None))
    }

    /// kill -9, and waits for the end.
    pub fn kill(&mut self) -> Result<()> {
        if self.status()?.is_none() {
            kill(self.raw_pid(), Signal::SIGKILL).with_context(|| format!("cannot kill {}", self.name))?;
            self.ended = Some(self.child.wait()?);
        }
        Ok(())
    }

    /// SIGTERM, and waits for the end.
    pub fn terminate(&mut self, patience: Duration) -> Result<ExitStatus> {
        if self.status()?.is_none() {
            self.signal(Signal::SIGTERM)?;
        }
        self.wait(patience)
    }

    /// Waits for the end.
    pub fn wait(&mut self, patience: Duration) -> Result<ExitStatus> {
        let name = self.name.clone();
        eventually(&format!("the end of {name}"), patience, || self.status())
    }

    fn raw_pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.kill();
        if let Some(log) = &self.log {
            logs::keep(&self.name, log);
        }
    }
}

/// Runs a command to its end and returns what it said; it gets the signal `last_word` if this process dies meanwhile.
pub fn output(mut command: Command, last_word: Signal) -> Result<Output> {
    let name = command.get_program().to_string_lossy().into_owned();
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = spawn_bound(command, last_word).with_context(|| format!("cannot run {name}"))?;
    child.wait_with_output().with_context(|| format!("lost track of {name}"))
}

/// How it ended, in words.
pub fn ending(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "an unknown end".to_owned(),
    }
}

/// Spawns with `PR_SET_PDEATHSIG`. The kernel counts the death of the *thread* that forked as the parent's death, so
/// every child is forked by one thread that never ends.
fn spawn_bound(mut command: Command, last_word: Signal) -> io::Result<Child> {
    type Order = (Command, Sender<io::Result<Child>>);
    static SPAWNER: OnceLock<Sender<Order>> = OnceLock::new();
    let parent = std::process::id().cast_signed();
    // SAFETY: between fork and exec only prctl and getppid are called, which are bare system calls.
    unsafe {
        command.pre_exec(move || {
            if libc::prctl(libc::PR_SET_PDEATHSIG, last_word as libc::c_int) != 0 {
                return Err(io::Error::last_os_error());
            }
            // The parent may have died before the prctl: then nobody would tell us.
            if libc::getppid() == parent { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::ESRCH)) }
        });
    }
    let spawner = SPAWNER.get_or_init(|| {
        let (orders, incoming) = channel::<Order>();
        std::thread::spawn(move || {
            for (mut command, answer) in incoming {
                let _ = answer.send(command.spawn());
            }
        });
        orders
    });
    let gone = || io::Error::other("the thread that starts processes has ended");
    let (answer, child) = channel();
    spawner.send((command, answer)).map_err(|_| gone())?;
    child.recv().map_err(|_| gone())?
}
