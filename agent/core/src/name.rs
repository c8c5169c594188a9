//! The name of a cluster.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A cluster's name: 1 to 63 of `a-z A-Z 0-9 . _ -`, beginning with a letter or digit. It is a file's name, a metric's
/// label and a word on the command line, so it is kept to what is safe in all three.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ClusterName(String);

/// Why a text is not a cluster's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a cluster's name is 1 to 63 letters, digits, `.`, `_` or `-`, and begins with a letter or a digit")]
pub struct BadName;

impl ClusterName {
    pub fn new(name: impl Into<String>) -> Result<Self, BadName> {
        let name = name.into();
        let good = (1..=63).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
            && name.as_bytes()[0].is_ascii_alphanumeric();
        if good { Ok(Self(name)) } else { Err(BadName) }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for ClusterName {
    type Error = BadName;
    fn try_from(name: String) -> Result<Self, BadName> {
        Self::new(name)
    }
}

impl From<ClusterName> for String {
    fn from(name: ClusterName) -> Self {
        name.0
    }
}

impl fmt::Display for ClusterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
