//! `ovpn join`: makes this machine a client by an invitation, writes its tunnel's options
//! down, and has the tunnel run. The line has a secret in it, so it is on no command line
//! for longer than it takes to read it. Not here: what runs afterwards (`client`).

use std::{
    env,
    ffi::OsString,
    io::{self, Read, Write, stdin},
    os::unix::process::CommandExt,
    path::Path,
    process::Command,
    time::Duration,
};

use ouroboros::{
    AllocateError, FlowSpec, Irm, Trust,
    transport::ServerHost,
    trust::{ClientName, Invitation},
    wire::Name,
};
use rustix::process::geteuid;
use structopt::StructOpt;

use super::{
    Outcome, announce_own_key, arguments::Arguments, clients::time, layer::ensure_layer,
    tunnels::TunnelsFile,
};
use crate::{
    command::{self, CommandError},
    now,
};

/// Bytes that are read of standard input, at most: more than a line has.
const LARGEST_LINE: u64 = 16 * 1024;
/// How long one of the server's addresses may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Joins a server by an invitation: this machine is its client from then on, and the
/// tunnel runs, also after a restart where there is systemd.
#[derive(StructOpt)]
pub struct Join {
    /// The line that `ovpn invite` printed at the server; - reads it from standard input
    #[structopt(value_name = "LINE")]
    invitation: String,
    /// Name of the tunnel's device; tun0, tun1, ... otherwise
    #[structopt(long, value_name = "DEVICE")]
    dev: Option<String>,
    /// Routes the networks that the server tells of through the tunnel
    #[structopt(long)]
    accept_routes: bool,
    /// Uses the resolvers that the server tells of
    #[structopt(long)]
    accept_dns: bool,
    /// Leads everything beyond this machine's own networks through the tunnel
    #[structopt(long)]
    full_tunnel: bool,
    /// With --full-tunnel, nothing goes another way while the tunnel is away
    #[structopt(long, requires = "full-tunnel")]
    kill_switch: bool,
    /// Runs the tunnel in this process, also where there is systemd
    #[structopt(long)]
    foreground: bool,
}

impl Join {
    /// Does it. Where the tunnel is to run in this process, that is another program by
    /// then, and this does not return.
    ///
    /// # Errors
    ///
    /// The line is no invitation, the server does not take it, or the tunnel's options
    /// cannot be written down.
    pub async fn run(&self) -> Outcome {
        if self.invitation != "-" {
            return Err(self.hide()?.into());
        }
        let mut line = zeroize::Zeroizing::new(String::with_capacity(LARGEST_LINE as usize));
        stdin().take(LARGEST_LINE).read_to_string(&mut line)?;
        let invitation: Invitation = line.trim().parse()?;
        // It names a file and a unit.
        let tunnel = tunnel_name(invitation.name())?;
        let file = TunnelsFile::of_user()?;
        file.around(&tunnel)?;
        let now = now();
        if invitation.until() <= now {
            return Err(format!(
                "the invitation has expired: it was valid until {}, and it is {} by this machine's \
                 clock: ask for a new one at the server with `ovpn invite NAME`, or set the clock \
                 if it is wrong",
                time(invitation.until()),
                time(now)
            )
            .into());
        }
        let systemd = !self.foreground && has_systemd();
        if systemd {
            systemctl(&["enable", "--now", "irmd.service"])?;
        }
        announce_own_key(Some(invitation.name())).await?;
        ensure_layer().await?;
        let server = join(&invitation).await?;
        println!("This machine is a client of {tunnel} from now on.");
        let options = self.options(&invitation, &server);
        let words = ["ovpn"].into_iter().chain(options.iter().map(String::as_str));
        let arguments = Arguments::from_iter_safe(words)?;
        let mut command = Command::new(env::current_exe()?);
        match file.put(&tunnel, "join", &arguments) {
            Ok(()) if systemd => return run_by_systemd(&tunnel),
            Ok(()) => command.arg("--config").arg(file.path()).arg(tunnel.as_str()),
            Err(error) => {
                println!("Warning: its options are not remembered: {error}.");
                command.args(&options)
            }
        };
        let _ = crate::output::finish();
        // What the memory of this process has seen does not stay in it.
        Err(command.exec().into())
    }

