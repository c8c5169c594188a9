//! `bench flows`: what a flow costs shunt-ebpf with a thousand of them in its table, and with a million. The programs are
//! run by the ebpf crate's example `bench`; here it gets a proxy's host to do it in.

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use shunt_tests::Lan;

use super::machine::Machine;
use super::plot::thousands;
use super::{Output, driver, prepare};
use crate::setup::Needs;
use crate::talk;

/// What is promised of a million flows: their maps' size in megabytes, and how much more a new one costs than the thousandth.
const MOST_MEGABYTES: f64 = 512.0;
const MOST_COSTLY: f64 = 1.3;

pub fn run(output: &Output) -> Result<()> {
    prepare(&Needs { lab: true, bpf: true, ..Needs::default() })?;
    let program = driver::build()?;
    let machine = Machine::look()?;
    println!("  {machine}");
    machine.warn();
    let lan = Lan::new()?;
    let [client, proxy, server] = [lan.host("client", 1)?, lan.host("proxy", 2)?, lan.host("server", 11)?];
    proxy.forward()?;
    // Clients are behind a router; and both neighbours are known, for nothing is sent that would ask for them.
    proxy.ns().ip(&format!("route add default via {}", client.v4()))?;
    let neighbours = [driver::neighbour(&client)?, driver::neighbour(&server)?];
    for neighbour in &neighbours {
        let (address, mac) = neighbour.split_once('=').context("an odd neighbour")?;
        proxy.ns().ip(&format!("neighbour replace {address} lladdr {mac} dev eth0 nud permanent"))?;
    }
    let mut figures = talk::step("1,000 and 1,000,000 flows", || {
        let text = talk::quietly(proxy.ns().command(&program)?.arg("flows").args(&neighbours))?;
        serde_json::from_str::<Value>(&text).with_context(|| format!("the benchmark said: {text}"))
    })?;
    print(&figures)?;
    figures["bench"] = json!("flows");
    figures["machine"] = machine.json();
    output.write(&figures)
}

fn print(figures: &Value) -> Result<()> {
    let tables = figures["tables"].as_array().context("the benchmark has no results")?;
    println!("\n  {:<44}{:>12}{:>20}{:>10}", "one packet through the program, ns", "median", "middle half", "p99");
    for table in tables {
        let flows = thousands(table["flows"].as_f64().unwrap_or(f64::NAN));
        line(&format!("a SYN that opens a flow beside {flows}"), &table["open_ns"]);
        line(&format!("a packet of any of {flows} flows"), &table["packet_ns"]);
        line("the same flow's next one", &table["again_ns"]);
    }
    line("through the floor", &figures["floor_ns"]);
    line("for nobody: what measuring takes", &figures["nothing_ns"]);
    let [few, many] = tables.as_slice() else { anyhow::bail!("not two tables: {figures}") };
    let ratio = |key: &str| median(&many[key]) / median(&few[key]);
    println!(
        "\n  a new flow beside a million: {:.2} times what it costs beside a thousand (promised: {MOST_COSTLY} at most)",
        ratio("open_ns")
    );
    println!("  a packet of one of a million: {:.2} times that of one of a thousand", ratio("packet_ns"));
    let maps = many["map_bytes"].as_object().context("no sizes of maps")?;
    let megabytes = |bytes: &Value| bytes.as_f64().unwrap_or(f64::NAN) / 1e6;
    let all: f64 = maps.values().map(megabytes).sum();
    println!(
        "  all maps with a million flows: {all:.1} MB, of these the flow table {:.1} (promised: {MOST_MEGABYTES} at most)",
        megabytes(&maps["FLOWS"])
    );
    Ok(())
}

fn line(what: &str, times: &Value) {
    let number = |value: &Value| value.as_f64().unwrap_or(f64::NAN);
    let (low, high) = (number(&times["quartiles"][0]), number(&times["quartiles"][1]));
    let middle = format!("{low:.0} to {high:.0}");
    println!("  {what:<44}{:>12.0}{middle:>20}{:>10.0}", median(times), number(&times["p99"]));
}

fn median(times: &Value) -> f64 {
    times["median"].as_f64().unwrap_or(f64::NAN)
}
