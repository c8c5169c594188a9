//! The figures as a drawing: for every number of connections and either side, the time from the first end that closed to
//! the last one.

use super::PATIENCE;
use super::report::{Figure, Report, SIDES};
use crate::bench::driver::Datapath;
use crate::bench::plot::{
    Anchor, GRID, HEADING, INK, OURS, OURS_TOO, PLAIN, SMALL, Sheet, TITLE, counted, step, thousands,
};

const WIDTH: f64 = 860.0;
const FROM: f64 = 170.0;
const TO: f64 = 590.0;
/// Where the figures stand in words.
const WORDS: f64 = 606.0;
const TOP: f64 = 92.0;
const BAR: f64 = 16.0;

/// From one bar to the next, and what a group has besides its bars.
const ROW: f64 = BAR + 6.0;
const REST: f64 = 34.0;

/// Within which time 10,000 ends are to be closed on either side, in milliseconds.
const fn promised(datapath: Datapath) -> [f64; 2] {
    match datapath {
        Datapath::Nft => [500.0, 1000.0],
        Datapath::Ebpf => [300.0, 300.0],
    }
}

pub fn draw(report: &Report<'_>) -> String {
    let bars = report.datapaths.len() * SIDES.len();
    let group = bars as f64 * ROW + REST;
    let bottom = TOP + report.sizes.len() as f64 * group;
    let height = bottom + 96.0;
    let mut sheet = Sheet::new(WIDTH, height);
    sheet.text(24.0, 36.0, TITLE, "When the ends of connections close after a swap");
    sheet.text(24.0, 56.0, SMALL, &report.machine.to_string());

    let figures: Vec<(usize, Vec<Row>)> = report.sizes.iter().map(|&size| (size, rows(report, size))).collect();
    let worst = figures.iter().flat_map(|(_, rows)| rows).filter_map(|row| row.figure.worst);
    let promises = report.datapaths.iter().flat_map(|&datapath| promised(datapath));
    let most = worst.chain(promises).fold(0.0, f64::max) * 1.02;
    let at = |ms: f64| FROM + ms.max(0.0) / most * (TO - FROM);
    let every = step(most);
    let lines: Vec<f64> = (0..=(most / every) as u32).map(|number| f64::from(number) * every).collect();
    for &ms in &lines {
        sheet.text(at(ms), bottom + 8.0, SMALL.anchored(Anchor::Middle), &thousands(ms));
    }
    sheet.text(WORDS, bottom + 8.0, SMALL, "ms after the swap");
    for (number, (size, rows)) in figures.iter().enumerate() {
        let top = TOP + number as f64 * group;
        sheet.text(24.0, top + 10.0, HEADING, &counted(*size, "connection"));
        for &ms in &lines {
            sheet.line((at(ms), top + 18.0), (at(ms), top + 22.0 + bars as f64 * ROW), GRID, false);
        }
        for (place, row) in rows.iter().enumerate() {
            let y = top + 20.0 + place as f64 * ROW;
            sheet.text(FROM - 10.0, y + 12.5, PLAIN.anchored(Anchor::End), &row.name);
            bar(&mut sheet, &row.figure, y, row.colour, at);
            if *size == 10_000 {
                let x = at(row.promised);
                sheet.line((x, y - 3.0), (x, y + BAR + 3.0), "#cf222e", false);
            }
        }
    }
    let connections = figures.iter().any(|(size, _)| *size == 10_000);
    let promised = if connections { " Red: what is promised." } else { "" };
    let how = format!(
        "Bars: from the first end that closed to the last, median of {}; the dark mark: 99 % have closed.{promised}",
        counted(report.rounds.len() / (report.sizes.len() * report.datapaths.len()).max(1), "round")
    );
    sheet.text(24.0, height - 44.0, SMALL, &how);
    sheet.text(24.0, height - 28.0, SMALL, &late(report));
    sheet.text(24.0, height - 12.0, SMALL, "Half of the connections were idle.");
    sheet.finish(
        "Time from a swap to the closing of the first, the 99th percentile's and the last connection, on either side",
    )
}

/// A bar: one side's ends, severed by one datapath.
struct Row {
    name: String,
    figure: Figure,
    promised: f64,
    colour: &'static str,
}

fn rows(report: &Report<'_>, size: usize) -> Vec<Row> {
    let of = |datapath: Datapath| {
        SIDES.iter().zip(promised(datapath)).zip([OURS, OURS_TOO]).map(move |(((name, _, side), promised), colour)| {
            Row {
                name: format!("{}, {name}", datapath.title()),
                figure: report.figure(datapath, size, *side),
                promised,
                colour,
            }
        })
    };
    report.datapaths.iter().flat_map(|&datapath| of(datapath)).collect()
}

fn bar(sheet: &mut Sheet, figure: &Figure, y: f64, colour: &str, at: impl Fn(f64) -> f64) {
    let mut words = Vec::new();
    if let (Some(first), Some(p99), Some(last)) = (figure.first, figure.p99, figure.last) {
        // What happens at once must be seen nevertheless.
        sheet.rectangle(at(first), y, (at(last) - at(first)).max(2.0), BAR, colour);
        sheet.rectangle(at(p99) - 1.0, y, 2.0, BAR, INK);
        words.push(if first + 0.1 > last { format!("{last:.1}") } else { format!("{first:.1} to {last:.1}") });
    }
    if figure.remaining > 0 {
        words.push(format!("{:.1} % open after {} s", (1.0 - figure.share()) * 100.0, PATIENCE.as_secs()));
    }
    sheet.text(WORDS, y + 12.5, PLAIN, &words.join("; "));
}

fn late(report: &Report<'_>) -> String {
    let late: usize = report.rounds.iter().map(|round| round.late.clients).sum();
    let missed: u64 = report.rounds.iter().map(|round| round.late.missed).sum();
    let told = match late {
        0 => "No packet of a client reached the old server's host after the swap was acknowledged.".to_owned(),
        1 => "One packet of a client reached the old server's host after the swap was acknowledged.".to_owned(),
        n => format!("{n} packets of clients reached the old server's host after the swap was acknowledged."),
    };
    if missed == 0 { told } else { format!("{told} {missed} packets were not looked at.") }
}