    /// Becomes this program again, with the line on its standard input, where nobody sees
    /// it. Returns why not.
    fn hide(&self) -> io::Result<io::Error> {
        let (reader, mut writer) = io::pipe()?;
        // It fits the pipe.
        writer.write_all(&self.invitation.as_bytes()[..self.invitation.len().min(4096)])?;
        drop(writer);
        let same = |word: OsString| if *word == *self.invitation { "-".into() } else { word };
        let words: Vec<_> = env::args_os().skip(1).map(same).collect();
        Ok(Command::new(env::current_exe()?).args(words).stdin(reader).exec())
    }

    /// Returns the options that the tunnel is run with, from now on and at every start.
    fn options(&self, invitation: &Invitation, server: &ServerHost) -> Vec<String> {
        let (name, key) = (invitation.name(), invitation.server_key());
        let mut options = format!(
            "--name {name} --server {server} --server-key {key} --identify --native --ip server \
             --ensure-layer --wait"
        );
        if let Some(device) = &self.dev {
            options += &format!(" --dev {device}");
        }
        for (wanted, option) in [
            (self.accept_routes, " --accept-routes"),
            (self.accept_dns, " --accept-dns"),
            (self.full_tunnel, " --full-tunnel"),
            (self.kill_switch, " --kill-switch"),
        ] {
            if wanted {
                options += option;
            }
        }
        options.split_whitespace().map(str::to_owned).collect()
    }
}

/// Has the server know this machine; at which of its addresses it does.
async fn join(
    invitation: &Invitation,
) -> Result<ServerHost, Box<dyn std::error::Error + Send + Sync>> {
    let (irm, name) = (Irm::connect(), invitation.name());
    let mut failed = Vec::new();
    for server in invitation.servers() {
        let seconds = ANSWER_TIMEOUT.as_secs();
        println!("Joining {name} at {server}: waiting up to {seconds} s for an answer.");
        let spec = FlowSpec::raw()
            .timeout(ANSWER_TIMEOUT)
            .with_manager_identity()
            .trust(Trust::Keys(vec![invitation.server_key()]))
            .with_invitation(invitation.secret().clone())
            .at_server(server.clone());
        match irm.allocate(name.as_str(), spec).await {
            // It was for this one word: the tunnel has its own.
            Ok(_) => return Ok(server.clone()),
            // A server that does not know an invitation says as little as none.
            Err(AllocateError::TimedOut) => failed.push(format!("{server}: no answer")),
            Err(error) => failed.push(format!("{server}: {error}")),
        }
    }
    Err(format!(
        "{name} cannot be joined ({}): the server is not reached, or the invitation may be used, \
         revoked or expired: ask for a new one at the server with `ovpn invite NAME`",
        failed.join("; ")
    )
    .into())
}

/// Remembers a tunnel whose options were typed, and has the system run it if it can: whether
/// it does.
///
/// # Errors
///
/// Why the tunnel cannot be remembered, or run.
pub fn remember(arguments: &Arguments) -> Result<bool, Box<dyn std::error::Error + Send + Sync>> {
    let name = arguments.serve.as_ref().or(arguments.name.as_ref());
    let tunnel = tunnel_name(name.ok_or("a tunnel without a name cannot be remembered")?)?;
    let file = TunnelsFile::of_user()?;
    file.put(&tunnel, "--save", arguments)?;
    println!("The tunnel is remembered as {tunnel} in {}.", file.path().display());
    if has_systemd() {
        systemctl(&["enable", "--now", "irmd.service"])?;
        run_by_systemd(&tunnel)?;
        return Ok(true);
    }
    Ok(false)
}

/// Returns the tunnel's name in files and units, for a tunnel to or of a name.
fn tunnel_name(name: &Name) -> Result<ClientName, String> {
    name.as_str()
        .parse()
        .map_err(|error| format!("{:?} is no name that a tunnel can have: {error}", name.as_str()))
}

fn run_by_systemd(tunnel: &ClientName) -> Outcome {
    systemctl(&["enable", "--now", &format!("ovpn@{tunnel}.service")])?;
    println!("The tunnel runs: systemctl status ovpn@{tunnel} shows it.");
    Ok(())
}

/// Returns `true` if units of this machine can be started.
fn has_systemd() -> bool {
    geteuid().is_root() && Path::new("/run/systemd/system").is_dir()
}

fn systemctl(words: &[&str]) -> Outcome {
    command::run("systemctl", words, "").map_err(|error| match error {
        CommandError::NotRun(error) => error.into(),
        CommandError::Failed(why) => {
            format!("systemctl {}: {why} (--foreground does without)", words.join(" ")).into()
        }
    })
}
