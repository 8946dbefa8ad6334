//! An IP tunnel over a flow that `irmd` serves.

use std::{env, path::PathBuf, process::ExitCode};

use async_signal::Signal;
use async_std::task;
use futures_lite::{StreamExt, future};
use ouroboros::Irm;
use ouroboros_cli::{
    confine::confine,
    eprintln, output,
    ovpn::{
        Changing, ConfiguredTunnel, NoTunnel, Outcome, Settings,
        arguments::{Arguments, Command},
        client, doctor, keep_serving, remember, serve_name, server, status,
    },
    println, service, service_signals,
};
use rustix::thread::CapabilitySet;

fn main() -> ExitCode {
    let arguments = ouroboros_cli::arguments::<Arguments>();
    ouroboros_cli::log(false);
    if let Some(command) = &arguments.command {
        let done = match command {
            Command::Status(options) => task::block_on(status::status(options)),
            Command::Doctor(options) => match task::block_on(doctor::doctor(options)) {
                Ok(false) => {
                    let _ = output::finish();
                    return ExitCode::FAILURE;
                }
                outcome => outcome.map(drop),
            },
            Command::Clients(command) => task::block_on(command.run()),
            Command::Invite(command) => task::block_on(command.run()),
            Command::Join(command) => task::block_on(command.run()),
        };
        return finished(done);
    }
    let misuse = |reason: &dyn std::fmt::Display| {
        eprintln!("ovpn: {reason}");
        ExitCode::from(2)
    };
    let tunnel = match arguments.config.clone() {
        None => Tunnel::Typed(Box::new(arguments)),
        Some(file) => match configured(file, &arguments) {
            Ok(configured) => Tunnel::Configured(Box::new(configured)),
            Err(Unusable::Arguments(reason)) => return misuse(&reason),
            Err(Unusable::File(error @ NoTunnel::Missing(..))) => return misuse(&error),
            Err(Unusable::File(error)) => return ouroboros_cli::failed("ovpn", &error),
        },
    };
    let arguments = tunnel.arguments();
    let mut settings = match arguments.settings() {
        Ok(settings) => settings,
        Err(wrong) => return misuse(&wrong[0]),
    };
    if arguments.save {
        match remember(arguments) {
            Ok(false) => {}
            outcome => return finished(outcome.map(drop)),
        }
    }
    let (changes, follow) = async_channel::bounded(1);
    settings.changes = follow;
    // Devices are made, and given other MTUs, as long as it runs. With the right
    // to packet sockets it has its flows' own ones from the daemon.
    if let Err(error) = confine(CapabilitySet::NET_ADMIN | CapabilitySet::NET_RAW, &[]) {
        return ouroboros_cli::failed("ovpn", &error);
    }
    if let Err(error) = output::start() {
        return ouroboros_cli::failed("ovpn", &error);
    }
    // Boxed: what a stack has been used for stays with the process.
    finished(task::block_on(Box::pin(run(tunnel, &settings, &changes))))
}

/// Where a tunnel's options are from.
enum Tunnel {
    Typed(Box<Arguments>),
    Configured(Box<ConfiguredTunnel>),
}

impl Tunnel {
    fn arguments(&self) -> &Arguments {
        match self {
            Self::Typed(arguments) => arguments,
            Self::Configured(configured) => &configured.arguments,
        }
    }

    /// Returns the settings that the tunnel is to follow from now on.
    fn reload(&mut self) -> Result<Changing, NoTunnel> {
        match self {
            Self::Typed(arguments) => Ok(arguments.changing()),
            Self::Configured(configured) => configured.reload(),
        }
    }
}

/// There is no tunnel to be run.
enum Unusable {
    Arguments(String),
    File(NoTunnel),
}

/// The tunnel of `file`. The file has all options.
fn configured(file: PathBuf, arguments: &Arguments) -> Result<ConfiguredTunnel, Unusable> {
    let options = env::args_os().skip(1).filter(|word| word.as_encoded_bytes().starts_with(b"-"));
    let others = options.map(|word| word.to_string_lossy().into_owned());
    let mut others = others.filter(|word| word != "--config" && !word.starts_with("--config="));
    if let Some(other) = others.next() {
        let reason = format!("{other}: with --config, a tunnel's options are in the file");
        return Err(Unusable::Arguments(reason));
    }
    ConfiguredTunnel::read(&file, arguments.tunnel.as_deref()).map_err(Unusable::File)
}

fn finished(outcome: Outcome) -> ExitCode {
    match outcome {
        Ok(()) => {
            // What cannot be written is no failure of the tunnel.
            let _ = output::finish();
            ExitCode::SUCCESS
        }
        Err(error) => ouroboros_cli::failed("ovpn", error.as_ref()),
    }
}

async fn run(
    mut tunnel: Tunnel,
    settings: &Settings,
    changes: &async_channel::Sender<Changing>,
) -> Outcome {
    let mut signals = service_signals()?;
    // It waits for what is missing itself: nobody else has to wait for that.
    service::ready();
    let irm = Irm::connect();
    let arguments = tunnel.arguments();
    let (name, serve) = (arguments.name.clone(), arguments.serve.clone());
    let metrics = arguments.metrics.clone();
    let spec = arguments.spec().map_err(|error| format!("--ca: {error}"))?;
    let tunnels = async {
        match (&name, &serve) {
            (Some(name), _) => client(&irm, name, spec, settings).await,
            (None, Some(name)) => {
                serve_name(name).await?;
                future::or(server(&irm, Some(name), settings), keep_serving(name)).await
            }
            (None, None) => server(&irm, None, settings).await,
        }
    };
    let watched = service::watchdog(|| ());
    let told = async {
        let served = status::serve(&settings.observed, metrics.as_ref()).await;
        served.map_err(|error| format!("--metrics: {error}").into())
    };
    let tunnels = future::or(tunnels, told);
    future::or(future::or(tunnels, watched), async {
        while signals.next().await == Some(Signal::Hup) {
            match tunnel.reload() {
                // The newest counts.
                Ok(changing) => drop(changes.force_send(changing)),
                Err(error) => eprintln!("ovpn: nothing is changed: {error}"),
            }
        }
        service::stopping();
        println!("Ending.");
        Ok(())
    })
    .await
}
