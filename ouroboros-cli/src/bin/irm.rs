//! Tells `irmd` what to do.

use std::{fs, path::Path, process::ExitCode};

use ouroboros::daemon::{
    Client,
    protocol::{Request, Response, Security},
    security::Authentication,
};
use ouroboros_cli::{
    enc_conf,
    grammar::{self, Command},
    table::table,
};
use structopt::StructOpt;

/// Manages the layers, names and bindings of irmd
///
/// irm ipcp create|destroy|bootstrap|list,
/// irm name create|destroy|register|unregister|list,
/// irm flow list, irm bind|unbind program P name N, irm bind|unbind process PID name N,
/// irm register|unregister name N layer L.
/// Words may be cut to any unambiguous prefix; keyword pairs come in any order.
#[derive(StructOpt)]
#[structopt(name = "irm")]
struct Arguments {
    /// Prints lists as JSON
    #[structopt(long)]
    json: bool,
    /// A command, such as: ipcp bootstrap type eth-dix name dix layer my_layer dev lo
    words: Vec<String>,
}

fn main() -> ExitCode {
    let arguments = ouroboros_cli::arguments::<Arguments>();
    let command = match grammar::parse(&arguments.words) {
        Ok(command) => command,
        Err(error) => {
            eprintln!("irm: {error}");
            return ExitCode::from(2);
        }
    };
    match run(command, arguments.json) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => ouroboros_cli::failed("irm", error.as_ref()),
    }
}

fn run(command: Command, json: bool) -> Result<(), Box<dyn std::error::Error>> {
    let request = match command {
        Command::CreateIpcp { name, kind } => Request::CreateIpcp { name, kind },
        Command::Bootstrap { name, layer, transport } => {
            Request::BootstrapIpcp { name, layer, transport }
        }
        Command::DestroyIpcp { name } => Request::DestroyIpcp { name },
        Command::ListIpcps => Request::ListIpcps,
        Command::CreateName { name, server, client } => Request::CreateName {
            name,
            server: server.as_deref().map(security).transpose()?,
            client: client.as_deref().map(security).transpose()?,
            authentication: Authentication::None,
            native: false,
        },
        Command::DestroyName { name } => Request::DestroyName { name },
        Command::Register { name, layer } => Request::Register { name, layer },
        Command::Unregister { name, layer } => Request::Unregister { name, layer },
        Command::ListNames => Request::ListNames,
        Command::ListFlows => Request::ListFlows,
        Command::Program { program, name, bind } => {
            Request::Program { path: ouroboros_cli::find_program(&program)?, name, bind }
        }
        Command::Process { pid, name, bind } => Request::Process { pid, name, bind },
    };
    match async_std::task::block_on(Client::new().ask(&request))? {
        Response::Ipcps(ipcps) if json => println!("{}", serde_json::to_string_pretty(&ipcps)?),
        Response::Names(names) if json => println!("{}", serde_json::to_string_pretty(&names)?),
        Response::Flows(flows) if json => println!("{}", serde_json::to_string_pretty(&flows)?),
        Response::Ipcps(ipcps) => {
            let row = |ipcp: ouroboros::daemon::protocol::IpcpEntry| {
                vec![ipcp.name, ipcp.layer, ipcp.attachment]
            };
            let rows: Vec<_> = ipcps.into_iter().map(row).collect();
            print!("{}", table(&["NAME", "LAYER", "ATTACHED TO"], &rows));
        }
        Response::Names(names) => {
            let row = |name: ouroboros::daemon::protocol::NameEntry| {
                let processes: Vec<_> = name.processes.iter().map(u32::to_string).collect();
                let bound = [name.programs, processes].concat().join(", ");
                vec![name.name, name.layers.join(", "), bound, name.encryption]
            };
            let rows: Vec<_> = names.into_iter().map(row).collect();
            print!("{}", table(&["NAME", "LAYERS", "BOUND TO", "ENCRYPTION"], &rows));
        }
        Response::Flows(flows) => {
            let row = |flow: ouroboros::daemon::protocol::FlowEntry| {
                let way = if flow.relayed { "relayed" } else { "handed over" };
                vec![flow.name, flow.peer, flow.encryption, way.to_owned()]
            };
            let rows: Vec<_> = flows.into_iter().map(row).collect();
            print!("{}", table(&["NAME", "PEER", "ENCRYPTION", "PACKETS"], &rows));
        }
        _ => {}
    }
    Ok(())
}

fn security(path: &str) -> Result<Security, Box<dyn std::error::Error>> {
    let text = fs::read_to_string(Path::new(path)).map_err(|error| format!("{path}: {error}"))?;
    Ok(enc_conf::parse(&text).map_err(|error| format!("{path}: {error}"))?)
}
