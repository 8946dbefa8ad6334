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
    sync::LazyLock,
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
    trust::{KeyFile, TrustError, TrustFolder, write_whole},
};
use ouroboros_cli::{
    authority, completions,
    configuration::{BadFile, Configuration},
    dns, eprintln,
    grammar::{self, Command, UsageError},
    irmd::State,
    lists::{self, Overview},
    name_policy, output,
    ovpn::Tunnels,
    print, println,
};
use structopt::StructOpt;

static AFTER_HELP: LazyLock<String> =
    LazyLock::new(|| format!("COMMANDS:\n{}\n{EXAMPLES}", grammar::list()));

const EXAMPLES: &str = "\
EXAMPLES:
    irm ipcp bootstrap type udp name wan layer internet ip any
        creates a layer over UDP, on all addresses of this machine
    irm register name my_vpn layer internet
    irm bind program ovpn name my_vpn
        lets ovpn accept the flows to my_vpn
    irm status --watch
        prints layers, names and flows every second
    irm config save /etc/ouroboros/irmd.conf
        saves the layers, names and bindings, to have them after a restart
    irm key generate next
        makes the key that is to take this machine's key's place: clients are told of it
    irm --json flow list
        prints the flows that programs have as JSON

FILES:
    /etc/ouroboros/irmd.conf  configuration that irmd loads when it starts
    /run/ouroboros/irmd.sock  irmd's socket

ENVIRONMENT:
    OUROBOROS_SOCKET  irmd's socket, if it is another one
    OUROBOROS_CONFIG  directory of keys while irmd does not run, instead of /etc/ouroboros

EXIT STATUS:
    0 on success; 1 on failure; 2 on wrong usage";

/// How often `--watch` shows it again.
const INTERVAL: Duration = Duration::from_secs(1);

/// Manages the layers, names and bindings of irmd
///
/// Commands are words: `irm COMMAND --help`, or `irm help COMMAND`, says more of each. Words may
/// be cut to any unambiguous beginning; keywords with their values come in any order.
#[derive(StructOpt)]
#[structopt(name = "irm", after_help = AFTER_HELP.as_str())]
struct Arguments {
    /// Prints lists as JSON
    #[structopt(long)]
    json: bool,
    /// Prints the status, or a list, again every second
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
    if let Some(words) = words_to_explain() {
        return explain(&words);
    }
    let arguments = ouroboros_cli::arguments_where::<Arguments>(is_word);
    let command = match grammar::parse(&arguments.words) {
        Ok(command) => command,
        Err(error) => return misused(&arguments.words, &error),
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
        Err(error) => ouroboros_cli::failed("irm", with_advice(error).as_ref()),
    }
}

/// The error, and where to look for what is not there.
fn with_advice(error: Box<dyn Error>) -> Box<dyn Error> {
    let place = match error.downcast_ref() {
        Some(LayerError::NoSuchLayer(_) | LayerError::NoSuchIpcp(_)) => "irm ipcp list",
        Some(
            LayerError::NoSuchName(_) | LayerError::NotRegistered(..) | LayerError::NotBound(_),
        ) => "irm name list",
        _ => return error,
    };
    format!("{error} ({place} shows those there are)").into()
}

/// The words of the command that help is asked for: `COMMAND --help`, `help COMMAND`.
fn words_to_explain() -> Option<Vec<String>> {
    let all = || env::args_os().skip(1);
    let asks = |word: &OsStr| word == "--help" || word == "-h";
    let mut words: Vec<_> =
        all().filter(|word| !word.as_bytes().starts_with(b"-")).map(text_of_path).collect();
    if words.first().is_some_and(|word| word == "help") {
        words.remove(0);
        return Some(words);
    }
    all().any(|word| asks(&word)).then_some(words)
}

fn explain(words: &[String]) -> ExitCode {
    match grammar::help(words) {
        Ok(Some(help)) => print!("{help}"),
        Ok(None) => {
            let mut help = Vec::new();
            // A vector takes everything.
            let _ = Arguments::clap().write_long_help(&mut help);
            println!("{}", String::from_utf8_lossy(&help));
        }
        Err(error) => return misused(words, &error),
    }
    let _ = output::finish();
    ExitCode::SUCCESS
}

