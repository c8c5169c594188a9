//! What is wrong with a configuration, as data. A diagnostic carries the text of its file, so that it can be shown long
//! after the file has changed; a password that somebody wrote into that text is blotted out before anything can show it.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

/// One thing to say about one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    pub severity: Severity,
    pub place: Place,
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// The other place that it is about, such as the first of two equal listeners, and what is there.
    pub other: Option<(Place, String)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    Error,
    Warning,
}

/// A file and, where one can be pointed at, a stretch of its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub file: PathBuf,
    /// Bytes of the text; `None`: the file as a whole.
    pub span: Option<Range<usize>>,
    /// The file as it was read; empty when it could not be.
    pub text: Arc<str>,
}

impl Place {
    /// A file as a whole.
    pub fn file(file: impl Into<PathBuf>) -> Self {
        Self { file: file.into(), span: None, text: Arc::from("") }
    }

    /// Line and column, both counted from 1, the column in characters.
    pub fn line_column(&self) -> Option<(usize, usize)> {
        let start = self.span.as_ref()?.start;
        let before = self.text.get(..start)?;
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Some((before.matches('\n').count() + 1, before[line_start..].chars().count() + 1))
    }
}

impl Diagnostic {
    pub fn error(place: Place, message: impl Into<String>) -> Self {
        Self { severity: Severity::Error, place, message: message.into(), hint: None, other: None }
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// A foreign text within a message: between backquotes, control characters escaped, shortened when it is very long.
pub(super) fn quote(text: &str) -> String {
    const LONGEST: usize = 80;
    let mut quoted = String::from("`");
    for (count, c) in text.chars().enumerate() {
        if count == LONGEST {
            quoted.push('…');
            break;
        }
        if c.is_control() { quoted.extend(c.escape_default()) } else { quoted.push(c) }
    }
    quoted.push('`');
    quoted
}

/// The words that begin a key whose value nobody may see.
const SECRET_KEYS: [&str; 4] = ["password", "passwd", "secret", "token"];

/// The text with every value of a key such as `password`, and the user and password of every URL, replaced by as many
/// bytes of `*`, so that all spans still hold.
///
/// It works on the text, not on the document, because a document with a syntax error must not show a password either.
pub(super) fn blot_secrets(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        let ends = line.trim_end_matches(['\n', '\r']).len();
        let secret = secret_value(line).map(|start| start..ends).or_else(|| secret_of_url(line)).unwrap_or(ends..ends);
        out.push_str(&line[..secret.start]);
        out.extend(std::iter::repeat_n('*', secret.len()));
        out.push_str(&line[secret.end..]);
    }
    out
}

/// Where in a line `user:password` of `https://user:password@host/` stands.
fn secret_of_url(line: &str) -> Option<Range<usize>> {
    let start = line.find("://")? + "://".len();
    let authority = line[start..].split(['/', '"', '\'', ' ']).next()?;
    authority.rfind('@').map(|at| start..start + at)
}

/// Where in a line the value of a secret key begins: after `password =`, but not after `password_file =`.
fn secret_value(line: &str) -> Option<usize> {
    let lower = line.to_ascii_lowercase();
    SECRET_KEYS
        .iter()
        .flat_map(|key| lower.match_indices(key).map(move |(at, _)| at + key.len()))
        .filter_map(|after| {
            let rest = lower[after..].trim_start_matches(['"', '\'', ' ', '\t']);
            rest.strip_prefix('=').map(|value| line.len() - value.len())
        })
        .min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_in_the_text_is_blotted_out_and_spans_still_hold() {
        let text = "user = \"a\"\npassword = \"häm\"\r\nx = { \"Password\"=\"b\", y = 1 }\npassword_file = \"f\"\n";
        let blotted = blot_secrets(text);
        assert_eq!(
            blotted,
            "user = \"a\"\npassword =*******\r\nx = { \"Password\"=************\npassword_file = \"f\"\n"
        );
        assert_eq!(blotted.len(), text.len());
        assert_eq!(blot_secrets("a = \"https://u:p@h/x@y\"\n"), "a = \"https://***@h/x@y\"\n");
    }

    #[test]
    fn columns_count_characters_and_lines_count_from_one() {
        let text: Arc<str> = Arc::from("ä = 1\nöö = 2\n");
        let span = text.find('2').map(|at| at..at + 1);
        let place = Place { file: "f".into(), span, text };
        assert_eq!(place.line_column(), Some((2, 6)));
    }

    #[test]
    fn a_quoted_text_shows_its_control_characters() {
        assert_eq!(quote("a\u{1b}[31m\n"), "`a\\u{1b}[31m\\n`");
        assert_eq!(quote(&"x".repeat(200)).chars().count(), 83);
    }
}
