//! The Ouroboros daemon and tools, as thin consumers of the `ouroboros`
//! library: arguments, then one call.

#[macro_use]
pub mod output;

pub mod authority;
mod command;
pub mod completions;
pub mod configuration;
pub mod confine;
pub mod dns;
pub mod enc_conf;
pub mod grammar;
pub mod http;
pub mod irmd;
mod journal;
pub mod lists;
pub mod man;
pub mod metrics;
pub mod name_policy;
pub mod ovpn;
pub mod service;
mod sysctl;
pub mod table;
pub mod tools;

use std::{
    env,
    error::Error,
    ffi::OsStr,
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{self, ExitCode},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use async_signal::{Signal, Signals};
use futures_lite::{Stream, StreamExt};
use ouroboros::daemon::protocol::{path_from_text, text_of_path};
use structopt::{StructOpt, clap::ErrorKind};
use tracing_subscriber::{
    EnvFilter, Registry, fmt::writer::BoxMakeWriter, layer::SubscriberExt, util::SubscriberInitExt,
};

use self::journal::Journal;

/// The mark of what irmd's UDP layers send, where it may mark it: what a full tunnel does
/// not take (`SO_MARK` of socket(7)). The letters "ouro".
pub const OUTER_MARK: u32 = 0x6f75_726f;

/// Returns the time since the beginning of 1970 by the clock, zero before.
fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// The same in whole seconds.
fn now() -> u64 {
    since_1970().as_secs()
}

/// Options whose values are paths, and so any bytes.
const PATHS: [&str; 3] = ["--ca", "--config", "--leases"];

/// The tool's arguments. Ends the process for help and version (0) and for
/// wrong usage (2), such as bytes that are not UTF-8 where text is meant.
/// `--generate-man` prints the tool's man page, `--generate-completions` what a shell
/// needs to complete its options.
pub fn arguments<T: StructOpt>() -> T {
    arguments_where::<T>(|_| false)
}

/// The same, where those arguments may be any bytes as well that `is_bytes` says.
pub fn arguments_where<T: StructOpt>(is_bytes: impl Fn(&OsStr) -> bool) -> T {
    let all: Vec<_> = env::args_os().collect();
    let is_path = |at: usize| {
        let before = at.checked_sub(1).and_then(|before| all[before].to_str());
        let option = all[at].to_string_lossy();
        let joined = option.split_once('=').is_some_and(|(option, _)| PATHS.contains(&option));
        joined || before.is_some_and(|before| PATHS.contains(&before)) || is_bytes(&all[at])
    };
    let bad = (1..all.len()).find(|&at| all[at].to_str().is_none() && !is_path(at));
    if let Some(bad) = bad {
        let (tool, text) = (T::clap().get_name().to_owned(), all[bad].to_string_lossy());
        eprintln!("{tool}: {}: not UTF-8 (argument {bad})", text.escape_debug());
        process::exit(2);
    }
    if all.get(1).is_some_and(|argument| argument == "--generate-man") {
        print!("{}", man::page(&mut T::clap()));
        process::exit(0);
    }
    if all.get(1).is_some_and(|argument| argument == "--generate-completions") {
        let shell = all.get(2).map_or_else(Default::default, |shell| shell.to_string_lossy());
        match completions::of_options(&mut T::clap(), &shell) {
            Ok(script) => print!("{script}"),
            Err(error) => {
                eprintln!("{}: --generate-completions {shell}: {error}", T::clap().get_name());
                process::exit(2);
            }
        }
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

/// Returns what is wrong, in one line, of the paragraphs that clap writes.
pub(crate) fn usage(message: &str) -> String {
    let wrong = message.split("\n\n").next().unwrap_or_default();
    let words: Vec<_> = wrong.trim_start_matches("error:").split_whitespace().collect();
    format!("{} (--help says more)", words.join(" "))
}

/// Logs to standard output or standard error, as `RUST_LOG` says or from `info` on; where the
/// journal is behind that stream, to the journal itself, with the events' fields.
pub fn log(stdout: bool) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|error| {
        if env::var_os("RUST_LOG").is_some_and(|value| !value.is_empty()) {
            eprintln!("RUST_LOG: {error}: taken to be info");
        }
        EnvFilter::new("info")
    });
    let stream = if stdout { output::Stream::Out } else { output::Stream::Err };
    let is_journal = match stream {
        output::Stream::Out => journal::stream::is_behind(io::stdout()),
        output::Stream::Err => journal::stream::is_behind(io::stderr()),
    };
    if is_journal && let Ok(journal) = Journal::open() {
        Registry::default().with(filter).with(journal).init();
        return;
    }
    let writer = BoxMakeWriter::new(move || stream);
    // No colours, though another crate of a build may want them: most logs are files.
    let logging = tracing_subscriber::fmt().with_ansi(false);
    let logging = logging.with_env_filter(filter).with_writer(writer);
    if is_journal {
        logging.event_format(journal::stream::Prefixed::new()).init();
    } else {
        logging.init();
    }
}

/// Says in one line why `tool` failed.
pub fn failed(tool: &str, error: &dyn Error) -> ExitCode {
    eprintln!("{tool}: {error}");
    let _ = output::finish();
    ExitCode::FAILURE
}

/// SIGINT, SIGTERM and SIGHUP as they come, for a tool that somebody looks at.
///
/// # Errors
///
/// The kernel gives no signal descriptors.
pub fn signals() -> io::Result<Signals> {
    Signals::new([Signal::Int, Signal::Term, Signal::Hup])
}

/// SIGINT, SIGTERM and SIGHUP as they come, for a program that serves. SIGUSR1 and SIGUSR2
/// change nothing; neither does SIGXFSZ, for a log that may not grow. (The runtime ignores
/// SIGPIPE.)
///
/// # Errors
///
/// The kernel gives no signal descriptors.
pub fn service_signals() -> io::Result<impl Stream<Item = Signal> + Unpin> {
    let (usr1, usr2) = (Signal::Usr1, Signal::Usr2);
    let all = [Signal::Int, Signal::Term, Signal::Hup, usr1, usr2, Signal::Xfsz];
    Ok(Signals::new(all)?.filter_map(|signal| match signal {
        Ok(known @ (Signal::Int | Signal::Term | Signal::Hup)) => Some(known),
        Ok(other) => {
            nothing_happens(other);
            None
        }
        Err(_) => None,
    }))
}

/// The same, for one that reads nothing again.
///
/// # Errors
///
/// As for [`service_signals`].
pub fn termination() -> io::Result<impl Stream<Item = Signal> + Unpin> {
    Ok(service_signals()?.filter(|signal| {
        let ends = *signal != Signal::Hup;
        if !ends {
            nothing_happens(*signal);
        }
        ends
    }))
}

fn nothing_happens(signal: Signal) {
    tracing::info!(?signal, "nothing is read again here, and nothing ends");
}

/// The executable that running `program` would run: its real path. Both as
/// [`text_of_path`] has them.
///
/// # Errors
///
/// There is none.
pub fn find_program(program: &str) -> Result<String, String> {
    let candidates: Vec<PathBuf> = if program.contains('/') {
        vec![path_from_text(program)]
    } else {
        let path = env::var_os("PATH").unwrap_or_default();
        let program = path_from_text(program);
        env::split_paths(&path).map(|folder| folder.join(&program)).collect()
    };
    candidates
        .iter()
        .find(|candidate| is_program(candidate))
        .and_then(|found| fs::canonicalize(found).ok())
        .map(text_of_path)
        .ok_or_else(|| format!("{}: no such program in PATH", path_from_text(program).display()))
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
