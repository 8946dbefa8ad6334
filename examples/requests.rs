//! A service that answers requests, and 1,000 clients that ask it at the same time: each
//! has a flow and a task of its own. All are in one process: over UDP they would be many,
//! with `Udp::at(...)` for the network.

use std::{
    collections::BTreeMap,
    error::Error,
    sync::{Arc, Mutex, PoisonError},
};

use async_std::task;
use futures_lite::future;
use ouroboros::{AllocateError, Flow, FlowError, FlowSpec, Irm, transport::memory::Network};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

type Outcome = Result<(), Box<dyn Error + Send + Sync>>;
/// How many votes each choice has.
type Votes = Mutex<BTreeMap<String, u32>>;

const CLIENTS: usize = 1000;
/// So many open their flows at once: of one host, which they all are on here, a server
/// does not take any number.
const AT_ONCE: usize = 10;
const REQUESTS: usize = 10;
const CHOICES: [&str; 3] = ["apple", "banana", "cherry"];

/// Counts a vote; how many its choice has now.
fn vote(votes: &Votes, choice: &[u8]) -> u32 {
    let choice = String::from_utf8_lossy(choice).into_owned();
    let mut votes = votes.lock().unwrap_or_else(PoisonError::into_inner);
    let count = votes.entry(choice).or_default();
    *count += 1;
    *count
}

/// Answers one client's requests, a message each, until it closes the flow.
async fn answer(flow: Flow, votes: Arc<Votes>) -> Result<(), FlowError> {
    loop {
        match flow.recv_vec().await {
            Ok(choice) => flow.send(&vote(&votes, &choice).to_be_bytes()).await?,
            Err(FlowError::EndOfStream | FlowError::ClosedWith(_)) => return Ok(()),
            // The client vanished, or broke off.
            Err(error) => return Err(error),
        }
    }
}

/// Serves whoever comes, for ever.
async fn serve(irm: Irm, votes: Arc<Votes>) -> Outcome {
    loop {
        let flow = irm.accept("votes").await?;
        let votes = Arc::clone(&votes);
        task::spawn(async move {
            if let Err(error) = answer(flow, votes).await {
                eprintln!("a client: {error}");
            }
        });
    }
}

async fn open(irm: Arc<Irm>) -> Result<Flow, AllocateError> {
    irm.allocate("votes", FlowSpec::reliable().encrypted()).await
}

/// One client: asks and awaits the answer, again and again.
async fn ask(flow: Flow, number: usize) -> Outcome {
    let choice = CHOICES[number % CHOICES.len()];
    let mut before = 0;
    for _ in 0..REQUESTS {
        flow.send(choice.as_bytes()).await?;
        let answer = flow.recv_vec().await?;
        let count = u32::from_be_bytes(answer[..].try_into()?);
        if count <= before {
            return Err(format!("{choice}: {count} votes after {before}").into());
        }
        before = count;
    }
    // Waits until the service has everything, and tells it that this was all.
    flow.close_with(0, "").await?;
    Ok(())
}

#[async_std::main]
async fn main() -> Outcome {
    // A flow has a descriptor at either end, and both ends are here.
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })?;
    let (network, server, client) = (Network::new(), Irm::new(), Irm::new());
    server.bootstrap("my_layer", network.station()).await?.register("votes").await?;
    client.bootstrap("my_layer", network.station()).await?;
    let (client, votes) = (Arc::new(client), Arc::new(Votes::default()));
    let asking = async {
        let mut flows = Vec::new();
        for _ in 0..CLIENTS / AT_ONCE {
            let opening: Vec<_> =
                (0..AT_ONCE).map(|_| task::spawn(open(Arc::clone(&client)))).collect();
            for flow in opening {
                flows.push(flow.await?);
            }
        }
        let clients: Vec<_> = flows
            .into_iter()
            .enumerate()
            .map(|(number, flow)| task::spawn(ask(flow, number)))
            .collect();
        for client in clients {
            client.await?;
        }
        Ok(())
    };
    future::or(asking, serve(server, Arc::clone(&votes))).await?;
    println!("{CLIENTS} clients have voted:");
    for (choice, count) in &*votes.lock().unwrap_or_else(PoisonError::into_inner) {
        println!("{choice}: {count}");
    }
    Ok(())
}
