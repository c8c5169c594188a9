//! A small writer of SVG: rectangles, lines and text on a light sheet with a border, which reads as well on a dark page.

use std::fmt::{self, Write as _};

pub const INK: &str = "#1f2328";
pub const SOFT: &str = "#59636e";
pub const GRID: &str = "#d8dee4";
pub const OURS: &str = "#0a62c9";
pub const OURS_TOO: &str = "#7fb2ef";

const PAPER: &str = "#ffffff";
const FONT: &str = "system-ui, 'Segoe UI', Helvetica, Arial, sans-serif";

/// A drawing. Lengths are in pixels.
pub struct Sheet {
    width: f64,
    height: f64,
    body: String,
}

/// Where a text's own point is.
#[derive(Clone, Copy)]
pub enum Anchor {
    Start,
    Middle,
    End,
}

/// How a text looks.
#[derive(Clone, Copy)]
pub struct Pen {
    pub size: f64,
    pub colour: &'static str,
    pub bold: bool,
    pub anchor: Anchor,
}

pub const TITLE: Pen = Pen { size: 18.0, colour: INK, bold: true, anchor: Anchor::Start };
pub const HEADING: Pen = Pen { size: 14.0, colour: INK, bold: true, anchor: Anchor::Start };
pub const PLAIN: Pen = Pen { size: 12.0, colour: INK, bold: false, anchor: Anchor::Start };
pub const SMALL: Pen = Pen { size: 11.0, colour: SOFT, bold: false, anchor: Anchor::Start };

impl Pen {
    pub const fn anchored(self, anchor: Anchor) -> Self {
        Self { anchor, ..self }
    }

    pub const fn in_bold(self) -> Self {
        Self { bold: true, ..self }
    }
}

impl Sheet {
    pub fn new(width: f64, height: f64) -> Self {
        Self { width, height, body: String::new() }
    }

    pub fn rectangle(&mut self, x: f64, y: f64, width: f64, height: f64, colour: &str) {
        let width = width.max(0.0);
        let height = height.max(0.0);
        self.add(format_args!(
            r#"<rect x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{height:.1}" fill="{colour}"/>"#
        ));
    }

    pub fn line(&mut self, from: (f64, f64), to: (f64, f64), colour: &str, dashed: bool) {
        let dash = if dashed { r#" stroke-dasharray="4 3""# } else { "" };
        let ((x1, y1), (x2, y2)) = (from, to);
        self.add(format_args!(
            r#"<line x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}" stroke="{colour}"{dash}/>"#
        ));
    }

    pub fn text(&mut self, x: f64, y: f64, pen: Pen, text: &str) {
        let anchor = match pen.anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let weight = if pen.bold { r#" font-weight="600""# } else { "" };
        let (size, colour, text) = (pen.size, pen.colour, escaped(text));
        self.add(format_args!(
            r#"<text x="{x:.1}" y="{y:.1}" font-size="{size}" fill="{colour}" text-anchor="{anchor}"{weight}>{text}</text>"#
        ));
    }

    fn add(&mut self, element: fmt::Arguments<'_>) {
        let _ = writeln!(self.body, "  {element}");
    }

    /// The file. `about` is for whoever cannot see it.
    pub fn finish(self, about: &str) -> String {
        let Self { width, height, body } = self;
        let about = escaped(about);
        let (inner_width, inner_height) = (width - 1.0, height - 1.0);
        format!(
            r#"<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0}" height="{height:.0}" viewBox="0 0 {width:.0} {height:.0}" role="img" font-family="{FONT}">
  <title>{about}</title>
  <rect x="0.5" y="0.5" width="{inner_width:.0}" height="{inner_height:.0}" rx="8" fill="{PAPER}" stroke="{GRID}"/>
{body}</svg>
"#
        )
    }
}

/// A step for a scale from 0 to `most` that has three to six lines: 1, 2 or 5 times a power of ten.
pub fn step(most: f64) -> f64 {
    let rough = (most / 6.0).max(f64::MIN_POSITIVE);
    let power = 10_f64.powf(rough.log10().floor());
    let factor = [1.0, 2.0, 5.0].into_iter().find(|factor| factor * power >= rough).unwrap_or(10.0);
    factor * power
}

/// A whole number with its thousands apart.
pub fn thousands(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 round`, `3 rounds`.
pub fn counted(number: usize, noun: &str) -> String {
    format!("{} {noun}{}", thousands(number as f64), if number == 1 { "" } else { "s" })
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scale_has_round_steps() {
        assert!((step(70.0) - 20.0).abs() < 1e-9);
        assert!((step(1.0) - 0.2).abs() < 1e-9);
        assert!((step(1000.0) - 200.0).abs() < 1e-9);
    }

    #[test]
    fn a_number_is_read_by_thousands() {
        assert_eq!(thousands(40653.4), "40,653");
        assert_eq!(thousands(999.0), "999");
    }

    #[test]
    fn text_cannot_become_markup() {
        let mut sheet = Sheet::new(10.0, 10.0);
        sheet.text(0.0, 0.0, PLAIN, "<b> & \"c\"");
        assert!(sheet.finish("").contains("&lt;b&gt; &amp; &quot;c&quot;"));
    }
}
