//! Typed reading of a TOML table. A getter returns `None` when the key is absent and also when its value is wrong, which
//! it then has noted on the page; so whoever reads needs no error paths, and every error of a file shows at once.

use std::ops::Range;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostic::quote;
use super::page::Page;
use super::values::{self, Complaint};

/// A table and the keys of it that somebody has asked for: what remains at the end is unknown.
pub(super) struct Section<'d> {
    pub(super) page: &'d Page,
    /// In an operator's words: `[[listen]]`, `the file`.
    title: String,
    pub(super) span: Range<usize>,
    table: &'d DeTable<'d>,
    known: Vec<&'static str>,
}

impl<'d> Section<'d> {
    pub(super) fn new(page: &'d Page, title: impl Into<String>, span: Range<usize>, table: &'d DeTable<'d>) -> Self {
        Self { page, title: title.into(), span, table, known: Vec::new() }
    }

    /// The value of a key.
    pub(super) fn get(&mut self, key: &'static str) -> Option<Value<'d>> {
        self.known.push(key);
        let value = self.table.get(key)?;
        Some(Value { page: self.page, key, span: value.span(), found: value.get_ref() })
    }

    /// The value of a key that must be there.
    pub(super) fn require(&mut self, key: &'static str, example: &str) -> Option<Value<'d>> {
        let value = self.get(key);
        if value.is_none() {
            let message = format!("`{key}` is missing from {}", self.title);
            self.page.missing(&self.span, message, Some(format!("add `{example}`")));
        }
        value
    }

    pub(super) fn duration(&mut self, key: &'static str, range: (Duration, Duration)) -> Option<Duration> {
        self.get(key)?.duration(range)
    }

    pub(super) fn integer(&mut self, key: &'static str, range: (u32, u32)) -> Option<u32> {
        self.get(key)?.integer(range)
    }

    pub(super) fn boolean(&mut self, key: &'static str) -> Option<bool> {
        self.get(key)?.boolean()
    }

    pub(super) fn choice<T: Copy>(&mut self, key: &'static str, choices: &[(&'static str, T)]) -> Option<T> {
        self.get(key)?.choice(choices)
    }

    /// One of a few words; the first is the default.
    pub(super) fn choice_or_first<T: Copy>(&mut self, key: &'static str, choices: &[(&'static str, T)]) -> T {
        self.choice(key, choices).unwrap_or(choices[0].1)
    }

    /// A table below this one.
    pub(super) fn section(&mut self, key: &'static str) -> Option<Section<'d>> {
        let value = self.get(key)?;
        let table = value.table()?;
        Some(Section::new(self.page, format!("`[{key}]`"), value.span, table))
    }

    /// The tables below this one, by the names that the operator gave them.
    pub(super) fn named_sections(&mut self, key: &'static str) -> Vec<(&'d str, Range<usize>, Option<Section<'d>>)> {
        let Some(table) = self.get(key).and_then(|value| value.table()) else { return Vec::new() };
        let section = |(name, value): (&'d Spanned<_>, &'d Spanned<DeValue<'d>>)| {
            let name: &'d std::borrow::Cow<'d, str> = name.get_ref();
            let title = format!("`[{key}.{name}]`");
            let value = Value { page: self.page, key, span: value.span(), found: value.get_ref() };
            let section = value.table().map(|t| Section::new(self.page, title, value.span.clone(), t));
            (&**name, value.span, section)
        };
        table.iter().map(section).collect()
    }

    /// Warns about a key, already read, that is without meaning here.
    pub(super) fn warn_if_written(&self, key: &str, why: &str, hint: &str) {
        if let Some((spanned, _)) = self.table.get_key_value(key) {
            self.page.warning(&spanned.span(), format!("`{key}` {why}"), Some(hint.to_owned()));
        }
    }

    /// Notes every key that nobody asked for. `homes` tells which keys belong to which other section.
    pub(super) fn finish(self, homes: &[(&str, &str)]) {
        for (key, value) in self.table {
            let name = &**key.get_ref();
            let is_at_home_elsewhere = homes.iter().any(|(key, _)| *key == name);
            // Below a header that the parser could not read, keys end up in the section before it.
            if self.known.contains(&name) || (is_at_home_elsewhere && self.page.is_torn()) {
                continue;
            }
            let hint = unknown_key_hint(name, &self.known, homes, value.get_ref());
            self.page.error(&key.span(), format!("unknown key {} in {}", quote(name), self.title), hint);
        }
    }
}

