//! Whether the agent can run its hooks and read their secrets: as the user that it runs as, who is seldom the one who asks.

use std::fs::{self, Metadata};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::unistd::{Uid, User, getegid, geteuid, getgrouplist, getgroups};

use super::Finding;
use crate::config::{Call, Hook, Hooks, Webhook};

const CHECK: &str = "hooks";
/// The user of the agent's unit.
const USER: &str = "shunt";
const READ: u32 = 0o4;
const EXECUTE: u32 = 0o1;

/// Every hook that is configured.
pub fn check(hooks: &Hooks) -> Vec<Finding> {
    let agent = Identity::of_the_agent();
    let named = [
        ("fence", &hooks.fence),
        ("before_promote", &hooks.before_promote),
        ("after_failover", &hooks.after_failover),
        ("notify", &hooks.notify),
    ];
    named.into_iter().filter_map(|(name, hook)| Some(judge(name, hook.as_ref()?, &agent))).collect()
}

fn judge(name: &str, hook: &Hook, agent: &Identity) -> Finding {
    match &hook.call {
        Call::Command(line) => program(name, line, agent),
        Call::Webhook(url) => webhook(name, url, agent),
    }
}

fn program(name: &str, line: &str, agent: &Identity) -> Finding {
    let Some(word) = first_word(line) else {
        let advice = "the shell decides: run it once as the agent's user";
        return Finding::note(CHECK, format!("{name}: nobody can tell from `{line}` which program it runs"), advice);
    };
    if SHELL_WORDS.contains(&word) {
        return Finding::ok(CHECK, format!("{name}: the shell's own `{word}`"));
    }
    let path = match find(word, std::env::var_os("PATH").as_deref().map_or(Vec::new(), paths)) {
        Ok(path) => path,
        Err(why) => return Finding::problem(CHECK, format!("{name}: {word} {why}"), "write the program's whole path"),
    };
    if let Err(why) = may(agent, &path, EXECUTE) {
        let advice = if path.exists() {
            format!("chmod 755 {}, and let everybody through the folders above it", path.display())
        } else {
            "install it, or take the hook out of shunt.toml".to_owned()
        };
        return Finding::problem(CHECK, format!("{name}: {} cannot be run: {why}", path.display()), advice);
    }
    match HIDDEN.iter().find(|folder| path.starts_with(folder)) {
        Some(folder) => Finding::warning(
            CHECK,
            format!("{name}: {} is in {folder}, which the agent's unit does not show it", path.display()),
            "keep it in /usr/local/bin, or change ProtectHome= and PrivateTmp= of shunt.service",
        ),
        None => Finding::ok(CHECK, format!("{name}: {}", path.display())),
    }
}

/// By `ProtectHome=` and `PrivateTmp=`.
const HIDDEN: [&str; 5] = ["/home", "/root", "/run/user", "/tmp", "/var/tmp"];

fn webhook(name: &str, url: &Webhook, agent: &Identity) -> Finding {
    if let Some(secret) = &url.secret
        && let Err(why) = may(agent, &secret.file, READ)
    {
        let file = secret.file.display();
        let advice = format!("chmod 640 {file} && chgrp {USER} {file}");
        return Finding::problem(CHECK, format!("{name}: the secret file {file} cannot be read: {why}"), advice);
    }
    let host = url.url.host().unwrap_or_default();
    if url.url.scheme_str() == Some("http") && !matches!(host, "localhost" | "127.0.0.1" | "[::1]") {
        let what = format!("{name}: {url} is not encrypted");
        return Finding::note(CHECK, what, "whoever is on the way can read it: use https if the server can");
    }
    Finding::ok(CHECK, format!("{name}: {url}"))
}

/// The word that names the program of a line of shell; `None` if it only does so when the shell has read it.
fn first_word(line: &str) -> Option<&str> {
    let word = line.split_whitespace().find(|word| !is_assignment(word))?;
    let word = word.trim_end_matches(';');
    (!word.is_empty() && !word.contains(|c| "$`\"'\\(){}<>|&;*?[]~#".contains(c))).then_some(word)
}

