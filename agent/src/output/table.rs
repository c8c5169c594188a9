//! Tables: plain columns, no lines, so that they can be read and cut.

use comfy_table::{Attribute, Cell, Color, ContentArrangement, presets};

/// A table under construction.
pub struct Table {
    inner: comfy_table::Table,
    colour: bool,
}

/// How a cell wants to be seen; the words in it say the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    Plain,
    Good,
    Bad,
    Warn,
}

impl Table {
    pub fn new(header: &[&str]) -> Self {
        let mut inner = comfy_table::Table::new();
        inner.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        let colour = super::has_colour();
        if colour {
            inner.enforce_styling();
        } else {
            inner.force_no_tty();
        }
        let bold = |h: &&str| if colour { Cell::new(h).add_attribute(Attribute::Bold) } else { Cell::new(h) };
        inner.set_header(header.iter().map(bold));
        Self { inner, colour }
    }

    pub fn row(&mut self, cells: Vec<(String, Tone)>) {
        let colour = self.colour;
        self.inner.add_row(cells.into_iter().map(|(text, tone)| {
            let cell = Cell::new(if text.is_empty() { "-".to_owned() } else { text });
            match tone {
                _ if !colour => cell,
                Tone::Plain => cell,
                Tone::Good => cell.fg(Color::Green),
                Tone::Bad => cell.fg(Color::Red),
                Tone::Warn => cell.fg(Color::Yellow),
            }
        }));
    }

    /// The whole table, without blanks at the end of lines.
    pub fn render(mut self) -> String {
        for column in self.inner.column_iter_mut() {
            column.set_padding((0, 2));
        }
        self.inner.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
    }
}
