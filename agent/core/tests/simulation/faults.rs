//! What goes wrong, drawn from the seed before the run begins, so that a run can be repeated without one of them.

use std::time::Duration;

use shunt_core::Mono;
use shunt_core::cluster::Event;
use shunt_core::config::FailoverMode;
use shunt_core::operation::{Intent, Kind};
use shunt_core::signal::Sign;

use super::history::tell;
use super::network::{Network, Node};
use super::rng::Rng;
use super::scenario::Scenario;
use super::server::{Life, db, number};
use super::suspicions;
use super::world::{Happening, World};

/// A server, as far as it is known before the run.
#[derive(Clone, Copy, Debug)]
pub enum Who {
    /// Whoever the first proxy's listener leads to, or led to last.
    Primary,
    Number(usize),
}

#[derive(Clone, Debug)]
pub enum Fault {
    Dies {
        who: Who,
        time: Duration,
        power: bool,
    },
    Hangs {
        who: Who,
        time: Duration,
    },
    IsFull {
        who: Who,
        time: Duration,
    },
    IsSlow {
        who: Who,
        time: Duration,
        by: Duration,
    },
    Cut {
        from: Node,
        to: Node,
        both: bool,
        time: Duration,
    },
    Isolated {
        who: Who,
        time: Duration,
    },
    AgentDies {
        p: usize,
        boundaries: u32,
    },
    Freezes {
        p: usize,
        time: Duration,
    },
    ClockJumps {
        p: usize,
        by: i64,
    },
    DiskFull {
        p: usize,
        time: Duration,
    },
    KernelRefuses {
        p: usize,
        time: Duration,
    },
    HooksFail {
        p: usize,
        time: Duration,
    },
    ApplierStops {
        who: Who,
        time: Duration,
        error: bool,
    },
    Lags {
        who: Who,
        time: Duration,
        by: Duration,
    },
    Errant {
        who: Who,
    },
    TurnsWritable {
        who: Who,
    },
    TurnsReadOnly {
        who: Who,
    },
    Operates {
        p: usize,
        kind: Kind,
        to: Option<usize>,
        allow_loss: bool,
        dry_run: bool,
    },
    Pauses {
        p: usize,
        time: Option<Duration>,
    },
    Resumes {
        p: usize,
    },
    Pins {
        p: usize,
        who: Who,
        time: Duration,
    },
    /// So many events into what is under way then, or begins next.
    Aborts {
        p: usize,
        events: u32,
    },
    Rejoins {
        p: usize,
        who: Who,
    },
    Clears {
        p: usize,
        who: Who,
    },
    StaleNews {
        p: usize,
        draw: u64,
    },
    /// By what a proxy's traffic tells, be it true or not.
    Suspects {
        p: usize,
        who: Who,
        sign: Sign,
    },
}