fn unknown_key_hint(name: &str, known: &[&str], homes: &[(&str, &str)], value: &DeValue<'_>) -> Option<String> {
    if name == "password" && value.is_str() {
        return Some(
            "a password is never written here: put it into a file of its own, `password_file` names it".into(),
        );
    }
    let home = homes.iter().find(|(key, _)| *key == name).map(|(_, home)| format!("`{name}` belongs {home}"));
    home.or_else(|| values::did_you_mean(name, known.iter().copied()))
}

/// A value and where it is.
#[derive(Clone)]
pub(super) struct Value<'d> {
    pub(super) page: &'d Page,
    pub(super) key: &'static str,
    pub(super) span: Range<usize>,
    found: &'d DeValue<'d>,
}

impl<'d> Value<'d> {
    pub(super) fn text(&self) -> Option<&'d str> {
        self.found.as_str().or_else(|| self.wrong_type("a string", None))
    }

    /// A string that `parse` takes.
    pub(super) fn parsed<T>(&self, parse: impl FnOnce(&'d str) -> Result<T, Complaint>) -> Option<T> {
        let text = self.text()?;
        parse(text).map_err(|complaint| self.complain(complaint)).ok()
    }

    pub(super) fn duration(&self, range: (Duration, Duration)) -> Option<Duration> {
        if let Some(number) = self.found.as_integer() {
            let hint = format!("with its unit, in quotes: \"{number}ms\", \"{number}s\" or \"{number}m\"");
            return self.wrong_type("a duration", Some(hint));
        }
        self.parsed(|text| values::duration(self.key, text, range))
    }

    pub(super) fn integer(&self, (least, most): (u32, u32)) -> Option<u32> {
        let Some(integer) = self.found.as_integer() else {
            let bare = self.found.as_str().filter(|text| text.parse::<u32>().is_ok());
            return self.wrong_type("a whole number", bare.map(|number| format!("without quotes: {number}")));
        };
        let number = i128::from_str_radix(integer.as_str(), integer.radix()).ok();
        let good = number.and_then(|n| u32::try_from(n).ok()).filter(|n| (least..=most).contains(n));
        if good.is_none() {
            let message = format!("`{}` must be between {least} and {most}", self.key);
            self.page.error(&self.span, message, None);
        }
        good
    }

    pub(super) fn boolean(&self) -> Option<bool> {
        let hint = || match self.found.as_str() {
            Some(word @ ("true" | "false")) => format!("without quotes: {word}"),
            _ => "true or false".to_owned(),
        };
        self.found.as_bool().or_else(|| self.wrong_type("true or false", Some(hint())))
    }

    pub(super) fn choice<T: Copy>(&self, choices: &[(&'static str, T)]) -> Option<T> {
        self.parsed(|text| values::choice(self.key, text, choices))
    }

    pub(super) fn list(&self) -> Option<Vec<Value<'d>>> {
        let Some(array) = self.found.as_array() else { return self.wrong_type("a list", None) };
        let element = |e: &'d Spanned<DeValue<'d>>| Value { span: e.span(), found: e.get_ref(), ..self.clone() };
        Some(array.iter().map(element).collect())
    }

    pub(super) fn table(&self) -> Option<&'d DeTable<'d>> {
        self.found.as_table().or_else(|| self.wrong_type("a table", None))
    }

    pub(super) fn is_table(&self) -> bool {
        self.found.is_table()
    }

    pub(super) fn is_list(&self) -> bool {
        self.found.is_array()
    }

    pub(super) fn is_text(&self) -> bool {
        self.found.is_str()
    }

    pub(super) fn complain(&self, complaint: Complaint) {
        self.page.error(&self.span, complaint.message, complaint.hint);
    }

    pub(super) fn wrong_type<T>(&self, wanted: &str, hint: Option<String>) -> Option<T> {
        let found = self.found.type_str();
        let article = if found.starts_with(['a', 'i']) { "an" } else { "a" };
        self.page.error(&self.span, format!("`{}` must be {wanted}, not {article} {found}", self.key), hint);
        None
    }
}
