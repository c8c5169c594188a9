//! Every verdict × what happens next: the table below is the specification, and the machine is run against all of it.

use super::*;

/// What happens, under the words that stand in the table's head.
type Happening = (&'static str, fn(&mut World));
const HAPPENINGS: [Happening; 9] = [
    ("answers", |w| w.fake(1).fails = None),
    ("turns read-only", |w| {
        w.fake(1).fails = None;
        w.fake(1).writable = false;
    }),
    ("one failure", |_| {}),
    ("killed", |w| w.kill(1)),
    ("silent", |w| w.fake(1).fails = Some(FailureKind::Timeout)),
    ("no answer", |w| w.fake(1).fails = Some(FailureKind::NoAnswer)),
    ("too many conns", |w| w.fake(1).fails = Some(FailureKind::TooManyConnections)),
    ("2nd writable", |w| {
        w.fake(1).fails = None;
        w.fake(1).writable = true;
        w.fake(2).writable = true;
    }),
    ("db2 promoted", |w| {
        w.fake(1).fails = None;
        w.fake(1).writable = false;
        w.promote(2, &[3]);
    }),
];

/// A cluster under each verdict, db1 being the primary of the epoch.
pub(super) fn under(verdict: Verdict) -> World {
    let mut world = World::healthy(3);
    match verdict {
        Verdict::Healthy => {}
        Verdict::Suspect => {
            world.fake(1).fails = Some(FailureKind::Timeout);
            world.ask(db(1));
        }
        Verdict::Dead => {
            world.kill(1);
            world.ticks(3);
        }
        Verdict::Unreachable => {
            world.fake(1).fails = Some(FailureKind::Timeout);
            world.ticks(4);
        }
        Verdict::Saturated => {
            world.fake(1).fails = Some(FailureKind::TooManyConnections);
            world.tick();
        }
        Verdict::Split => {
            world.fake(2).writable = true;
            world.tick();
        }
        Verdict::Demoted => {
            // For as long as an operator's pause keeps it from being followed.
            world.event(Event::Pause { until: None, reason: "test".to_owned() });
            world.fake(1).writable = false;
            world.promote(2, &[3]);
            world.ticks(2);
        }
        Verdict::None => {
            world.fake(1).writable = false;
            world.tick();
        }
    }
    assert_eq!(world.verdict(), verdict, "{:?}", world.machine.assessment());
    world
}

fn outcome(from: Verdict, name: &str, happen: fn(&mut World)) -> String {
    let mut world = under(from);
    happen(&mut world);
    if name == "one failure" {
        world.fake(1).fails = Some(FailureKind::Timeout);
        world.ask(db(1));
    } else {
        world.ticks(4);
    }
    let leads = world
        .leads_to()
        .map_or_else(|| "fence".to_owned(), |to| format!("db{}", to.ip().to_string().trim_start_matches("10.0.0.1")));
    format!("{} {leads}", world.verdict())
}

#[test]
fn every_verdict_meets_every_happening_as_the_table_says() {
    let mut table = format!("{:<12}", "from");
    for (name, _) in HAPPENINGS {
        table.push_str(&format!("| {name:<16}"));
    }
    for from in Verdict::ALL {
        table.push_str(&format!("\n{from:<12}"));
        for (name, happen) in HAPPENINGS {
            table.push_str(&format!("| {:<16}", outcome(from, name, happen)));
        }
    }
    let table: Vec<_> = table.lines().map(str::trim_end).collect();
    assert_eq!(table.join("\n"), TABLE.trim(), "\n{}\n", table.join("\n"));
}

/// Verdict and direction after it. `db1` is the primary at first, db2 and db3 its replicas.
#[rustfmt::skip]
const TABLE: &str = "
from        | answers         | turns read-only | one failure     | killed          | silent          | no answer       | too many conns  | 2nd writable    | db2 promoted
healthy     | healthy db1     | none fence      | suspect db1     | dead fence      | unreachable db1 | saturated db1   | saturated db1   | split db1       | healthy db2
suspect     | healthy db1     | none fence      | suspect db1     | dead fence      | unreachable db1 | saturated db1   | saturated db1   | split db1       | healthy db2
dead        | healthy db1     | none fence      | dead fence      | dead fence      | dead fence      | dead fence      | saturated fence | split db1       | healthy db2
unreachable | healthy db1     | none fence      | unreachable db1 | dead fence      | unreachable db1 | saturated db1   | saturated db1   | split db1       | healthy db2
saturated   | healthy db1     | none fence      | suspect db1     | dead fence      | unreachable db1 | saturated db1   | saturated db1   | split db1       | healthy db2
split       | split db1       | none fence      | suspect db1     | dead fence      | unreachable db1 | saturated db1   | saturated db1   | split db1       | healthy db2
demoted     | demoted db1     | demoted db1     | suspect db1     | dead db1        | dead db1        | dead db1        | saturated db1   | split db1       | demoted db1
none        | none fence      | none fence      | suspect fence   | dead fence      | unreachable fence| saturated fence | saturated fence | split db1       | healthy db2
";
