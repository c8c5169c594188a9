//! `shunt flows`: who is who through the NAT. Written as it comes, a line a flow: memory does not grow with the list.

use std::net::SocketAddr;
use std::time::Duration;

use super::operate::path_word;
use super::{Args, args, block_on};
use crate::control::api::{FlowLine, Problem, SCHEMA_VERSION};
use crate::control::client::{Client, ClientError, Lines};
use crate::output::{self, Failure, Stream};

pub fn run(args: &Args, options: &args::Flows) -> Result<(), Failure> {
    let path = path(options);
    block_on(async {
        let lines = Client::new(&args.socket).lines(&path).await?;
        if options.json { write_json(lines, &path).await } else { write_table(lines, &path, options).await }
    })
}

fn path(options: &args::Flows) -> String {
    let cluster = options.cluster.as_deref().map(|name| format!("cluster={}", path_word(name)));
    let port = options.source_port.map(|port| format!("source_port={port}"));
    let query: Vec<_> = cluster.into_iter().chain(port).collect();
    if query.is_empty() { "/v1/flows".to_owned() } else { format!("/v1/flows?{}", query.join("&")) }
}

async fn write_table(mut lines: Lines, path: &str, options: &args::Flows) -> Result<(), Failure> {
    let mut out = Stream::default();
    let mut table = Rows::default();
    let mut unknown = Unknown::default();
    while let Some(line) = lines.next().await? {
        let flow = understand(line, path)?;
        unknown.note(&flow);
        out.line(format_args!("{}", table.row(&flow)));
    }
    drop(out);
    if table.columns.is_none() {
        output::note(&nothing(options));
    }
    if let Some(note) = unknown.note_on_columns() {
        output::note(&note);
    }
    Ok(())
}

/// One object, as of every listing. It is left open when the list breaks off, so that nobody takes it for the whole.
async fn write_json(mut lines: Lines, path: &str) -> Result<(), Failure> {
    let mut out = Stream::default();
    out.put(format_args!("{{\"schema_version\":{SCHEMA_VERSION},\"flows\":["));
    let mut between = "";
    while let Some(line) = lines.next().await? {
        understand(line, path)?;
        out.put(format_args!("{between}{}", String::from_utf8_lossy(line)));
        between = ",\n";
    }
    out.line(format_args!("]}}"));
    Ok(())
}

/// A line is a flow, or says why the list ends before its end.
fn understand(line: &[u8], path: &str) -> Result<FlowLine, ClientError> {
    serde_json::from_slice(line).map_err(|source| match serde_json::from_slice::<Problem>(line) {
        Ok(problem) => ClientError::Refused(problem),
        Err(_) => ClientError::Garbled { what: format!("GET {path}"), source },
    })
}

fn nothing(options: &args::Flows) -> String {
    let mut text = "no flows".to_owned();
    if let Some(cluster) = &options.cluster {
        text.push_str(&format!(" through {}", output::harmless(cluster)));
    }
    if let Some(port) = options.source_port {
        text.push_str(&format!(" that a server sees with source port {port}"));
    }
    text
}

/// Rows, one after the other. IPv6 comes after all of IPv4, and has a header and widths of its own.
#[derive(Debug, Default)]
struct Rows {
    columns: Option<Columns>,
}

impl Rows {
    /// A row, below a header where one is due.
    fn row(&mut self, flow: &FlowLine) -> String {
        let (before, wanted) = (self.columns, Columns::of(flow));
        let row = wanted.row(flow);
        if before == Some(wanted) {
            return row;
        }
        self.columns = Some(wanted);
        let between = if before.is_some() { "\n" } else { "" };
        format!("{between}{}\n{row}", output::heading(&wanted.header()))
    }
}

/// Widths that hold any address of the family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Columns {
    address: usize,
}

impl Columns {
    const fn of(flow: &FlowLine) -> Self {
        // 255.255.255.255:65535, and [ffff:…:ffff]:65535 with eight groups of four.
        Self { address: if flow.listener.is_ipv4() { 21 } else { 47 } }
    }

    fn header(self) -> String {
        self.line(["CLIENT", "LISTENER", "SEEN AS", "BACKEND"], "STATE", ["AGE", "IDLE"], ["BYTES IN", "BYTES OUT"])
    }

    fn row(self, flow: &FlowLine) -> String {
        let address = |address: SocketAddr| address.to_string();
        let span = |ms: Option<u64>| ms.map_or_else(|| "-".to_owned(), |ms| span(Duration::from_millis(ms)));
        let bytes = |bytes: Option<u64>| bytes.map_or_else(|| "-".to_owned(), |bytes| bytes.to_string());
        let [client, listener, seen_as, backend] =
            [flow.client, flow.listener, flow.seen_as, flow.backend].map(address);
        let times = [flow.age_ms, flow.idle_ms].map(span);
        let traffic = [flow.bytes_to_backend, flow.bytes_to_client].map(bytes);
        self.line(
            [&client, &listener, &seen_as, &backend],
            &flow.state,
            [&times[0], &times[1]],
            [&traffic[0], &traffic[1]],
        )
    }

    fn line(self, addresses: [&str; 4], state: &str, times: [&str; 2], bytes: [&str; 2]) -> String {
        let [client, listener, seen_as, backend] = addresses;
        let ([age, idle], [received, sent], width) = (times, bytes, self.address);
        format!(
            "{client:width$}  {listener:width$}  {seen_as:width$}  {backend:width$}  {state:11}  {age:>6}  {idle:>6}  \
             {received:>14}  {sent:>14}"
        )
    }
}

