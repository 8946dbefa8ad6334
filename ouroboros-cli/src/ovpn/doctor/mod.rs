//! `ovpn doctor`: looks for what usually is wrong, and says what to do. Nothing is changed.

mod daemon;
mod firewall;
mod machine;

use std::{error::Error, fmt};

use ouroboros::{daemon::Client, transport::ServerHost, wire::Name};
use serde::Serialize;
use structopt::StructOpt;

pub use machine::Machine;

use crate::lists::Overview;

/// Options of `ovpn doctor`.
#[derive(Clone, Debug, Default, StructOpt)]
pub struct Options {
    /// Looks up where the server of this name is, as well
    #[structopt(short, long)]
    pub name: Option<Name>,
    /// The server's host, if the name is not looked up
    #[structopt(long, value_name = "HOST[:PORT]")]
    pub server: Option<ServerHost>,
    /// Prints JSON
    #[structopt(long)]
    pub json: bool,
}

/// How bad something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// It is as it should be.
    Good,
    /// Some uses do not work.
    Warning,
    /// Tunnels do not work.
    Problem,
}

/// The finding of one check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The check.
    pub check: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// The fact found.
    pub found: String,
    /// Advice, if something is to be done.
    pub advice: Option<String>,
}

impl Finding {
    fn good(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, severity: Severity::Good, found: found.into(), advice: None }
    }

    fn warning(check: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        let (found, advice) = (found.into(), Some(advice.into()));
        Self { check, severity: Severity::Warning, found, advice }
    }

    fn problem(check: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { severity: Severity::Problem, ..Self::warning(check, found, advice) }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Good => "ok",
            Severity::Warning => "warning",
            Severity::Problem => "PROBLEM",
        };
        let one_line = |text: &str| text.replace('\n', "; ");
        write!(f, "{severity:8} {}: {}", self.check, one_line(&self.found))?;
        match &self.advice {
            Some(advice) => write!(f, ": {}", one_line(advice)),
            None => Ok(()),
        }
    }
}

/// Looks at this machine and its daemon. Returns `true` if no problem was found.
///
/// # Errors
///
/// If the findings cannot be written as JSON.
pub async fn doctor(options: &Options) -> Result<bool, Box<dyn Error + Send + Sync>> {
    let overview = Overview::ask(&Client::new()).await;
    let machine = Machine::real();
    let mut findings = machine.check(overview.as_ref().ok());
    findings.extend(daemon::check(overview.as_ref()));
    findings.extend(daemon::identity());
    findings.extend(daemon::configuration());
    findings.extend(daemon::lookup(options.name.as_ref(), options.server.as_ref()));
    if options.json {
        println!("{}", serde_json::to_string_pretty(&findings)?);
    } else {
        findings.iter().for_each(|finding| println!("{finding}"));
    }
    Ok(findings.iter().all(|finding| finding.severity != Severity::Problem))
}
