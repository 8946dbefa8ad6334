//! One stream beside quinn's and the kernel's TCP (which is plain), the same workload
//! over each: bulk one way, and round trips of 64 bytes. Client and server are
//! processes of their own, in two network namespaces with a veth pair of MTU 1500
//! between them; rounds are interleaved, and the medians are shown. Needs root.
//! Figures are this machine's, ratios are of interest; the kernel's congestion control
//! for TCP is named.
//!
//! `cargo bench -p ouroboros-benches --bench streams [-- SECONDS ROUNDS]`

mod ends;

use std::{
    env, fs,
    io::{BufRead, BufReader},
};

use ouroboros_benches::Hosts;

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// The first is compared with the others.
const OF: &[&str] = &["ours", "ours-messages", "quinn", "tcp"];
const FIGURES: &[(&str, &str)] =
    &[("bulk", "Gbit/s"), ("cpu", "s/GB"), ("round-trip", "us p50"), ("round-trip-p99", "us p99")];

/// The figures of one round, in the order of [`FIGURES`].
fn figures(hosts: &Hosts, of: &str, seconds: &str) -> Outcome<Vec<f64>> {
    let folder = hosts.folder.to_str().ok_or("a folder whose name is text")?;
    let mut server = hosts.run(0, &["server", of, folder])?;
    let mut lines = BufReader::new(server.stdout.take().ok_or("no output")?).lines();
    // It listens.
    lines.next().ok_or("the server does not listen")??;
    let client = hosts.run(1, &["client", of, seconds, folder])?.wait_with_output()?;
    let told = lines.next();
    let _ = server.kill();
    server.wait()?;
    let numbers = |text: &str| text.split(' ').map(str::parse).collect::<Result<Vec<f64>, _>>();
    let client = numbers(String::from_utf8(client.stdout)?.trim())?;
    let server = numbers(told.ok_or("the server has failed")??.trim())?;
    let [bytes, time, cpu, p50, p99] = client[..] else { return Err("no figures".into()) };
    let [server_cpu] = server[..] else { return Err("no figures of the server".into()) };
    Ok(vec![bytes * 8e-9 / time, (cpu + server_cpu) / (bytes * 1e-9), p50, p99])
}

fn main() -> Outcome<()> {
    let words: Vec<String> = env::args().skip(1).filter(|word| word != "--bench").collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["server", of, folder] => return ends::serve(of, folder.as_ref()),
        ["client", of, seconds, folder] => {
            return ends::measure(of, seconds.parse()?, folder.as_ref());
        }
        _ => {}
    }
    let seconds = words.first().copied().unwrap_or("3");
    let rounds: usize = words.get(1).map_or(Ok(3), |rounds| rounds.parse())?;
    let hosts = Hosts::new()?;
    let mut had = vec![Vec::new(); OF.len()];
    for _ in 0..rounds {
        for (of, had) in OF.iter().zip(&mut had) {
            match figures(&hosts, of, seconds) {
                Ok(figures) => had.push(figures),
                Err(error) => eprintln!("{of}: {error}"),
            }
        }
    }
    let control = fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control")?;
    println!("TCP has {}; medians of {rounds} rounds of {seconds} s", control.trim());
    println!("{:<15} {:<14} {:>10} {:<7} first : this", "figure", "of", "", "unit");
    for (index, (name, unit)) in FIGURES.iter().enumerate() {
        let mut first = None;
        for (of, had) in OF.iter().zip(&had) {
            let mut all: Vec<f64> = had.iter().map(|figures| figures[index]).collect();
            all.sort_by(f64::total_cmp);
            let Some(&median) = all.get(all.len() / 2) else { continue };
            let first = *first.get_or_insert(median);
            println!("{name:<15} {of:<14} {median:>10.2} {unit:<7} {:.2}", first / median);
        }
    }
    Ok(())
}
