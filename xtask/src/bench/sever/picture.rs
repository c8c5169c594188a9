//! The figures as a drawing: for every number of connections and either side, the time from the first end that closed to
//! the last one.

use super::PATIENCE;
use super::report::{Figure, Report, SIDES};
use crate::bench::plot::{
    Anchor, GRID, HEADING, INK, OURS, OURS_TOO, PLAIN, SMALL, Sheet, TITLE, counted, step, thousands,
};

const WIDTH: f64 = 860.0;
const FROM: f64 = 120.0;
const TO: f64 = 590.0;
/// Where the figures stand in words.
const WORDS: f64 = 606.0;
const TOP: f64 = 92.0;
const BAR: f64 = 16.0;

/// What two bars and their heading take.
const GROUP: f64 = 78.0;

/// The scale ends at least here, in milliseconds: the time within which 10,000 ends are to be closed on either side.
const PROMISED: [f64; 2] = [500.0, 1000.0];

pub fn draw(report: &Report<'_>) -> String {
    let bottom = TOP + report.sizes.len() as f64 * GROUP;
    let height = bottom + 96.0;
    let mut sheet = Sheet::new(WIDTH, height);
    sheet.text(24.0, 36.0, TITLE, "When the ends of connections close after a swap");
    sheet.text(24.0, 56.0, SMALL, &report.machine.to_string());

    let figures: Vec<(usize, [Figure; 2])> =
        report.sizes.iter().map(|&size| (size, SIDES.map(|(_, _, side)| report.figure(size, side)))).collect();
    let last = figures.iter().flat_map(|(_, both)| both).filter_map(|figure| figure.worst).fold(0.0, f64::max);
    let most = last.max(PROMISED[1]) * 1.02;
    let at = |ms: f64| FROM + ms.max(0.0) / most * (TO - FROM);
    let every = step(most);
    let lines: Vec<f64> = (0..=(most / every) as u32).map(|number| f64::from(number) * every).collect();
    for &ms in &lines {
        sheet.text(at(ms), bottom + 8.0, SMALL.anchored(Anchor::Middle), &thousands(ms));
    }
    sheet.text(WORDS, bottom + 8.0, SMALL, "ms after the swap");
    for (number, (size, both)) in figures.iter().enumerate() {
        let top = TOP + number as f64 * GROUP;
        sheet.text(24.0, top + 10.0, HEADING, &counted(*size, "connection"));
        for &ms in &lines {
            sheet.line((at(ms), top + 18.0), (at(ms), top + 24.0 + 2.0 * BAR + 4.0), GRID, false);
        }
        for (row, ((name, _, _), figure)) in SIDES.iter().zip(both).enumerate() {
            let y = top + 20.0 + row as f64 * (BAR + 6.0);
            sheet.text(FROM - 10.0, y + 12.5, PLAIN.anchored(Anchor::End), name);
            bar(&mut sheet, figure, y, [OURS, OURS_TOO][row], at);
            if *size == 10_000 {
                let x = at(PROMISED[row]);
                sheet.line((x, y - 3.0), (x, y + BAR + 3.0), "#cf222e", false);
            }
        }
    }
    let connections = figures.iter().any(|(size, _)| *size == 10_000);
    let promised = if connections { " Red: what is promised." } else { "" };
    let how = format!(
        "Bars: from the first end that closed to the last, median of {}; the dark mark: 99 % have closed.{promised}",
        counted(report.rounds.len() / report.sizes.len().max(1), "round")
    );
    sheet.text(24.0, height - 44.0, SMALL, &how);
    sheet.text(24.0, height - 28.0, SMALL, &late(report));
    sheet.text(24.0, height - 12.0, SMALL, "Half of the connections were idle.");
    sheet.finish(
        "Time from a swap to the closing of the first, the 99th percentile's and the last connection, on either side",
    )
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
