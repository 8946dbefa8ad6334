//! `ovpn join`: makes this machine a client by an invitation, writes its tunnel's options
//! down, and has the tunnel run. The line has a secret in it, so it is on no command line
//! for longer than it takes to read it. Not here: what runs afterwards (`client`).

use std::{
    env,
    ffi::OsString,
    fs::{self, DirBuilder},
    io::{self, Read, Write, stdin},
    os::unix::{fs::DirBuilderExt, process::CommandExt},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use ouroboros::{
    AllocateError, FlowSpec, Irm, Trust,
    transport::ServerHost,
    trust::{ClientName, Invitation, TrustFolder},
};
use rustix::process::geteuid;
use structopt::StructOpt;

use super::{Outcome, clients::time, layer::ensure_layer, own_key};
use crate::{
    command::{self, CommandError},
    now, whole_file,
};

/// Bytes that are read of standard input, at most: more than a line has.
const LARGEST_LINE: u64 = 16 * 1024;
/// How long one of the server's addresses may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// What a file that this wrote begins with.
const HEADING: &str = "# By ovpn join: the options of this tunnel (ovpn@.service).\n";

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
        let tunnel: ClientName = invitation.name().as_str().parse().map_err(|_| {
            let name = invitation.name().as_str().escape_debug();
            format!("the server's name {name:?} is none that a file here can have")
        })?;
        let file = TunnelFile::of(&tunnel)?;
        file.check()?;
        if invitation.until() <= now() {
            let until = time(invitation.until());
            println!("The invitation is over since {until} by this machine's clock.");
        }
        let systemd = !self.foreground && has_systemd();
        if systemd {
            systemctl(&["enable", "--now", "irmd.service"])?;
        }
        println!("This machine's key is {}.", own_key().await?);
        ensure_layer().await?;
        let server = join(&invitation).await?;
        println!("This machine is a client of {tunnel} from now on.");
        let options = self.options(&invitation, &server);
        if let Err(error) = file.write(&options) {
            println!("Warning: its options are not remembered: {}: {error}.", file.0.display());
        } else if systemd {
            systemctl(&["enable", "--now", &format!("ovpn@{tunnel}.service")])?;
            println!("The tunnel runs: systemctl status ovpn@{tunnel} shows it.");
            return Ok(());
        }
        let _ = crate::output::finish();
        // What the memory of this process has seen does not stay in it.
        Err(Command::new(env::current_exe()?).args(options).exec().into())
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

    /// What the tunnel is run with, from now on and at every start.
    fn options(&self, invitation: &Invitation, server: &ServerHost) -> Vec<String> {
        let (name, key) = (invitation.name(), invitation.server_key());
        let mut options = format!(
            "--name {name} --server {server} --server-key {key} --identify --native --ip server \
             --ensure-layer"
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
        println!("Joining {name} at {server}.");
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
        "{name} cannot be joined ({}): the server is not reached, or the invitation is used, \
         revoked or over: ask for another",
        failed.join("; ")
    )
    .into())
}

/// The options of a tunnel, as `ovpn@.service` reads them.
struct TunnelFile(PathBuf);

impl TunnelFile {
    fn of(tunnel: &ClientName) -> Result<Self, ouroboros::trust::TrustError> {
        let folder = TrustFolder::of_user()?.path().join("ovpn");
        Ok(Self(folder.join(format!("{tunnel}.env"))))
    }

    /// Whether it may be written: one that somebody else wrote stays.
    fn check(&self) -> Result<(), String> {
        let path = self.0.display();
        match fs::read_to_string(&self.0) {
            Ok(text) if !text.starts_with(HEADING) => {
                Err(format!("{path}: there is a tunnel of that name already: move the file away"))
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(format!("{path}: {error}"))
            }
            _ => Ok(()),
        }
    }

    fn write(&self, options: &[String]) -> io::Result<()> {
        let folder = self.0.parent().unwrap_or(Path::new("."));
        DirBuilder::new().recursive(true).mode(0o755).create(folder)?;
        whole_file::write(&self.0, format!("{HEADING}OPTIONS={}\n", options.join(" ")).as_bytes())
    }
}

/// Whether units of this machine can be started.
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
