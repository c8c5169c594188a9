//! One configuration file while it is read: its text and what was found wrong with it so far. Reading never stops at an
//! error; it notes it and goes on, so that an operator sees all of them at once.

use std::cell::RefCell;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use toml::Spanned;
use toml::de::DeTable;

use super::diagnostic::{Diagnostic, Place, Severity, blot_secrets};

/// No configuration is that long; a file that is, is something else.
const LONGEST_FILE: u64 = 1 << 20;
/// More than anybody reads. What goes beyond is counted.
const MOST_NOTES: usize = 100;

pub(super) struct Page {
    pub(super) path: PathBuf,
    /// As read, without passwords: for showing.
    text: Arc<str>,
    notes: RefCell<Vec<Diagnostic>>,
    left_out: RefCell<usize>,
    /// The lines with a syntax error. What else seems wrong there follows from it.
    torn_lines: RefCell<Vec<usize>>,
}

impl Page {
    fn new(path: PathBuf, text: &str) -> Self {
        Self {
            path,
            text: Arc::from(blot_secrets(text)),
            notes: RefCell::default(),
            left_out: RefCell::default(),
            torn_lines: RefCell::default(),
        }
    }

    /// The page of a file that need not be there and is not.
    pub(super) fn blank(path: PathBuf) -> Self {
        Self::new(path, "")
    }

    /// The page and the text to read, which is empty when the file could not be read; the page then says why.
    pub(super) fn open(path: PathBuf) -> (Self, String) {
        match read_text(&path) {
            Ok(text) => (Self::new(path, &text), text),
            Err((message, hint)) => {
                let page = Self::new(path, "");
                let diagnostic = Diagnostic::error(Place::file(&page.path), message);
                page.note(Diagnostic { hint, ..diagnostic });
                page.torn_lines.borrow_mut().push(0);
                (page, String::new())
            }
        }
    }

    /// The document as far as it can be made out; syntax errors are noted.
    pub(super) fn parse<'t>(&self, text: &'t str) -> DeTable<'t> {
        let (document, errors) = DeTable::parse_recoverable(text);
        let mut unclosed = false;
        for error in errors {
            let span = error.span().unwrap_or(0..0);
            let place = self.place(&span);
            let line = place.line_column().map_or(0, |(line, _)| line);
            let mut torn = self.torn_lines.borrow_mut();
            // The parser says several things about one broken value; the first is the cause.
            if torn.contains(&line) {
                continue;
            }
            torn.push(line);
            drop(torn);
            // A list that is never closed swallows the rest of the file, and each line of that is one more error.
            let in_list = error.message().starts_with("missing comma");
            if in_list && std::mem::replace(&mut unclosed, true) {
                continue;
            }
            let hint =
                if in_list { Some("is the list before it closed by `]`?".into()) } else { syntax_hint(text, &span) };
            self.note(Diagnostic { hint, ..Diagnostic::error(place, error.message()) });
        }
        Spanned::into_inner(document)
    }

    pub(super) fn place(&self, span: &Range<usize>) -> Place {
        Place { file: self.path.clone(), span: Some(span.clone()), text: Arc::clone(&self.text) }
    }

    pub(super) fn error(&self, span: &Range<usize>, message: impl Into<String>, hint: Option<String>) {
        let diagnostic = Diagnostic::error(self.place(span), message);
        self.report(Diagnostic { hint, ..diagnostic });
    }

    pub(super) fn warning(&self, span: &Range<usize>, message: impl Into<String>, hint: Option<String>) {
        let diagnostic = Diagnostic::error(self.place(span), message);
        self.report(Diagnostic { severity: Severity::Warning, hint, ..diagnostic });
    }

    /// A required key that is not there. In a file with a syntax error it may well be there, unrecognised.
    pub(super) fn missing(&self, section: &Range<usize>, message: impl Into<String>, hint: Option<String>) {
        if !self.is_torn() {
            self.error(section, message, hint);
        }
    }

    /// Notes what was found in the document, unless a syntax error in the same line explains it.
    pub(super) fn report(&self, diagnostic: Diagnostic) {
        let line = diagnostic.place.line_column().map_or(0, |(line, _)| line);
        if !self.torn_lines.borrow().contains(&line) {
            self.note(diagnostic);
        }
    }

    fn note(&self, diagnostic: Diagnostic) {
        let mut notes = self.notes.borrow_mut();
        if notes.len() < MOST_NOTES {
            notes.push(diagnostic);
        } else {
            *self.left_out.borrow_mut() += 1;
        }
    }

    /// Whether the file could not be read, or not all of it: what seems to be missing may well be there.
    pub(super) fn is_torn(&self) -> bool {
        !self.torn_lines.borrow().is_empty()
    }

    pub(super) fn has_errors(&self) -> bool {
        *self.left_out.borrow() > 0 || self.notes.borrow().iter().any(|d| d.severity == Severity::Error)
    }

    /// What was found, in the order of the text.
    pub(super) fn into_notes(self) -> Vec<Diagnostic> {
        let mut notes = self.notes.into_inner();
        notes.sort_by_key(|d| d.place.span.as_ref().map_or(0, |span| span.start));
        let left_out = self.left_out.into_inner();
        if left_out > 0 {
            notes.push(Diagnostic::error(Place::file(self.path), format!("and {left_out} more in this file")));
        }
        notes
    }

    /// The first line that says something: where to point for what the whole file lacks.
    pub(super) fn top(&self) -> Range<usize> {
        let mut start = 0;
        for line in self.text.split_inclusive('\n') {
            let words = line.trim();
            if !words.is_empty() && !words.starts_with('#') {
                return start..start + line.trim_end().len();
            }
            start += line.len();
        }
        0..0
    }
}

