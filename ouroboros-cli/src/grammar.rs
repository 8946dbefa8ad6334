//! The words of `irm`: each may be cut to any unambiguous prefix, keyword pairs
//! come in any order. Words in, a typed command out; no file is read and no
//! daemon asked here.

mod command;
mod words;

use std::net::IpAddr;

use ouroboros::{
    daemon::protocol::TransportSpec,
    transport::{InvalidScopedAddress, ScopedAddress},
};

pub use self::command::{Auth, Command, NameSecurity, Shell, UsageError};
use self::words::{Pairs, flow_name, named, nothing_more, one_of, take, value};

type Words<'a> = &'a [String];

/// The command that `words`, those behind `irm`, say.
///
/// # Errors
///
/// As [`UsageError`] says.
pub fn parse(words: Words<'_>) -> Result<Command, UsageError> {
    const COMMANDS: [&str; 12] = [
        "ipcp",
        "name",
        "flow",
        "key",
        "bind",
        "unbind",
        "register",
        "unregister",
        "config",
        "cert",
        "completions",
        "status",
    ];
    let (command, rest) = take(words, &COMMANDS)?;
    match command {
        "ipcp" => ipcp(rest),
        "name" => name(rest),
        "flow" => {
            let (_, rest) = take(rest, &["list"])?;
            nothing_more(rest).map(|()| Command::ListFlows)
        }
        "status" => nothing_more(rest).map(|()| Command::Status),
        "cert" => certificate(rest),
        "key" => match take(rest, &["show", "generate", "export"])? {
            ("show", rest) => nothing_more(rest).map(|()| Command::ShowKey),
            ("export", rest) => nothing_more(rest).map(|()| Command::ExportKey),
            (_, []) => Ok(Command::GenerateKey { force: false }),
            (_, rest) => {
                let (_, rest) = take(rest, &["force"])?;
                nothing_more(rest).map(|()| Command::GenerateKey { force: true })
            }
        },
        "config" => {
            let (command, rest) = take(rest, &["check", "save", "diff"])?;
            if command == "save" {
                return save(rest);
            }
            let (file, rest) = value(rest, "a file")?;
            nothing_more(rest)?;
            Ok(match command {
                "check" => Command::CheckConfiguration { file },
                _ => Command::DiffConfiguration { file },
            })
        }
        "register" => registration(rest, true),
        "unregister" => registration(rest, false),
        "completions" => completions(rest),
        _ => binding(rest, command == "bind"),
    }
}

/// `config save`, `config save FILE`, `config save FILE force`.
fn save(words: Words<'_>) -> Result<Command, UsageError> {
    let Some((file, rest)) = words.split_first() else {
        return Ok(Command::SaveConfiguration { file: None, force: false });
    };
    let force = !rest.is_empty();
    if force {
        let (_, rest) = take(rest, &["force"])?;
        nothing_more(rest)?;
    }
    Ok(Command::SaveConfiguration { file: Some(file.clone()), force })
}

fn certificate(words: Words<'_>) -> Result<Command, UsageError> {
    let (command, rest) = take(words, &["authority", "sign"])?;
    let makes = command == "authority";
    let (name, rest) = if makes { named(rest)? } else { (String::new(), rest) };
    let keywords: &[_] = if makes { &["days", "in"] } else { &["key", "for", "days", "in"] };
    let mut pairs = Pairs::parse(rest, keywords)?;
    let days = pairs.number::<u32>("days")?;
    if let Some(days) = days.filter(|days| !(1..=MOST_DAYS).contains(days)) {
        let reason = "not a number of days from 1 to 36500";
        return Err(UsageError::Value { keyword: "days", value: days.to_string(), reason });
    }
    let folder = pairs.take("in");
    if makes {
        return Ok(Command::MakeAuthority { name, days, folder });
    }
    let name = flow_name(pairs.need("for")?)?;
    Ok(Command::SignCertificate { key: pairs.take("key"), name, days, folder })
}

/// The words that may stand behind `words`, where it is one of a few: what the
/// parser would have had there.
pub fn expected(words: Words<'_>) -> Vec<String> {
    match parse(&[words, &[String::new()]].concat()) {
        Err(UsageError::Unknown { word, expected }) if word.is_empty() => {
            // "the end of the command" is no word.
            let words = expected.split(", ").filter(|word| !word.contains(' '));
            words.map(str::to_owned).collect()
        }
        _ => Vec::new(),
    }
}

