//! Servers that were cast out, on their return: read-only before anything else, then compared with the primary, then a
//! replica again or in quarantine.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use super::telling;
use crate::Mono;
use crate::cluster::event::Action;
use crate::cluster::health::{Evidence, Health};
use crate::cluster::{Cluster, record};
use crate::config::{FailoverMode, Salvage};
use crate::gtid::History;
use crate::operation::{Order, OrderId, Outcast, Quarantine, Report, Standing, Task, TaskError};

const DISARM: Duration = Duration::from_secs(5);
const SALVAGE: Duration = Duration::from_secs(120);
const FOLLOW: Duration = Duration::from_secs(15);
/// What failed is tried again after this.
const AGAIN: Duration = Duration::from_secs(5);

/// What is being done about a server that was cast out.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::cluster) struct Returning {
    order: Option<OrderId>,
    stage: Stage,
    /// Nothing before then.
    rest_until: Option<Mono>,
}

#[derive(Clone, Debug, PartialEq)]
enum Stage {
    /// It is being made read-only.
    Disarming,
    /// It is read-only and had this; the primary is asked what it has.
    Comparing(Box<Standing>),
    Following,
    /// It has what the primary lacks, which is being fetched.
    Salvaging(History),
}

impl Returning {
    pub(super) const fn order(&self) -> Option<OrderId> {
        self.order
    }
}

impl Cluster {
    pub(in crate::cluster) fn cast_out(&mut self, server: SocketAddr, actions: &mut Vec<Action>) {
        let outcast = Outcast { server, epoch: self.epoch, quarantine: None };
        if self.outcasts.insert(server, outcast).is_none() {
            self.keep_outcasts(actions);
        }
    }

    pub(in crate::cluster) fn keep_outcasts(&self, actions: &mut Vec<Action>) {
        actions.push(Action::KeepOutcasts(self.outcasts.values().cloned().collect()));
    }

    /// Looks after everybody who was cast out and answers.
    pub(in crate::cluster) fn meet_outcasts(&mut self, now: Mono, actions: &mut Vec<Action>) {
        self.returning.retain(|_, r| r.order.is_some() || r.rest_until.is_some_and(|until| now < until));
        let automatic = self.config.failover == FailoverMode::Promote;
        if self.outcasts.is_empty() || self.lock_bar(None).is_some() {
            return;
        }
        let (run, primary) = (&self.run, self.primary);
        // The operation's own servers are the operation's.
        let busy = |server| run.as_ref().is_some_and(|run| run.op.old == server || run.op.chosen == Some(server));
        let present: Vec<_> = self
            .outcasts
            .values()
            .map(|outcast| outcast.server)
            .filter(|&server| Some(server) != primary && !busy(server))
            .filter(|server| automatic || self.asked_to_rejoin.contains(server))
            .filter(|&server| self.evidence(server) == Evidence::Answers)
            .collect();
        for server in present {
            self.meet(server, actions);
        }
    }

    fn meet(&mut self, server: SocketAddr, actions: &mut Vec<Action>) {
        let writable =
            self.servers.get(&server).and_then(Health::state).is_some_and(crate::observation::ServerState::is_writable);
        let quarantined = self.outcasts.get(&server).is_some_and(|outcast| outcast.quarantine.is_some());
        match self.returning.get(&server) {
            Some(_) => {}
            // Quarantine ends by an operator's word; but it must not take writes meanwhile.
            None if quarantined && !writable => {}
            None => {
                let task = Task::MakeReadOnly { server, end_sessions: true };
                self.errand(server, Stage::Disarming, task, DISARM, actions);
            }
        }
    }

    fn errand(&mut self, server: SocketAddr, stage: Stage, task: Task, within: Duration, actions: &mut Vec<Action>) {
        self.forget_lingering_of(server, actions);
        let id = self.next_order();
        self.returning.insert(server, Returning { order: Some(id), stage, rest_until: None });
        actions.push(Action::Start(vec![Order { id, task, within }]));
    }

