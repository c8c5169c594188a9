//! The agent on the proxy host: its configuration in a folder of its own, the process, and its command line. Driven
//! only through its documented interfaces: files, options, signals, sd_notify, JSON.

use std::cell::RefCell;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::process::ending;
use crate::scratch::{BpfFs, Dir};
use crate::template::PASSWORD;
use crate::wait::PATIENCE;
use crate::{Datapath, Host, Process, eventually, logs, netns};

/// No command of the command line takes this long.
const COMMAND: Duration = Duration::from_secs(30);

pub struct Agent {
    process: Option<Process>,
    namespace: PathBuf,
    binary: PathBuf,
    notices: Arc<Mutex<Vec<String>>>,
    starts: u32,
    env: Vec<(String, String)>,
    datapath: Datapath,
    settings: RefCell<String>,
    /// What the eBPF datapath pins outlives the process; it goes before the folder that it is mounted in.
    bpf: Option<BpfFs>,
    pins: PathBuf,
    dir: Dir,
}

impl Agent {
    /// Writes `shunt.toml` and the password; starts nothing yet.
    pub fn prepare(proxy: &Host) -> Result<Self> {
        Self::prepare_program(proxy, binary()?)
    }

    /// The same, with a program other than the one that was built beside this one.
    pub fn prepare_program(proxy: &Host, binary: PathBuf) -> Result<Self> {
        let dir = Dir::new("agent")?;
        let mut agent = Self {
            process: None,
            namespace: proxy.ns().path().to_path_buf(),
            binary,
            notices: Arc::default(),
            starts: 0,
            env: Vec::new(),
            datapath: Datapath::default(),
            settings: RefCell::default(),
            bpf: None,
            pins: BpfFs::of(&dir).join("shunt"),
            dir,
        };
        fs::create_dir_all(agent.config().join("clusters.d"))?;
        fs::create_dir_all(agent.state())?;
        let password = agent.config().join("password");
        fs::write(&password, PASSWORD)?;
        fs::set_permissions(&password, fs::Permissions::from_mode(0o600))?;
        agent.use_datapath(Datapath::of_this_test())?;
        Ok(agent)
    }

    /// Configures it for another datapath. It takes effect at its next start.
    pub fn use_datapath(&mut self, datapath: Datapath) -> Result<()> {
        self.datapath = datapath;
        if datapath == Datapath::Ebpf && self.bpf.is_none() {
            self.bpf = Some(BpfFs::mount(&self.dir)?);
        }
        let settings = self.settings.borrow().clone();
        self.write_settings(&settings)
    }

    /// Rewrites `shunt.toml`: the lab's credentials, the datapath and `more`.
    pub fn write_settings(&self, more: &str) -> Result<()> {
        self.settings.replace(more.to_owned());
        let more = self.datapath.settings(&self.pins, more);
        let password = self.config().join("password");
        let text = ["default\nshunt", "replication\nrepl"].map(|who| {
            let (name, user) = who.split_once('\n').unwrap_or_default();
            format!("[credentials.{name}]\nuser = \"{user}\"\npassword_file = \"{}\"\n", password.display())
        });
        let text = format!("{more}\n{}", text.concat());
        Ok(fs::write(self.config().join("shunt.toml"), text)?)
    }

    /// Writes `clusters.d/<name>.toml`. The agent reads it at its start, or when told to reload.
    pub fn write_cluster(&self, name: &str, text: &str) -> Result<()> {
        Ok(fs::write(self.config().join("clusters.d").join(format!("{name}.toml")), text)?)
    }

    pub fn remove_cluster(&self, name: &str) -> Result<()> {
        Ok(fs::remove_file(self.config().join("clusters.d").join(format!("{name}.toml")))?)
    }

    /// Sets a variable of the agent's environment, from its next start on.
    pub fn set_env(&mut self, name: &str, value: &str) {
        self.clear_env(name);
        self.env.push((name.to_owned(), value.to_owned()));
    }

    /// The variable is not there any more, from its next start on.
    pub fn clear_env(&mut self, name: &str) {
        self.env.retain(|(known, _)| known != name);
    }

    /// Starts it, and does not wait until it is ready: it may not live that long.
    pub fn launch(&mut self) -> Result<()> {
        self.starts += 1;
        self.notices.lock().unwrap_or_else(PoisonError::into_inner).clear();
        let socket = self.listen_to_notices()?;
        let mut command = self.command("agent")?;
        command.env("NOTIFY_SOCKET", &socket).envs(self.env.iter().map(|(name, value)| (name, value)));
        self.process = Some(Process::spawn("the agent", command, Some(&self.log_file()))?);
        Ok(())
    }