fn completions(words: Words<'_>) -> Result<Command, UsageError> {
    let (shell, rest) = take(words, &["bash", "zsh", "fish"])?;
    nothing_more(rest)?;
    Ok(Command::Completions(match shell {
        "bash" => Shell::Bash,
        "zsh" => Shell::Zsh,
        _ => Shell::Fish,
    }))
}

fn ipcp(words: Words<'_>) -> Result<Command, UsageError> {
    match take(words, &["create", "destroy", "bootstrap", "list"])? {
        ("create", rest) => {
            let mut pairs = Pairs::parse(rest, &["name", "type"])?;
            let kind = one_of("type", pairs.need("type")?, TYPES, KNOWN_TYPES)?;
            Ok(Command::CreateIpcp { name: pairs.need("name")?, kind: kind.to_owned() })
        }
        ("destroy", rest) => {
            Ok(Command::DestroyIpcp { name: Pairs::parse(rest, &["name"])?.need("name")? })
        }
        ("bootstrap", rest) => bootstrap(rest),
        (_, rest) => nothing_more(rest).map(|()| Command::ListIpcps),
    }
}

/// The longest validity of a certificate that can be asked for: a century.
const MOST_DAYS: u32 = 36_500;
const TYPES: &[&str] = &["eth-dix", "udp", "udp4", "udp6"];
const KNOWN_TYPES: &str = "eth-dix, udp, udp4 or udp6 is known";
const HASHES: &[&str] = &["sha3-224", "sha3-256", "sha3-384", "sha3-512"];
const KNOWN_HASHES: &str = "sha3-224, sha3-256, sha3-384 or sha3-512 is known";

fn bootstrap(words: Words<'_>) -> Result<Command, UsageError> {
    let keywords = ["type", "name", "layer", "dev", "ip", "port", "sport", "ethertype", "hash"];
    let words = without_old_keywords(words);
    let mut pairs = Pairs::parse(&words, &keywords)?;
    let name = pairs.need("name")?;
    let layer = pairs.need("layer")?;
    let kind = one_of("type", pairs.need("type")?, TYPES, KNOWN_TYPES)?;
    let transport = if kind == "eth-dix" {
        TransportSpec::EthDix {
            device: pairs.need("dev")?,
            ethertype: pairs.number("ethertype")?,
            hash: (pairs.take("hash"))
                .map(|hash| one_of("hash", hash.to_lowercase(), HASHES, KNOWN_HASHES))
                .transpose()?
                .map(str::to_owned),
        }
    } else {
        let text = pairs.need("ip")?;
        let bad = |reason| UsageError::Value { keyword: "ip", value: text.clone(), reason };
        let ip: ScopedAddress =
            text.parse().map_err(|error: InvalidScopedAddress| bad(error.reason()))?;
        let v4 = ip.address().is_ipv4();
        if (kind == "udp4" && !v4) || (kind == "udp6" && v4) {
            return Err(bad("an address of the other family"));
        }
        let (port, sport) = (pairs.number("port")?, pairs.number("sport")?);
        if port.is_some() && sport.is_some() {
            return Err(UsageError::Twice("port"));
        }
        TransportSpec::Udp { ip, port: port.or(sport) }
    };
    pairs.end(&format!("a keyword that goes with type {kind}"))?;
    Ok(Command::Bootstrap { name, layer, transport })
}

fn ip(text: &str) -> Result<IpAddr, UsageError> {
    text.parse().map_err(|_| {
        let error = match text.contains('/') {
            true => InvalidScopedAddress::Prefix,
            false => InvalidScopedAddress::Address,
        };
        UsageError::Value { keyword: "ip", value: text.to_owned(), reason: error.reason() }
    })
}

/// `dirhash` is `hash`, and `autobind`, which stands alone, means nothing here.
/// Old names count as whole words only, so that they make no prefix ambiguous.
fn without_old_keywords(words: Words<'_>) -> Vec<String> {
    let mut known = Vec::with_capacity(words.len());
    let mut words = words.iter();
    while let Some(keyword) = words.next() {
        match keyword.as_str() {
            "autobind" => continue,
            "dirhash" => known.push("hash".to_owned()),
            _ => known.push(keyword.clone()),
        }
        known.extend(words.next().cloned());
    }
    known
}

