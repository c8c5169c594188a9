//! What was measured, and what follows from it. Pure.

use super::load::{Cell, Row};
use super::way::Kind;
use crate::bench::{median, quantile};

#[derive(Default)]
pub struct Figures {
    /// In the order of the rounds.
    cells: Vec<(Kind, Row, Cell)>,
    /// Operations a second of both, one right after the other.
    pairs: Vec<(Versus, Row, [f64; 2])>,
}

/// Two that are compared in pairs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Versus {
    /// shunt and the bare map.
    BareMap,
    /// One bare map and another.
    AnotherBareMap,
    /// shunt with its guard and without.
    WithoutGuard,
    /// shunt and itself.
    Itself,
    /// shunt-ebpf and the bare map.
    EbpfBareMap,
    /// shunt-ebpf and the floor.
    EbpfFloor,
}

/// One row through one way: medians of the rounds.
#[derive(Clone, Copy, Debug)]
pub struct Figure {
    pub per_second: f64,
    /// `per_second` in proportion to direct.
    pub to_direct: f64,
    pub cpu_us: f64,
    /// More than direct in the same round.
    pub added_cpu_us: f64,
}

/// One against the other.
#[derive(Clone, Copy, Debug)]
pub struct Ratio {
    pub pairs: usize,
    pub of_medians: f64,
    /// The middle one of the pairs' own ratios.
    pub median: f64,
    /// The middle half of the pairs' own ratios lies between these.
    pub quartiles: [f64; 2],
}

impl Figures {
    pub fn add(&mut self, kind: Kind, row: Row, cell: Cell) {
        self.cells.push((kind, row, cell));
    }

    pub fn add_pair(&mut self, versus: Versus, row: Row, pair: [f64; 2]) {
        self.pairs.push((versus, row, pair));
    }

    pub fn of(&self, kind: Kind, row: Row) -> Option<Figure> {
        let (here, direct) = (self.cells_of(kind, row), self.cells_of(Kind::Direct, row));
        if here.is_empty() {
            return None;
        }
        let per_second = |cells: &[Cell]| median(&cells.iter().map(|cell| cell.per_second).collect::<Vec<_>>());
        let added: Vec<f64> = here.iter().zip(&direct).map(|(cell, direct)| cell.cpu_us - direct.cpu_us).collect();
        Some(Figure {
            per_second: per_second(&here),
            to_direct: per_second(&here) / per_second(&direct),
            cpu_us: median(&here.iter().map(|cell| cell.cpu_us).collect::<Vec<_>>()),
            added_cpu_us: median(&added),
        })
    }

    pub fn ratio(&self, versus: Versus, row: Row) -> Option<Ratio> {
        let pairs: Vec<[f64; 2]> =
            self.pairs.iter().filter(|pair| (pair.0, pair.1) == (versus, row)).map(|p| p.2).collect();
        if pairs.is_empty() {
            return None;
        }
        let side = |number: usize| median(&pairs.iter().map(|pair| pair[number]).collect::<Vec<_>>());
        let own: Vec<f64> = pairs.iter().map(|[way, bare]| way / bare).collect();
        Some(Ratio {
            pairs: pairs.len(),
            of_medians: side(0) / side(1),
            median: median(&own),
            quartiles: [quantile(&own, 0.25), quantile(&own, 0.75)],
        })
    }

    /// How many rounds there were.
    pub fn rounds(&self) -> usize {
        self.cells_of(Kind::Direct, Row::Select).len()
    }

    fn cells_of(&self, kind: Kind, row: Row) -> Vec<Cell> {
        self.cells.iter().filter(|cell| (cell.0, cell.1) == (kind, row)).map(|cell| cell.2).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn added_processor_time_is_against_direct_in_the_same_round() {
        let mut figures = Figures::default();
        for (direct, shunt) in [(10.0, 15.0), (100.0, 105.0), (20.0, 26.0)] {
            figures.add(Kind::Direct, Row::Select, Cell { per_second: 1000.0, cpu_us: direct });
            figures.add(Kind::ShuntNft, Row::Select, Cell { per_second: 800.0, cpu_us: shunt });
        }
        let figure = figures.of(Kind::ShuntNft, Row::Select).expect("it was measured");
        assert!((figure.added_cpu_us - 5.0).abs() < 1e-9);
        assert!((figure.to_direct - 0.8).abs() < 1e-9);
    }

    #[test]
    fn what_was_not_measured_has_no_figure() {
        assert!(Figures::default().of(Kind::ShuntNft, Row::Bulk).is_none());
        assert!(Figures::default().ratio(Versus::BareMap, Row::Bulk).is_none());
    }
}
