//! Who is at the other end: servers known by their keys, clients that are let
//! in by theirs.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::PathBuf,
};

use ouroboros::crypto::identity::IdentityKey;
use rustix::process::Signal;

use crate::{
    host::{ETH, Host, Pair, UDP4},
    probe::{INSIDE, ping, ping_until_answered, transfer, watch},
};

/// What a host's daemon is known by.
fn fingerprint(host: &Host) -> String {
    let shown = host.must("irm", "key show");
    shown.split(' ').next().expect("a word").to_owned()
}

fn trust(host: &Host, file: &str) -> PathBuf {
    host.folder.path().join("trust").join(file)
}

/// Writes a file that nobody else can change, or read.
fn write(path: &PathBuf, text: &str) {
    fs::write(path, text).expect("written");
    fs::set_permissions(path, Permissions::from_mode(0o600)).expect("changed");
}

/// The only line of a client that fails.
fn complaint(pair: &Pair, words: &str) -> String {
    let output = pair.two.run("ovpn", &format!("-n my_vpn -i 10.9.0.2/24 {words}"));
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8(output.stderr).expect("UTF-8")
}

const FIRST: &str = "from now on";

pub(crate) fn a_server_is_known_by_the_key_of_its_first_use() {
    for layer in [UDP4, ETH] {
        let pair = Pair::new(layer);
        let (server, client) = pair.tunnel("--crypt");
        let key = fingerprint(&pair.one);
        assert!(server.said.contains(&format!("This machine's key is {key}.")), "{}", server.said);
        assert!(client.said.contains(&format!("The peer's key is {key}.")), "{}", client.said);
        assert!(client.said.contains(FIRST), "{}", client.said);
        let known = trust(&pair.two, "known_names");
        assert_eq!(fs::read_to_string(&known).expect("a file"), format!("my_vpn {key}\n"));
        drop(client);
        let client = pair.client("--crypt");
        assert!(client.said.contains(&key) && !client.said.contains(FIRST), "{}", client.said);
        assert!(pair.two.must("irm", "flow list").contains(&key));
        drop(client);

        pair.one.must("irm", "key generate force");
        let other = fingerprint(&pair.one);
        let said = complaint(&pair, "--crypt");
        let remedy = format!("remove that line of {}", known.display());
        for part in [&key, &other, "(line 1)", &remedy] {
            assert!(said.contains(part), "{said}");
        }
        assert_eq!(said.lines().count(), 1, "{said}");
        write(&known, "# forgotten\n");
        let client = pair.client("--crypt");
        assert!(client.said.contains(&other) && client.said.contains(FIRST), "{}", client.said);
    }
}

pub(crate) fn a_server_is_taken_by_the_key_that_the_user_says() {
    let pair = Pair::new(UDP4);
    let (_server, client) = pair.tunnel("--crypt");
    drop(client);
    let (right, wrong) = (fingerprint(&pair.one), fingerprint(&pair.two));
    let said = complaint(&pair, &format!("--server-key {wrong}"));
    assert!(said.contains(&right) && said.contains(&wrong), "{said}");
    drop(pair.client(&format!("--server-key {right}")));
}

pub(crate) fn authorities_vouch_for_both_ends() {
    let pair = Pair::new(UDP4);
    // A certificate that is trusted itself is the shortest chain.
    let certify = |host: &Host, common_name: &str, at: &Host| {
        fingerprint(host);
        let pem = fs::read_to_string(trust(host, "identity.pem")).expect("root may");
        let key = IdentityKey::from_pkcs8_pem(&pem).expect("a key");
        let folder = trust(at, "vouched");
        fs::create_dir_all(&folder).expect("a folder");
        fs::set_permissions(&folder, Permissions::from_mode(0o755)).expect("changed");
        let path = folder.join("one.der");
        fs::write(&path, key.certificate(&common_name.parse().expect("a name"))).expect("written");
        fs::set_permissions(&path, Permissions::from_mode(0o644)).expect("changed");
        folder.display().to_string()
    };
    let host_name = fs::read_to_string("/proc/sys/kernel/hostname").expect("a name");
    let for_two = certify(&pair.one, "my_vpn", &pair.two);
    fingerprint(&pair.one);
    let for_one = certify(&pair.one, host_name.trim(), &pair.one);
    pair.one.must("irm", &format!("name create my_vpn ca {for_one}"));
    // The right one is written over it, and the daemon is not told.
    certify(&pair.two, host_name.trim(), &pair.one);
    let _server = pair.one.start("ovpn", "--ip 10.9.0.1/24", "Waiting");
    let client = pair.client(&format!("--identify --ca {for_two}"));
    assert!(client.said.contains("certified for \"my_vpn\""), "{}", client.said);
    assert!(!client.said.contains(FIRST), "{}", client.said);
    drop(client);
    // The same, as the name has it there.
    pair.two.must("irm", &format!("name create my_vpn auth both ca {for_two}"));
    let client = pair.client("--crypt");
    assert!(client.said.contains("certified for"), "{}", client.said);
    drop(client);
    // Another certificate in its place vouches for nobody.
    certify(&pair.two, "my_vpn", &pair.two);
    let said = complaint(&pair, &format!("--identify --ca {for_two}"));
    assert!(said.contains("cannot be trusted"), "{said}");
}