/// `NAME=value`, before the program.
fn is_assignment(word: &str) -> bool {
    word.split_once('=')
        .is_some_and(|(name, _)| !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'))
}

/// What `/bin/sh` does itself, of what a hook may begin with.
const SHELL_WORDS: [&str; 14] =
    [".", ":", "[", "case", "cd", "echo", "exec", "exit", "false", "for", "if", "test", "true", "while"];

fn paths(list: &std::ffi::OsStr) -> Vec<PathBuf> {
    std::env::split_paths(list).collect()
}

/// The file that a program's name stands for.
fn find(word: &str, folders: Vec<PathBuf>) -> Result<PathBuf, String> {
    let path = Path::new(word);
    if path.is_absolute() {
        return Ok(path.to_owned());
    }
    if path.as_os_str().as_bytes().contains(&b'/') {
        return Err("is a relative path, and hooks are run in /".to_owned());
    }
    let here = |folder: PathBuf| folder.join(path);
    folders.into_iter().map(here).find(|path| path.is_file()).ok_or_else(|| "is in no folder of the PATH".to_owned())
}

/// Somebody, as the kernel judges who may do what.
struct Identity {
    name: String,
    uid: u32,
    groups: Vec<u32>,
}

impl Identity {
    /// Root asks for the user of the unit if there is one, anybody else for himself.
    fn of_the_agent() -> Self {
        let user = if geteuid().is_root() { User::from_name(USER).ok().flatten() } else { None };
        let Some(user) = user else {
            let mut groups: Vec<u32> = getgroups().unwrap_or_default().iter().map(|group| group.as_raw()).collect();
            groups.push(getegid().as_raw());
            let name = User::from_uid(geteuid()).ok().flatten().map_or("this user".to_owned(), |user| user.name);
            return Self { name, uid: geteuid().as_raw(), groups };
        };
        let listed = std::ffi::CString::new(USER).ok().and_then(|name| getgrouplist(&name, user.gid).ok());
        let groups = listed.unwrap_or_else(|| vec![user.gid]).iter().map(|group| group.as_raw()).collect();
        Self { name: user.name, uid: user.uid.as_raw(), groups }
    }

    fn may(&self, metadata: &Metadata, bit: u32) -> bool {
        let mode = metadata.mode();
        if Uid::from_raw(self.uid).is_root() {
            return bit == READ || metadata.is_dir() || mode & 0o111 != 0;
        }
        let shift = match () {
            () if metadata.uid() == self.uid => 6,
            () if self.groups.contains(&metadata.gid()) => 3,
            () => 0,
        };
        (mode >> shift) & bit != 0
    }
}

/// Whether somebody may do that with a regular file, and reach it.
fn may(who: &Identity, path: &Path, bit: u32) -> Result<(), String> {
    let refused = |path: &Path, what: &str| Err(format!("user {} may not {what} {}", who.name, path.display()));
    let path = fs::canonicalize(path).map_err(|error| error.to_string())?;
    for folder in path.ancestors().skip(1) {
        let metadata = fs::metadata(folder).map_err(|error| error.to_string())?;
        if !who.may(&metadata, EXECUTE) {
            return refused(folder, "go through");
        }
    }
    let metadata = fs::metadata(&path).map_err(|error| error.to_string())?;
    if !metadata.is_file() {
        return Err("it is not a regular file".to_owned());
    }
    if who.may(&metadata, bit) { Ok(()) } else { refused(&path, if bit == READ { "read" } else { "execute" }) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::time::Duration;

    use tempfile::TempDir;

    use super::*;
    use crate::config::{Password, Secret};
    use crate::doctor::Level;

    /// Nobody that this machine knows.
    fn stranger(groups: Vec<u32>) -> Identity {
        Identity { name: "shunt".into(), uid: 54_321, groups }
    }

    fn file(dir: &TempDir, name: &str, mode: u32) -> PathBuf {
        let path = dir.path().join(name);
        fs::write(&path, "#!/bin/sh\n").unwrap();
        for path in [dir.path(), &*path] {
            let mode = if path.is_dir() { 0o755 } else { mode };
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        }
        path
    }

    #[test]
    fn a_file_is_judged_with_the_eyes_of_the_agent_s_user() {
        let dir = TempDir::new().unwrap();
        let check = |mode, bit, groups, expected: Result<(), &str>| {
            let path = file(&dir, "f", mode);
            let found = may(&stranger(groups), &path, bit);
            match expected {
                Ok(()) => assert_eq!(found, Ok(()), "{mode:o}"),
                Err(words) => assert!(found.as_ref().is_err_and(|why| why.contains(words)), "{mode:o}: {found:?}"),
            }
        };
        check(0o755, EXECUTE, vec![], Ok(()));
        check(0o750, EXECUTE, vec![], Err("user shunt may not execute"));
        check(0o644, EXECUTE, vec![], Err("may not execute"));
        check(0o600, READ, vec![], Err("user shunt may not read"));
        let group = fs::metadata(dir.path().join("f")).unwrap().gid();
        check(0o640, READ, vec![group], Ok(()));
        check(0o604, READ, vec![group], Err("may not read"));

        let path = file(&dir, "f", 0o755);
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
        assert!(may(&stranger(vec![]), &path, EXECUTE).unwrap_err().contains("may not go through"));
        assert!(may(&stranger(vec![]), dir.path(), EXECUTE).unwrap_err().contains("not a regular file"));
        assert!(may(&stranger(vec![]), &dir.path().join("gone"), READ).unwrap_err().contains("No such file"));
    }

    #[test]
    fn the_program_of_a_line_is_found_or_said_not_to_be_known() {
        assert_eq!(first_word("/usr/bin/fence now"), Some("/usr/bin/fence"));
        assert_eq!(first_word("A=1 B= fence \"$SHUNT_OLD\""), Some("fence"));
        assert_eq!(first_word("exit; true"), Some("exit"));
        assert_eq!(first_word("$FENCE now"), None);
        assert_eq!(first_word("(a; b)"), None);
        assert_eq!(first_word("A=1"), None);
        assert_eq!(find("sh", vec!["/nowhere".into(), "/bin".into()]), Ok("/bin/sh".into()));
        assert!(find("sh", vec!["/nowhere".into()]).is_err());
        assert!(find("./fence", vec!["/bin".into()]).unwrap_err().contains("relative"));
    }

    #[test]
    fn each_hook_is_judged_by_what_it_is() {
        let dir = TempDir::new().unwrap();
        let check = |call: Call, level: Level, words: &str| {
            let hook = Hook { call, timeout: Duration::from_secs(30) };
            let found = judge("notify", &hook, &stranger(vec![]));
            assert_eq!(found.level, level, "{found:?}");
            assert!(found.what.starts_with("notify: ") && found.what.contains(words), "{found:?}");
            assert_eq!(found.advice.is_some(), level != Level::Ok);
        };
        let url = |url: &str, secret: Option<PathBuf>| {
            let secret = secret.map(|file| Secret { file, key: Password::new("hush") });
            Call::Webhook(Webhook { url: url.parse().unwrap(), secret })
        };
        check(Call::Command("/bin/sh -c true".into()), Level::Ok, "/bin/sh");
        check(Call::Command("exec something".into()), Level::Ok, "the shell's own `exec`");
        check(Call::Command("/nowhere/tell".into()), Level::Problem, "No such file");
        check(Call::Command("no-such-program-anywhere x".into()), Level::Problem, "in no folder of the PATH");
        check(Call::Command("\"$X\"".into()), Level::Note, "nobody can tell");
        let mine = TempDir::new_in("/tmp").unwrap();
        let path = file(&mine, "tell", 0o755);
        check(Call::Command(path.display().to_string()), Level::Warning, "does not show");
        check(url("https://chat.example/secret", None), Level::Ok, "https://chat.example/…");
        check(url("http://chat.example/x", None), Level::Note, "not encrypted");
        check(url("http://127.0.0.1:8080/x", None), Level::Ok, "127.0.0.1:8080");
        check(url("https://a/", Some(file(&dir, "key", 0o600))), Level::Problem, "cannot be read: user shunt");
        check(url("https://a/", Some(file(&dir, "key", 0o644))), Level::Ok, "https://a/");
    }

    #[test]
    fn hooks_that_are_not_configured_are_not_judged() {
        assert_eq!(check(&Hooks::default()), []);
        let hook = Hook { call: Call::Command("/bin/sh".into()), timeout: Duration::from_secs(30) };
        let found = check(&Hooks { fence: Some(hook), ..Hooks::default() });
        assert_eq!(found, [Finding::ok(CHECK, "fence: /bin/sh")]);
    }
}
