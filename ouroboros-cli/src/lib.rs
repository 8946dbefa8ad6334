//! The Ouroboros daemon and tools, as thin consumers of the `ouroboros`
//! library: arguments, then one call.

pub mod confine;
pub mod enc_conf;
pub mod grammar;
pub mod irmd;
pub mod man;
pub mod ovpn;
pub mod table;
pub mod tools;

use std::{
    env,
    error::Error,
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{self, ExitCode},
};

use async_signal::{Signal, Signals};
use structopt::{StructOpt, clap::ErrorKind};
use tracing_subscriber::{EnvFilter, fmt::writer::BoxMakeWriter};

/// The tool's arguments. Ends the process for help and version (0) and for
/// wrong usage (2). `--generate-man` prints the tool's man page.
pub fn arguments<T: StructOpt>() -> T {
    if env::args().nth(1).is_some_and(|argument| argument == "--generate-man") {
        print!("{}", man::page(&mut T::clap()));
        process::exit(0);
    }
    T::from_args_safe().unwrap_or_else(|error| match error.kind {
        ErrorKind::HelpDisplayed | ErrorKind::VersionDisplayed => {
            println!("{}", error.message);
            process::exit(0);
        }
        _ => {
            eprintln!("{}: {}", T::clap().get_name(), usage(&error.message));
            process::exit(2);
        }
    })
}

/// What is wrong, in one line, of the paragraphs that clap writes.
fn usage(message: &str) -> String {
    let wrong = message.split("\n\n").next().unwrap_or_default();
    let words: Vec<_> = wrong.trim_start_matches("error:").split_whitespace().collect();
    format!("{} (--help says more)", words.join(" "))
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
        .find(|candidate| is_program(candidate))
        .and_then(|found| fs::canonicalize(found).ok())
        .and_then(|real| real.to_str().map(str::to_owned))
        .ok_or_else(|| format!("{program}: no such program in PATH"))
}

fn is_program(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_errors_fit_in_one_line() {
        let message = "error: Missing:\n    --ip <ip>\n\nUSAGE:\n    ovpn --ip <ip>";
        assert_eq!(usage(message), "Missing: --ip <ip> (--help says more)");
    }

    #[test]
    fn programs_are_found_by_their_real_path() {
        let shell = find_program("sh").expect("every system has a shell");
        assert_eq!(find_program("/bin/sh"), Ok(shell));
        assert!(find_program("/etc/passwd").is_err());
        assert_eq!(
            find_program("no-such-program"),
            Err("no-such-program: no such program in PATH".to_owned())
        );
    }
}
