//! The figures as a drawing: above, every row in proportion to direct; below, the processor time that a way adds to a
//! point select.

use super::load::{Row, THREADS};
use super::report::Report;
use super::way::{Kind, Way};
use crate::bench::plot::{
    self, Anchor, GRID, HEADING, INK, OURS, OURS_TOO, PLAIN, SMALL, SOFT, Sheet, TITLE, counted, step, thousands,
};
use crate::setup::rivals::Rival;

const WIDTH: f64 = 860.0;
const LEFT: f64 = 48.0;
const RIGHT: f64 = 24.0;

/// Where the bars of the upper panel stand and how high direct is.
const BASE: f64 = 356.0;
const ONE: f64 = 190.0;

/// A bar of the lower panel.
const BAR: f64 = 18.0;
const BAR_STEP: f64 = 26.0;

pub fn draw(report: &Report<'_>) -> String {
    let ways: Vec<&Way> = report.ways.iter().filter(|way| way.kind != Kind::Direct).collect();
    let lower = BASE + 92.0;
    let height = lower + ways.len() as f64 * BAR_STEP + 66.0;
    let mut sheet = Sheet::new(WIDTH, height);
    sheet.text(24.0, 36.0, TITLE, "What the way through a proxy costs");
    sheet.text(24.0, 56.0, SMALL, &report.machine.to_string());
    sheet.text(24.0, 80.0, HEADING, "Operations a second, in proportion to direct (more is better)");
    legend(&mut sheet, &ways);
    proportions(&mut sheet, report, &ways);
    added(&mut sheet, report, &ways, lower);
    let note = format!(
        "{}, {THREADS} connections, median of {}. Load, proxies and server share the processors.",
        report.servers,
        counted(report.figures.rounds(), "round")
    );
    sheet.text(24.0, height - 16.0, SMALL, &note);
    sheet.finish(
        "Operations a second through eBPF, iptables, nft, shunt, HAProxy and MySQL Router in proportion to direct",
    )
}

fn colour(kind: Kind) -> &'static str {
    match kind {
        Kind::Direct => INK,
        Kind::Iptables => "#8c959f",
        Kind::BareMap => "#57606a",
        Kind::ShuntNft => OURS_TOO,
        Kind::ShuntEbpf => OURS,
        Kind::Floor => "#d0d7de",
        Kind::Rival(Rival::Haproxy) => "#d1782f",
        Kind::Rival(Rival::MysqlRouter) => "#e8b98a",
    }
}

/// With its version where it has one.
fn name(way: &Way) -> String {
    let title = way.kind.title();
    match &way.version {
        Some(version) => match title.split_once(", ") {
            Some((name, rest)) => format!("{name} {version}, {rest}"),
            None => format!("{title} {version}"),
        },
        None => title.to_owned(),
    }
}

fn legend(sheet: &mut Sheet, ways: &[&Way]) {
    // Text has no width that can be known here; so much a letter is enough for this font.
    const LETTER: f64 = 6.9;
    let (mut x, mut y) = (24.0, 104.0);
    for way in ways {
        let name = name(way);
        let width = name.chars().count() as f64 * LETTER + 34.0;
        if x + width > WIDTH - RIGHT {
            (x, y) = (24.0, y + 20.0);
        }
        sheet.rectangle(x, y - 10.0, 12.0, 12.0, colour(way.kind));
        let pen = if way.kind.is_shunt() { PLAIN.in_bold() } else { PLAIN };
        sheet.text(x + 18.0, y, pen, &name);
        x += width;
    }
}

fn proportions(sheet: &mut Sheet, report: &Report<'_>, ways: &[&Way]) {
    for number in 0..=4 {
        let part = f64::from(number) / 4.0;
        let y = BASE - part * ONE;
        sheet.line((LEFT, y), (WIDTH - RIGHT, y), GRID, false);
        sheet.text(LEFT - 8.0, y + 4.0, SMALL.anchored(Anchor::End), &format!("{part}"));
    }
    sheet.line((LEFT, BASE - ONE), (WIDTH - RIGHT, BASE - ONE), SOFT, true);
    sheet.text(WIDTH - RIGHT, BASE - ONE - 5.0, SMALL.anchored(Anchor::End), "direct = 1");
    let group = (WIDTH - LEFT - RIGHT) / Row::ALL.len() as f64;
    for (number, row) in Row::ALL.into_iter().enumerate() {
        let there: Vec<&&Way> = ways.iter().filter(|way| report.figures.of(way.kind, row).is_some()).collect();
        let bar = 23.0;
        let gap = 4.0;
        let middle = LEFT + group * (number as f64 + 0.5);
        let mut x = middle - (there.len() as f64 * (bar + gap) - gap) / 2.0;
        for way in there {
            let Some(figure) = report.figures.of(way.kind, row) else { continue };
            let top = BASE - figure.to_direct * ONE;
            sheet.rectangle(x, top, bar, BASE - top, colour(way.kind));
            let pen = if way.kind.is_shunt() { PLAIN.in_bold() } else { SMALL };
            let pen = plot::Pen { size: 11.0, ..pen }.anchored(Anchor::Middle);
            sheet.text(x + bar / 2.0, top - 4.0, pen, &format!("{:.2}", figure.to_direct));
            x += bar + gap;
        }
        sheet.text(middle, BASE + 20.0, PLAIN.in_bold().anchored(Anchor::Middle), row.title());
        if let Some(direct) = report.figures.of(Kind::Direct, row) {
            let text = format!("direct: {} a second", thousands(direct.per_second));
            sheet.text(middle, BASE + 36.0, SMALL.anchored(Anchor::Middle), &text);
        }
    }
}

fn added(sheet: &mut Sheet, report: &Report<'_>, ways: &[&Way], top: f64) {
    const FROM: f64 = 230.0;
    sheet.text(24.0, top - 18.0, HEADING, "Processor time added to a point select, µs (less is better)");
    let of = |way: &Way| report.figures.of(way.kind, Row::Select).map(|figure| figure.added_cpu_us);
    let most = ways.iter().filter_map(|way| of(way)).fold(1.0, f64::max);
    let scale = (WIDTH - FROM - 70.0) / most;
    let bottom = top + ways.len() as f64 * BAR_STEP;
    let every = step(most);
    for number in 0..=(most / every) as u32 {
        let x = FROM + f64::from(number) * every * scale;
        sheet.line((x, top - 4.0), (x, bottom), GRID, false);
        sheet.text(x, bottom + 14.0, SMALL.anchored(Anchor::Middle), &format!("{}", f64::from(number) * every));
    }
    for (number, way) in ways.iter().enumerate() {
        let y = top + number as f64 * BAR_STEP;
        let pen = if way.kind.is_shunt() { PLAIN.in_bold() } else { PLAIN };
        sheet.text(FROM - 10.0, y + 13.0, pen.anchored(Anchor::End), way.kind.title());
        if let Some(us) = of(way) {
            sheet.rectangle(FROM, y, us * scale, BAR, colour(way.kind));
            sheet.text(FROM + us.max(0.0) * scale + 6.0, y + 13.0, pen, &format!("{us:.1}"));
        }
    }
}
