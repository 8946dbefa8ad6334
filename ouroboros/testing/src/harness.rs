//! A test harness that decides at run time what can run: it looks and counts
//! like cargo's own, and a test that cannot run here counts as ignored.

use std::{
    collections::BTreeMap,
    env,
    fs::File,
    os::unix::process::CommandExt,
    process::{Command, ExitCode, Stdio},
};

use libtest_mimic::{Arguments, Completion, Trial};

/// Set in a test binary that runs in a user namespace of its own.
const INSIDE: &str = "OUROBOROS_TESTS_INSIDE";

/// What a test needs beyond an ordinary process. Each includes the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Network namespaces: root, or user namespaces, and the commands `unshare`
    /// and `ip`. For a user who is not root the whole test binary is run again
    /// in a user namespace.
    Namespaces,
    /// TUN devices in them: /dev/net/tun open to this user.
    Tunnels,
    /// Root of the machine, not of a user namespace.
    Root,
}

/// The tests of a binary whose manifest says `harness = false`.
#[derive(Debug, Default)]
pub struct Tests {
    tests: Vec<(Needs, &'static str, fn())>,
    long: Vec<&'static str>,
}

impl Tests {
    /// A test.
    pub fn with(mut self, needs: Needs, name: &'static str, test: fn()) -> Self {
        self.tests.push((needs, name, test));
        self
    }

    /// A test that takes minutes: it runs only when asked for, with `--ignored`.
    pub fn with_long(mut self, needs: Needs, name: &'static str, test: fn()) -> Self {
        self.long.push(name);
        self.with(needs, name, test)
    }

    /// Runs them as the command line says; call it from `main`.
    pub fn run(self) -> ExitCode {
        let arguments = Arguments::from_args();
        let namespaces = possible(Command::new("unshare").arg("--net"));
        if !namespaces && env::var_os(INSIDE).is_none() && possible(&mut as_user_root(&["--net"])) {
            let program = env::current_exe().expect("a test has a path");
            let mut again = as_user_root(&[]);
            // Comes back only with an error.
            let error = again.arg(program).args(env::args_os().skip(1)).env(INSIDE, "1").exec();
            panic!("unshare: {error}");
        }
        let missing = |needs| match needs {
            _ if !namespaces => Some(
                "no network namespaces: run as root, or allow user namespaces (`unshare`, `ip`)",
            ),
            Needs::Root if !root() => Some("not root of this machine"),
            Needs::Tunnels | Needs::Root if !tunnels() => {
                Some("/dev/net/tun cannot be opened: run as root, or let users open it")
            }
            _ => None,
        };
        let mut ignored = BTreeMap::<_, usize>::new();
        let mut trials = Vec::new();
        for (needs, name, test) in self.tests {
            let missing = missing(needs);
            let trial = Trial::ignorable_test(name, move || match missing {
                Some(reason) => Ok(Completion::ignored_with(reason)),
                None => {
                    test();
                    Ok(Completion::Completed)
                }
            });
            let trial = trial.with_ignored_flag(self.long.contains(&name));
            if let Some(reason) = missing.filter(|_| !arguments.is_filtered_out(&trial)) {
                *ignored.entry(reason).or_default() += 1;
            }
            trials.push(trial);
        }
        if !ignored.is_empty() && !arguments.list {
            let each = ignored.iter().map(|(reason, count)| format!("{count} ({reason})"));
            eprintln!("\n*** TESTS IGNORED: {} ***", each.collect::<Vec<_>>().join(", "));
        }
        libtest_mimic::run(&arguments, trials).exit_code()
    }
}

/// Names each function by itself: `tests![Needs::Namespaces: one, two]`.
#[macro_export]
macro_rules! tests {
    ($($needs:path: $($test:ident),+ $(,)?);+ $(;)?) => {
        $crate::Tests::default()$($(.with($needs, stringify!($test), $test))+)+
    };
}

/// `unshare` with a user namespace whose root is this user.
fn as_user_root(more: &[&str]) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user"]).args(more);
    command
}

/// Returns `true` if `unshare`, as given, leads to where interfaces can be changed.
fn possible(unshare: &mut Command) -> bool {
    let quiet = unshare.args(["ip", "link", "set", "lo", "up"]).stderr(Stdio::null());
    quiet.status().is_ok_and(|status| status.success())
}

fn tunnels() -> bool {
    File::options().read(true).write(true).open("/dev/net/tun").is_ok()
}

/// In the first user namespace all ids are mapped, to themselves.
fn root() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    rustix::process::geteuid().is_root()
        && map.split_whitespace().eq(["0", "0", &u32::MAX.to_string()])
}
