//! Reliable flows beside quinn, s2n-quic and the kernel's TCP, plain and with TLS, the same
//! workload over each. Client and server are processes of their own in two network
//! namespaces, with a veth pair of MTU 1500 between them, or a link in user space
//! (`link`); rounds are interleaved, and the medians are shown. Needs root. Figures
//! are this machine's, ratios are of interest. README.md here says what each part is,
//! and what it was when it was last run.
//!
//! `cargo bench -p ouroboros-benches --bench streams [-- PART... [seconds=N] [rounds=N] [of=NAME,...]]`

mod certificate;
mod ends;
mod figures;
mod link;
mod ours;
mod quic;
mod rounds;
mod tcp;
mod udp;
mod workload;

use std::{env, path::Path, time::Duration};

use figures::{LINKS, PARTS, Part};
use link::{Link, Shape};
use ouroboros_benches::Hosts;
use rounds::{Runner, S2N_QUIC, UNPINNED, Work};
use workload::Outcome;

/// What was asked for.
struct Options {
    parts: Vec<String>,
    /// Instead of a part's own.
    seconds: Option<f64>,
    rounds: usize,
    of: Option<Vec<String>>,
}

impl Options {
    fn parse(words: &[&str]) -> Outcome<Self> {
        let mut options = Self { parts: Vec::new(), seconds: None, rounds: 3, of: None };
        for word in words {
            match word.split_once('=') {
                Some(("seconds", value)) => options.seconds = Some(value.parse()?),
                Some(("rounds", value)) => options.rounds = value.parse()?,
                Some(("of", value)) => {
                    options.of = Some(value.split(',').map(str::to_owned).collect());
                }
                None if parts().any(|part| part == *word) => options.parts.push((*word).to_owned()),
                _ => {
                    let parts = parts().collect::<Vec<_>>().join(", ");
                    return Err(format!("there is no part {word}: {parts}").into());
                }
            }
        }
        Ok(options)
    }

    fn wants(&self, part: &str) -> bool {
        self.parts.is_empty() || self.parts.iter().any(|wanted| wanted == part)
    }

    /// Whom to measure, instead of `of` if that was said.
    fn of<'a>(&'a self, of: &[&'static str], s2n_quic: Option<&Path>) -> Vec<&'a str> {
        let wanted = self.of.as_ref().map(|of| of.iter().map(String::as_str).collect());
        let mut names: Vec<&str> = wanted.unwrap_or_else(|| of.to_vec());
        names.retain(|name| s2n_quic.is_some() || !name.starts_with(S2N_QUIC));
        names
    }
}

fn parts() -> impl Iterator<Item = &'static str> {
    PARTS.iter().map(|part| part.name).chain(["link", "fair"])
}

fn median(values: &mut [f64]) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

/// Interleaves the rounds of a part, and prints the medians.
fn measure(runner: &Runner, part: &Part, options: &Options) {
    let of = options.of(part.of, runner.s2n_quic);
    let value = options.seconds.filter(|_| part.is_timed).unwrap_or(part.work.value);
    let work = Work { value, ..part.work };
    let mut had = vec![Vec::new(); of.len()];
    for _ in 0..options.rounds {
        for (name, had) in of.iter().zip(&mut had) {
            let run = || runner.start(name, work, part.pinned, false)?.figures();
            match run() {
                Ok(figures) => had.push(figures),
                Err(error) => eprintln!("{} of {name}: {error}", part.title),
            }
        }
    }
    for (index, unit) in part.units.iter().enumerate() {
        let mut first = None;
        for (name, had) in of.iter().zip(&had) {
            let mut all: Vec<f64> = had.iter().map(|figures| figures[index]).collect();
            let Some(median) = median(&mut all) else { continue };
            let ratio = *first.get_or_insert(median) / median;
            println!("{:<24} {name:<14} {median:>10.2} {unit:<8} {ratio:>6.2}", part.title);
        }
    }
}

const GOODPUT: Work = Work { what: "up", value: 5.0, parallel: 1 };
const FAIR: Work = Work { what: "up", value: 15.0, parallel: 1 };

/// Does `work` with a link of its own.
fn over_link(
    s2n_quic: Option<&Path>,
    shape: Shape,
    work: impl FnOnce(&Runner) -> Outcome<String>,
) -> Outcome<()> {
    let runner = Runner::new(Hosts::unconnected()?, s2n_quic)?;
    let link = Link::new(&runner.hosts, shape)?;
    match work(&runner) {
        Ok(figures) => println!("{figures}  ({})", link.report()),
        Err(error) => eprintln!("over a link: {error}"),
    }
    Ok(())
}

/// Goodput over a slow link, by loss and round trip.
fn links(options: &Options, s2n_quic: Option<&Path>) -> Outcome<()> {
    let work = Work { value: options.seconds.unwrap_or(GOODPUT.value), ..GOODPUT };
    for (round_trip, loss) in LINKS {
        let shape = Shape::new(Duration::from_millis(*round_trip), loss / 100.0);
        for name in options.of(figures::OVER_LINKS, s2n_quic) {
            over_link(s2n_quic, shape, |runner| {
                let rate = runner.start(name, work, UNPINNED, false)?.figures()?[0] * 1000.0;
                let link = format!("{round_trip} ms, {loss} % loss");
                Ok(format!("{link:<24} {name:<14} {rate:>10.1} Mbit/s"))
            })?;
        }
    }
    Ok(())
}

/// What a flow and one of the kernel's with CUBIC, which begins first, have of a link.
fn fair(options: &Options, s2n_quic: Option<&Path>) -> Outcome<()> {
    let work = Work { value: options.seconds.unwrap_or(FAIR.value), ..FAIR };
    for name in options.of(figures::BESIDE_TCP, s2n_quic) {
        over_link(s2n_quic, Shape::new(Duration::from_millis(20), 0.0), |runner| {
            let tcp = runner.start("tcp", work, UNPINNED, false)?;
            let other = runner.start(name, work, UNPINNED, name == "tcp")?;
            let (other, tcp) = (other.figures()?[0] * 1000.0, tcp.figures()?[0] * 1000.0);
            let title = "beside one TCP CUBIC";
            Ok(format!("{title:<24} {name:<14} {other:>10.1} Mbit/s, TCP {tcp:.1}"))
        })?;
    }
    Ok(())
}

fn main() -> Outcome<()> {
    let words: Vec<String> = env::args().skip(1).filter(|word| word != "--bench").collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    if let Some(ended) = ends::run(&words) {
        return ended;
    }
    let options = Options::parse(&words)?;
    let s2n_quic = rounds::build_s2n_quic();
    let s2n_quic = s2n_quic.as_deref();
    println!("{:<24} {:<14} {:>10} {:<8} first : this", "figure", "of", "", "unit");
    if PARTS.iter().any(|part| options.wants(part.name)) {
        let runner = Runner::new(Hosts::new()?, s2n_quic)?;
        for part in PARTS.iter().filter(|part| options.wants(part.name)) {
            measure(&runner, part, &options);
        }
    }
    if options.wants("link") {
        links(&options, s2n_quic)?;
    }
    if options.wants("fair") {
        fair(&options, s2n_quic)?;
    }
    Ok(())
}