pub fn draw(scenario: &Scenario) -> Vec<(Mono, Fault)> {
    let mut rng = Rng::new(scenario.seed).fork(3);
    let count = 1 + rng.up_to(9);
    let mut faults: Vec<_> = (0..count)
        .map(|_| {
            let at = rng.millis(3_000, scenario.heal_at.as_millis() as u64 - 2_000);
            (Mono(at), draw_one(scenario, &mut rng))
        })
        .collect();
    // What one fault begins, another one disturbs: many of them come close together.
    if rng.percent(60) && faults.len() > 1 {
        let first = faults[0].0;
        for (at, _) in faults.iter_mut().skip(1).take(3) {
            *at = first + rng.millis(0, 6_000);
        }
    }
    // An agent that dies in the midst of what a death, or an operator, made it begin.
    if rng.percent(30) {
        let at = rng.millis(3_000, 20_000);
        let p = rng.below(scenario.proxies);
        let begins = if rng.percent(65) {
            Fault::Dies { who: Who::Primary, time: rng.millis(300, 8_000), power: rng.percent(70) }
        } else {
            Fault::Operates { p, kind: Kind::Switchover, to: None, allow_loss: false, dry_run: false }
        };
        faults.push((Mono(at), begins));
        faults.push((Mono(at), Fault::AgentDies { p, boundaries: rng.up_to(40) as u32 }));
    }
    // An operator who takes back what a death, or another operator, made the agent begin.
    if rng.percent(30) {
        let at = rng.millis(3_000, 20_000);
        let p = rng.below(scenario.proxies);
        let begins = match rng.up_to(9) {
            0..=4 => Fault::Dies { who: Who::Primary, time: rng.millis(300, 20_000), power: rng.percent(70) },
            n => {
                let kind = if n < 8 { Kind::Switchover } else { Kind::Failover };
                Fault::Operates { p, kind, to: None, allow_loss: false, dry_run: false }
            }
        };
        faults.push((Mono(at), begins));
        for _ in 0..=rng.up_to(2) {
            let (delay, events) = (rng.millis(0, 2_500), rng.up_to(30) as u32);
            faults.push((Mono(at) + delay, Fault::Aborts { p, events }));
        }
        faults.push((Mono(at), Fault::Aborts { p, events: rng.up_to(60) as u32 }));
    }
    faults.extend(suspicions::draw(scenario, &faults));
    faults.sort_by_key(|(at, _)| *at);
    faults
}

fn draw_one(scenario: &Scenario, r: &mut Rng) -> Fault {
    let who = if r.percent(55) { Who::Primary } else { Who::Number(r.below(scenario.servers)) };
    let replica = Who::Number(r.below(scenario.servers));
    let p = r.below(scenario.proxies);
    let time = if r.percent(50) { r.millis(200, 5_000) } else { r.millis(5_000, 60_000) };
    let node = |r: &mut Rng| {
        if r.percent(40) { Node::Proxy(r.below(scenario.proxies)) } else { Node::Server(r.below(scenario.servers)) }
    };
    match r.up_to(99) {
        0..=21 => Fault::Dies { who, time, power: r.percent(65) },
        22..=25 => Fault::Hangs { who, time },
        26 => Fault::IsFull { who, time },
        27..=29 => Fault::IsSlow { who, time, by: r.millis(50, 1_500) },
        30..=37 => {
            let from = node(r);
            let to = Node::Server(r.below(scenario.servers));
            let to = if from == to { Node::Proxy(p) } else { to };
            Fault::Cut { from, to, both: r.percent(60), time }
        }
        38..=42 => Fault::Isolated { who, time },
        43..=53 => Fault::AgentDies { p, boundaries: r.up_to(14) as u32 },
        54..=57 => Fault::Freezes { p, time: r.millis(100, 8_000) },
        58..=59 => Fault::ClockJumps { p, by: r.up_to(1_200_000).cast_signed() - 600_000 },
        60..=62 => Fault::DiskFull { p, time },
        63..=65 => Fault::KernelRefuses { p, time: r.millis(200, 5_000) },
        66..=67 => Fault::HooksFail { p, time },
        68..=70 => Fault::ApplierStops { who: replica, time, error: r.percent(50) },
        71..=74 => Fault::Lags { who: replica, time, by: r.millis(100, 1_500) },
        75..=76 => Fault::Errant { who: replica },
        77 => Fault::TurnsWritable { who: replica },
        78 => Fault::TurnsReadOnly { who },
        79..=88 => {
            let kind = if r.percent(65) { Kind::Switchover } else { Kind::Failover };
            let to = r.percent(50).then(|| r.below(scenario.servers));
            Fault::Operates { p, kind, to, allow_loss: r.percent(25), dry_run: r.percent(10) }
        }
        89..=90 => Fault::Pauses { p, time: r.percent(50).then_some(time) },
        91 => Fault::Resumes { p },
        92 => Fault::Pins { p, who, time },
        93 => Fault::Rejoins { p, who: replica },
        94 => Fault::Clears { p, who: replica },
        _ => Fault::StaleNews { p, draw: r.next() },
    }
}

