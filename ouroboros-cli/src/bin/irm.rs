//! Tells `irmd` what to do.

use std::{
    env,
    error::Error,
    ffi::OsStr,
    io,
    net::IpAddr,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    process::ExitCode,
    thread,
    time::Duration,
};

use ouroboros::{
    LayerError,
    crypto::identity::IdentityKey,
    daemon::{
        Client, DaemonError,
        protocol::{Request, Response, path_from_text, text_of_path},
    },
    trust::{KeyFile, TrustError, TrustFolder},
};
use ouroboros_cli::{
    authority, completions,
    configuration::Configuration,
    dns, eprintln,
    grammar::{self, Command},
    irmd::State,
    lists::{self, Overview},
    name_policy, output, print, println, whole_file,
};
use structopt::StructOpt;

const AFTER_HELP: &str = "\
EXAMPLES:
    irm ipcp bootstrap type udp name wan layer internet ip any
        makes a layer over UDP
    irm register name my_vpn layer internet
    irm bind program ovpn name my_vpn
        has ovpn serve whoever asks for my_vpn
    irm status --watch
        shows every second what there is
    irm config save /etc/ouroboros/irmd.conf
        has the layers, names and bindings of now be there after a restart
    irm --json flow list
        prints the flows that programs have as JSON

FILES:
    /etc/ouroboros/irmd.conf  what irmd begins with
    /run/ouroboros/irmd.sock  where irmd listens

ENVIRONMENT:
    OUROBOROS_SOCKET  where irmd listens instead
    OUROBOROS_CONFIG  the folder of keys, where there is no irmd, instead of /etc/ouroboros

EXIT STATUS:
    0 if it is done; 1 if something failed; 2 if the words make no sense";

/// How often `--watch` shows it again.
const INTERVAL: Duration = Duration::from_secs(1);

/// Manages the layers, names and bindings of irmd
///
/// irm ipcp create|destroy|bootstrap|list,
/// irm name create|change|destroy|register|unregister|list, irm key show|generate|generate force,
/// irm name dns N [ip A], which prints the lines for hosts files and DNS by which clients
/// of a layer over UDP find the name's server,
/// irm key export, which prints the public key for an authority to sign,
/// irm cert authority A [days D] [in DIR], which makes an authority: DIR/authority.key, to be
/// kept, and DIR/authority.pem, for who is to believe it (the folder authority beside the key),
/// irm cert sign [key FILE] for N [days D] [in DIR], which prints its certificate for the
/// owner of a public key (this machine without one) as N: a server's name, or a client,
/// irm config check FILE, which tells all that is wrong in a file for irmd --config,
/// irm config save [FILE [force]], which writes what is in force as such a file,
/// irm config diff FILE, which tells what irmd would change if it read that file now,
/// irm status, which shows all IPCPs, names and flows,
/// irm flow list, irm bind|unbind program P name N, irm bind|unbind process PID name N,
/// irm register|unregister name N layer L, irm completions bash|zsh|fish, which prints what
/// the shell has to read to complete these words.
/// Words may be cut to any unambiguous prefix; keyword pairs come in any order.
/// name create N and name change N (which keeps what else there is of N) take: auth none|server|both, who proves who they are; clients FILE
/// with the keys of clients that get a flow, or ca DIR of authorities that vouch for
/// them; key FILE and cert FILE instead of irmd's own key; native, for flows in no
/// other format; sencpath FILE and cencpath FILE with the algorithms.
#[allow(rustdoc::broken_intra_doc_links, reason = "the text of --help")]
#[derive(StructOpt)]
#[structopt(name = "irm", after_help = AFTER_HELP)]
struct Arguments {
    /// Prints lists as JSON
    #[structopt(long)]
    json: bool,
    /// Shows the status, or a list, again every second
    #[structopt(short, long)]
    watch: bool,
    /// A command, such as: ipcp bootstrap type eth-dix name dix layer my_layer dev lo
    #[structopt(parse(from_os_str = text_of_path))]
    words: Vec<String>,
}

/// Text with paths in it, as people read it.
fn shown(text: &str) -> String {
    path_from_text(text).to_string_lossy().into_owned()
}

