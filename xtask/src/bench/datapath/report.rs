//! The figures as tables on the terminal, and for a program.

use serde_json::{Value, json};

use super::figures::{Figures, Versus};
use super::load::{Row, THREADS};
use super::way::{Kind, Way};
use crate::bench::machine::Machine;
use crate::setup::rivals::Rival;

pub struct Report<'a> {
    pub machine: &'a Machine,
    pub servers: &'a str,
    pub ways: &'a [Way],
    pub skipped: &'a [(Kind, String)],
    pub figures: &'a Figures,
}

impl Report<'_> {
    pub fn print(&self) {
        println!("\n  a second, and in proportion to direct; {THREADS} connections, one operation at a time each");
        self.table(|kind, row| {
            let figure = self.figures.of(kind, row)?;
            Some(format!("{:.0}  {:>5.2}", figure.per_second, figure.to_direct))
        });
        println!("\n  processor time of the whole machine for one operation, and what it is more than direct, µs");
        self.table(|kind, row| {
            let figure = self.figures.of(kind, row)?;
            Some(format!("{:.1}  {:>5.1}", figure.cpu_us, figure.added_cpu_us))
        });
        self.ratios(
            Versus::WithoutGuard,
            "shunt-nft / the same without its guard, which is the bare map, on the same connections (promised: 0.97 at least)",
        );
        self.ratios(Versus::Itself, "the same for shunt-nft and itself: what such a measurement can tell apart");
        self.ratios(Versus::BareMap, "shunt-nft / bare nft map on a host of its own, with other connections each time");
        self.ratios(Versus::AnotherBareMap, "the same for one bare nft map and another");
        self.ratios(
            Versus::EbpfBareMap,
            "shunt-ebpf / bare nft map (promised: 1.1 at least in request and reply, connect, and bulk)",
        );
        self.ratios(Versus::EbpfFloor, "shunt-ebpf / floor: what is left is what its promises cost");
        self.of_ebpf();
        self.of_nft();
        println!(
            "\n  direct goes over the same LAN without a proxy. Every other way has a proxy host of its own, all made alike.\n  \
             shunt-nft is the datapath alone, with the table that the agent keeps; nothing probes meanwhile.\n  \
             Load, proxies and {} share the processors: the ratios are what counts.",
            self.servers
        );
        for (kind, reason) in self.skipped {
            println!("  left out: {}: {reason}", kind.title());
        }
    }

    fn table(&self, cell: impl Fn(Kind, Row) -> Option<String>) {
        print!("  {:<28}", "");
        for row in Row::ALL {
            print!("{:>26}", row.title());
        }
        println!();
        for way in self.ways {
            print!("  {:<28}", way.kind.title());
            for row in Row::ALL {
                print!("{:>26}", cell(way.kind, row).unwrap_or_else(|| "-".to_owned()));
            }
            println!();
        }
    }

    fn ratios(&self, versus: Versus, title: &str) {
        if self.figures.ratio(versus, Row::Select).is_none() {
            return;
        }
        println!("\n  {title}");
        println!("  {:<28}{:>18}{:>12}{:>24}", "", "ratio of medians", "median", "middle half of pairs");
        for row in Row::ALL {
            if let Some(ratio) = self.figures.ratio(versus, row) {
                let ([low, high], of_medians, median) = (ratio.quartiles, ratio.of_medians, ratio.median);
                println!("  {:<28}{of_medians:>18.3}{median:>12.3}{low:>15.3} to {high:.3}", row.title());
            }
        }
    }

    fn ratios_json(&self, versus: Versus) -> Value {
        let each = Row::ALL.into_iter().filter_map(|row| {
            let ratio = self.figures.ratio(versus, row)?;
            let value = json!({
                "ratio_of_medians": ratio.of_medians,
                "median_of_pairs": ratio.median,
                "quartiles_of_pairs": ratio.quartiles,
                "pairs": ratio.pairs,
            });
            Some((row.key().to_owned(), value))
        });
        Value::Object(each.collect())
    }

    fn of_nft(&self) {
        let of = |kind| self.figures.of(kind, Row::Select);
        if let (Some(shunt), Some(haproxy)) = (of(Kind::ShuntNft), of(Kind::Rival(Rival::Haproxy))) {
            println!(
                "\n  point selects by shunt-nft: {:.2} times HAProxy's (promised: 1.5 at least); added processor time {:.2} of \
                 HAProxy's (promised: 0.25 at most)",
                shunt.per_second / haproxy.per_second,
                shunt.added_cpu_us / haproxy.added_cpu_us
            );
        }
    }

    fn of_ebpf(&self) {
        let Some(shunt) = self.figures.of(Kind::ShuntEbpf, Row::Select) else { return };
        println!("\n  point selects by shunt-ebpf: {:.3} of direct's (promised: 0.90 at least)", shunt.to_direct);
        if let Some(haproxy) = self.figures.of(Kind::Rival(Rival::Haproxy), Row::Select) {
            println!("  {:.2} times HAProxy's (promised: 2 at least)", shunt.per_second / haproxy.per_second);
        }
        if let Some(bare) = self.figures.of(Kind::BareMap, Row::Select) {
            println!(
                "  added processor time: {:.1} µs, {:.2} of the bare map's {:.1} µs (promised: 0.4 at most)",
                shunt.added_cpu_us,
                shunt.added_cpu_us / bare.added_cpu_us,
                bare.added_cpu_us
            );
        }
        for row in [Row::Select, Row::Connect] {
            let of = |kind| self.figures.of(kind, row);
            if let (Some(shunt), Some(floor)) = (of(Kind::ShuntEbpf), of(Kind::Floor)) {
                let (ours, least) = (shunt.added_cpu_us, floor.added_cpu_us);
                println!("  above the floor, {}: {:.1} µs ({ours:.1} - {least:.1})", row.title(), ours - least);
            }
        }
    }

    pub fn json(&self) -> Value {
        let way = |way: &Way| {
            let rows: serde_json::Map<String, Value> = Row::ALL
                .into_iter()
                .filter_map(|row| {
                    let figure = self.figures.of(way.kind, row)?;
                    let value = json!({
                        "per_second": figure.per_second,
                        "to_direct": figure.to_direct,
                        "cpu_us": figure.cpu_us,
                        "added_cpu_us": figure.added_cpu_us,
                    });
                    Some((row.key().to_owned(), value))
                })
                .collect();
            json!({ "way": way.kind.key(), "title": way.kind.title(), "version": way.version, "rows": rows })
        };
        let skipped: Vec<Value> =
            self.skipped.iter().map(|(kind, reason)| json!({ "way": kind.key(), "reason": reason })).collect();
        json!({
            "bench": "datapath",
            "machine": self.machine.json(),
            "servers": self.servers,
            "connections": THREADS,
            "ways": self.ways.iter().map(way).collect::<Vec<_>>(),
            "shunt_to_itself_without_guard": self.ratios_json(Versus::WithoutGuard),
            "shunt_to_itself": self.ratios_json(Versus::Itself),
            "shunt_ebpf_to_bare_map": self.ratios_json(Versus::EbpfBareMap),
            "shunt_ebpf_to_floor": self.ratios_json(Versus::EbpfFloor),
            "shunt_to_bare_map": self.ratios_json(Versus::BareMap),
            "bare_map_to_another": self.ratios_json(Versus::AnotherBareMap),
            "left_out": skipped,
        })
    }
}