    /// Starts it and waits for READY.
    pub fn start(&mut self) -> Result<()> {
        self.launch()?;
        let ready = eventually("the agent to be ready", PATIENCE, || {
            if let Some(process) = &mut self.process
                && let Some(status) = process.status()?
            {
                return Ok(Some(Err(status)));
            }
            let notices = self.notices.lock().unwrap_or_else(PoisonError::into_inner);
            Ok(notices.iter().any(|n| n.lines().any(|l| l == "READY=1")).then_some(Ok(())))
        });
        match ready? {
            Ok(()) => Ok(()),
            // A test may expect this: what it said is part of the error.
            Err(status) => bail!("the agent ended at its start with {}:\n{}", ending(status), self.log(15)),
        }
    }

    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    /// kill -9.
    pub fn kill(&mut self) -> Result<()> {
        self.running()?.kill()?;
        self.process = None;
        Ok(())
    }

    /// Waits until it has ended by itself.
    pub fn wait_end(&mut self, patience: Duration) -> Result<()> {
        let status = self.running()?.wait(patience)?;
        self.process = None;
        ensure!(!status.success(), "the agent ended as if nothing had happened");
        Ok(())
    }

    /// SIGTERM, and waits for the end.
    pub fn stop(&mut self) -> Result<()> {
        let status = self.running()?.terminate(PATIENCE)?;
        self.process = None;
        ensure!(status.success(), "the agent ended with {}", ending(status));
        Ok(())
    }

    /// SIGHUP, SIGSTOP, SIGCONT.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        self.running()?.signal(signal)
    }

    pub fn is_running(&mut self) -> bool {
        self.process.as_mut().is_some_and(Process::is_running)
    }

    /// What it told systemd since its start, a datagram each.
    pub fn notices(&self) -> Vec<String> {
        self.notices.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Runs `shunt ARGS` on the proxy host, as this agent's operator.
    pub fn shunt(&self, args: &[&str]) -> Result<Output> {
        // timeout(1) passes the exit code on, and takes a hung command with it.
        let mut command = Command::new("timeout");
        netns::enter_before_exec(&mut command, &self.namespace)?;
        command.arg(COMMAND.as_secs().to_string()).arg(&self.binary).args(args).args(self.options());
        command.stdin(Stdio::null()).env("NO_COLOR", "1").output().context("cannot run the command line")
    }

    /// Begins `shunt ARGS`, whose end nobody waits for: it ends with the guard.
    pub fn begin(&self, args: &[&str]) -> Result<Process> {
        let mut command = Command::new(&self.binary);
        netns::enter_before_exec(&mut command, &self.namespace)?;
        command.args(args).args(self.options());
        Process::spawn(&format!("shunt {}", args.join(" ")), command, None)
    }

    /// Runs `shunt ARGS`; its stdout, or an error that tells what it said.
    pub fn shunt_ok(&self, args: &[&str]) -> Result<String> {
        let output = self.shunt(args)?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if !output.status.success() {
            bail!("shunt {}: {}: {}", args.join(" "), ending(output.status), text(&output.stderr).trim());
        }
        Ok(text(&output.stdout))
    }

    /// Runs a command with `--json`.
    pub fn json(&self, args: &[&str]) -> Result<Value> {
        let text = self.shunt_ok(&[args, &["--json"]].concat())?;
        serde_json::from_str(&text).with_context(|| format!("shunt {} --json said: {text}", args.join(" ")))
    }

    pub fn list(&self) -> Result<Value> {
        self.json(&["list"])
    }

    pub fn show(&self, cluster: &str) -> Result<Value> {
        self.json(&["show", cluster])
    }

    /// The history, oldest first; as one object with a list in it, or as JSON lines.
    pub fn events(&self) -> Result<Vec<Value>> {
        let text = self.shunt_ok(&["events", "--json"])?;
        if let Ok(Value::Object(whole)) = serde_json::from_str::<Value>(&text)
            && let Some(Value::Array(events)) = whole.get("events")
        {
            return Ok(events.clone());
        }
        text.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
    }

    /// A cluster's events that came after the one with that id, oldest first; of no more than the thousand newest.
    pub fn events_after(&self, cluster: &str, id: i64) -> Result<Vec<Value>> {
        let answer = self.json(&["events", cluster, "-n", "1000"])?;
        let events = answer["events"].as_array().context("the history is a list")?;
        Ok(events.iter().filter(|e| e["id"].as_i64().is_some_and(|found| found > id)).cloned().collect())
    }

    /// Waits until `shunt list --json` is as wanted.
    pub fn wait_for(&self, what: &str, patience: Duration, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        let mut last = Value::Null;
        eventually(what, patience, || {
            last = self.list()?;
            Ok(wanted(&last).then(|| last.clone()))
        })
        .with_context(|| format!("shunt list says {last}"))
    }

    /// Waits until a listener leads to exactly one server.
    pub fn wait_mapped(&self, listener: SocketAddr, to: SocketAddr) -> Result<Value> {
        self.wait_for(&format!("{listener} to lead to {to}"), PATIENCE, |list| {
            backends(list, listener).is_some_and(|found| found == [to.to_string()])
        })
    }

    pub fn config(&self) -> PathBuf {
        self.dir.path().join("config")
    }

    pub fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// What the eBPF datapath is told to pin its maps and links in.
    pub fn pins(&self) -> &Path {
        &self.pins
    }

    /// Has it use the folder of an agent in another network namespace, from its next settings on.
    pub fn share_pins(&mut self, other: &Self) {
        self.pins.clone_from(&other.pins);
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("shunt.sock")
    }

    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// The last lines of its log.
    pub fn log(&self, lines: usize) -> String {
        logs::tail(&self.log_file(), lines)
    }

    fn log_file(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    fn running(&mut self) -> Result<&mut Process> {
        self.process.as_mut().context("the agent does not run")
    }

    fn options(&self) -> Vec<String> {
        let [config, state, socket] = [self.config(), self.state(), self.socket()].map(|p| p.display().to_string());
        ["--config".to_owned(), config, "--state".to_owned(), state, "--socket".to_owned(), socket].to_vec()
    }

    fn command(&self, subcommand: &str) -> Result<Command> {
        let mut command = Command::new(&self.binary);
        netns::enter_before_exec(&mut command, &self.namespace)?;
        command.arg(subcommand).args(self.options());
        Ok(command)
    }

    /// A socket of our own where systemd's would be. In the file system: an abstract one ends at a namespace's border.
    fn listen_to_notices(&self) -> Result<PathBuf> {
        let path = self.dir.path().join(format!("notify-{}", self.starts));
        let socket = UnixDatagram::bind(&path).with_context(|| format!("cannot listen at {}", path.display()))?;
        // An agent may be somebody other than root.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777))?;
        socket.set_read_timeout(Some(Duration::from_millis(200)))?;
        let notices = Arc::downgrade(&self.notices);
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // Ends with the guard that owns the list.
            while let Some(notices) = notices.upgrade() {
                if let Ok(n) = socket.recv(&mut buffer) {
                    let text = String::from_utf8_lossy(&buffer[..n]).into_owned();
                    notices.lock().unwrap_or_else(PoisonError::into_inner).push(text);
                }
            }
        });
        Ok(path)
    }
}