fn main() -> ExitCode {
    // Options are text; words are what the grammar takes.
    let is_word = |argument: &OsStr| !argument.as_bytes().starts_with(b"-");
    let arguments = ouroboros_cli::arguments_where::<Arguments>(is_word);
    let command = match grammar::parse(&arguments.words) {
        Ok(command) => command,
        Err(error) => {
            eprintln!("irm: {}", shown(&error.to_string()));
            return ExitCode::from(2);
        }
    };
    if arguments.watch && !lists::can_be_watched(&command) {
        eprintln!("irm: --watch: the status and lists can be watched, nothing else");
        return ExitCode::from(2);
    }
    let mut outcome = run(command.clone(), arguments.json);
    while arguments.watch && outcome.is_ok() && !output::has_failed() {
        thread::sleep(INTERVAL);
        // From the top left on, with what was there cleared.
        print!("{}", if arguments.json { "" } else { "\x1b[H\x1b[2J" });
        outcome = run(command.clone(), arguments.json);
    }
    match outcome {
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
        Command::Status => {
            let overview = async_std::task::block_on(Overview::ask(&Client::new()))?;
            match json {
                true => println!("{}", serde_json::to_string_pretty(&overview)?),
                false => print!("{}", overview.text()),
            }
            return Ok(());
        }
        Command::NameDns { name, addresses } => return name_dns(&name, addresses, json),
        Command::CreateIpcp { name, kind } => Request::CreateIpcp { name, kind },
        Command::Bootstrap { name, layer, transport } => {
            Request::BootstrapIpcp { name, layer, transport }
        }
        Command::DestroyIpcp { name } => Request::DestroyIpcp { name },
        Command::ListIpcps => Request::ListIpcps,
        Command::ExportKey => {
            print!("{}", authority::exported(&own_key()?));
            return Ok(());
        }
        Command::MakeAuthority { name, days, folder } => {
            let days = days.unwrap_or(authority::AUTHORITY_DAYS);
            let path = authority::create(&authority_folder(folder)?, &name.parse()?, days)?;
            println!("{}", path.display());
            return Ok(());
        }
        Command::SignCertificate { key, name, days, folder } => {
            let key = match key {
                Some(file) => authority::public_key(&path_from_text(&file))?,
                None => own_key()?.public_key().clone(),
            };
            let days = days.unwrap_or(authority::CERTIFICATE_DAYS);
            print!("{}", authority::sign(&authority_folder(folder)?, &key, &name.parse()?, days)?);
            return Ok(());
        }
        Command::CheckConfiguration { file } => {
            let file = path_from_text(&file);
            let configuration = Configuration::read(&file)?;
            println!("{} makes sense: {configuration}", file.display());
            return Ok(());
        }
        Command::SaveConfiguration { file, force } => {
            return save_configuration(file.as_deref().map(path_from_text).as_deref(), force);
        }
        Command::DiffConfiguration { file } => {
            let file = path_from_text(&file);
            let wanted = Configuration::read(&file)?;
            let (had, now) = (configuration(true)?, configuration(false)?);
            let changes = had.changes(&now, &wanted);
            if json {
                println!("{}", serde_json::to_string_pretty(&changes)?);
            } else if changes.is_empty() {
                println!("{} would change nothing.", file.display());
            }
            changes.iter().filter(|_| !json).for_each(|change| println!("{change}"));
            return Ok(());
        }
        Command::CreateName { name, security } => {
            name_policy::request(name, security, &env::current_dir()?)?
        }
        Command::ChangeName { name, security } => {
            let policy = name_policy::request(name, security, &env::current_dir()?)?;
            Request::ChangeName { policy: Box::new(policy) }
        }
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
        Response::Key(key) => println!("{} {}", key.fingerprint, shown(&key.path)),
        Response::Ipcps(ipcps) => print!("{}", lists::ipcps(&ipcps)),
        Response::Names(names) => print!("{}", lists::names(&names)),
        Response::Flows(flows) => print!("{}", lists::flows(&flows)),
        _ => {}
    }
    Ok(())
}

/// What the daemon has; what it has taken from its file, if `from_file`.
fn configuration(from_file: bool) -> Result<Configuration, Box<dyn Error>> {
    match async_std::task::block_on(ask(Request::ShowConfiguration { from_file }))? {
        Response::Configuration(lines) => Ok(Configuration::from_lines(&lines)?),
        _ => Err("irmd does not tell its configuration".into()),
    }
}

/// Writes what the daemon has as a configuration file, which is there as a whole or not.
fn save_configuration(file: Option<&Path>, force: bool) -> Result<(), Box<dyn Error>> {
    let text = configuration(false)?.to_toml();
    // Such as a program that is bound and was deleted.
    if let Err(flaws) = Configuration::parse(&text, Path::new("/")) {
        let flaws: Vec<_> = flaws.into_iter().map(|flaw| flaw.reason).collect();
        let flaws = flaws.join("; ");
        return Err(format!("what is in force would make no sense in a file: {flaws}").into());
    }
    let Some(file) = file else {
        print!("{text}");
        return Ok(());
    };
    let at = |error| format!("{}: {error}", file.display());
    if !force && file.exists() {
        let path = file.display();
        return Err(format!("{path}: there is such a file: irm config save {path} force").into());
    }
    whole_file::write(file, text.as_bytes()).map_err(at)?;
    println!("{}: {} bytes", file.display(), text.len());
    Ok(())
}

/// Where the authority is: beside this user's key, unless another folder is given.
fn authority_folder(given: Option<String>) -> Result<PathBuf, TrustError> {
    let own = || TrustFolder::of_user().map(|folder| folder.path().join("authority"));
    given.map_or_else(own, |folder| Ok(path_from_text(&folder)))
}

/// This machine's key, which only who may read its file has.
fn own_key() -> Result<IdentityKey, Box<dyn Error>> {
    let Response::Key(entry) = async_std::task::block_on(ask(Request::ShowKey))? else {
        return Err("irmd does not tell its key".into());
    };
    let file = path_from_text(&entry.path);
    let key = KeyFile::at(&file).load()?;
    Ok(key.ok_or_else(|| format!("{}: there is no such file", file.display()))?)
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
        Ok::<_, LayerError>((ipcps, Client::new().ask(&Request::ListNames).await?))
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
        Err(LayerError::Daemon(DaemonError::NotRunning(_) | DaemonError::NotPermitted(_)))
            if matches!(request, Request::ShowKey | Request::GenerateKey { .. }) =>
        {
            Ok(State::default().handle(request).await?)
        }
        outcome => Ok(outcome?),
    }
}
