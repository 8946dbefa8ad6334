//! Sends a constant bit rate, or counts what comes.

use std::{process::ExitCode, time::Duration};

use async_std::task;
use ouroboros::Irm;
use ouroboros_cli::tools::{self, Outcome, bytes, ocbr, rate, seconds};
use structopt::StructOpt;

/// Sends packets at a constant bit rate
///
/// With --listen, is the server, for the names that this program is bound to.
#[derive(StructOpt)]
#[structopt(name = "ocbr")]
struct Arguments {
    /// Server: counts packets
    #[structopt(short, long)]
    listen: bool,
    /// Server: interval at which the counts are printed
    #[structopt(
        short, long, value_name = "SECONDS", default_value = "1", parse(try_from_str = seconds)
    )]
    interval: Duration,
    /// Server: ends a flow after this time of silence
    #[structopt(
        short, long, value_name = "SECONDS", default_value = "1", parse(try_from_str = seconds)
    )]
    timeout: Duration,
    /// The name to send to
    #[structopt(
        short = "n",
        long = "server_apn",
        value_name = "NAME",
        required_unless = "listen",
        visible_alias = "server-name"
    )]
    server_name: Option<String>,
    /// Duration of the test
    #[structopt(
        short, long, value_name = "SECONDS", default_value = "60", parse(try_from_str = seconds)
    )]
    duration: Duration,
    /// Sends without a rate limit
    #[structopt(short, long)]
    flood: bool,
    /// Bytes of a packet, up to 524288
    #[structopt(
        short, long, value_name = "BYTES", default_value = "1000", parse(try_from_str = bytes)
    )]
    size: usize,
    /// Bits per second, with suffix k, M or G
    #[structopt(short, long, value_name = "RATE", default_value = "1000000", parse(try_from_str = plain))]
    rate: u64,
    /// Sleeps between packets (the default)
    #[structopt(long)]
    sleep: bool,
    /// Busy-waits between packets: more exact
    #[structopt(long)]
    spin: bool,
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

fn plain(text: &str) -> Result<u64, String> {
    rate(text, 1.0)
}

fn main() -> ExitCode {
    let arguments = ouroboros_cli::arguments::<Arguments>();
    ouroboros_cli::log(false);
    if let Err(error) = tools::give_up_rights() {
        return ouroboros_cli::failed("ocbr", &error);
    }
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => ouroboros_cli::failed("ocbr", error.as_ref()),
    }
}

fn run(arguments: Arguments) -> Outcome {
    let irm = Irm::connect();
    let Some(name) = arguments.server_name.filter(|_| !arguments.listen) else {
        let Arguments { interval, timeout, .. } = arguments;
        return task::block_on(ocbr::serve(&irm, interval, timeout));
    };
    let client = ocbr::Client {
        name,
        spec: tools::spec(&arguments.qos, arguments.crypt),
        duration: arguments.duration,
        rate: arguments.rate,
        size: arguments.size.clamp(8, 1 << 19),
        flood: arguments.flood,
        spin: arguments.spin && !arguments.sleep,
        json: arguments.json,
    };
    client.run(&irm, &*tools::interrupted()?)
}