pub(crate) fn an_authority_of_irm_vouches_for_a_server() {
    let pair = Pair::new(UDP4);
    let exported = pair.one.folder.write("server.pub", &pair.one.must("irm", "key export"));
    let authority = trust(&pair.two, "home");
    pair.two.must("irm", &format!("cert authority home in {}", authority.display()));
    let words = format!("key {} for my_vpn in {}", exported.display(), authority.display());
    let signed = pair.two.must("irm", &format!("cert sign {words}"));
    let certificate = trust(&pair.one, "my_vpn.pem");
    write(&certificate, &signed);
    pair.one.must("irm", &format!("name create my_vpn auth server cert {}", certificate.display()));
    let _server = pair.one.start("ovpn", "--ip 10.9.0.1/24", "Waiting");
    let client = pair.client(&format!("--ca {}", authority.display()));
    assert!(client.said.contains("certified for \"my_vpn\""), "{}", client.said);
    ping(&pair.two, INSIDE);
}

pub(crate) fn a_client_that_comes_back_takes_no_other_server() {
    let pair = Pair::new(UDP4);
    let words = "--ip 10.9.0.1/24 --timeout 2";
    let server = pair.one.start("ovpn", words, "Waiting");
    let client = pair.client("--crypt --timeout 2");
    ping(&pair.two, INSIDE);
    let identity = trust(&pair.one, "identity.pem");
    let key = fs::read_to_string(&identity).expect("root may");
    // As if somebody had taken its place.
    assert_eq!(server.end(Signal::KILL), None);
    pair.one.must("irm", "key generate force");
    let before = client.lines_with("is up");
    let _server = pair.one.start("ovpn", words, "Waiting");
    client.must_say("No flow yet: the server's key is");
    assert_eq!(client.lines_with("is up"), before);
    write(&identity, &key);
    ping(&pair.two, INSIDE);
}

pub(crate) fn a_name_for_some_clients_is_silent_to_all_others() {
    let pair = Pair::new(UDP4);
    let key = fingerprint(&pair.two);
    let (own, list) = (fingerprint(&pair.one), trust(&pair.one, "clients"));
    write(&list, &format!("{own} not the client\n"));
    pair.one.must("irm", &format!("name create my_vpn clients {}", list.display()));
    let server = pair.one.start("ovpn", "--ip 10.9.0.1/24", "Waiting");
    let cable = watch(&pair.two);
    for words in ["", "--crypt", "--identify"] {
        let said = complaint(&pair, words);
        assert!(said.contains("answers only clients whose keys it knows"), "{said}");
    }
    cable.set_nonblocking(true).expect("set");
    let (mut frame, mut asked) = ([0; 2048], 0);
    while let Ok(size) = std::io::Read::read(&mut &cable, &mut frame) {
        // IPv4: the sender's address.
        if size > 34 && frame[12..14] == [8, 0] {
            assert_ne!(frame[26..30], [10, 66, 0, 1], "the server says something");
            asked += u32::from(frame[26..30] == [10, 66, 0, 2]);
        }
    }
    assert!(asked > 3, "requests were sent");
    assert_eq!(server.lines_with("Flow allocated"), 0);

    // It takes effect without a word to the daemon.
    write(&list, &format!("{own}\n{key} the client\n"));
    let client = pair.client("--identify");
    assert!(client.said.contains(&format!("This machine's key is {key}.")), "{}", client.said);
    transfer(&pair.two, &pair.one, "10.9.0.1:4242", 1 << 20);
    server.must_say(&format!("The peer's key is {key}."));
    // Whatever its address, it takes its former flow's place.
    drop(client);
    pair.two.ip("addr add 10.66.0.7/24 dev eth0");
    pair.two.must("irm", "ipcp destroy name udp");
    pair.two.must("irm", "i b t udp n udp l my_layer ip 10.66.0.7");
    let _client = pair.client("--identify");
    // From when the server has put it in its former self's place.
    ping_until_answered(&pair.two, INSIDE);
    assert_eq!(pair.one.ip("-o link").matches("tun").count(), 1, "one tunnel at the server");
}
