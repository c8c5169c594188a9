//! What tests of failovers need of a scene: an agent that dies at a place of their choosing, and the state in which
//! every failover must end.

use std::io::Read as _;
use std::process::Output;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::ports::{Echo, connect};
use crate::scene::NAME;
use crate::sql::Console;
use crate::{Flavour, Scene, agent, eventually};

/// A debug build of the agent aborts at the place that it names: `journal:STEP`, `step:STEP`.
const CRASH_AT: &str = "SHUNT_CRASH_AT";
/// A failover, with recovery of servers and a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// Where the fence is down a connection is there long before this.
const BRIEF: Duration = Duration::from_millis(300);

impl Scene {
    /// Starts the agent, which will die at that place, perhaps at once; one that runs is stopped first.
    pub fn start_to_crash_at(&mut self, place: &str) -> Result<()> {
        if self.agent.is_running() {
            self.agent.stop()?;
        }
        self.agent.set_env(CRASH_AT, place);
        self.agent.launch()
    }

    /// Starts the agent without any such place.
    pub fn start_sound(&mut self) -> Result<()> {
        self.agent.clear_env(CRASH_AT);
        self.agent.start()
    }

    pub fn wait_crash(&mut self, place: &str) -> Result<()> {
        let ended = self.agent.wait_end(PATIENCE);
        ended.with_context(|| format!("it was to crash at {place}\n{}", self.agent.log(60)))?;
        let (log, said) = (self.agent.log(40), format!("crashing at {place}"));
        ensure!(log.contains(&said), "the agent ended, but not at {place}:\n{log}");
        Ok(())
    }

    /// No packet of a new connection gets to that host, whose server is dead: something else listens there meanwhile.
    pub fn ensure_cut_off(&self, dead: usize) -> Result<()> {
        let host = self.cluster.servers()[dead].host();
        let _echo = Echo::start(host, host.at(crate::server::PORT))?;
        let Ok(mut stream) = connect(&self.client, self.listener(), BRIEF) else { return Ok(()) };
        let mut greeting = [0; 64];
        // Held or refused after all, or led to a server.
        let read = stream.read(&mut greeting).unwrap_or(0);
        ensure!(!greeting[..read].starts_with(host.name().as_bytes()), "a connection got to {}", host.name());
        Ok(())
    }

    /// The servers that answer and take writes.
    pub fn writable(&self) -> Vec<usize> {
        let all = 0..self.cluster.servers().len();
        all.filter(|&n| self.cluster.servers()[n].pid().is_some() && self.cluster.is_writable(n).unwrap_or(false))
            .collect()
    }

    /// The number (from 0) of the one server that the listener leads to.
    pub fn mapped(&self) -> Result<Option<usize>> {
        let list = self.agent.list()?;
        let backends = agent::backends(&list, self.listener()).unwrap_or_default();
        let [only] = backends.as_slice() else { return Ok(None) };
        Ok(self.addresses().iter().position(|address| address.to_string() == *only))
    }

    /// Waits until everything is as it must be after every failover and every undone one, and tells who is primary: one
    /// server is writable, the listener leads to it, every other one but the dead replicates from it, nothing is under way.
    pub fn wait_whole(&self, dead: &[usize]) -> Result<usize> {
        let mut amiss = String::new();
        let whole = eventually("one primary and its replicas", PATIENCE, || match self.amiss(dead) {
            Ok(primary) => Ok(Some(primary)),
            Err(why) => {
                amiss = format!("{why:#}");
                Ok(None)
            }
        });
        whole.with_context(|| format!("{amiss}\n{}", self.agent.log(80)))
    }

    fn amiss(&self, dead: &[usize]) -> Result<usize> {
        let writable = self.writable();
        let [primary] = *writable.as_slice() else { bail!("writable are {writable:?}") };
        ensure!(!dead.contains(&primary), "the dead one is writable");
        let mapped = self.mapped()?;
        ensure!(mapped == Some(primary), "the listener leads to {mapped:?}, writable is {primary}");
        let source = self.cluster.servers()[primary].host().v4().to_string();
        for replica in (0..self.cluster.servers().len()).filter(|n| *n != primary && !dead.contains(n)) {
            let told = self.cluster.source_of(replica)?;
            ensure!(
                told == source && self.cluster.replicates(replica)?,
                "{replica} replicates from {told:?} or not at all"
            );
        }
        let show = self.agent.show(NAME)?;
        ensure!(show["operation"].is_null(), "{} is under way", show["operation"]);
        Ok(primary)
    }

    /// The newest operation's end: its outcome and sentence.
    pub fn ending(&self) -> Result<Option<(String, String)>> {
        let ends = self.events("operation")?.into_iter().rev().find(|event| event["data"]["state"] == "ended");
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Ok(ends.map(|event| (text(&event["data"]["outcome"]), text(&event["message"]))))
    }

