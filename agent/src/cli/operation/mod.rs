//! `shunt switchover`, `failover` and `drill`: asked of the agent, then followed through its history to the end.
//!
//! Progress and the last sentence are talk, on stderr; a plan, a drill's timeline and JSON are what was asked for, on stdout.

mod course;
mod drill;
mod follow;
mod report;

pub use drill::drill;

use course::{Course, News};
use follow::{Heard, Lost, Patience, follow};
use report::Subject;

use super::operate::{call, path_word};
use super::{Args, Exit, args, block_on};
use crate::control::api::{OperateAnswer, OperateRequest, ShowAnswer};
use crate::control::client::Client;
use crate::output::{self, Failure, Progress};

pub fn switchover(args: &Args, options: &args::Switchover) -> Result<(), Failure> {
    block_on(async {
        let session = Session::open(Client::new(&args.socket), &options.cluster, options.watching).await?;
        session.say_paused();
        session.conclude(&session.run("switchover", "switchover", &switchover_request(options)).await?)
    })
}

fn switchover_request(options: &args::Switchover) -> OperateRequest {
    OperateRequest {
        to: options.to.clone(),
        grace_ms: Some(u64::try_from(options.grace.as_millis()).unwrap_or(u64::MAX)),
        dry_run: options.dry_run,
        allow_data_loss: false,
    }
}

pub fn failover(args: &Args, options: &args::Failover) -> Result<(), Failure> {
    let request = OperateRequest {
        to: options.to.clone(),
        grace_ms: None,
        dry_run: options.dry_run,
        allow_data_loss: options.allow_data_loss,
    };
    block_on(async {
        let session = Session::open(Client::new(&args.socket), &options.cluster, options.watching).await?;
        session.say_paused();
        if !options.yes && !options.dry_run {
            let wanted = OperateRequest { dry_run: true, ..request.clone() };
            session.rehearse_and_ask("failover", "failover", &wanted).await?;
        }
        session.conclude(&session.run("failover", "failover", &request).await?)
    })
}

/// One command's talk with the agent about one cluster.
struct Session {
    client: Client,
    /// As it was when the command began.
    show: ShowAnswer,
    watching: args::Watching,
    patience: Patience,
}

/// An operation that was followed, as far as it could be.
struct Watched {
    kind: &'static str,
    dry_run: bool,
    course: Course,
    heard: Heard,
    followed: Result<(), Lost>,
}

impl Session {
    async fn open(client: Client, cluster: &str, watching: args::Watching) -> Result<Self, Failure> {
        let show: ShowAnswer = client.get(&format!("/v1/clusters/{}", path_word(cluster))).await?;
        Ok(Self { client, show, watching, patience: Patience::default() })
    }

    fn cluster(&self) -> &str {
        self.show.cluster.as_str()
    }

    /// A pause is for what shunt does by itself.
    fn say_paused(&self) {
        if let Some(pause) = &self.show.paused {
            let reason = output::harmless(&pause.reason);
            output::note(&format!(
                "{} is paused ({reason}); what an operator asks for is done all the same",
                self.cluster()
            ));
        }
    }

    /// Asks for the operation, and follows it. An error means that it was not begun.
    async fn run(&self, verb: &str, kind: &'static str, request: &OperateRequest) -> Result<Watched, Failure> {
        // What comes after this is the operation's, and whatever else happens meanwhile.
        let mut heard = Heard::from_now(&self.client).await?;
        let answer: OperateAnswer = self.client.post(&call(self.cluster(), verb), request).await?;
        let mut course = Course::new(answer.op);
        let mut progress = Progress::default();
        let quiet = self.watching.json || request.dry_run;
        let tell = |news: &News| {
            if quiet {
                return;
            }
            let Some(line) = report::line(news, self.watching.details) else { return };
            if matches!(news, News::Begun(_)) { progress.begun(&line) } else { progress.line(&line) }
        };
        let followed = tokio::select! {
            followed = follow(&self.client, self.cluster(), &mut course, &mut heard, self.patience, tell) => followed,
            // Without a handler for it Ctrl-C would end the program, which is as good.
            Ok(()) = tokio::signal::ctrl_c() => Err(Lost::Interrupted),
        };
        drop(progress);
        Ok(Watched { kind, dry_run: request.dry_run, course, heard, followed })
    }

    const fn subject(&self, watched: &Watched) -> Subject<'_> {
        Subject { show: &self.show, kind: watched.kind, dry_run: watched.dry_run }
    }

    fn conclude(&self, watched: &Watched) -> Result<(), Failure> {
        let subject = self.subject(watched);
        if self.watching.json {
            output::say_json(&subject.json(&watched.course, None))?;
        } else if watched.dry_run && !watched.course.plan.is_empty() {
            output::say(&report::plan_table(&watched.course.plan));
        }
        let sentence = subject.conclusion(&watched.course, &watched.followed)?;
        if !self.watching.json {
            output::note(&sentence);
        }
        Ok(())
    }

    /// Shows what would happen and asks for a yes. Any other answer, or nobody to give one, is an error.
    async fn rehearse_and_ask(
        &self,
        verb: &str,
        kind: &'static str,
        rehearsal: &OperateRequest,
    ) -> Result<(), Failure> {
        if !output::can_ask() {
            return Err(Failure::new(format!(
                "a {verb} is asked about before it begins, and there is no terminal to ask on"
            ))
            .hint("--yes answers; `shunt show` and a dry run tell what would happen")
            .with_exit(Exit::Usage));
        }
        // A dry run of a drill is that of a switchover.
        let watched = self.run(verb, if verb == "drill" { "switchover" } else { kind }, rehearsal).await?;
        self.outlook().iter().for_each(|line| output::note(line));
        if !watched.course.plan.is_empty() {
            output::note(&format!("\n{}\n", report::plan_table(&watched.course.plan)));
        }
        let subject = self.subject(&watched);
        subject.conclusion(&watched.course, &watched.followed)?;
        let to = watched.course.ending.as_ref().and_then(|end| end.new.as_ref());
        let to = to.map_or_else(String::new, |new| format!(" to {}", subject.name(new)));
        if ask(format!("Connections to {} end. Fail it over{to} now?", self.cluster())).await {
            return Ok(());
        }
        Err(Failure::new("nothing was changed").hint("--yes does not ask").with_exit(Exit::Refused))
    }

    /// How the cluster is, before anything is done to it.
    fn outlook(&self) -> Vec<String> {
        let show = &self.show;
        let primary = show.primary.as_ref().map_or("none known", |p| p.as_str());
        let name = show.servers.iter().find(|s| s.address == primary).map_or(primary, |s| &s.name);
        let mut lines = vec![
            format!("primary    {name}, epoch {}", show.epoch),
            format!("verdict    {}: {}", show.verdict, show.reasons.join("; ")),
        ];
        lines.extend(show.at_risk.iter().map(|risk| format!("at risk    {risk}")));
        lines.push(format!("outlook    {}", show.outlook));
        lines.iter().map(|line| output::harmless(line)).collect()
    }
}

/// Asks on a thread of its own: once Ctrl-C is listened to, it does not end a read from the terminal any more.
async fn ask(question: String) -> bool {
    let (reply, answer) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        // Nobody waits any more after a Ctrl-C.
        let _ = reply.send(output::confirm(&question));
    });
    tokio::select! {
        answer = answer => answer.unwrap_or(false),
        Ok(()) = tokio::signal::ctrl_c() => {
            output::note("");
            false
        }
    }
}
