//! `oecho`: one message, there and back. A 0.23 pair greets each other by it.

use ouroboros::{FlowSpec, Irm};

use super::Outcome;

/// The name that is asked for.
pub const NAME: &str = "oecho";
/// The message; a zero byte ends it.
const GREETING: &[u8] = b"Client says hi!\0";
/// Largest message of a 0.23 peer.
const LARGEST: usize = 256;

/// The text of a message.
fn text(message: &[u8]) -> String {
    let end = message.iter().position(|byte| *byte == 0).unwrap_or(message.len());
    String::from_utf8_lossy(&message[..end]).chars().filter(|c| !c.is_control()).collect()
}

/// Serves one flow after the other, for ever.
///
/// # Errors
///
/// No flow can be accepted.
pub async fn serve(irm: &Irm) -> Outcome {
    println!("Starting the server.");
    loop {
        let flow = irm.accept_any().await?;
        println!("New flow.");
        let mut buffer = [0; LARGEST];
        let served = async {
            let size = flow.recv(&mut buffer).await?;
            println!("Message from client is {}.", text(&buffer[..size]));
            flow.send(&buffer[..size]).await
        };
        if let Err(error) = served.await {
            println!("Flow ended: {error}.");
        }
    }
}

/// Says the greeting and prints the reply.
///
/// # Errors
///
/// There is no flow, or no reply.
pub async fn greet(irm: &Irm, spec: FlowSpec) -> Outcome {
    let flow = irm.allocate(NAME, spec).await?;
    flow.send(GREETING).await?;
    let mut buffer = [0; LARGEST];
    let size = flow.recv(&mut buffer).await?;
    println!("Server replied with {}", text(&buffer[..size]));
    Ok(())
}
