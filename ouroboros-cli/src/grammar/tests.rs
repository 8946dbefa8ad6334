use std::{net::Ipv6Addr, path::PathBuf};

use ouroboros::daemon::{
    protocol::TransportSpec,
    security::{Authentication, NamePolicy},
};

use super::*;
use crate::name_policy::AlgorithmFiles;

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
    let all = |text| TransportSpec::Udp { ip: ip(text), port: None };
    let ip6 = TransportSpec::Udp { ip: ip("fe80::1%eth0"), port: None };
    let register = Command::Register { name: "my_vpn".into(), layer: "my_layer".into() };
    let bind = Command::Program { program: "ovpn".into(), name: "my_vpn".into(), bind: true };
    for (line, expected) in [
        ("ipcp bootstrap type eth-dix name dix layer my_layer dev lo", bootstrap("dix", dix)),
        ("i b t udp n udp l my_layer ip 10.0.0.1", bootstrap("udp", udp(None))),
        ("i b l my_layer ip 10.0.0.1 sport 4000 n udp t udp4", bootstrap("udp", udp(Some(4000)))),
        ("i b t udp6 n udp l my_layer ip fe80::1%eth0", bootstrap("udp", ip6)),
        ("i b t udp n udp l my_layer ip any", bootstrap("udp", all("::"))),
        ("i b t udp4 n udp l my_layer ip any", bootstrap("udp", all("0.0.0.0"))),
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
        ("key generate forcibly", "forcibly: expected of, next, force"),
        ("key export force", "force: expected the end of the command"),
        ("name create a auth maybe", "auth maybe: none, server or both is known"),
        ("name create a clients f ca d", "clients and ca: one of them"),
        ("name create a clients f auth server", "clients and auth none or server: one of them"),
        ("name create a native native", "native: given twice"),
        ("name create a c f", "c: may be clients or ca or cert or cencpath"),
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
        (
            "ipcp bootstrap type eth-dix name a layer b dev lo ethertype 0x5ff",
            "ethertype 0x5ff: not a number from 1536 to 65535",
        ),
        ("bind process 0 name a", "process 0: not a number from 1 to 2147483647"),
        ("cert sign for a days 0", "days 0: not a number from 1 to 36500"),
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
    let path = |path: &str| Some(PathBuf::from(path));
    let authenticated = |authentication| NamePolicy { authentication, ..NamePolicy::default() };
    for (line, expected) in [
        ("ipcp create type udp name a", CreateIpcp { name: a.clone(), kind: "udp".into() }),
        ("i c n a t e", CreateIpcp { name: a.clone(), kind: "eth-dix".into() }),
        ("ipcp destroy name a", DestroyIpcp { name: a.clone() }),
        ("i l", ListIpcps),
        ("n l", ListNames),
        ("f l", ListFlows),
        ("flow list", ListFlows),
        ("completions zsh", Completions(Shell::Zsh)),
        ("k s", ShowKey { name: None }),
        ("key gen next", GenerateNextKey { name: None, force: false }),
        ("k g n f o a", GenerateNextKey { name: Some(a.clone()), force: true }),
        ("key promote", PromoteKey { name: None }),
        ("k p o a", PromoteKey { name: Some(a.clone()) }),
        ("key generate", GenerateKey { force: false }),
        ("key gen force", GenerateKey { force: true }),
        (
            "name create a",
            CreateName {
                name: a.clone(),
                policy: NamePolicy::default(),
                algorithms: AlgorithmFiles::default(),
            },
        ),
        (
            "name create a cencpath /c native auth server sencpath /s key /k cert /z",
            CreateName {
                name: a.clone(),
                policy: NamePolicy {
                    authentication: Authentication::Server(None),
                    key: path("/k"),
                    certificate: path("/z"),
                    native: true,
                    ..NamePolicy::default()
                },
                algorithms: AlgorithmFiles { server: path("/s"), client: path("/c") },
            },
        ),
        (
            "n c a cl /f",
            CreateName {
                name: a.clone(),
                policy: authenticated(Authentication::Keys("/f".into())),
                algorithms: AlgorithmFiles::default(),
            },
        ),
        (
            "n c a a b ca /d",
            CreateName {
                name: a.clone(),
                policy: authenticated(Authentication::Authorities(path("/d"))),
                algorithms: AlgorithmFiles::default(),
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
        ("conf ch a", CheckConfiguration { file: Some(a.clone()) }),
        ("conf check", CheckConfiguration { file: None }),
        ("conf d a", DiffConfiguration { file: a.clone() }),
        ("config save", SaveConfiguration { file: None, force: false }),
        ("config save a", SaveConfiguration { file: Some(a.clone()), force: false }),
        ("conf s a f", SaveConfiguration { file: Some(a.clone()), force: true }),
        (
            "n change a native",
            ChangeName {
                name: a.clone(),
                policy: NamePolicy { native: true, ..NamePolicy::default() },
                algorithms: AlgorithmFiles::default(),
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
        ("unb prog /bin/a n b", Program { program: "/bin/a".into(), name: b.clone(), bind: false }),
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

#[test]
fn every_command_has_help_by_any_spelling_and_wherever_it_ends() {
    let asked = |line: &str| {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        help(&words)
    };
    for (line, begins) in [
        ("ipcp", "irm ipcp\n"),
        ("i b t udp n udp l l ip A", "irm ipcp bootstrap\n"),
        ("n c", "irm name create\n"),
        ("name change a auth", "irm name change\n"),
        ("key gen", "irm key generate\n"),
        ("unb program", "irm unbind\n"),
    ] {
        let help = asked(line).expect(line).expect(line);
        assert!(help.starts_with(begins), "{line}: {help}");
    }
    assert_eq!(asked(""), Ok(None));
    let error = asked("name frob").expect_err("no such command").to_string();
    assert!(error.starts_with("frob: expected create, "), "{error}");
    assert!(asked("un").is_err());
}

/// Each keyword that help shows is one that the parser takes, with or without a value as shown.
#[test]
fn examples_parse_and_help_lists_what_the_parser_expects() {
    fn walk(entries: &'static [entry::Entry], path: &str) {
        for entry in entries {
            let path = format!("{path} {}", entry.word);
            let help = entry.help(&path);
            assert!(help.starts_with(&format!("{path}\n")), "{help}");
            match &entry.behind {
                entry::Behind::Entries(entries) => walk(entries, &path),
                entry::Behind::Arguments(arguments) => {
                    let example: Vec<_> = arguments.example.split(' ').skip(1).collect();
                    let options = example.iter().filter(|word| !word.starts_with("--"));
                    let words: Vec<String> = options.map(|word| (*word).to_owned()).collect();
                    assert!(parse(&words).is_ok(), "{}", arguments.example);
                    assert_eq!(command_of(&words), path);
                    for keyword in arguments.keywords {
                        let shown = format!("    {} {}", keyword.word, keyword.value);
                        assert!(help.contains(shown.trim_end()), "{help}");
                    }
                    for line in help.lines() {
                        assert!(line.len() <= 100, "{line}");
                    }
                }
            }
        }
    }
    walk(COMMANDS, "irm");
}
