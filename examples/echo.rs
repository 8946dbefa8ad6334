//! A server and a client that exchange messages over an encrypted flow, in one
//! process: over UDP they would be two, with `Udp::at(...)` for the network.

use ouroboros::{Flow, FlowSpec, Irm, transport::memory::Network};

type Outcome = Result<(), Box<dyn std::error::Error>>;

async fn server(irm: Irm) -> Outcome {
    let flow: Flow = irm.accept("echo").await?;
    let mut message = [0; 1500];
    for _ in 0..3 {
        let size = flow.recv(&mut message).await?;
        flow.send(&message[..size]).await?;
    }
    Ok(())
}

async fn client(irm: Irm) -> Outcome {
    let flow = irm.allocate("echo", FlowSpec::raw().encrypted()).await?;
    for message in ["hello", "again", "goodbye"] {
        flow.send(message.as_bytes()).await?;
        let mut answer = [0; 1500];
        let size = flow.recv(&mut answer).await?;
        println!("{message} -> {}", String::from_utf8_lossy(&answer[..size]));
    }
    Ok(())
}

#[async_std::main]
async fn main() -> Outcome {
    if std::env::args_os().len() > 1 {
        eprintln!("echo: takes no arguments: both ends are in one process");
        std::process::exit(2);
    }
    let (network, at_server, at_client) = (Network::new(), Irm::new(), Irm::new());
    at_server.bootstrap("my_layer", network.station()).await?.register("echo").await?;
    at_client.bootstrap("my_layer", network.station()).await?;
    futures_lite::future::try_zip(server(at_server), client(at_client)).await?;
    Ok(())
}
