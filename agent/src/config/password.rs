//! A password and the file it comes from. It is read once, at load, and nothing that is printed ever shows it.

use std::fmt;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// A password. `Debug` does not show it and there is no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

impl Password {
    pub fn new(password: impl Into<String>) -> Self {
        Self(password.into())
    }

    /// The password itself, for logging in with it and nothing else.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(…)")
    }
}

/// A password as read, and what is doubtful about its file.
pub(super) struct PasswordFile {
    pub(super) password: Password,
    pub(super) readable_by_all: bool,
}

/// MySQL sends a password in one packet and nobody's is longer than this.
const LONGEST: u64 = 4096;

/// The file's text without the newline that ends it.
pub(super) fn read(path: &Path) -> io::Result<PasswordFile> {
    let metadata = std::fs::metadata(path)?;
    // Looked at before it is opened: opening a FIFO would wait for its writer for ever.
    if !metadata.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(LONGEST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LONGEST {
        return Err(io::Error::other(format!("it is longer than {LONGEST} bytes")));
    }
    let mut text = String::from_utf8(bytes).map_err(|_| io::Error::other("it is not UTF-8"))?;
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    if text.contains(['\n', '\0']) {
        return Err(io::Error::other("it has more than one line"));
    }
    if text.is_empty() {
        return Err(io::Error::other("it is empty"));
    }
    Ok(PasswordFile { password: Password(text), readable_by_all: metadata.permissions().mode() & 0o004 != 0 })
}