impl World {
    pub fn who(&self, who: Who) -> usize {
        match who {
            Who::Number(n) => n,
            Who::Primary => self.proxies[0].kernel.primary.map_or(0, number),
        }
    }

    pub fn fault_begins(&mut self, index: usize) {
        if self.healed {
            return;
        }
        let fault = self.faults[index].1.clone();
        tell!(self, "fault {index}: {fault:?}");
        // What ends by itself ends on the server that it began on.
        let end = |world: &mut Self, time: Duration, ended: Fault| {
            world.faults[index].1 = ended;
            world.later(time, Happening::FaultEnds(index));
        };
        match fault {
            Fault::Dies { who, time, power } => {
                let n = self.who(who);
                self.kill(n, power);
                let generation = self.servers[n].generation;
                self.later(time, Happening::Boot { n, generation });
            }
            Fault::Hangs { who, time } => {
                let n = self.who(who);
                self.servers[n].hung = true;
                end(self, time, Fault::Hangs { who: Who::Number(n), time });
            }
            Fault::IsFull { who, time } => {
                let n = self.who(who);
                self.servers[n].full = true;
                end(self, time, Fault::IsFull { who: Who::Number(n), time });
            }
            Fault::IsSlow { who, time, by } => {
                let n = self.who(who);
                self.net.set_slow(Node::Server(n), by);
                end(self, time, Fault::IsSlow { who: Who::Number(n), time, by });
            }
            Fault::Cut { from, to, both, time } => {
                self.net.cut(from, to);
                if both {
                    self.net.cut(to, from);
                }
                self.later(time, Happening::FaultEnds(index));
            }
            Fault::Isolated { who, time } => {
                let n = self.who(who);
                self.isolate(n, true);
                end(self, time, Fault::Isolated { who: Who::Number(n), time });
            }
            Fault::AgentDies { p, boundaries } => self.proxies[p].dies_in = Some(boundaries),
            Fault::Freezes { p, time } => {
                self.proxies[p].frozen = true;
                self.later(time, Happening::Thaws { p });
            }
            Fault::ClockJumps { p, by } => self.clock_jumps(p, by),
            Fault::DiskFull { p, time } => {
                self.proxies[p].disk_full = true;
                self.later(time, Happening::FaultEnds(index));
            }
            Fault::KernelRefuses { p, time } => {
                self.proxies[p].kernel_refuses = true;
                self.later(time, Happening::FaultEnds(index));
            }
            Fault::HooksFail { p, time } => {
                self.proxies[p].hooks_fail = true;
                self.later(time, Happening::FaultEnds(index));
            }
            Fault::ApplierStops { who, time, error } => {
                let n = self.who(who);
                if error {
                    self.servers[n].apply_error = true;
                } else {
                    self.servers[n].applying = false;
                }
                end(self, time, Fault::ApplierStops { who: Who::Number(n), time, error });
            }
            Fault::Lags { who, time, by } => {
                let n = self.who(who);
                self.servers[n].apply_delay = by;
                end(self, time, Fault::Lags { who: Who::Number(n), time, by });
            }
            Fault::Errant { who } => {
                let n = self.who(who);
                self.errant_write(n);
            }
            Fault::TurnsWritable { who } => {
                let n = self.who(who);
                if self.scenario.mode != FailoverMode::Follow {
                    self.servers[n].read_only = false;
                }
            }
            Fault::TurnsReadOnly { who } => {
                let n = self.who(who);
                self.servers[n].read_only = true;
            }
            Fault::Operates { p, kind, to, allow_loss, dry_run } => {
                let intent = Intent {
                    kind,
                    to: to.map(db),
                    // The longer one outlasts a source's waiting for acknowledgements.
                    grace: Duration::from_secs(if to.is_some() { 20 } else { 1 }),
                    allow_loss,
                    dry_run,
                    by: "operator".to_owned(),
                };
                self.operate(p, intent);
            }
            Fault::Pauses { p, time } => self.pause(p, time),
            Fault::Resumes { p } => self.resume(p),
            Fault::Pins { p, who, time } => {
                let n = self.who(who);
                self.pin(p, n);
                self.later(time, Happening::FaultEnds(index));
            }
            Fault::Aborts { p, events } => self.proxies[p].aborts_in = Some(events),
            Fault::Rejoins { p, who } => {
                let server = db(self.who(who));
                self.tell_agent(p, Event::Rejoin { server, by: "operator".to_owned() });
            }
            Fault::Clears { p, who } => {
                let server = db(self.who(who));
                self.tell_agent(p, Event::Clear { server, by: "operator".to_owned() });
            }
            Fault::StaleNews { p, draw } => {
                self.stale_news(p, draw);
                self.proxies[p].stale_next = 10;
            }
            Fault::Suspects { p, who, sign } => self.suspects(p, who, sign),
        }
    }

