//! The Ouroboros daemon and tools, as thin consumers of the `ouroboros`
//! library: arguments, then one call.

pub mod enc_conf;
pub mod grammar;
pub mod irmd;
pub mod table;

use std::{
    env,
    error::Error,
    fs, io,
    path::PathBuf,
    process::{self, ExitCode},
};

use async_signal::{Signal, Signals};
use structopt::{StructOpt, clap::ErrorKind};
use tracing_subscriber::{EnvFilter, fmt::writer::BoxMakeWriter};

/// The tool's arguments. Ends the process for help and version (0) and for
/// wrong usage (2).
pub fn arguments<T: StructOpt>() -> T {
    T::from_args_safe().unwrap_or_else(|error| match error.kind {
        ErrorKind::HelpDisplayed | ErrorKind::VersionDisplayed => {
            println!("{}", error.message);
            process::exit(0);
        }
        _ => {
            eprintln!("{}", error.message);
            process::exit(2);
        }
    })
}

/// Logs to standard output or standard error, as `RUST_LOG` says or from
/// `info` on.
pub fn log(stdout: bool) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let writer =
        if stdout { BoxMakeWriter::new(io::stdout) } else { BoxMakeWriter::new(io::stderr) };
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).init();
}

/// Says in one line why `tool` failed.
pub fn failed(tool: &str, error: &dyn Error) -> ExitCode {
    eprintln!("{tool}: {error}");
    ExitCode::FAILURE
}

/// SIGINT and SIGTERM as they come.
///
/// # Errors
///
/// The kernel gives no signal descriptors.
pub fn signals() -> io::Result<Signals> {
    Signals::new([Signal::Int, Signal::Term])
}

/// The executable that running `program` would run: its real path.
///
/// # Errors
///
/// There is none.
pub fn find_program(program: &str) -> Result<String, String> {
    let candidates: Vec<PathBuf> = if program.contains('/') {
        vec![program.into()]
    } else {
        let path = env::var_os("PATH").unwrap_or_default();
        env::split_paths(&path).map(|folder| folder.join(program)).collect()
    };
    candidates
        .iter()
        .find(|candidate| candidate.is_file())
        .and_then(|found| fs::canonicalize(found).ok())
        .and_then(|real| real.to_str().map(str::to_owned))
        .ok_or_else(|| format!("{program}: no such program in PATH"))
}
