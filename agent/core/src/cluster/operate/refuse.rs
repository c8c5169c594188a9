//! Why an operator's request is refused before anything is begun.

use std::net::SocketAddr;

use crate::Mono;
use crate::cluster::Cluster;
use crate::cluster::health::Evidence;
use crate::config::FailoverMode;
use crate::operation::{Intent, Kind};

/// What an operator is told instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub error: String,
    pub hint: Option<String>,
    /// The request itself makes no sense, rather than that a rule forbids it.
    pub is_misuse: bool,
}

impl Refusal {
    pub(super) fn rule(error: String) -> Self {
        Self { error, hint: None, is_misuse: false }
    }

    pub(super) fn hint(self, hint: String) -> Self {
        Self { hint: Some(hint), ..self }
    }
}

fn rule(error: String) -> Refusal {
    Refusal::rule(error)
}

impl Cluster {
    /// Why this cannot be begun now; `None`: it can.
    pub fn refusal(&self, intent: &Intent, now: Mono) -> Option<Refusal> {
        let name = &self.config.name;
        if self.config.failover == FailoverMode::Follow {
            return Some(
                rule(format!("shunt follows {name} and changes none of its servers"))
                    .hint("let whoever manages the cluster do it, or set failover = \"promote\" or \"off\"".to_owned()),
            );
        }
        if let Some(busy) = self.busy(now) {
            return Some(busy);
        }
        if let Some(why) = &self.sealed {
            return Some(rule(format!("an earlier operation cannot be read: {why}")).hint(format!(
                "`shunt pin {name} SERVER` says who the primary is, `shunt abort {name}` only that nobody goes on with it"
            )));
        }
        if let Some(why) = self.group_bar() {
            return Some(rule(why));
        }
        let Some(old) = self.primary else {
            return Some(
                rule(format!("{name} has no primary that is known, so there is nothing to change it from"))
                    .hint(format!("`shunt pin {name} SERVER` says which server is the primary")),
            );
        };
        if let Some(to) = intent.to {
            if to == old {
                return Some(Refusal { is_misuse: true, ..rule(format!("{} is the primary already", self.label(to))) });
            }
            if let Some(why) = self.unfit_to_take_over(to) {
                let (label, is_outcast) = (self.label(to), self.outcasts.contains_key(&to));
                let refusal = rule(format!("{label} cannot take over: {why}"));
                let hint = format!("`shunt rejoin {name} {label}` compares it with the primary and lets it follow");
                return Some(if is_outcast { refusal.hint(hint) } else { refusal });
            }
        }
        if !self.pins.is_empty() {
            return Some(
                rule("something of the cluster is pinned, and a pin stands above every other decision".to_owned())
                    .hint(format!("`shunt unpin {name}` first")),
            );
        }
        let living = self.evidence(old) == Evidence::Answers;
        if let Some(why) = self.lock_bar((!living).then_some(old)) {
            return Some(rule(why));
        }
        match intent.kind {
            Kind::Switchover if !living => Some(
                rule(format!("{} does not answer, and a switchover needs both servers", self.label(old)))
                    .hint(format!("`shunt failover {name}` does without the old primary")),
            ),
            Kind::Failover
                if !living
                    && !intent.allow_loss
                    && self.config.data_loss == crate::config::DataLoss::Forbid
                    && self.proof_of(old, now).is_none() =>
            {
                Some(
                    rule(
                        "data_loss is \"forbid\", and nothing proves that every acknowledged transaction is on a replica"
                            .to_owned(),
                    )
                    .hint(format!("`shunt failover {name} --allow-data-loss` does it all the same")),
                )
            }
            Kind::Switchover | Kind::Failover => None,
        }
    }

    pub const fn is_busy(&self) -> bool {
        self.run.is_some()
    }

    /// Why something else must be over first.
    pub fn busy(&self, now: Mono) -> Option<Refusal> {
        let run = self.run.as_ref()?;
        let (op, name, ago) = (&run.op, &self.config.name, now.since(run.began_at).as_secs());
        let what = format!("{} {} of {name} is under way: step {}", op.kind.word(), op.id, op.step);
        Some(
            rule(format!("{what}, begun {ago} s ago"))
                .hint(format!("`shunt events -f {name}` shows how it goes on, `shunt abort {name}` takes it back")),
        )
    }

    fn unfit_to_take_over(&self, to: SocketAddr) -> Option<String> {
        if self.outcasts.contains_key(&to) {
            return Some(
                "it was cast out by an earlier operation and has not been compared with the primary".to_owned(),
            );
        }
        match self.evidence(to) {
            Evidence::Answers => {}
            _ => return Some("it does not answer".to_owned()),
        }
        let known = self.readiness.standing(to)?;
        (!known.obstacles.is_empty())
            .then(|| known.obstacles.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
    }
}
