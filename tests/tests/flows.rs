//! `shunt flows`: who is who, from outside.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use shunt_tests::client::Pace;
use shunt_tests::ports::connect;
use shunt_tests::{Agent, Host, Lan, Process, Scene, agent, eventually, on_each_datapath, rooted};

const PORT: u16 = 3306;
const PAGES: u16 = 9306;
/// The agent looks every ten seconds, less often when a look takes longer than one.
const PATIENCE: Duration = Duration::from_secs(120);

on_each_datapath! {
    fn a_client_is_found_by_the_port_that_the_process_list_shows(install) {
        let mut scene = Scene::start(install, 2)?;
        scene.proxy.ns().sysctl("netfilter/nf_conntrack_acct", "1")?;
        scene.proxy.ns().sysctl("netfilter/nf_conntrack_timestamp", "1")?;
        let writer = scene.write(Pace::default())?;
        writer.pause(true);
        let seen_as = scene.cluster.server(0).value("SELECT host FROM information_schema.processlist WHERE user = 'app'")?;
        let seen_as: SocketAddr = seen_as.parse().with_context(|| format!("the process list shows {seen_as}"))?;
        ensure!(seen_as.ip() == scene.proxy.v4(), "{seen_as}");

        let port = seen_as.port().to_string();
        let found = scene.agent.json(&["flows", "--source-port", &port])?;
        ensure!(found["schema_version"] == 1, "{found}");
        let flows = found["flows"].as_array().context("a list")?;
        ensure!(flows.len() == 1, "{found}");
        let flow = &flows[0];
        let client: SocketAddr = flow["client"].as_str().context("a client")?.parse()?;
        ensure!(client.ip() == scene.client.v4(), "{flow}");
        ensure!(flow["seen_as"] == seen_as.to_string() && flow["cluster"] == "orders", "{flow}");
        ensure!(flow["listener"] == scene.listener().to_string(), "{flow}");
        ensure!(flow["backend"] == scene.addresses()[0].to_string() && flow["state"] == "established", "{flow}");
        for number in ["age_ms", "idle_ms", "bytes_to_backend", "bytes_to_client"] {
            ensure!(flow[number].is_u64(), "{number} of {flow}");
        }

        let table = scene.agent.shunt(&["flows", "orders", "--source-port", &port])?;
        let text = String::from_utf8_lossy(&table.stdout).into_owned();
        ensure!(table.status.success() && table.stderr.is_empty(), "{table:?}");
        ensure!(text.lines().count() == 2 && text.starts_with("CLIENT "), "{text}");
        ensure!(text.contains(&client.to_string()) && text.contains(&seen_as.to_string()), "{text}");
        writer.finish()?;
        Ok(())
    }
}

/// A proxy whose cluster has no servers, and whose listener leads nowhere therefore.
fn proxy_without_servers() -> Result<(Agent, Host, Lan)> {
    let lan = Lan::new()?;
    let proxy = lan.host("proxy", 2)?;
    proxy.forward()?;
    let mut agent = Agent::prepare(&proxy)?;
    agent.write_settings(&format!("[agent]\nhttp = \"127.0.0.1:{PAGES}\"\n"))?;
    agent.write_cluster("orders", &agent::following("orders", &servers(&proxy), proxy.at(PORT)))?;
    agent.start()?;
    Ok((agent, proxy, lan))
}

fn servers(proxy: &Host) -> [SocketAddr; 2] {
    // Nobody answers there.
    [proxy.at(1), proxy.at(2)]
}

/// Puts that many established flows to each of the servers into conntrack's table, without a packet.
fn pretend(proxy: &Host, servers: &[SocketAddr], count: u32) -> Result<()> {
    let (mut commands, listener) = (String::new(), proxy.at(PORT));
    let proxy_ip = listener.ip();
    for (server, n) in (0..count * servers.len() as u32).map(|n| (servers[n as usize % servers.len()], n)) {
        let port = 10_000 + n / servers.len() as u32;
        let [_, high, middle, low] = n.to_be_bytes();
        writeln!(
            commands,
            "-A -p tcp -s 172.{}.{middle}.{low} -d {proxy_ip} --sport 40000 --dport {PORT} --state ESTABLISHED -t 400000 \
             --dst-nat {server} --src-nat {proxy_ip}:{port}",
            16 + high
        )?;
    }
    proxy.ns().feed("conntrack", &["-R", "-"], &commands).map(drop)
}