    /// Waits until the newest operation has ended so; its sentence.
    pub fn wait_ending(&self, outcome: &str) -> Result<String> {
        let mut last = None;
        let ended = eventually(&format!("an operation that ends {outcome}"), PATIENCE, || {
            last = self.ending()?;
            Ok(last.clone().filter(|(how, _)| how == outcome).map(|(_, sentence)| sentence))
        });
        ended.with_context(|| format!("the last one ended {last:?}\n{}", self.agent.log(80)))
    }

    /// What a replica receives after this it does not apply before [`let_go`]: an applier that is only stopped would be
    /// started.
    pub fn hold_back(&self, replica: usize) -> Result<Console> {
        let session = Console::new(&self.cluster.servers()[replica].socket());
        session.query("LOCK TABLES app.t READ")?;
        Ok(session)
    }

    /// kill -9 of a primary of which its replicas have received everything: what it comes back with is nobody's loss.
    pub fn lose(&mut self, primary: usize) -> Result<()> {
        self.cluster.servers()[primary].sql("FLUSH TABLES WITH READ LOCK")?;
        let others = (0..self.cluster.servers().len()).filter(|&other| other != primary);
        for replica in others.filter(|&other| self.cluster.replicates(other).unwrap_or(false)) {
            eventually("the last write to be received", PATIENCE, || {
                Ok(self.cluster.has_received(replica, primary)?.then_some(()))
            })?;
        }
        self.cluster.server(primary).kill()
    }

    /// The agent in promote mode, in front of servers that have been prepared; `more` are further keys of the whole file.
    pub fn start_as_promoter(&mut self, more: &str) -> Result<()> {
        let text = agent::promoting(NAME, &self.addresses(), self.listener(), more);
        self.agent.write_cluster(NAME, &text)?;
        self.agent.start()?;
        self.wait_mapped(0).map(drop)
    }

    /// Waits until replicas have received, though perhaps not applied, everything that `source` has now.
    pub fn wait_received(&self, replicas: &[usize], source: usize) -> Result<()> {
        for &replica in replicas {
            eventually("a replica to receive", PATIENCE, || {
                Ok(self.cluster.has_received(replica, source)?.then_some(()))
            })?;
        }
        Ok(())
    }

    /// Waits until a step has begun.
    pub fn wait_step(&self, step: &str) -> Result<()> {
        let begun = |event: &Value| event["data"]["step"] == step && event["data"]["state"] == "begun";
        let seen = eventually(&format!("the step {step}"), PATIENCE, || {
            Ok(self.events("step")?.iter().any(begun).then_some(()))
        });
        seen.with_context(|| self.agent.log(80))
    }

    /// Waits until the status has such an alarm; its sentence.
    pub fn wait_alarm(&self, kind: &str) -> Result<String> {
        let mut last = Value::Null;
        let found = eventually(&format!("the alarm {kind}"), PATIENCE, || {
            last = self.agent.list()?["alarms"].clone();
            let alarms = last.as_array().cloned().unwrap_or_default();
            let found = alarms.into_iter().find(|alarm| alarm["alarm"] == kind);
            Ok(found.map(|alarm| alarm["message"].as_str().unwrap_or_default().to_owned()))
        });
        found.with_context(|| format!("the alarms are {last}\n{}", self.agent.log(40)))
    }

    /// `shunt ARGS` is refused with that exit code; everything that it said.
    pub fn refused(&self, args: &[&str], code: i32) -> Result<String> {
        let output = self.agent.shunt(args)?;
        let text = said(&output);
        ensure!(output.status.code() == Some(code), "shunt {}: {:?}: {text}", args.join(" "), output.status.code());
        Ok(text)
    }
}

/// What a command said, on both ways out.
pub fn said(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned()).concat()
}

/// Ends what [`Scene::hold_back`] began.
pub fn let_go(session: &Console) -> Result<()> {
    session.query("UNLOCK TABLES").map(drop)
}

/// Switches semi-sync on: db1 waits for one of its replicas, and as long as it takes.
pub fn with_semi_sync(scene: &Scene) -> Result<()> {
    const FOR_EVER_MS: u32 = 3_600_000;
    for (number, server) in scene.cluster.servers().iter().enumerate() {
        let (source, replica) = match server.flavour() {
            Flavour::Mysql => {
                scene.cluster.set_read_only(number, false)?;
                server.sql("INSTALL PLUGIN rpl_semi_sync_source SONAME 'semisync_source.so'")?;
                server.sql("INSTALL PLUGIN rpl_semi_sync_replica SONAME 'semisync_replica.so'")?;
                scene.cluster.set_read_only(number, number > 0)?;
                ("rpl_semi_sync_source", "rpl_semi_sync_replica")
            }
            Flavour::Mariadb => ("rpl_semi_sync_master", "rpl_semi_sync_slave"),
        };
        server.sql(&format!("SET GLOBAL {source}_timeout = {FOR_EVER_MS}"))?;
        // Before anybody is connected it would wait for nobody.
        if number > 0 {
            server.sql(&format!("SET GLOBAL {replica}_enabled = ON"))?;
            scene.cluster.repoint(number, 0)?;
        } else {
            server.sql(&format!("SET GLOBAL {source}_enabled = ON"))?;
        }
    }
    Ok(())
}
