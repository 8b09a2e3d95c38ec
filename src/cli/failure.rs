//! What a command failed with, and the exit code that says so to programs.

use crate::admin::Problem;
use std::fmt;

/// Exit codes of the CLI; documented in `weir --help`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Code {
    /// Anything else.
    Failure = 1,
    /// Wrong usage, or a configuration that is refused.
    Usage = 2,
    /// What was named does not exist.
    NotFound = 3,
    /// The state of things forbids it.
    Conflict = 4,
    /// The API refuses this caller.
    Forbidden = 5,
    /// No Weir answers.
    Unreachable = 6,
    /// A rollout failed and was rolled back.
    RolledBack = 7,
    /// A rollout failed and was not rolled back.
    NotRolledBack = 8,
    /// What was waited for goes on.
    TimedOut = 9,
}

/// An error that carries its exit code; it may stand anywhere in a chain.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) code: Code,
    message: String,
}

impl Failure {
    /// Makes an error with its exit code.
    pub(super) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// What the API answered.
    pub(super) fn from_problem(problem: Problem) -> Self {
        let code = match problem.status {
            400 | 413 | 415 | 422 => Code::Usage,
            404 => Code::NotFound,
            409 => Code::Conflict,
            401 | 403 | 421 => Code::Forbidden,
            _ => Code::Failure,
        };
        Self::new(code, problem.detail)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// Returns the exit code of an error: that of the first [`Failure`] in its chain.
pub(super) fn code_of(error: &anyhow::Error) -> Code {
    error.chain().find_map(|cause| cause.downcast_ref::<Failure>()).map_or(Code::Failure, |failure| failure.code)
}

#[cfg(test)]
mod tests {
    use super::{Code, Failure, code_of};
    use crate::admin::Problem;
    use anyhow::Context;
    use axum::http::StatusCode;

    #[test]
    fn the_code_is_found_below_any_context() {
        let status = |status| code_of(&Failure::from_problem(Problem::new(status, "x", "y")).into());
        assert_eq!(status(StatusCode::NOT_FOUND), Code::NotFound);
        assert_eq!(status(StatusCode::CONFLICT), Code::Conflict);
        assert_eq!(status(StatusCode::FORBIDDEN), Code::Forbidden);
        assert_eq!(status(StatusCode::SERVICE_UNAVAILABLE), Code::Failure);
        let deep = Err::<(), _>(Failure::new(Code::Unreachable, "nobody")).context("outer").unwrap_err();
        assert_eq!(code_of(&deep), Code::Unreachable);
        assert_eq!(code_of(&anyhow::anyhow!("plain")), Code::Failure);
    }
}
