use ouroboros::daemon::{protocol::TransportSpec, security::Authentication};
use ouroboros_testing::Folder;

use super::*;

fn parse(text: &str) -> Result<Configuration, Vec<Flaw>> {
    Configuration::parse(text, Path::new("/nowhere"))
}

#[test]
fn a_file_of_0_23_s_tables_says_what_it_says_there() {
    let folder = Folder::new();
    folder.write("enc.conf", "cipher=chacha20-poly1305\n");
    folder.write("friends", "");
    let text = r#"
            [name."my.vpn"]            # with a dot
            prog = ["sh", "/bin/sh"]
            lb = "spill"
            server_enc_file = "enc.conf"
            native = true
            [name.closed]
            clients = "friends"
            [udp4.wan]
            bootstrap = "internet"
            ip = "10.1.0.2"
            port = 4000
            reg = ["my.vpn", "closed", "only.registered"]
            [udp6.wan6]
            bootstrap = "internet"
            ip = "any"
            [udp.later]
            ip = "fd01::2"
            [eth-dix.lan]
            bootstrap = "local"
            dev = "eth0"
            ethertype = 0xA001
            hash = "SHA3_512"
        "#;
    let found = Configuration::parse(text, folder.path()).expect("it makes sense");
    let udp = |ip: &str, port| TransportSpec::Udp { ip: ip.parse().unwrap(), port };
    let lan = TransportSpec::EthDix {
        device: "eth0".to_owned(),
        ethertype: Some(0xa001),
        hash: Some("sha3-512".to_owned()),
    };
    let ipcp = |kind: &str, layer: Option<&str>, transport| Ipcp {
        kind: kind.to_owned(),
        layer: layer.map(str::to_owned),
        transport,
    };
    let expected = [
        ("lan", ipcp("eth-dix", Some("local"), lan)),
        ("later", ipcp("udp", None, udp("fd01::2", None))),
        ("wan", ipcp("udp4", Some("internet"), udp("10.1.0.2", Some(4000)))),
        ("wan6", ipcp("udp6", Some("internet"), udp("::", None))),
    ];
    assert_eq!(found.ipcps, expected.map(|(name, ipcp)| (name.to_owned(), ipcp)).into());
    let registered: Vec<_> = found.registrations.iter().map(|(name, _)| name).collect();
    assert_eq!(registered, ["closed", "my.vpn", "only.registered"]);
    assert_eq!(found.programs.len(), 1, "one program by two of its names");
    let vpn = &found.names["my.vpn"].policy;
    assert!(vpn.native && vpn.server.is_some_and(|server| server.cipher.is_some()), "{vpn:?}");
    let friends = folder.path().join("friends");
    let closed = &found.names["closed"].policy;
    assert_eq!(closed.authentication, Authentication::Keys(friends));
}

#[test]
fn all_that_is_wrong_is_told_with_its_line() {
    let text = r#"[udp4.wan]
bootstrap = "internet"
ip = "fd01::2"
prot = 3435
[udp.wan]
bootstrap = "internet"
port = 65536
ip = "10.1.0.2/24"
[eth-dix.lan]
bootstrap = 1
hash = "md5"
[name.a]
reg = ["intrenet"]
args = ["-x"]
auth = "maybe"
prog = ["/no/such/program"]
[name.b]
clients = "none"
ca = "none"
[unicast.n1]
[layers.x]
"#;
    let flaws = parse(text).expect_err("much is wrong");
    let found: Vec<_> = flaws.iter().map(|flaw| (flaw.line, flaw.reason.as_str())).collect();
    let begins = [
        (3, "ip: an address of the other family"),
        (4, "prot: not a key of [udp4.wan], which has bootstrap, reg, ip, port"),
        (7, "port: not a number from 1 to 65535"),
        (8, "ip: an address alone, without a prefix length"),
        (9, "dev: which interface is missing"),
        (10, "bootstrap: expected a text in quotes, not this integer"),
        (11, "hash: not one of sha3-224"),
        (13, "intrenet: no IPCP of this file makes that layer"),
        (14, "args: programs are not started by irmd"),
        (15, "auth: none, server or both is known"),
        (16, "prog: /no/such/program: no such program"),
        (17, "clients and ca: one of them"),
        (18, "clients: /nowhere/none: there is no such file"),
        (19, "ca: /nowhere/none: there is no such file"),
        (20, "unicast: there are no such IPCPs"),
        (21, "layers: name, udp, udp4, udp6 and eth-dix are known"),
    ];
    assert_eq!(found.len(), begins.len(), "{found:#?}");
    for ((line, reason), (expected, begin)) in found.into_iter().zip(begins) {
        assert!(line == expected && reason.starts_with(begin), "{line}: {reason}");
    }
}

#[test]
fn a_text_that_is_no_toml_is_refused_at_its_line() {
    for (text, line) in [("[udp.a]\nip = any\n", 2), ("\n\n[udp.a\n", 3), ("a = 1\na = 2", 2)] {
        let flaws = parse(text).expect_err("no TOML");
        assert_eq!(flaws[0].line, line, "{flaws:?}");
    }
    assert_eq!(parse(""), Ok(Configuration::default()));
}
