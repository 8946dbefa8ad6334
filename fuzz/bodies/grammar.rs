//! Words of `irm`: the bytes are text, a word from each white space to the next.
//! What a command means can be said in full, and means the same.

use std::net::IpAddr;

use ouroboros::{
    daemon::{
        protocol::{TransportSpec, text_of_path},
        security::{Authentication, NamePolicy},
    },
    wire::Name,
};
use ouroboros_cli::{
    grammar::{Command, parse},
    name_policy::AlgorithmFiles,
};

pub(crate) fn body(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
    match parse(&words) {
        Ok(command) => {
            let full = in_full(&command);
            assert_eq!(parse(&full), Ok(command), "{full:?}");
        }
        Err(error) => assert!(!error.to_string().contains('\n'), "{error}"),
    }
}

fn in_full(command: &Command) -> Vec<String> {
    let words: Vec<&str> = match command {
        Command::CreateIpcp { name, kind } => vec!["ipcp", "create", "type", kind, "name", name],
        Command::Bootstrap { name, layer, transport } => return bootstrap(name, layer, transport),
        Command::DestroyIpcp { name } => vec!["ipcp", "destroy", "name", name],
        Command::ListIpcps => vec!["ipcp", "list"],
        Command::CreateName { name, policy, algorithms } => {
            return policy_in_full("create", name, policy, algorithms);
        }
        Command::ChangeName { name, policy, algorithms } => {
            return policy_in_full("change", name, policy, algorithms);
        }
        Command::DestroyName { name } => vec!["name", "destroy", is_name(name)],
        Command::Register { name, layer } => {
            vec!["register", "name", is_name(name), "layer", layer]
        }
        Command::Unregister { name, layer } => {
            vec!["name", "unregister", is_name(name), "layer", layer]
        }
        Command::NameDns { name, addresses } => {
            let mut words = ["name", "dns", is_name(name)].map(str::to_owned).to_vec();
            words.extend(addresses.iter().flat_map(|ip| ["ip".to_owned(), ip.to_string()]));
            return words;
        }
        Command::ExportKey => vec!["key", "export"],
        Command::MakeAuthority { name, days, folder } => {
            let mut words = ["cert", "authority", is_name(name)].map(str::to_owned).to_vec();
            words.extend(days.iter().flat_map(|days| ["days".to_owned(), days.to_string()]));
            words.extend(folder.iter().flat_map(|folder| ["in".to_owned(), folder.clone()]));
            return words;
        }
        Command::SignCertificate { key, name, days, folder } => {
            let mut words = ["cert", "sign", "for", is_name(name)].map(str::to_owned).to_vec();
            words.extend(key.iter().flat_map(|key| ["key".to_owned(), key.clone()]));
            words.extend(days.iter().flat_map(|days| ["days".to_owned(), days.to_string()]));
            words.extend(folder.iter().flat_map(|folder| ["in".to_owned(), folder.clone()]));
            return words;
        }
        Command::CheckConfiguration { file: None } => vec!["config", "check"],
        Command::CheckConfiguration { file: Some(file) } => vec!["config", "check", file],
        Command::DiffConfiguration { file } => vec!["config", "diff", file],
        Command::SaveConfiguration { file: None, .. } => vec!["config", "save"],
        Command::SaveConfiguration { file: Some(file), force: false } => {
            vec!["config", "save", file]
        }
        Command::SaveConfiguration { file: Some(file), .. } => {
            vec!["config", "save", file, "force"]
        }
        Command::Completions(shell) => {
            return vec!["completions".to_owned(), format!("{shell:?}").to_lowercase()];
        }
        Command::ListNames => vec!["name", "list"],
        Command::ListFlows => vec!["flow", "list"],
        Command::Status => vec!["status"],
        Command::ShowKey { name } => return key_in_full(&["show"], name.as_deref()),
        Command::GenerateNextKey { name, force: false } => {
            return key_in_full(&["generate", "next"], name.as_deref());
        }
        Command::GenerateNextKey { name, .. } => {
            return key_in_full(&["generate", "next", "force"], name.as_deref());
        }
        Command::PromoteKey { name } => return key_in_full(&["promote"], name.as_deref()),
        Command::GenerateKey { force: false } => vec!["key", "generate"],
        Command::GenerateKey { force: true } => vec!["key", "generate", "force"],
        Command::Program { program, name, bind } => {
            vec![verb(*bind), "program", program, "name", is_name(name)]
        }
        Command::Process { pid, name, bind } => {
            let pid = pid.to_string();
            let words = [verb(*bind), "process", &pid, "name", is_name(name)];
            return words.map(str::to_owned).to_vec();
        }
    };
    words.into_iter().map(str::to_owned).collect()
}

fn key_in_full(words: &[&str], name: Option<&str>) -> Vec<String> {
    let name = name.map(|name| ["of", is_name(name)]);
    let words = ["key"].iter().chain(words).chain(name.iter().flatten());
    words.map(|word| (*word).to_owned()).collect()
}

fn policy_in_full(
    verb: &str,
    name: &str,
    policy: &NamePolicy,
    files: &AlgorithmFiles,
) -> Vec<String> {
    let (auth, clients, ca) = match &policy.authentication {
        Authentication::Offered => (None, None, None),
        Authentication::None => (Some("none"), None, None),
        Authentication::Server(ca) => (Some("server"), None, ca.as_ref()),
        Authentication::Keys(file) => (Some("both"), Some(file), None),
        Authentication::Authorities(ca) => (Some("both"), None, ca.as_ref()),
    };
    let mut words = ["name", verb, is_name(name)].map(str::to_owned).to_vec();
    words.extend(auth.iter().flat_map(|word| ["auth", word]).map(str::to_owned));
    for (keyword, path) in [
        ("sencpath", files.server.as_ref()),
        ("cencpath", files.client.as_ref()),
        ("clients", clients),
        ("ca", ca),
        ("key", policy.key.as_ref()),
        ("cert", policy.certificate.as_ref()),
    ] {
        words.extend(path.into_iter().flat_map(|path| [keyword.to_owned(), text_of_path(path)]));
    }
    words.extend(policy.native.then(|| "native".to_owned()));
    words
}

fn verb(bind: bool) -> &'static str {
    if bind { "bind" } else { "unbind" }
}

/// Flows can be allocated to it.
fn is_name(name: &str) -> &str {
    assert!(name.parse::<Name>().is_ok(), "{name:?}");
    name
}

fn bootstrap(name: &str, layer: &str, transport: &TransportSpec) -> Vec<String> {
    let mut words = ["ipcp", "bootstrap", "name", name, "layer", layer].map(str::to_owned).to_vec();
    let mut say = |keyword: &str, value: String| words.extend([keyword.to_owned(), value]);
    match transport {
        TransportSpec::EthDix { device, ethertype, hash } => {
            say("type", "eth-dix".to_owned());
            say("dev", device.clone());
            ethertype.iter().for_each(|ethertype| say("ethertype", format!("{ethertype:#x}")));
            hash.iter().for_each(|hash| say("hash", hash.clone()));
        }
        TransportSpec::Udp { ip, port } => {
            let kind = match ip.address() {
                IpAddr::V4(_) => "udp4",
                IpAddr::V6(_) => "udp6",
            };
            say("type", kind.to_owned());
            say("ip", ip.to_string());
            port.iter().for_each(|port| say("port", port.to_string()));
        }
    }
    words
}
