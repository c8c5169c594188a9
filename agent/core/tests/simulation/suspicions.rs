//! What a proxy's traffic tells of servers: true, late or false, about anybody at any time. Drawn beside the other faults from
//! a stream of its own, so that a seed's other faults are the same without them.

use std::time::Duration;

use shunt_core::Mono;
use shunt_core::cluster::Event;
use shunt_core::signal::{Sign, Suspicion};

use super::faults::{Fault, Who};
use super::history::tell;
use super::network::Node;
use super::rng::Rng;
use super::scenario::Scenario;
use super::server::db;
use super::world::World;

const SIGNS: [Sign; 5] = [Sign::Retransmissions, Sign::Resets, Sign::UnansweredSyns, Sign::Refusals, Sign::Silence];

/// A server is asked for the sake of a suspicion twice a second at most: a flood of them comes this fast.
const FLOOD: Duration = Duration::from_millis(500);

pub fn draw(scenario: &Scenario, faults: &[(Mono, Fault)]) -> Vec<(Mono, Fault)> {
    let mut rng = Rng::new(scenario.seed).fork(4);
    let mut told = Vec::new();
    let any = |rng: &mut Rng| if rng.percent(55) { Who::Primary } else { Who::Number(rng.below(scenario.servers)) };
    let one = |rng: &mut Rng, who, sign| Fault::Suspects { p: rng.below(scenario.proxies), who, sign };
    // Those that are right: clients hear nothing any more, or that nobody listens.
    for (at, fault) in faults {
        let (who, sign) = match fault {
            Fault::Dies { who, power: false, .. } => (*who, Sign::Refusals),
            Fault::Dies { who, .. } | Fault::Hangs { who, .. } | Fault::Isolated { who, .. } => (*who, Sign::Silence),
            Fault::Cut { to: Node::Server(n), .. } => (Who::Number(*n), Sign::Silence),
            _ => continue,
        };
        if rng.percent(60) {
            let after = rng.millis(if sign == Sign::Silence { 150 } else { 0 }, 400);
            told.push((*at + after, one(&mut rng, who, sign)));
        }
    }
    // Those that are right or wrong, whatever happens meanwhile.
    for _ in 0..rng.up_to(8) {
        let at = if !faults.is_empty() && rng.percent(50) {
            faults[rng.below(faults.len())].0 + rng.millis(0, 4_000)
        } else {
            Mono(rng.millis(500, scenario.heal_at.as_millis() as u64 - 1))
        };
        let (who, sign) = (any(&mut rng), rng.pick(&SIGNS));
        told.push((at, one(&mut rng, who, sign)));
    }
    if rng.percent(15) {
        let (start, who, sign) = (rng.millis(3_000, 20_000), any(&mut rng), rng.pick(&SIGNS));
        told.extend((0..20_u32).map(|n| (Mono(start + FLOOD * n), one(&mut rng, who, sign))));
    }
    told
}

impl World {
    pub fn suspects(&mut self, p: usize, who: Who, sign: Sign) {
        let backend = db(self.who(who));
        let listener = self.proxies[p].config.listeners[0].address;
        let awaited = (sign == Sign::Silence).then(|| Duration::from_millis(160));
        let suspicion = Suspicion { listener, backend, sign, awaited };
        tell!(self, "traffic tells agent{}: {suspicion}", p + 1);
        self.tell_agent(p, Event::Suspected(suspicion));
    }
}