fn misused(words: &[String], error: &UsageError) -> ExitCode {
    let command = grammar::command_of(words);
    eprintln!("irm: {} ({command} --help says more)", shown(&error.to_string()));
    ExitCode::from(2)
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
            return check_configuration(file.as_deref().map(path_from_text));
        }
        Command::SaveConfiguration { file, force } => {
            return save_configuration(file.as_deref().map(path_from_text).as_deref(), force);
        }
        Command::DiffConfiguration { file } => {
            let file = path_from_text(&file);
            let wanted = Configuration::read(&file)?;
            let (had, mut now) = (configuration(true)?, configuration(false)?);
            let changes = had.changes(&wanted).into_iter();
            let changes: Vec<_> = changes.filter_map(|change| now.apply(change)).collect();
            if json {
                println!("{}", serde_json::to_string_pretty(&changes)?);
            } else if changes.is_empty() {
                println!("{} would change nothing.", file.display());
            }
            changes.iter().filter(|_| !json).for_each(|change| println!("{change}"));
            return Ok(());
        }
        Command::CreateName { name, policy, algorithms } => {
            let policy = name_policy::resolve(policy, &algorithms, &env::current_dir()?)?;
            Request::CreateName { name, policy }
        }
        Command::ChangeName { name, policy, algorithms } => {
            let policy = name_policy::resolve(policy, &algorithms, &env::current_dir()?)?;
            Request::ChangeName { name, policy }
        }
        Command::ShowKey { name } => Request::ShowKey { name },
        Command::GenerateKey { force } => Request::GenerateKey { force },
        Command::GenerateNextKey { name, force } => Request::GenerateNextKey { name, force },
        Command::PromoteKey { name } => Request::PromoteKey { name },
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
    let bound = match &request {
        Request::Program { name, bind: true, .. } | Request::Process { name, bind: true, .. } => {
            Some(name.clone())
        }
        _ => None,
    };
    match async_std::task::block_on(ask(request))? {
        Response::Key(key) if json => println!("{}", serde_json::to_string_pretty(&key)?),
        Response::Ipcps(ipcps) if json => println!("{}", serde_json::to_string_pretty(&ipcps)?),
        Response::Names(names) if json => println!("{}", serde_json::to_string_pretty(&names)?),
        Response::Flows(flows) if json => println!("{}", serde_json::to_string_pretty(&flows)?),
        Response::Key(key) => {
            println!("{} {}", key.fingerprint, shown(&key.path));
            if let Some(next) = key.next {
                println!("{next} next: clients are told of it, irm key promote puts it in force");
            }
        }
        Response::Ipcps(ipcps) => print!("{}", lists::ipcps(&ipcps)),
        Response::Names(names) => print!("{}", lists::names(&names)),
        Response::Flows(flows) => print!("{}", lists::flows(&flows)),
        _ => {}
    }
    if let Some(name) = bound
        && let Response::Names(names) = async_std::task::block_on(ask(Request::ListNames))?
        && names.iter().any(|known| known.name == name && known.layers.is_empty())
    {
        eprintln!(
            "irm: warning: {name} is in no layer yet, and nobody finds it: irm register name {name} \
             layer LAYER"
        );
    }
    Ok(())
}

/// Returns the daemon's configuration; that which it has taken from its file, if `from_file`.
fn configuration(from_file: bool) -> Result<Configuration, Box<dyn Error>> {
    match async_std::task::block_on(ask(Request::ShowConfiguration { from_file }))? {
        Response::Configuration(lines) => Ok(Configuration::from_lines(&lines)?),
        _ => Err(DaemonError::Unexpected.into()),
    }
}

/// Tells all that is wrong in a file of irmd's, of ovpn's or of both; in those of this user
/// if none is named.
fn check_configuration(file: Option<PathBuf>) -> Result<(), Box<dyn Error>> {
    let files = match file {
        Some(file) => vec![file],
        None => {
            let folder = TrustFolder::of_user()?;
            let own = ["irmd.conf", "ovpn.toml"].map(|name| folder.path().join(name));
            let there: Vec<_> = own.into_iter().filter(|file| file.exists()).collect();
            if there.is_empty() {
                let folder = folder.path().display();
                return Err(format!("there is no irmd.conf or ovpn.toml in {folder}").into());
            }
            there
        }
    };
    let mut wrong = Vec::new();
    for file in files {
        match checked(&file) {
            Ok(makes_sense) => println!("{makes_sense}"),
            Err(error) => wrong.push(error.to_string()),
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n").into()) }
}

/// Returns a summary of a file, in one line.
fn checked(file: &Path) -> Result<String, BadFile> {
    let tunnels = Tunnels::read(file)?;
    let mut flaws = match Configuration::read(file) {
        Ok(configuration) if tunnels.flaws.is_empty() => {
            let (file, tunnels) = (file.display(), tunnels.names().count());
            return Ok(format!("{file} makes sense: {configuration}, tunnels: {tunnels}"));
        }
        Ok(_) => Vec::new(),
        Err(BadFile::Flaws(_, flaws)) => flaws,
        Err(error) => return Err(error),
    };
    // What neither knows is told once.
    let lines: Vec<_> = flaws.iter().map(|flaw| flaw.line).collect();
    flaws.extend(tunnels.flaws.into_iter().filter(|flaw| !lines.contains(&flaw.line)));
    flaws.sort();
    Err(BadFile::Flaws(file.to_owned(), flaws))
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
    write_whole(file, text.as_bytes()).map_err(at)?;
    println!("{}: {} bytes", file.display(), text.len());
    Ok(())
}

/// Returns where the authority is: beside this user's key, unless another folder is given.
fn authority_folder(given: Option<String>) -> Result<PathBuf, TrustError> {
    let own = || TrustFolder::of_user().map(|folder| folder.path().join("authority"));
    given.map_or_else(own, |folder| Ok(path_from_text(&folder)))
}

/// This machine's key, which only who may read its file has.
fn own_key() -> Result<IdentityKey, Box<dyn Error>> {
    let Response::Key(entry) = async_std::task::block_on(ask(Request::ShowKey { name: None }))?
    else {
        return Err(DaemonError::Unexpected.into());
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
    let client = Client::new();
    let asked = async { Ok::<_, LayerError>((client.ipcps().await?, client.names().await?)) };
    let (ipcps, names) = async_std::task::block_on(asked)?;
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
            if matches!(
                request,
                Request::ShowKey { name: None }
                    | Request::GenerateKey { .. }
                    | Request::GenerateNextKey { name: None, .. }
                    | Request::PromoteKey { name: None }
            ) =>
        {
            Ok(State::default().handle(request).await?)
        }
        outcome => Ok(outcome?),
    }
}
