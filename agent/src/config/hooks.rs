//! `[hooks]`: the operator's programs and URLs that failovers ask or tell.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use hyper::Uri;

use super::agent::{HOMES, PasswordFolders, file_name};
use super::diagnostic::quote;
use super::page::permission_hint;
use super::password::{self, Password};
use super::section::{Section, Value};
use super::values::Complaint;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hooks {
    pub fence: Option<Hook>,
    pub before_promote: Option<Hook>,
    pub after_failover: Option<Hook>,
    pub notify: Option<Hook>,
}

impl Hooks {
    /// The longest that an operation has to wait for one of those whose success it needs; `None`: it needs none.
    pub fn longest_order(&self) -> Option<Duration> {
        [&self.fence, &self.before_promote].into_iter().flatten().map(|hook| hook.timeout).max()
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hook {
    pub call: Call,
    /// Bound of one call: of the program, or of one request.
    pub timeout: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// A line for `/bin/sh -c`.
    Command(String),
    Webhook(Webhook),
}

/// An http or https URL that gets a JSON body.
#[derive(Clone, PartialEq, Eq)]
pub struct Webhook {
    pub url: Uri,
    /// What the body is signed with.
    pub secret: Option<Secret>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Secret {
    pub file: PathBuf,
    pub key: Password,
}

/// Paths of webhooks are often their only secret, so they are shown nowhere.
impl fmt::Display for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = self.url.scheme_str().unwrap_or_default();
        let authority = self.url.authority().map_or("", |authority| authority.as_str());
        let more = if self.url.path().len() > 1 || self.url.query().is_some() { "…" } else { "" };
        write!(f, "{scheme}://{authority}/{more}")
    }
}

impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Webhook({self})")
    }
}

/// A program that was asked for an answer and gives none in this time gives none at all.
const TIMEOUT: Duration = Duration::from_secs(30);
const TIMEOUTS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(600));

pub(super) fn read(mut section: Section<'_>, folders: &PasswordFolders<'_>) -> Hooks {
    let mut hook = |key| section.get(key).and_then(|value: Value<'_>| read_hook(&value, folders));
    let hooks = Hooks {
        fence: hook("fence"),
        before_promote: hook("before_promote"),
        after_failover: hook("after_failover"),
        notify: hook("notify"),
    };
    section.finish(&HOMES);
    hooks
}

/// `"/usr/local/bin/tell"`, `"https://chat.example/x"`, or either as a table with more to say.
fn read_hook(value: &Value<'_>, folders: &PasswordFolders<'_>) -> Option<Hook> {
    if value.is_text() {
        return Some(Hook { call: value.parsed(call)?, timeout: TIMEOUT });
    }
    if !value.is_table() {
        let hint = "a command, a URL, or a table: { command = \"…\", timeout = \"1m\" }";
        return value.wrong_type("a hook", Some(hint.into()));
    }
    let mut section = Section::new(value.page, format!("the hook `{}`", value.key), value.span.clone(), value.table()?);
    let command = section.get("command");
    let url = section.get("url");
    let secret = section.get("secret_file");
    let timeout = section.duration("timeout", TIMEOUTS).unwrap_or(TIMEOUT);
    section.finish(&[]);
    let secret = match secret {
        Some(file) if url.is_none() => {
            let why = "signs the body of a webhook, and this hook has no `url`";
            value.page.error(&file.span, format!("`secret_file` {why}"), None);
            None
        }
        Some(file) => read_secret(&file, folders).map(Some),
        None => Some(None),
    };
    let call = match (command, url) {
        (Some(command), None) => command.parsed(command_line).map(Call::Command).filter(|_| secret.is_some()),
        (None, Some(url)) => {
            url.parsed(webhook_url).zip(secret).map(|(url, secret)| Call::Webhook(Webhook { url, secret }))
        }
        (Some(_), Some(url)) => {
            let message = format!("the hook `{}` has a `command` and a `url`", value.key);
            value.page.error(&url.span, message, Some("a command may call a URL itself".into()));
            None
        }
        (None, None) => {
            let message = format!("the hook `{}` has neither a `command` nor a `url`", value.key);
            value.page.missing(&value.span, message, Some("add `command = \"…\"`".into()));
            None
        }
    };
    Some(Hook { call: call?, timeout })
}

fn call(text: &str) -> Result<Call, Complaint> {
    if text.starts_with("http://") || text.starts_with("https://") {
        return webhook_url(text).map(|url| Call::Webhook(Webhook { url, secret: None }));
    }
    command_line(text).map(Call::Command)
}

fn command_line(text: &str) -> Result<String, Complaint> {
    if text.trim().is_empty() {
        return Err(Complaint::new("the hook is empty").hint("a command, or a URL; leave the key out for no hook"));
    }
    if text.contains('\0') {
        return Err(Complaint::new("a command has no NUL in it"));
    }
    Ok(text.to_owned())
}

fn webhook_url(text: &str) -> Result<Uri, Complaint> {
    let example = "such as \"https://chat.example/hooks/shunt\"";
    let bad = |why: &str| Complaint::new(format!("this is not the URL of a webhook: {why}")).hint(example);
    let url: Uri = text.parse().map_err(|why: hyper::http::uri::InvalidUri| bad(&why.to_string()))?;
    match url.scheme_str() {
        Some("http" | "https") => {}
        Some(other) => return Err(bad(&format!("{} is neither http nor https", quote(other)))),
        None => return Err(bad("it does not begin with http:// or https://")),
    }
    let authority = url.authority().map_or("", |authority| authority.as_str());
    if authority.contains('@') {
        let hint = "`secret_file` names a key that the body is signed with";
        return Err(Complaint::new("a webhook's URL has no user and no password").hint(hint));
    }
    if url.host().is_none_or(str::is_empty) {
        return Err(bad("it names no host"));
    }
    Ok(url)
}

fn read_secret(value: &Value<'_>, folders: &PasswordFolders<'_>) -> Option<Secret> {
    let file = folders.config.join(value.parsed(file_name)?);
    match password::read(&file) {
        Ok(read) => {
            if read.readable_by_all {
                let message = format!("everybody on this host can read the secret file {}", file.display());
                value.page.warning(&value.span, message, Some(super::agent::chmod(&file)));
            }
            Some(Secret { file, key: read.password })
        }
        Err(source) => {
            let message = format!("cannot read the secret file {}: {source}", file.display());
            value.page.error(&value.span, message, permission_hint(&source));
            None
        }
    }
}