/// Reads a regular file of UTF-8, or says what stands against it.
fn read_text(path: &Path) -> Result<String, (String, Option<String>)> {
    let failed = |source: std::io::Error| (format!("cannot read the file: {source}"), permission_hint(&source));
    // Looked at before it is opened: opening a FIFO would wait for its writer for ever.
    let metadata = std::fs::metadata(path).map_err(failed)?;
    if metadata.is_dir() {
        return Err(("this is a directory, not a file".into(), Some("a cluster is one file; move it away".into())));
    }
    if !metadata.is_file() {
        return Err(("this is not a regular file".into(), None));
    }
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(LONGEST_FILE + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > LONGEST_FILE {
        return Err(("the file is longer than 1 MiB".into(), Some("is it a configuration at all?".into())));
    }
    // Windows editors like to begin with a byte order mark.
    if bytes.starts_with(b"\xef\xbb\xbf") {
        bytes.drain(..3);
    }
    String::from_utf8(bytes).map_err(|error| {
        let good = String::from_utf8_lossy(&error.as_bytes()[..error.utf8_error().valid_up_to()]);
        let line = good.matches('\n').count() + 1;
        (format!("the file is not UTF-8: line {line} has other bytes"), Some("save it as UTF-8".into()))
    })
}

pub(super) fn permission_hint(source: &std::io::Error) -> Option<String> {
    (source.kind() == std::io::ErrorKind::PermissionDenied)
        .then(|| "the agent runs as user `shunt`: that user must be able to read it".into())
}

/// What people mostly mean by what the parser cannot read.
fn syntax_hint(text: &str, span: &Range<usize>) -> Option<String> {
    let line_start = text.get(..span.start)?.rfind('\n').map_or(0, |newline| newline + 1);
    let line = text[line_start..].lines().next()?;
    let (_, value) = line.split_once('=')?;
    let value = value.split('#').next()?.trim();
    let bare = !value.is_empty() && !value.contains(['"', '\'', '[', ']', '{', '}', ',', '=']);
    bare.then(|| format!("a text stands in quotes: \"{value}\""))
}