fn name(words: Words<'_>) -> Result<Command, UsageError> {
    const COMMANDS: [&str; 7] =
        ["create", "destroy", "register", "unregister", "list", "change", "dns"];
    // `c` and `d` were these before there were `change` and `dns`.
    let command = match words.split_first() {
        Some((word, rest)) if word == "c" => ("create", rest),
        Some((word, rest)) if word == "d" => ("destroy", rest),
        _ => take(words, &COMMANDS)?,
    };
    match command {
        ("dns", rest) => name_dns(rest),
        ("change", rest) => {
            let (name, security) = policy(rest)?;
            Ok(Command::ChangeName { name, security })
        }
        ("create", rest) => {
            let (name, security) = policy(rest)?;
            Ok(Command::CreateName { name, security })
        }
        ("destroy", rest) => {
            let (name, rest) = named(rest)?;
            nothing_more(rest).map(|()| Command::DestroyName { name })
        }
        ("register", rest) => named_layer(rest, true),
        ("unregister", rest) => named_layer(rest, false),
        (_, rest) => nothing_more(rest).map(|()| Command::ListNames),
    }
}

fn name_dns(words: Words<'_>) -> Result<Command, UsageError> {
    let (name, mut rest) = named(words)?;
    let mut addresses = Vec::new();
    while !rest.is_empty() {
        let (_, words) = take(rest, &["ip"])?;
        let (text, words) = value(words, "a value behind ip")?;
        addresses.push(ip(&text)?);
        rest = words;
    }
    Ok(Command::NameDns { name, addresses })
}

fn policy(words: Words<'_>) -> Result<(String, NameSecurity), UsageError> {
    const KEYWORDS: [&str; 7] = ["sencpath", "cencpath", "auth", "clients", "ca", "key", "cert"];
    let (name, rest) = named(words)?;
    let mut pairs = Pairs::with_flags(rest, &KEYWORDS, &["native"])?;
    let auth = pairs.take("auth").map(|word| {
        let known = "none, server or both is known";
        Ok(match one_of("auth", word, &["none", "server", "both"], known)? {
            "none" => Auth::None,
            "server" => Auth::Server,
            _ => Auth::Both,
        })
    });
    let security = NameSecurity {
        server: pairs.take("sencpath"),
        client: pairs.take("cencpath"),
        auth: auth.transpose()?,
        clients: pairs.take("clients"),
        ca: pairs.take("ca"),
        key: pairs.take("key"),
        certificate: pairs.take("cert"),
        native: pairs.take("native").is_some(),
    };
    security.check()?;
    Ok((name, security))
}

fn named_layer(words: Words<'_>, register: bool) -> Result<Command, UsageError> {
    let (name, rest) = named(words)?;
    let layer = Pairs::parse(rest, &["layer"])?.need("layer")?;
    Ok(if register {
        Command::Register { name, layer }
    } else {
        Command::Unregister { name, layer }
    })
}

/// `register name N layer L`, the pairs in any order.
fn registration(words: Words<'_>, register: bool) -> Result<Command, UsageError> {
    let mut pairs = Pairs::parse(words, &["name", "layer"])?;
    let (name, layer) = (flow_name(pairs.need("name")?)?, pairs.need("layer")?);
    Ok(if register {
        Command::Register { name, layer }
    } else {
        Command::Unregister { name, layer }
    })
}

