//! Diagnostics as people read them: the file:line:column, the source line, a caret under the place, a hint. The colours
//! carry nothing that the words do not say.

use std::ops::Range;
use std::path::Path;

use annotate_snippets::{
    Annotation, AnnotationKind, Group, Level, Origin, Renderer, Snippet, normalize_untrusted_str, renderer::DecorStyle,
};

use super::diagnostic::{Diagnostic, Place, Severity};

/// All of them, and a last line that counts them: `2 errors, 1 warning in /etc/shunt`. Empty when there is nothing to say.
pub fn render(dir: &Path, diagnostics: &[Diagnostic], colour: bool) -> String {
    if diagnostics.is_empty() {
        return String::new();
    }
    let renderer = if colour { Renderer::styled() } else { Renderer::plain() }.decor_style(DecorStyle::Ascii);
    let mut out = String::new();
    for diagnostic in diagnostics {
        out.push_str(&renderer.render(&[group(diagnostic)]));
        out.push_str("\n\n");
    }
    out.push_str(&count(dir, diagnostics));
    out.push('\n');
    out
}

fn group(diagnostic: &Diagnostic) -> Group<'_> {
    let level = match diagnostic.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    let mut group = Group::with_title(level.primary_title(&*diagnostic.message));
    let same_file = |place: &Place| place.file == diagnostic.place.file && place.span.is_some();
    let shared = diagnostic.other.as_ref().filter(|(place, _)| same_file(place));
    group = show(group, &diagnostic.place, None, shared);
    if shared.is_none()
        && let Some((place, label)) = &diagnostic.other
    {
        group = show(group, place, Some(label), None);
    }
    match &diagnostic.hint {
        Some(hint) => group.element(Level::HELP.with_name("hint").message(normalize_untrusted_str(hint))),
        None => group,
    }
}

/// One place with its source line, and with it a second place of the same file.
fn show<'a>(
    group: Group<'a>,
    place: &'a Place,
    label: Option<&'a str>,
    also: Option<&'a (Place, String)>,
) -> Group<'a> {
    let path = place.file.to_string_lossy();
    let Some(span) = &place.span else {
        return group.element(Origin::path(path));
    };
    let kind = if label.is_some() { AnnotationKind::Context } else { AnnotationKind::Primary };
    let mut snippet =
        Snippet::source(&*place.text).path(path).annotation(annotation(kind, &place.text, span).label(label));
    if let Some((other, label)) = also
        && let Some(span) = &other.span
    {
        snippet = snippet.annotation(annotation(AnnotationKind::Context, &place.text, span).label(&**label));
    }
    group.element(snippet)
}

/// A caret under at most the rest of the line: a value of many lines is pointed at where it begins.
fn annotation<'a>(kind: AnnotationKind, text: &str, span: &Range<usize>) -> Annotation<'a> {
    let start = floor(text, span.start);
    let line_end = text[start..].find(['\r', '\n']).map_or(text.len(), |newline| start + newline);
    kind.span(start..floor(text, span.end).clamp(start, line_end))
}

fn floor(text: &str, mut at: usize) -> usize {
    at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

fn count(dir: &Path, diagnostics: &[Diagnostic]) -> String {
    let of = |severity| diagnostics.iter().filter(|d| d.severity == severity).count();
    let words = |n: usize, word: &str| match n {
        0 => None,
        1 => Some(format!("1 {word}")),
        n => Some(format!("{n} {word}s")),
    };
    let counts = [words(of(Severity::Error), "error"), words(of(Severity::Warning), "warning")];
    format!("{} in {}", counts.into_iter().flatten().collect::<Vec<_>>().join(", "), dir.display())
}
