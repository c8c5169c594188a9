//! A hook that is a program. It runs in a process group of its own, which is killed as a whole when its time is up: a
//! program that waits for a child of its own would otherwise leave that one behind.

use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal, killpg};
use nix::unistd::Pid;
use shunt_core::operation::{Cause, Notice};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;

use super::HookError;

/// So much of the end of what a program says is kept.
const MOST_OUTPUT: usize = 4096;
/// The kernel refuses a variable of more than 128 KiB, and with it the program.
const LONGEST_VALUE: usize = 16 << 10;
/// A program that has ended may have left a child that holds its output open; what was said before is there by then.
const PATIENCE: Duration = Duration::from_millis(500);

/// Runs a line of shell and waits for its end.
pub(super) async fn command(line: &str, notice: &Notice, within: Duration) -> Result<(), HookError> {
    let mut child = spawn(line, notice).map_err(|error| {
        let message = format!("/bin/sh could not be started: {error}");
        HookError::new(Cause::Unreachable, message)
    })?;
    let outputs = [listen(child.stdout.take()), listen(child.stderr.take())];
    let group = Group::of(&child);
    let ended = tokio::time::timeout(within, child.wait()).await;
    if matches!(ended, Ok(Ok(_))) {
        // Reaped: its number may be somebody else's from here on.
        group.forget();
    } else {
        drop(group);
    }
    if matches!(&ended, Ok(Ok(status)) if status.success()) {
        return Ok(());
    }
    let output = collect(outputs).await;
    match ended {
        Ok(Ok(status)) => Err(HookError { output, ..HookError::new(Cause::Refused, ending(status)) }),
        Ok(Err(error)) => {
            let message = format!("nobody knows how it ended: {error}");
            Err(HookError { output, ..HookError::new(Cause::Unknown, message) })
        }
        Err(_) => {
            let message = format!("it was killed: it had not ended after {} s", within.as_secs_f64());
            Err(HookError { output, ..HookError::new(Cause::Unknown, message) })
        }
    }
}

fn spawn(line: &str, notice: &Notice) -> io::Result<Child> {
    let mut command = Command::new("/bin/sh");
    command.arg("-c").arg(line).current_dir("/").envs(variables(notice));
    // systemd's words to the agent are not for its children.
    for name in ["NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "LISTEN_FDS", "LISTEN_PID"] {
        command.env_remove(name);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0).kill_on_drop(true);
    // A child inherits the signals that its parent blocks, and one that cannot be terminated is no good child.
    let blocked = SigSet::thread_get_mask()?;
    SigSet::empty().thread_set_mask()?;
    let child = command.spawn();
    blocked.thread_set_mask()?;
    child
}

fn variables(notice: &Notice) -> [(&'static str, String); 7] {
    let address = |server: Option<std::net::SocketAddr>| server.map_or(String::new(), |server| server.to_string());
    [
        ("SHUNT_CLUSTER", value(&notice.cluster)),
        ("SHUNT_EVENT", value(&notice.event)),
        ("SHUNT_OLD", address(notice.old)),
        ("SHUNT_NEW", address(notice.new)),
        ("SHUNT_EPOCH", notice.epoch.to_string()),
        ("SHUNT_OP", value(&notice.op)),
        ("SHUNT_REASON", value(&notice.reason)),
    ]
}

/// A text that the kernel takes as the value of a variable. The reason may quote a server's own words.
fn value(text: &str) -> String {
    text.chars().take(LONGEST_VALUE / 4).map(|c| if c == '\0' { ' ' } else { c }).collect()
}

fn ending(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("it ended with exit code {code}"),
        (None, Some(signal)) => format!("it was ended by signal {signal}"),
        (None, None) => "nobody knows how it ended".to_owned(),
    }
}

/// The process group of a child that has not been reaped. Dropped, it is killed.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &Child) -> Self {
        Self(child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw))
    }

    fn forget(mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // That it is gone already is as good.
            let _ = killpg(group, Signal::SIGKILL);
        }
    }
}

/// Reads to the end, so that the program never waits for a reader, and keeps the end.
fn listen(stream: Option<impl AsyncRead + Unpin + Send + 'static>) -> Listener {
    let (kept, growing) = tokio::sync::watch::channel(Vec::new());
    let task = tokio::spawn(async move {
        let Some(mut stream) = stream else { return };
        let mut piece = [0; 4096];
        while let Ok(read @ 1..) = stream.read(&mut piece).await {
            kept.send_modify(|kept| {
                kept.extend_from_slice(&piece[..read]);
                kept.drain(..kept.len().saturating_sub(MOST_OUTPUT));
            });
        }
    });
    Listener { task, growing }
}

struct Listener {
    task: JoinHandle<()>,
    growing: tokio::sync::watch::Receiver<Vec<u8>>,
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What was said on both, the errors last.
async fn collect(mut outputs: [Listener; 2]) -> String {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let mut text = String::new();
    for output in &mut outputs {
        // Out of time: what was said so far will do.
        let _ = tokio::time::timeout_at(deadline, &mut output.task).await;
        let said = String::from_utf8_lossy(&output.growing.borrow()).trim().to_owned();
        if !text.is_empty() && !said.is_empty() {
            text.push('\n');
        }
        text.push_str(&said);
    }
    text
}
