//! Tells `irmd` what to do.

use std::{error::Error, fs, io, net::IpAddr, path, process::ExitCode};

use ouroboros::daemon::{
    Client, DaemonError,
    protocol::{Request, Response, Security},
    security::Authentication,
};
use ouroboros_cli::{
    completions, dns, enc_conf, eprintln,
    grammar::{self, Auth, Command, NameSecurity},
    irmd::State,
    output, print, println,
    table::table,
};
use structopt::StructOpt;

/// Manages the layers, names and bindings of irmd
///
/// irm ipcp create|destroy|bootstrap|list,
/// irm name create|destroy|register|unregister|list, irm key show|generate|generate force,
/// irm name dns N [ip A], which prints the lines for hosts files and DNS by which clients
/// of a layer over UDP find the name's server,
/// irm flow list, irm bind|unbind program P name N, irm bind|unbind process PID name N,
/// irm register|unregister name N layer L, irm completions bash|zsh|fish, which prints what
/// the shell has to read to complete these words.
/// Words may be cut to any unambiguous prefix; keyword pairs come in any order.
/// name create N takes: auth none|server|both, who proves who they are; clients FILE
/// with the keys of clients that get a flow, or ca DIR of authorities that vouch for
/// them; key FILE and cert FILE instead of irmd's own key; native, for flows in no
/// other format; sencpath FILE and cencpath FILE with the algorithms.
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
        Ok(()) => match output::finish() {
            // Who has read enough is not told that there was more.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                ouroboros_cli::failed("irm: standard output", &error)
            }
            _ => ExitCode::SUCCESS,
        },
        Err(error) => ouroboros_cli::failed("irm", error.as_ref()),
    }
}

fn run(command: Command, json: bool) -> Result<(), Box<dyn Error>> {
    let request = match command {
        Command::Completions(shell) => {
            print!("{}", completions::of_irm(shell));
            return Ok(());
        }
        Command::NameDns { name, addresses } => return name_dns(&name, addresses, json),
        Command::CreateIpcp { name, kind } => Request::CreateIpcp { name, kind },
        Command::Bootstrap { name, layer, transport } => {
            Request::BootstrapIpcp { name, layer, transport }
        }
        Command::DestroyIpcp { name } => Request::DestroyIpcp { name },
        Command::ListIpcps => Request::ListIpcps,
        Command::CreateName { name, security } => create_name(name, security)?,
        Command::ShowKey => Request::ShowKey,
        Command::GenerateKey { force } => Request::GenerateKey { force },
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
    match async_std::task::block_on(ask(request))? {
        Response::Key(key) if json => println!("{}", serde_json::to_string_pretty(&key)?),
        Response::Ipcps(ipcps) if json => println!("{}", serde_json::to_string_pretty(&ipcps)?),
        Response::Names(names) if json => println!("{}", serde_json::to_string_pretty(&names)?),
        Response::Flows(flows) if json => println!("{}", serde_json::to_string_pretty(&flows)?),
        Response::Key(key) => println!("{} {}", key.fingerprint, key.path),
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
                let key = flow.identity.map_or_else(|| "-".to_owned(), |peer| peer.fingerprint);
                vec![flow.name, flow.peer, key, flow.encryption, way.to_owned()]
            };
            let rows: Vec<_> = flows.into_iter().map(row).collect();
            print!("{}", table(&["NAME", "PEER", "KEY", "ENCRYPTION", "PACKETS"], &rows));
        }
        _ => {}
    }
    Ok(())
}

/// Prints where clients are to find the server of `name`. Without addresses these are the
/// daemon's layers': those that have the name, or all if none does.
fn name_dns(name: &str, addresses: Vec<IpAddr>, json: bool) -> Result<(), Box<dyn Error>> {
    let addresses = if addresses.is_empty() { layer_addresses(name)? } else { addresses };
    let records = dns::Records::new(&name.parse()?, addresses);
    if json {
        println!("{}", serde_json::to_string_pretty(&records)?);
    } else {
        print!("{records}");
    }
    Ok(())
}

fn layer_addresses(name: &str) -> Result<Vec<IpAddr>, Box<dyn Error>> {
    let asked = async {
        let ipcps = Client::new().ask(&Request::ListIpcps).await?;
        Ok::<_, DaemonError>((ipcps, Client::new().ask(&Request::ListNames).await?))
    };
    let (Response::Ipcps(ipcps), Response::Names(names)) = async_std::task::block_on(asked)? else {
        return Err("irmd does not tell its layers".into());
    };
    let known = names.into_iter().find(|known| known.name == name);
    let layers = known.map(|known| known.layers).unwrap_or_default();
    if layers.is_empty() {
        eprintln!("irm: warning: {name} is not registered here: irm register name {name} layer L");
    }
    Ok(dns::addresses(&ipcps, &layers)?)
}

/// Asks the daemon; without one, keys are those of the user.
async fn ask(request: Request) -> Result<Response, Box<dyn Error>> {
    match Client::new().ask(&request).await {
        Err(DaemonError::NotRunning(_) | DaemonError::NotPermitted(_))
            if matches!(request, Request::ShowKey | Request::GenerateKey { .. }) =>
        {
            Ok(State::default().handle(request).await?)
        }
        outcome => Ok(outcome?),
    }
}

fn create_name(name: String, security: NameSecurity) -> Result<Request, Box<dyn Error>> {
    let place = |path: Option<String>| -> Result<Option<String>, Box<dyn Error>> {
        let Some(path) = path else { return Ok(None) };
        let absolute = path::absolute(&path).map_err(|error| format!("{path}: {error}"))?;
        Ok(Some(absolute.to_str().ok_or("a path that is not UTF-8")?.to_owned()))
    };
    let authentication = match (security.clients, security.ca, security.auth) {
        (Some(file), ..) => Authentication::Keys(place(Some(file))?.unwrap_or_default()),
        (None, ca, Some(Auth::Server)) => Authentication::Server(place(ca)?),
        (None, ca @ Some(_), _) | (None, ca, Some(Auth::Both)) => {
            Authentication::Authorities(place(ca)?)
        }
        (None, None, Some(Auth::None)) => Authentication::None,
        (None, None, None) => Authentication::Offered,
    };
    Ok(Request::CreateName {
        name,
        server: security.server.as_deref().map(encryption).transpose()?,
        client: security.client.as_deref().map(encryption).transpose()?,
        authentication,
        native: security.native,
        key: place(security.key)?,
        certificate: place(security.certificate)?,
    })
}

fn encryption(path: &str) -> Result<Security, Box<dyn Error>> {
    let text = fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
    Ok(enc_conf::parse(&text).map_err(|error| format!("{path}: {error}"))?)
}