/// Puts entries that are nobody's into conntrack's table.
fn clutter(proxy: &Host, count: u32) -> Result<()> {
    let mut commands = String::new();
    for n in 0..count {
        let [_, high, middle, low] = n.to_be_bytes();
        writeln!(
            commands,
            "-A -p tcp -s 198.18.{middle}.{low} -d 198.19.0.{high} --sport 40000 --dport 80 --state ESTABLISHED -t 400000"
        )?;
    }
    proxy.ns().feed("conntrack", &["-R", "-"], &commands).map(drop)
}

fn metrics(proxy: &Host) -> Result<String> {
    let mut stream = connect(proxy, SocketAddr::from(([127, 0, 0, 1], PAGES)), PATIENCE)?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// Waits until the alarms of that kind are so many; the last one's message.
fn wait_alarm(agent: &Agent, kind: &str, count: usize) -> Result<String> {
    let alarms = |list: &Value| -> Vec<String> {
        let all = list["alarms"].as_array().map(Vec::as_slice).unwrap_or_default();
        let messages = all.iter().filter(|a| a["alarm"] == kind).filter_map(|a| a["message"].as_str());
        messages.map(str::to_owned).collect()
    };
    let list = agent.wait_for(&format!("{count} alarms {kind}"), PATIENCE, |list| alarms(list).len() == count)?;
    Ok(alarms(&list).pop().unwrap_or_default())
}

/// `shunt flows orders` into a pipe.
fn listing(agent: &Agent, proxy: &Host) -> Result<Command> {
    let mut command = proxy.ns().command(agent.binary())?;
    command.args(["flows", "orders", "--socket"]).arg(agent.socket()).stdout(Stdio::piped()).stderr(Stdio::null());
    Ok(command)
}

fn memory(pid: u32, what: &str) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|line| line.starts_with(what)).with_context(|| format!("{what} of {pid}"))?;
    Ok(line.split_whitespace().nth(1).context("a number")?.parse()?)
}