    pub fn fault_ends(&mut self, index: usize) {
        if self.healed {
            return;
        }
        tell!(self, "fault {index} ends");
        match self.faults[index].1.clone() {
            Fault::Hangs { who, .. } => {
                let n = self.who(who);
                self.servers[n].hung = false;
                self.wakes(n);
            }
            Fault::IsFull { who, .. } => {
                let n = self.who(who);
                self.servers[n].full = false;
            }
            Fault::IsSlow { who, .. } => {
                let node = Node::Server(self.who(who));
                self.net.set_slow(node, Duration::ZERO);
            }
            Fault::Cut { from, to, both, .. } => {
                self.net.join(from, to);
                if both {
                    self.net.join(to, from);
                }
            }
            Fault::Isolated { who, .. } => {
                let n = self.who(who);
                self.isolate(n, false);
            }
            Fault::DiskFull { p, .. } => self.proxies[p].disk_full = false,
            Fault::KernelRefuses { p, .. } => self.proxies[p].kernel_refuses = false,
            Fault::HooksFail { p, .. } => self.proxies[p].hooks_fail = false,
            Fault::ApplierStops { who, .. } => {
                let n = self.who(who);
                (self.servers[n].applying, self.servers[n].apply_error) = (true, false);
                self.apply_later(n);
            }
            Fault::Lags { who, .. } => {
                let n = self.who(who);
                self.servers[n].apply_delay = Duration::from_millis(2);
            }
            Fault::Pins { p, .. } => self.unpin(p),
            _ => {}
        }
    }

    fn isolate(&mut self, n: usize, on: bool) {
        let others = (0..self.servers.len()).filter(|&s| s != n).map(Node::Server);
        let others: Vec<_> = others.chain((0..self.proxies.len()).map(Node::Proxy)).collect();
        for other in others {
            for (from, to) in [(Node::Server(n), other), (other, Node::Server(n))] {
                if on {
                    self.net.cut(from, to);
                } else {
                    self.net.join(from, to);
                }
            }
        }
    }

    /// A process that hung goes on where it was.
    fn wakes(&mut self, n: usize) {
        self.apply_later(n);
        self.settle(n);
    }

    /// Every fault ends, everybody comes back, and the operator takes back what was said.
    pub fn heal(&mut self) {
        tell!(self, "everything heals");
        self.healed = true;
        self.net = Network::new(self.scenario.delay.0, self.scenario.delay.1);
        for n in 0..self.servers.len() {
            let server = &mut self.servers[n];
            (server.hung, server.full, server.apply_error, server.applying) = (false, false, false, true);
            server.apply_delay = Duration::from_millis(2);
            if server.life == Life::Dead {
                let generation = server.generation;
                let delay = self.rng.millis(0, 3_000);
                self.later(delay, Happening::Boot { n, generation });
            }
            self.wakes(n);
        }
        for p in 0..self.proxies.len() {
            let proxy = &mut self.proxies[p];
            (proxy.disk_full, proxy.kernel_refuses, proxy.hooks_fail) = (false, false, false);
            (proxy.dies_in, proxy.aborts_in) = (None, None);
            self.thaws(p);
            self.agent_starts(p);
            self.unpin(p);
            self.resume(p);
        }
    }
}
