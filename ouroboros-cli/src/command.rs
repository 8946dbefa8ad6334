//! Programs of the system that a tool has do something.

use std::{
    io::{self, Write},
    process::{Command, Stdio},
};

/// A program has not done what it was to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum CommandError {
    /// The environment's: it cannot be run.
    #[error(transparent)]
    NotRun(#[from] io::Error),
    /// The environment's: it has failed, and its first words are why.
    #[error("{0}")]
    Failed(String),
}

/// Runs a program, with `input` to be read by it, which has to succeed.
///
/// # Errors
///
/// It cannot be run, or has failed.
pub(crate) fn run(program: &str, words: &[&str], input: &str) -> Result<(), CommandError> {
    let mut command = Command::new(program);
    let command = command.args(words).stdin(Stdio::piped()).stdout(Stdio::null());
    let mut child = command.stderr(Stdio::piped()).spawn()?;
    let written = child.stdin.take().map(|mut pipe| pipe.write_all(input.as_bytes()));
    let output = child.wait_with_output()?;
    if output.status.success() {
        return Ok(written.unwrap_or(Ok(()))?);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(CommandError::Failed(said.lines().next().unwrap_or("it has failed").trim().to_owned()))
}