    /// An order outside of operations came back; one that nobody gave, or that is of an earlier time, is nothing.
    pub(super) fn errand_done(
        &mut self,
        order: OrderId,
        result: Result<Report, TaskError>,
        now: Mono,
        actions: &mut Vec<Action>,
    ) {
        if self.note_lingering(order)
            || self.note_readiness(order, &result)
            || self.note_restored(order, &result, now, actions)
        {
            return;
        }
        let found = self.returning.iter().find(|(_, r)| r.order == Some(order)).map(|(&s, r)| (s, r.stage.clone()));
        let Some((server, stage)) = found else { return };
        let step = match (stage, result) {
            (_, Err(error)) => Err(error.message),
            (Stage::Disarming, Ok(Report::Standing(standing))) if standing.read_only => {
                if let Some(health) = self.servers.get_mut(&server) {
                    health.note_read_only(now);
                }
                self.compare(server, standing, now, actions)
            }
            (Stage::Comparing(theirs), Ok(Report::Standing(ours))) => {
                self.judge(server, &theirs, &ours, actions);
                Ok(())
            }
            (Stage::Following, Ok(_)) => {
                self.rejoined(server, actions);
                Ok(())
            }
            (Stage::Salvaging(errant), Ok(Report::Salvaged(salvaged))) => {
                let applied = match &salvaged.stopped {
                    Some(stopped) => format!("; they were to be applied, and {stopped}"),
                    None if salvaged.applied => " and applied to the primary".to_owned(),
                    None => String::new(),
                };
                let reason = format!(
                    "it has {} transactions that the primary lacks; they are kept in {}{applied}",
                    salvaged.transactions, salvaged.file
                );
                self.quarantine(
                    server,
                    Quarantine { reason, errant: errant.to_string(), salvaged: Some(salvaged) },
                    actions,
                );
                Ok(())
            }
            _ => Err("it answered something else".to_owned()),
        };
        if let Err(why) = step {
            self.failed_errand(server, &why, now, actions);
        }
    }

    fn failed_errand(&mut self, server: SocketAddr, why: &str, now: Mono, actions: &mut Vec<Action>) {
        let stage = self.returning.get(&server).map(|r| r.stage.clone());
        if let Some(Stage::Salvaging(errant)) = stage {
            // It is in quarantine for what it has, whether or not that could be fetched.
            let reason = format!("it has transactions that the primary lacks, and they could not be fetched: {why}");
            self.quarantine(server, Quarantine { reason, errant: errant.to_string(), salvaged: None }, actions);
            return;
        }
        tell_once(self, server, why, actions);
        let rest_until = Some(now + AGAIN);
        self.returning.insert(server, Returning { order: None, stage: Stage::Disarming, rest_until });
    }

    fn compare(
        &mut self,
        server: SocketAddr,
        standing: Box<Standing>,
        now: Mono,
        actions: &mut Vec<Action>,
    ) -> Result<(), String> {
        let quarantined = self.outcasts.get(&server).is_some_and(|outcast| outcast.quarantine.is_some());
        if quarantined {
            // It was only to be kept from writes; whoever makes it writable all the time is not outrun.
            let returning = Returning { order: None, stage: Stage::Disarming, rest_until: Some(now + AGAIN) };
            self.returning.insert(server, returning);
            return Ok(());
        }
        let healthy =
            self.primary.filter(|&p| self.open && self.run.is_none() && self.evidence(p) == Evidence::Answers);
        let Some(primary) = healthy else { return Err("there is no primary to compare it with".to_owned()) };
        let within = self.config.probe.timeout * 3;
        self.errand(server, Stage::Comparing(standing), Task::Examine { server: primary }, within, actions);
        Ok(())
    }