fn binding(words: Words<'_>, bind: bool) -> Result<Command, UsageError> {
    let mut pairs = Pairs::parse(words, &["program", "process", "name"])?;
    let (program, pid) = (pairs.take("program"), pairs.number("process")?);
    let name = flow_name(pairs.need("name")?)?;
    match (program, pid) {
        (Some(program), None) => Ok(Command::Program { program, name, bind }),
        (None, Some(pid)) => Ok(Command::Process { pid, name, bind }),
        _ => Err(UsageError::Missing("either program or process".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;

    fn parsed(line: &str) -> Result<Command, UsageError> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        parse(&words)
    }

    #[test]
    fn the_tutorial_s_commands_mean_what_it_says() {
        let dix = TransportSpec::EthDix { device: "lo".into(), ethertype: None, hash: None };
        let bootstrap = |name: &str, transport| Command::Bootstrap {
            name: name.into(),
            layer: "my_layer".into(),
            transport,
        };
        let ip = |text: &str| text.parse().expect("an address");
        let udp = |port| TransportSpec::Udp { ip: ip("10.0.0.1"), port };
        let ip6 = TransportSpec::Udp { ip: ip("fe80::1%eth0"), port: None };
        let register = Command::Register { name: "my_vpn".into(), layer: "my_layer".into() };
        let bind = Command::Program { program: "ovpn".into(), name: "my_vpn".into(), bind: true };
        for (line, expected) in [
            ("ipcp bootstrap type eth-dix name dix layer my_layer dev lo", bootstrap("dix", dix)),
            ("i b t udp n udp l my_layer ip 10.0.0.1", bootstrap("udp", udp(None))),
            (
                "i b l my_layer ip 10.0.0.1 sport 4000 n udp t udp4",
                bootstrap("udp", udp(Some(4000))),
            ),
            ("i b t udp6 n udp l my_layer ip fe80::1%eth0", bootstrap("udp", ip6)),
            ("reg name my_vpn layer my_layer", register.clone()),
            ("reg n my_vpn l my_layer", register.clone()),
            ("name reg my_vpn layer my_layer", register.clone()),
            ("r l my_layer n my_vpn", register),
            ("bind program ovpn name my_vpn", bind),
        ] {
            assert_eq!(parsed(line), Ok(expected), "{line}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (line, message) in [
            (
                "",
                "expected ipcp, name, flow, key, bind, unbind, register, unregister, config, cert, \
                 completions, status",
            ),
            ("un program x name y", "un: may be unbind or unregister"),
            (
                "frob",
                "frob: expected ipcp, name, flow, key, bind, unbind, register, unregister, config, \
                 cert, completions, status",
            ),
            ("key generate forcibly", "forcibly: expected force"),
            ("key show force", "force: expected the end of the command"),
            ("name create a auth maybe", "auth maybe: none, server or both is known"),
            ("name create a clients f ca d", "clients and ca: one of them"),
            ("name create a clients f auth server", "clients and auth none or server: one of them"),
            ("name create a native native", "native: given twice"),
            ("name create a c f", "c: may be cencpath or clients or ca or cert"),
            ("ipcp bootstrap type udp name a layer b", "expected ip and its value"),
            (
                "ipcp bootstrap type udp6 name a layer b ip 1.2.3.4",
                "ip 1.2.3.4: an address of the other family",
            ),
            (
                "ipcp bootstrap type udp name a layer b ip ::1 dev lo",
                "dev: expected a keyword that goes with type udp",
            ),
            (
                "ipcp bootstrap type udp name a layer b ip 10.1.0.2/24",
                "ip 10.1.0.2/24: an address alone, without a prefix length",
            ),
            (
                "ipcp bootstrap type udp name a layer b ip fe80::1",
                "ip fe80::1: a link-local address needs its zone: add % and the interface, as in \
                 fe80::1%eth0",
            ),
            (
                "ipcp bootstrap type udp name a layer b ip ::1 port 65536",
                "port 65536: not a number from 0 to 65535",
            ),
            (
                "ipcp bootstrap type token-ring name a layer b",
                "type token-ring: eth-dix, udp, udp4 or udp6 is known",
            ),
            ("bind program a process 1 name n", "expected either program or process"),
            ("name create", "expected a name"),
            ("cert sign key a", "expected for and its value"),
            ("cert sign for a days 0", "days 0: not a number of days from 1 to 36500"),
            ("name dns a ip server", "ip server: not an IP address"),
            ("name dns a 10.0.0.1", "10.0.0.1: expected ip"),
            ("name list all", "all: expected the end of the command"),
            ("reg name a name b", "name: given twice"),
            ("reg name", "expected a value behind name"),
        ] {
            let error = parsed(line).expect_err(line);
            assert_eq!(error.to_string(), message, "{line}");
        }
    }

    #[test]
    fn every_command_has_its_meaning() {
        use Command::*;
        let (a, b) = ("a".to_owned(), "b".to_owned());
        let text = |text: &str| Some(text.to_owned());
        for (line, expected) in [
            ("ipcp create type udp name a", CreateIpcp { name: a.clone(), kind: "udp".into() }),
            ("i c n a t e", CreateIpcp { name: a.clone(), kind: "eth-dix".into() }),
            ("ipcp destroy name a", DestroyIpcp { name: a.clone() }),
            ("i l", ListIpcps),
            ("n l", ListNames),
            ("f l", ListFlows),
            ("flow list", ListFlows),
            ("completions zsh", Completions(Shell::Zsh)),
            ("k s", ShowKey),
            ("key generate", GenerateKey { force: false }),
            ("key gen force", GenerateKey { force: true }),
            ("name create a", CreateName { name: a.clone(), security: NameSecurity::default() }),
            (
                "name create a cencpath /c native auth server sencpath /s key /k cert /z",
                CreateName {
                    name: a.clone(),
                    security: NameSecurity {
                        server: text("/s"),
                        client: text("/c"),
                        auth: Some(Auth::Server),
                        key: text("/k"),
                        certificate: text("/z"),
                        native: true,
                        ..NameSecurity::default()
                    },
                },
            ),
            (
                "n c a cl /f",
                CreateName {
                    name: a.clone(),
                    security: NameSecurity { clients: text("/f"), ..NameSecurity::default() },
                },
            ),
            (
                "n c a a b ca /d",
                CreateName {
                    name: a.clone(),
                    security: NameSecurity {
                        auth: Some(Auth::Both),
                        ca: text("/d"),
                        ..NameSecurity::default()
                    },
                },
            ),
            ("key export", ExportKey),
            (
                "cert authority a days 9 in b",
                MakeAuthority { name: a.clone(), days: Some(9), folder: text("b") },
            ),
            (
                "ce s in b f a",
                SignCertificate { key: None, name: a.clone(), days: None, folder: text("b") },
            ),
            (
                "cert sign key b for a days 1",
                SignCertificate { key: text("b"), name: a.clone(), days: Some(1), folder: None },
            ),
            ("status", Status),
            ("conf ch a", CheckConfiguration { file: a.clone() }),
            ("conf d a", DiffConfiguration { file: a.clone() }),
            ("config save", SaveConfiguration { file: None, force: false }),
            ("config save a", SaveConfiguration { file: Some(a.clone()), force: false }),
            ("conf s a f", SaveConfiguration { file: Some(a.clone()), force: true }),
            (
                "n change a native",
                ChangeName {
                    name: a.clone(),
                    security: NameSecurity { native: true, ..NameSecurity::default() },
                },
            ),
            ("n d a", DestroyName { name: a.clone() }),
            ("n dns a", NameDns { name: a.clone(), addresses: Vec::new() }),
            (
                "name dns a ip 10.0.0.1 ip ::1",
                NameDns {
                    name: a.clone(),
                    addresses: vec![[10, 0, 0, 1].into(), Ipv6Addr::LOCALHOST.into()],
                },
            ),
            ("name unreg a layer b", Unregister { name: a.clone(), layer: b.clone() }),
            ("unr layer b name a", Unregister { name: a.clone(), layer: b.clone() }),
            ("name r layer layer layer", Register { name: "layer".into(), layer: "layer".into() }),
            (
                "unb prog /bin/a n b",
                Program { program: "/bin/a".into(), name: b.clone(), bind: false },
            ),
            ("bind proc 17 name b", Process { pid: 17, name: b.clone(), bind: true }),
            ("unbind n b process 17", Process { pid: 17, name: b.clone(), bind: false }),
        ] {
            assert_eq!(parsed(line), Ok(expected), "{line}");
        }
    }

    #[test]
    fn old_keywords_of_bootstrap_are_understood_where_keywords_stand() {
        let dix = |name: &str| Command::Bootstrap {
            name: name.into(),
            layer: "autobind".into(),
            transport: TransportSpec::EthDix {
                device: "lo".into(),
                ethertype: Some(0xa001),
                hash: Some("sha3-512".into()),
            },
        };
        for (line, name) in [
            ("i b autobind t eth-dix n a l autobind d lo e 0xa001 dirhash sha3-512", "a"),
            ("i b t e n dirhash l autobind dev lo ethertype 40961 h sha3-512 autobind", "dirhash"),
        ] {
            assert_eq!(parsed(line), Ok(dix(name)), "{line}");
        }
    }

    #[test]
    fn no_words_make_the_parser_fail_otherwise_than_by_an_error() {
        let words = ["", "i", "b", "un", "name", "t", "udp", "ip", "::1", "0x", "autobind", "p"];
        for a in words {
            for b in words {
                for c in words {
                    for d in words {
                        let line: Vec<String> = [a, b, c, d].map(str::to_owned).to_vec();
                        for end in 0..=4 {
                            if let Err(error) = parse(&line[..end]) {
                                assert!(!error.to_string().contains('\n'));
                            }
                        }
                    }
                }
            }
        }
    }
}
