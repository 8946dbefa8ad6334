//! Paths are bytes: each tool takes some that are not UTF-8.

mod tool;

use std::{
    ffi::OsStr,
    fs,
    net::IpAddr,
    os::unix::{ffi::OsStrExt, fs::PermissionsExt},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Duration,
};

use async_std::task::block_on;
use ouroboros::{FlowSpec, Irm, transport::Udp};
use ouroboros_testing::Folder;
use tool::{Daemon, complaint, told, tool};

/// "été" in Latin-1.
const LATIN_1: &[u8] = b"\xe9t\xe9";

/// A file or folder of that name.
fn latin_1(folder: &Path, ending: &str) -> PathBuf {
    let mut name = LATIN_1.to_vec();
    name.extend_from_slice(ending.as_bytes());
    folder.join(OsStr::from_bytes(&name))
}

fn words<'a>(command: &'a mut Command, line: &str, paths: &[&Path]) -> &'a mut Command {
    let mut paths = paths.iter();
    for word in line.split_whitespace() {
        match word {
            "PATH" => command.arg(paths.next().expect("as many paths as there are places")),
            word => command.arg(word),
        };
    }
    command
}

fn irm(socket: &Path, line: &str, paths: &[&Path]) -> Output {
    let mut irm = tool(env!("CARGO_BIN_EXE_irm"), socket);
    words(&mut irm, line, paths).output().expect("irm runs")
}

/// What a tool shows of the path.
fn shown(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[test]
fn a_daemon_and_its_tools_have_any_paths() {
    let folder = Folder::new();
    // Also the folder, and with it the socket and all that is made beside it.
    let place = latin_1(folder.path(), "");
    fs::create_dir(&place).expect("made");
    let (socket, file) = (place.join("irmd.sock"), latin_1(&place, ".conf"));
    fs::write(&file, "[name.office]\nauth = \"none\"\n").expect("written");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).expect("changed");
    let checked = told(irm(&socket, "config check PATH", &[&file]));
    assert!(checked.contains(&shown(&file)), "{checked}");
    let mut irmd = tool(env!("CARGO_BIN_EXE_irmd"), &socket);
    let _daemon = Daemon::run(irmd.arg("--config").arg(&file));
    assert!(told(irm(&socket, "name list", &[])).contains("office"));

    // Its key is beside its configuration, whose path irm shows and reads.
    let key = told(irm(&socket, "key show", &[]));
    assert!(key.contains(&shown(&place)), "{key}");
    let public = latin_1(&place, ".pem");
    fs::write(&public, told(irm(&socket, "key export", &[]))).expect("written");
    let authority = latin_1(&place, "-authority");
    let made = told(irm(&socket, "cert authority office in PATH", &[&authority]));
    assert!(made.contains(&shown(&authority)), "{made}");
    let signed = irm(&socket, "cert sign key PATH for server in PATH", &[&public, &authority]);
    let certificate = latin_1(&place, ".cert");
    fs::write(&certificate, told(signed)).expect("written");

    // A name's files.
    let algorithms = latin_1(&place, ".enc");
    fs::write(&algorithms, "cipher=chacha20-poly1305\n").expect("written");
    let clients = latin_1(&place, ".clients");
    let fingerprint = key.split_whitespace().next().expect("a fingerprint");
    fs::write(&clients, format!("{fingerprint} friend\n")).expect("written");
    let line = "name create first clients PATH sencpath PATH cencpath PATH";
    told(irm(&socket, line, &[&clients, &algorithms, &algorithms]));
    let line = "name create server auth server ca PATH cert PATH";
    told(irm(&socket, line, &[&authority, &certificate]));
    let list = told(irm(&socket, "name list", &[]));
    assert!(list.contains("chacha20-poly1305"), "{list}");
    let missing = latin_1(&place, ".missing");
    let complained = complaint(irm(&socket, "name create second clients PATH", &[&missing]), 1);
    assert!(complained.contains(&shown(&missing)), "{complained}");
}

#[test]
fn a_program_of_any_path_is_bound_and_accepts_flows() {
    let folder = Folder::new();
    let socket = folder.path().join("irmd.sock");
    let _daemon = Daemon::run(&mut tool(env!("CARGO_BIN_EXE_irmd"), &socket));
    let program = latin_1(folder.path(), "-echo");
    fs::copy(env!("CARGO_BIN_EXE_oecho"), &program).expect("copied");
    let dir = folder.path().display();
    let ipcp = "ipcp bootstrap type udp name udp layer my_layer ip 127.3.17.1 port 3517";
    told(irm(&socket, ipcp, &[]));
    told(irm(&socket, "register name echo layer my_layer", &[]));
    told(irm(&socket, "bind program PATH name echo", &[&program]));
    let list = told(irm(&socket, "name list", &[]));
    assert!(list.contains(&format!("{dir}/\u{fffd}t\u{fffd}-echo")), "{list}");
    // By its path alone the daemon knows that it may accept.
    let mut serves = Command::new(&program);
    serves.arg("--listen").env("OUROBOROS_SOCKET", &socket).stdout(Stdio::null());
    let mut serves = serves.spawn().expect("it runs");
    let answered = block_on(async {
        let server: IpAddr = "127.3.17.1".parse().expect("an address");
        let own = "127.3.17.2".parse().expect("an address");
        let irm = Irm::new();
        irm.bootstrap("my_layer", Udp::connect_only(own).server((server, 3517).into())).await?;
        let spec = FlowSpec::raw().timeout(Duration::from_secs(30));
        let flow = irm.allocate("echo", spec).await?;
        flow.send(b"hello").await?;
        Ok::<_, Box<dyn std::error::Error>>(flow.recv_vec().await?)
    });
    let _ = serves.kill();
    let _ = serves.wait();
    assert_eq!(answered.expect("answered"), b"hello");
    told(irm(&socket, "unbind program PATH name echo", &[&program]));
    assert!(!told(irm(&socket, "name list", &[])).contains("-echo"));
}

#[test]
fn text_is_not_any_bytes_and_options_of_ovpn_that_are_paths_are() {
    let folder = Folder::new();
    let socket = folder.path().join("irmd.sock");
    let word = Path::new(OsStr::from_bytes(LATIN_1));
    for line in [
        "PATH",
        "ipcp create name PATH type udp",
        "register name PATH layer l",
        "register name n layer PATH",
        "bind program p name PATH",
        "ipcp bootstrap type eth-dix name n layer l dev PATH",
        "name create PATH",
        "name create n auth PATH",
        "PATH list",
    ] {
        let complained = complaint(irm(&socket, line, &[word]), 2);
        assert!(complained.contains("not UTF-8"), "{line}: {complained}");
        assert!(!complained.contains('\0'), "{complained:?}");
    }
    let missing = latin_1(folder.path(), "-missing");
    let mut ovpn = tool(env!("CARGO_BIN_EXE_ovpn"), &socket);
    let line = "-n my_vpn -i 10.0.0.1/24 --ca PATH";
    let complained = complaint(words(&mut ovpn, line, &[&missing]).output().expect("it runs"), 1);
    assert!(complained.contains(&shown(&missing)), "{complained}");
}
