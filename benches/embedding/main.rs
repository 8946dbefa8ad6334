//! What a program that embeds flows measures, beside quinn's datagrams and plain
//! UDP in the same run: round trips in each runtime, packets through the async
//! handle, idle flows, handshakes. Each figure is of a process of its own, which
//! has both ends. Loopback; figures are this machine's, ratios are of interest.
//!
//! `cargo bench -p ouroboros-benches --bench embedding [-- PART]`

mod idle;
mod ours;
mod packets;
mod quic;
mod round_trip;

use std::{env, process::Command, time::Duration};

/// A measurement fails as a whole.
type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// How long a rate is measured.
const SECONDS: Duration = Duration::from_secs(2);

/// A figure: what is measured, in which unit, and of which implementations. The
/// first is compared with the others.
struct Figure {
    name: &'static str,
    unit: &'static str,
    of: &'static [&'static str],
}

const FIGURES: &[Figure] = &[
    Figure { name: "round-trip", unit: "us", of: &["tokio", "tokio-quinn", "tokio-udp"] },
    Figure { name: "round-trip", unit: "us", of: &["smol", "smol-quinn", "smol-udp"] },
    Figure {
        name: "round-trip",
        unit: "us",
        of: &["async-std", "async-std-quinn", "async-std-udp"],
    },
    Figure { name: "round-trip", unit: "us", of: &["threads", "tokio-quinn", "threads-udp"] },
    Figure { name: "packets", unit: "1/s", of: &["many", "quinn", "udp"] },
    Figure { name: "packets", unit: "1/s", of: &["one-by-one", "quinn"] },
    Figure { name: "packets", unit: "1/s", of: &["batched"] },
    Figure { name: "handshakes", unit: "1/s", of: &["x25519", "quinn"] },
    Figure { name: "handshakes", unit: "1/s", of: &["hybrid"] },
    Figure { name: "idle-memory", unit: "B", of: &["ours", "quinn"] },
    Figure { name: "idle-cpu", unit: "ms in 5 s", of: &["ours", "quinn"] },
    Figure { name: "churn-memory", unit: "kB more", of: &["ours"] },
    Figure { name: "ten-thousand", unit: "B", of: &["ours"] },
    Figure { name: "descriptors", unit: "a flow", of: &["ours"] },
];

fn measure(name: &str, of: &str) -> Outcome<f64> {
    match (name, of) {
        ("round-trip", of) => round_trip::measure(of),
        ("packets", of) => packets::measure(of),
        ("handshakes", "quinn") => quic::handshakes(),
        ("handshakes", of) => ours::handshakes(of == "hybrid"),
        ("idle-memory", of) => idle::memory(of == "quinn", 1000),
        ("ten-thousand", _) => idle::memory(false, 5000),
        ("idle-cpu", of) => idle::cpu(of == "quinn", 1000),
        ("churn-memory", _) => idle::churn(),
        ("descriptors", _) => idle::descriptors(),
        _ => Err(format!("there is no figure {name} of {of}").into()),
    }
}

fn main() -> Outcome<()> {
    let arguments: Vec<_> = env::args().skip(1).filter(|word| word != "--bench").collect();
    if let [name, of] = &arguments[..] {
        println!("{}", measure(name, of)?);
        return Ok(());
    }
    let wanted = arguments.first();
    println!("{:<14} {:<14} {:>12} unit          first : this", "figure", "of", "");
    for figure in FIGURES.iter().filter(|figure| wanted.is_none_or(|name| name == figure.name)) {
        let mut first = None;
        for of in figure.of {
            let output = Command::new(env::current_exe()?).args([figure.name, of]).output()?;
            let text = String::from_utf8_lossy(&output.stdout);
            let Some(value) = text.lines().last().and_then(|line| line.parse::<f64>().ok()) else {
                let error = String::from_utf8_lossy(&output.stderr);
                println!("{:<14} {of:<14} failed: {}", figure.name, error.trim());
                continue;
            };
            let first = *first.get_or_insert(value);
            let ratio = first / value;
            println!("{:<14} {of:<14} {value:>12.1} {:<13} {ratio:>5.2}", figure.name, figure.unit);
        }
    }
    Ok(())
}
