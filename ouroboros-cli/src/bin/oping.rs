//! Pings a name, or answers pings.

use std::{process::ExitCode, time::Duration};

use async_std::task;
use ouroboros::Irm;
use ouroboros_cli::tools::{self, Outcome, bytes, count, duration, oping};
use structopt::StructOpt;

/// Measures the round-trip time to a name
///
/// With --listen, is the server, for the names that this program is bound to. Times without a unit are milliseconds; the units are ms, s, m, h, d.
#[derive(StructOpt)]
#[structopt(name = "oping")]
struct Arguments {
    /// Server: answers requests
    #[structopt(short, long)]
    listen: bool,
    /// Server: busy-waits for requests
    #[structopt(long)]
    poll: bool,
    /// Server: serves one flow, and busy-waits for requests
    #[structopt(long)]
    busy: bool,
    /// The name to ping
    #[structopt(short = "n", long, value_name = "NAME", required_unless = "listen")]
    server_name: Option<String>,
    /// Number of requests
    #[structopt(short, long, value_name = "NUMBER", parse(try_from_str = count))]
    count: Option<u32>,
    /// Duration of the test, instead of a number of requests
    #[structopt(short, long, value_name = "TIME", parse(try_from_str = duration))]
    duration: Option<Duration>,
    /// Interval between requests; 10 s at most
    #[structopt(
        short, long, value_name = "TIME", default_value = "1000", parse(try_from_str = duration)
    )]
    interval: Duration,
    /// Bytes of a request, from 64 to 1500
    #[structopt(
        short, long, value_name = "BYTES", default_value = "64", parse(try_from_str = bytes)
    )]
    size: usize,
    /// Quality of service: raw, best, video, voice or data
    #[structopt(short, long, value_name = "QOS", default_value = "raw")]
    qos: String,
    /// Sends each request as soon as the reply to the last one has come
    #[structopt(short, long)]
    flood: bool,
    /// The same, and busy-waits for the reply
    #[structopt(short = "F", long)]
    flood_busy: bool,
    /// Prints the time of day before each line
    #[structopt(short = "D", long)]
    timeofday: bool,
    /// Prints statistics only
    #[structopt(short = "Q", long)]
    quiet: bool,
    /// Encrypts the flow
    #[structopt(short = "C", long)]
    crypt: bool,
    /// Prints statistics as JSON, and nothing else
    #[structopt(long)]
    json: bool,
}

const LONGEST: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    let arguments = ouroboros_cli::arguments::<Arguments>();
    ouroboros_cli::log(false);
    if let Err(error) = tools::give_up_rights() {
        return ouroboros_cli::failed("oping", &error);
    }
    match task::block_on(run(arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => ouroboros_cli::failed("oping", error.as_ref()),
    }
}

async fn run(arguments: Arguments) -> Outcome {
    let irm = Irm::connect();
    let Some(name) = arguments.server_name.filter(|_| !arguments.listen) else {
        return oping::serve(&irm, arguments.quiet, arguments.poll, arguments.busy).await;
    };
    let Arguments { json, flood, flood_busy, .. } = arguments;
    let interval = arguments.interval.min(LONGEST);
    if interval < arguments.interval && !json {
        println!("The interval is 10 s: a server gives up flows that are silent for longer.");
    }
    let size = arguments.size.clamp(64, 1500);
    if size != arguments.size && !json {
        println!("The size is {size} bytes: it is from 64 to 1500.");
    }
    let fits = arguments.duration.map(|duration| match interval.as_millis() {
        0 => duration.as_millis() * 10,
        interval => duration.as_millis() / interval,
    });
    let fits = fits.map(|fits| u32::try_from(fits).unwrap_or(i32::MAX as u32));
    let count = arguments.count.or(fits).unwrap_or(i32::MAX as u32);
    let client = oping::Client {
        name,
        spec: tools::spec(&arguments.qos, arguments.crypt),
        count,
        interval,
        size,
        flood,
        busy: flood_busy,
        time_of_day: arguments.timeofday,
        quiet: arguments.quiet,
        json,
    };
    client.run(&irm).await
}