    /// Invariant: a server rejoins only if the primary has everything that it has.
    fn judge(&mut self, server: SocketAddr, theirs: &Standing, ours: &Standing, actions: &mut Vec<Action>) {
        let errant = theirs.executed.minus(&ours.executed);
        let Some(primary) = self.primary else { return };
        if !errant.is_empty() {
            let into = (self.config.promoting.salvage == Salvage::Apply).then_some(primary);
            let task = Task::Salvage { from: server, lacking: errant.clone(), into };
            self.errand(server, Stage::Salvaging(errant), task, SALVAGE, actions);
            return;
        }
        let asked = self.asked_to_rejoin.remove(&server);
        if !self.config.promoting.rejoin && !asked {
            let reason = "it has nothing that the primary lacks, and `rejoin` is off".to_owned();
            self.quarantine(server, Quarantine { reason, errant: String::new(), salvaged: None }, actions);
            return;
        }
        let semi_sync = self.servers.get(&primary).and_then(Health::state).and_then(|s| s.semi_sync);
        let semi_sync = semi_sync.is_some_and(|semi| semi.source_enabled);
        let task = Task::Follow { server, source: primary, semi_sync };
        self.errand(server, Stage::Following, task, FOLLOW, actions);
    }

    fn rejoined(&mut self, server: SocketAddr, actions: &mut Vec<Action>) {
        self.returning.remove(&server);
        self.outcasts.remove(&server);
        self.keep_outcasts(actions);
        let label = self.label(server);
        let source = self.primary.map(|p| self.label(p)).unwrap_or_default();
        telling::rejoined(
            self,
            server,
            format!("{label} follows {source} again: the primary has everything that it has"),
            actions,
        );
    }

    fn quarantine(&mut self, server: SocketAddr, quarantine: Quarantine, actions: &mut Vec<Action>) {
        self.returning.remove(&server);
        let message = format!("{} is in quarantine: {}", self.label(server), quarantine.reason);
        if let Some(outcast) = self.outcasts.get_mut(&server) {
            outcast.quarantine = Some(quarantine);
        }
        self.keep_outcasts(actions);
        telling::quarantined(self, server, message, actions);
    }

    /// An operator wants it compared anew, whatever was found before.
    pub(in crate::cluster) fn rejoin(&mut self, server: SocketAddr, by: &str, actions: &mut Vec<Action>) {
        if !self.servers.contains_key(&server) || Some(server) == self.primary || self.run.is_some() {
            return;
        }
        actions.push(record("rejoin", format!("{} is compared with the primary: {by}", self.label(server))));
        self.outcasts.insert(server, Outcast { server, epoch: self.epoch, quarantine: None });
        self.asked_to_rejoin.insert(server);
        self.returning.remove(&server);
        self.keep_outcasts(actions);
    }

    /// Whether it replicates from the primary already, so that to compare it anew would only end its readers' sessions.
    pub fn follows_already(&self, server: SocketAddr, now: Mono) -> bool {
        let view = self.view(now);
        let applies = |health: &Health| {
            health.state().is_some_and(|s| !s.is_writable() && s.channels.iter().all(|channel| channel.sql_running))
        };
        !self.outcasts.contains_key(&server)
            && self.primary.is_some_and(|primary| view.receivers_of(primary).contains(&server))
            && self.servers.get(&server).is_some_and(applies)
    }

    /// An operator has seen to it.
    pub(in crate::cluster) fn clear(&mut self, server: SocketAddr, by: &str, actions: &mut Vec<Action>) {
        if self.outcasts.remove(&server).is_some() {
            self.returning.remove(&server);
            actions.push(record("cleared", format!("{} is cast out no more: {by}", self.label(server))));
            self.keep_outcasts(actions);
        }
    }

    pub(in crate::cluster) fn returning_deadline(&self) -> Option<Mono> {
        self.returning.values().filter(|r| r.order.is_none()).filter_map(|r| r.rest_until).min()
    }
}

/// The same failure of the same server is told once.
fn tell_once(cluster: &mut Cluster, server: SocketAddr, why: &str, actions: &mut Vec<Action>) {
    let told: &mut BTreeMap<SocketAddr, String> = &mut cluster.told;
    if told.get(&server).is_some_and(|before| before == why) {
        return;
    }
    told.insert(server, why.to_owned());
    actions.push(record("returning", format!("{} could not be taken in yet: {why}", cluster.label(server))));
}