rooted! {
    fn what_is_not_there_is_said_and_a_wrong_name_is_an_error() {
        let (mut agent, _proxy, _lan) = proxy_without_servers()?;
        let none = agent.shunt(&["flows"])?;
        ensure!(none.status.success() && none.stdout.is_empty(), "{none:?}");
        ensure!(String::from_utf8_lossy(&none.stderr).starts_with("no flows"), "{none:?}");
        ensure!(agent.json(&["flows", "orders"])?["flows"] == Value::Array(Vec::new()));

        let unknown = agent.shunt(&["flows", "order"])?;
        let said = String::from_utf8_lossy(&unknown.stderr).into_owned();
        ensure!(unknown.status.code() == Some(2) && said.contains("did you mean `orders`?"), "{unknown:?}");
        ensure!(agent.shunt(&["flows", "--source-port", "0"])?.status.code() == Some(2));
        agent.stop()?;
        ensure!(agent.shunt(&["flows"])?.status.code() == Some(3));
        Ok(())
    }

    fn no_more_than_a_few_lists_are_read_at_a_time_and_a_reader_that_dies_gives_its_place_back() {
        let (agent, proxy, _lan) = proxy_without_servers()?;
        pretend(&proxy, &servers(&proxy), 15_000)?;
        // Nobody reads what they write, so they wait in the middle.
        let mut waiting = Vec::new();
        let refused = loop {
            ensure!(waiting.len() < 20, "nobody is ever refused");
            let output = agent.shunt(&["flows", "--source-port", "1"])?;
            if !output.status.success() {
                break output;
            }
            let mut listing = Process::spawn_as_is("shunt flows", listing(&agent, &proxy)?, None)?;
            let mut rows = BufReader::new(listing.take_stdout().context("its stdout")?);
            rows.read_line(&mut String::new())?;
            waiting.push((listing, rows));
        };
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        ensure!(refused.status.code() == Some(1) && said.contains("lists of flows") && said.contains("hint:"), "{said}");
        agent.list()?;

        for (listing, _) in &mut waiting {
            listing.kill()?;
        }
        eventually("a place for another list", PATIENCE, || {
            let output = agent.shunt(&["flows", "--source-port", "10001"])?;
            Ok(output.status.success().then_some(()))
        })?;
        Ok(())
    }

    fn what_fills_up_raises_an_alarm_with_the_numbers_and_ends_it_when_it_empties() {
        let (agent, proxy, _lan) = proxy_without_servers()?;
        let room: u32 = proxy.ns().run("sysctl", &["-n", "net.netfilter.nf_conntrack_max"])?.trim().parse()?;
        if !(140_000..=1_100_000).contains(&room) {
            let reason = format!("conntrack takes {room} entries, too few or too many to fill it");
            shunt_tests::skip::skip("what_fills_up_raises_an_alarm", &reason);
            return Ok(());
        }
        let server = servers(&proxy)[1];
        pretend(&proxy, &[server], 46_000)?;
        let message = wait_alarm(&agent, "ports_running_out", 1)?;
        let wanted = format!("{} has 46,000 of 64,512 source ports towards {server} taken", proxy.v4());
        ensure!(message.starts_with(&wanted), "{message}");
        let text = metrics(&proxy)?;
        let taken =
            format!("shunt_snat_ports_taken{{source=\"{}\",backend=\"{server}\"}} 46000", proxy.v4());
        for line in ["shunt_conntrack_entries 46", &format!("shunt_conntrack_max {room}"), "shunt_turned_away_total ", &taken] {
            ensure!(text.lines().any(|l| l.starts_with(line)), "{line} is not in {text}");
        }

        clutter(&proxy, room / 100 * 72 - 46_000)?;
        let message = wait_alarm(&agent, "conntrack_filling", 1)?;
        ensure!(message.contains("conntrack is 7") && message.contains("nf_conntrack_max"), "{message}");

        proxy.ns().run("conntrack", &["-F"])?;
        wait_alarm(&agent, "conntrack_filling", 0)?;
        wait_alarm(&agent, "ports_running_out", 0)?;
        let events = agent.events()?;
        let told = |word: &str| events.iter().filter(|e| e["kind"] == "alarm" && e["data"]["alarm"] == word).count();
        ensure!(told("conntrack filling") == 1 && told("ports running out") == 1, "{events:?}");
        Ok(())
    }

    fn a_long_list_streams_in_constant_memory_and_holds_up_nobody() {
        const FLOWS: u32 = 100_000;
        let (agent, proxy, _lan) = proxy_without_servers()?;
        let room: u32 = proxy.ns().run("sysctl", &["-n", "net.netfilter.nf_conntrack_max"])?.trim().parse()?;
        if room < FLOWS * 2 {
            shunt_tests::skip::skip("a_long_list_streams", &format!("conntrack takes only {room} entries"));
            return Ok(());
        }
        pretend(&proxy, &servers(&proxy), FLOWS / 2)?;
        let agents_pid = agent.pid().context("the agent runs")?;
        // What the first list of all needs does not count.
        agent.shunt_ok(&["flows", "--source-port", "10000"])?;
        let before = memory(agents_pid, "VmRSS")?;

        let mut listing = Process::spawn_as_is("shunt flows", listing(&agent, &proxy)?, None)?;
        let mut rows = BufReader::new(listing.take_stdout().context("its stdout")?).lines();
        let header = rows.next().context("a header")??;
        ensure!(header.starts_with("CLIENT "), "{header}");
        let mut peaks = Vec::new();
        for part in 0..4 {
            for _ in 0..FLOWS / 4 {
                let row = rows.next().context("the list ends early")??;
                ensure!(row.len() == header.len(), "{row}");
            }
            if part < 3 {
                // Nobody takes more for a while: the list waits, and the rest of the agent does not.
                ensure!(listing.is_running(), "a list that was collected first would be over sooner");
                agent.list()?;
                ensure!(agent.json(&["flows", "--source-port", "10001"])?["flows"].as_array().map(Vec::len) == Some(2));
                peaks.push(memory(listing.pid(), "VmHWM")?);
            }
        }
        ensure!(rows.next().is_none(), "there are but {FLOWS} flows");
        let after = memory(agents_pid, "VmRSS")?;
        // A row in memory takes some hundred bytes: all of them would be tens of megabytes.
        let grown = after.saturating_sub(before);
        ensure!(peaks[2] - peaks[0] < 2_000, "the command line grows: {peaks:?} kB");
        ensure!(grown < 8_000, "the agent grew by {grown} kB");
        let all = agent.json(&["flows"])?;
        ensure!(all["flows"].as_array().map(Vec::len) == Some(FLOWS as usize));
        Ok(())
    }
}
