//! Sends packets at a rate, or takes them.

use std::{process::ExitCode, time::Duration};

use async_std::task;
use ouroboros::Irm;
use ouroboros_cli::tools::{
    self, Outcome, bytes, duration,
    operf::{self, Test},
    rate,
};
use structopt::StructOpt;

/// Measures the throughput of a flow
///
/// With --listen, is the server, for the names that this program is bound to. Times without a unit are milliseconds; the units are ms, s, m, h, d.
#[derive(StructOpt)]
#[structopt(name = "operf")]
struct Arguments {
    /// Server: receives packets
    #[structopt(short, long)]
    listen: bool,
    /// The name to send to
    #[structopt(short = "n", long, value_name = "NAME", required_unless = "listen")]
    server_name: Option<String>,
    /// One way (uni), echoed (bi), or a stream of bytes without a rate limit, which needs a
    /// reliable flow, --qos data (stream)
    #[structopt(short, long, default_value = "uni")]
    test: Test,
    /// Duration of the test
    #[structopt(
        short, long, value_name = "TIME", default_value = "60s", parse(try_from_str = duration)
    )]
    duration: Duration,
    /// Bits per second: with suffix k, M or G; without, thousands
    #[structopt(short, long, value_name = "RATE", default_value = "1M", parse(try_from_str = thousands))]
    rate: u64,
    /// Bytes of a packet, from 64 to 1048576
    #[structopt(
        short, long, value_name = "BYTES", default_value = "1500", parse(try_from_str = bytes)
    )]
    size: usize,
    /// Sends without a rate limit
    #[structopt(short, long)]
    flood: bool,
    /// Sleeps between packets, instead of busy-waiting: less exact, but leaves the CPU free
    #[structopt(long)]
    sleep: bool,
    /// Quality of service: raw, best, video, voice or data
    #[structopt(short, long, value_name = "QOS", default_value = "raw")]
    qos: String,
    /// Encrypts the flow
    #[structopt(short = "C", long)]
    crypt: bool,
    /// Prints statistics as JSON, and nothing else
    #[structopt(long)]
    json: bool,
}

fn thousands(text: &str) -> Result<u64, String> {
    rate(text, 1e3)
}

fn main() -> ExitCode {
    let arguments = ouroboros_cli::arguments::<Arguments>();
    ouroboros_cli::log(false);
    if let Err(error) = tools::give_up_rights() {
        return ouroboros_cli::failed("operf", &error);
    }
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => ouroboros_cli::failed("operf", error.as_ref()),
    }
}

fn run(arguments: Arguments) -> Outcome {
    let irm = Irm::connect();
    let Some(name) = arguments.server_name.filter(|_| !arguments.listen) else {
        return task::block_on(operf::serve(&irm));
    };
    let client = operf::Client {
        name,
        spec: tools::spec(&arguments.qos, arguments.crypt),
        test: arguments.test,
        duration: arguments.duration,
        rate: arguments.rate,
        size: arguments.size.clamp(64, 1 << 20),
        flood: arguments.flood,
        sleep: arguments.sleep,
        json: arguments.json,
    };
    client.run(&irm, &*tools::interrupted()?)
}
