//! A command that came to nothing: what, why, what to do, and the exit code.

use crate::cli::Exit;
use crate::control::api::ProblemCode;
use crate::control::client::ClientError;
use crate::driver::error_chain;

/// Printed as `error: …` with the chain of causes, then `hint: …`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    error: String,
    hint: Option<String>,
    /// What to read first.
    details: Option<String>,
    exit: Exit,
}

impl Failure {
    pub fn new(error: impl Into<String>) -> Self {
        Self { error: error.into(), hint: None, details: None, exit: Exit::Failed }
    }

    /// Adds the cause, with its own causes.
    #[must_use]
    pub fn because(mut self, cause: &dyn std::error::Error) -> Self {
        self.error = format!("{}: {}", self.error, error_chain(cause));
        self
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    #[must_use]
    pub const fn with_exit(mut self, exit: Exit) -> Self {
        self.exit = exit;
        self
    }

    pub const fn exit(&self) -> Exit {
        self.exit
    }

    pub fn report(&self) {
        let (red, cyan, plain) =
            if super::stderr_has_colour() { ("\x1b[1;31m", "\x1b[1;36m", "\x1b[0m") } else { ("", "", "") };
        if let Some(details) = &self.details {
            super::note(details.trim_end());
        }
        super::note(&format!("{red}error:{plain} {}", self.error));
        if let Some(hint) = &self.hint {
            super::note(&format!("{cyan}hint:{plain} {hint}"));
        }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let failure = Self::new(error_chain(&error));
        match error {
            ClientError::NotRunning { .. } => failure
                .with_exit(Exit::AgentNotRunning)
                .hint("start it with `systemctl start shunt`, or give its socket with --socket"),
            ClientError::Forbidden { .. } => failure.hint("run this as root or as a member of the group shunt"),
            ClientError::Unknown { .. } => failure
                .with_exit(Exit::OutcomeUnknown)
                .hint("look at `shunt list` and `shunt events` before you try again"),
            ClientError::BrokenOff { .. } => {
                failure.hint("the agent ends a list that is not read for a minute: write it to a file first")
            }
            ClientError::Garbled { .. } => failure.with_exit(Exit::OutcomeUnknown),
            ClientError::Refused(problem) => {
                let exit = match problem.code {
                    ProblemCode::BadRequest | ProblemCode::NotFound | ProblemCode::BadConfiguration => Exit::Usage,
                    ProblemCode::NeedsConfirmation | ProblemCode::RefusedByRule => Exit::Refused,
                    ProblemCode::NotAllowed | ProblemCode::Busy | ProblemCode::Failed => Exit::Failed,
                };
                Self { error: problem.error, hint: problem.hint, details: problem.details, exit }
            }
        }
    }
}
