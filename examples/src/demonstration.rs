//! The demonstration: two hosts, an Ethernet cable between them, an encrypted
//! tunnel, and what each of them sees. Everything is in namespaces of its own
//! and goes away with them.

use std::{
    env,
    fs::File,
    io::ErrorKind,
    os::unix::process::CommandExt,
    process::{Command, Stdio},
};

use crate::host::{Host, NAME, Outcome, address, play, shell};

/// Set in the processes of the demonstration: which of its hosts one is, or
/// `stage` for the one that builds them.
pub(crate) const ROLE: &str = "OUROBOROS_DEMONSTRATION";

/// Runs the demonstration, or the part of it that this process is.
pub fn run() -> Outcome {
    match env::var(ROLE).as_deref() {
        Ok("stage") => stage(),
        Ok(number) => play(number.parse()?),
        Err(_) => raise(),
    }
}

/// Becomes the stage, in namespaces of its own: of users, where that makes root
/// unnecessary.
fn raise() -> Outcome {
    let stage = || {
        let mut unshare = Command::new("unshare");
        if !rustix::process::geteuid().is_root() {
            unshare.args(["--user", "--map-root-user"]);
        }
        unshare.arg("--net");
        unshare
    };
    let possible = stage().arg("true").stderr(Stdio::null()).status();
    if !possible.map_err(|error| format!("unshare: {error} (Debian: util-linux)"))?.success() {
        return Err("the demonstration needs network namespaces: run it as root, or where the \
                    kernel gives them to users"
            .into());
    }
    if let Err(error) = File::options().read(true).write(true).open("/dev/net/tun") {
        return Err(match error.kind() {
            ErrorKind::NotFound => "the demonstration needs /dev/net/tun: load the `tun` module",
            _ => {
                "the demonstration needs /dev/net/tun: run it as root, or let users open it \
                 (chmod 666 /dev/net/tun)"
            }
        }
        .into());
    }
    // Comes back only with an error.
    Err(stage().arg(env::current_exe()?).env(ROLE, "stage").exec().into())
}

fn stage() -> Outcome {
    println!("Two hosts in network namespaces, an Ethernet cable between them, no daemon.");
    let (mut one, mut two) = (Host::start(1)?, Host::start(2)?);
    // A host reads no line before it is in its namespace.
    let (first, second) = (wait_for_namespace(&one)?, wait_for_namespace(&two)?);
    shell(&format!(
        "ip link add left type veth peer name right && \
         ip link set left netns {first} name eth0 && ip link set right netns {second} name eth0"
    ))?;
    one.ask("link")?;
    two.ask("link")?;

    one.tell("tunnel")?;
    println!("\nHost 1 serves {NAME} on eth-dix, host 2 allocates an encrypted flow to it:");
    show("2", &two.ask("tunnel")?);
    show("1", &one.answer()?);

    println!("\nThe two TUN interfaces:");
    show("1", &one.ask("device")?);
    show("2", &two.ask("device")?);

    let mut eavesdropper = Host::start_watching(&one)?;
    eavesdropper.ask("watch-wire")?;
    one.ask("watch-tunnel")?;
    let pings = two.ask("ping")?;
    println!("\nAn echo request as it arrives on host 1's TUN:");
    show("1", &one.ask("look-tunnel")?);
    println!("\nThe same packet on the wire between them, as an eavesdropper sees it:");
    show("~", &eavesdropper.ask("look-wire")?);

    println!("\nPing from {} to {} through the tunnel:", address(2), address(1));
    show("2", &pings);
    one.ask("receive")?;
    println!("\nA transfer through the tunnel:");
    show("2", &two.ask("send")?);
    Ok(())
}

fn show(who: &str, lines: &[String]) {
    for line in lines {
        println!("  {who}| {line}");
    }
}

/// The host's process id, once it has a network namespace other than ours.
fn wait_for_namespace(host: &Host) -> Outcome<u32> {
    let ours = std::fs::read_link("/proc/self/ns/net")?;
    let place = format!("/proc/{}/ns/net", host.id());
    for _ in 0..500 {
        if std::fs::read_link(&place).is_ok_and(|theirs| theirs != ours) {
            return Ok(host.id());
        }
        // Nothing tells when another process has changed its namespace.
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    Err("a host did not get a network namespace".into())
}