/// A cluster's file with one primary listener, in follow mode.
pub fn following(name: &str, servers: &[SocketAddr], listener: SocketAddr) -> String {
    let servers: Vec<String> = servers.iter().map(|s| format!("\"{s}\"")).collect();
    format!(
        "name = \"{name}\"\nservers = [{}]\nfailover = \"follow\"\n\n[[listen]]\nrole = \"primary\"\naddress = \"{listener}\"\n",
        servers.join(", ")
    )
}

/// A cluster's file with one primary listener, in promote mode; `more` are further keys of the whole file.
pub fn promoting(name: &str, servers: &[SocketAddr], listener: SocketAddr, more: &str) -> String {
    following(name, servers, listener).replace("failover = \"follow\"\n", &format!("failover = \"promote\"\n{more}\n"))
}

/// The backends of a listener in `shunt list --json`.
pub fn backends(list: &Value, listener: SocketAddr) -> Option<Vec<String>> {
    let listeners = list.get("listeners")?.as_array()?;
    let found = listeners.iter().find(|l| l["listener"] == listener.to_string())?;
    Some(found["backends"].as_array()?.iter().filter_map(|b| b.as_str().map(str::to_owned)).collect())
}

/// `SHUNT_BIN`, or the program that was built beside this one.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("SHUNT_BIN").filter(|v| !v.is_empty()) {
        return Ok(path.into());
    }
    let exe = std::env::current_exe()?;
    // target/debug/xtask, or target/debug/deps/name-hash
    let places = exe.ancestors().skip(1).take(2).map(|dir| dir.join("shunt"));
    places
        .into_iter()
        .find(|path| path.is_file())
        .context("the shunt program is not built (cargo build -p shunt, or set SHUNT_BIN)")
}