/// The two largest units: `42s`, `3m07s`, `5h00m`, `12d23h`.
fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m{:02}s", seconds % 60),
        (0, _, _) => format!("{hours}h{:02}m", minutes % 60),
        _ => format!("{days}d{:02}h", hours % 24),
    }
}

/// Columns that stayed empty for some flow.
#[derive(Clone, Copy, Debug, Default)]
struct Unknown {
    age: bool,
    bytes: bool,
}

impl Unknown {
    const fn note(&mut self, flow: &FlowLine) {
        self.age |= flow.age_ms.is_none();
        self.bytes |= flow.bytes_to_backend.is_none();
    }

    fn note_on_columns(self) -> Option<String> {
        let missing = match (self.age, self.bytes) {
            (false, false) => return None,
            (true, false) => "AGE needs net.netfilter.nf_conntrack_timestamp = 1",
            (false, true) => "BYTES need net.netfilter.nf_conntrack_acct = 1",
            (true, true) => {
                "AGE needs net.netfilter.nf_conntrack_timestamp = 1, BYTES need net.netfilter.nf_conntrack_acct = 1"
            }
        };
        Some(format!("note: {missing} (of connections that begin after it is set)"))
    }
}

#[cfg(test)]
mod tests {
    use shunt_core::ClusterName;

    use super::*;

    fn flow(client: &str, listener: &str, seen_as: &str, backend: &str) -> FlowLine {
        let address = |text: &str| text.parse().unwrap();
        FlowLine {
            cluster: ClusterName::new("orders").unwrap(),
            client: address(client),
            listener: address(listener),
            seen_as: address(seen_as),
            backend: address(backend),
            state: "established".to_owned(),
            age_ms: Some(187_654),
            idle_ms: None,
            bytes_to_backend: Some(u64::from(u32::MAX)),
            bytes_to_client: Some(64),
        }
    }

    fn table(flows: &[FlowLine]) -> String {
        let mut rows = Rows::default();
        flows.iter().map(|flow| rows.row(flow)).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn short_and_long_addresses_stand_in_line() {
        insta::assert_snapshot!(table(&[
            flow("10.1.2.3:1", "10.0.0.2:3306", "10.0.0.2:41234", "10.0.0.11:3306"),
            flow("255.255.255.255:65535", "10.0.0.2:3306", "10.0.0.2:1024", "10.0.0.11:3306"),
        ]), @r"
        CLIENT                 LISTENER               SEEN AS                BACKEND                STATE           AGE    IDLE        BYTES IN       BYTES OUT
        10.1.2.3:1             10.0.0.2:3306          10.0.0.2:41234         10.0.0.11:3306         established   3m07s       -      4294967295              64
        255.255.255.255:65535  10.0.0.2:3306          10.0.0.2:1024          10.0.0.11:3306         established   3m07s       -      4294967295              64
        ");
        let wide = "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535";
        let text = table(&[
            flow("[::1]:1", "[fd00::2]:3306", "[fd00::2]:41234", "[fd00::11]:3306"),
            flow(wide, wide, wide, wide),
        ]);
        let widths: Vec<_> = text.lines().map(str::len).collect();
        assert!(widths.iter().all(|&width| width == widths[0]), "{text}");
    }

    #[test]
    fn each_family_has_a_header_of_its_own() {
        let four = flow("10.1.2.3:1", "10.0.0.2:3306", "10.0.0.2:41234", "10.0.0.11:3306");
        let six = flow("[::1]:1", "[fd00::2]:3306", "[fd00::2]:41234", "[fd00::11]:3306");
        let text = table(&[four.clone(), four, six.clone(), six]);
        let words: Vec<_> = text.lines().map(|line| line.split(' ').next().unwrap_or_default()).collect();
        assert_eq!(words, ["CLIENT", "10.1.2.3:1", "10.1.2.3:1", "", "CLIENT", "[::1]:1", "[::1]:1"]);
    }

    #[test]
    fn times_are_told_in_their_two_largest_units() {
        for (seconds, text) in [
            (0, "0s"),
            (59, "59s"),
            (60, "1m00s"),
            (3_599, "59m59s"),
            (3_600, "1h00m"),
            (86_400 * 12 + 3_600, "12d01h"),
        ] {
            assert_eq!(span(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn empty_columns_are_explained_by_the_setting_that_fills_them() {
        let mut unknown = Unknown::default();
        let mut flow = flow("10.1.2.3:1", "10.0.0.2:3306", "10.0.0.2:41234", "10.0.0.11:3306");
        unknown.note(&flow);
        assert_eq!(unknown.note_on_columns(), None);
        flow.bytes_to_backend = None;
        unknown.note(&flow);
        let note = unknown.note_on_columns().unwrap();
        assert!(note.contains("nf_conntrack_acct") && !note.contains("nf_conntrack_timestamp"), "{note}");
    }

    #[test]
    fn a_list_that_ends_early_is_an_error_with_its_reason() {
        let problem = br#"{"schema_version":1,"code":"failed","error":"cannot read conntrack's entries"}"#;
        let error = understand(problem, "/v1/flows").unwrap_err();
        assert!(matches!(&error, ClientError::Refused(problem) if problem.error.contains("conntrack")), "{error}");
        assert!(matches!(understand(b"{}", "/v1/flows"), Err(ClientError::Garbled { .. })));
    }

    #[test]
    fn what_is_asked_for_is_in_the_path() {
        let options = |cluster: Option<&str>, source_port| args::Flows {
            cluster: cluster.map(str::to_owned),
            source_port,
            json: false,
        };
        assert_eq!(path(&options(None, None)), "/v1/flows");
        assert_eq!(path(&options(Some("a&b"), Some(41_234))), "/v1/flows?cluster=a%26b&source_port=41234");
    }
}
