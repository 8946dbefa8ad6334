//! Greets the name `oecho`, or answers greetings.

use std::process::ExitCode;

use async_std::task;
use ouroboros::Irm;
use ouroboros_cli::tools::{self, Outcome, oecho};
use structopt::StructOpt;

/// Sends a greeting to the name oecho and prints the reply
///
/// With --listen, is the server, for the names that this program is bound to.
#[derive(StructOpt)]
#[structopt(name = "oecho")]
struct Arguments {
    /// Server: returns greetings
    #[structopt(short, long)]
    listen: bool,
    /// Encrypts the flow
    #[structopt(short = "C", long)]
    crypt: bool,
}

fn main() -> ExitCode {
    let arguments = ouroboros_cli::arguments::<Arguments>();
    ouroboros_cli::log(false);
    if let Err(error) = tools::give_up_rights() {
        return ouroboros_cli::failed("oecho", &error);
    }
    match task::block_on(run(&arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => ouroboros_cli::failed("oecho", error.as_ref()),
    }
}

async fn run(arguments: &Arguments) -> Outcome {
    let irm = Irm::connect();
    match arguments.listen {
        true => oecho::serve(&irm).await,
        false => oecho::greet(&irm, tools::spec("raw", arguments.crypt)).await,
    }
}
