//! The memory that all reliable flows of a process hold together. A process of its own,
//! for the budget is the process's.

use std::time::Duration;

use futures_lite::{AsyncReadExt, AsyncWriteExt, FutureExt, future};
use ouroboros::{
    Flow, FlowSpec, FlowStream, Irm, buffered_bytes, set_buffer_budget, transport::memory::Network,
};

const FLOWS: usize = 60;
const BUDGET: u64 = 1 << 20;
/// What each end of a flow has in each direction whatever the budget, and the last piece
/// that it allocates.
const ALWAYS: u64 = 2 * 32 * 1024 + 64 * 1024;
/// Written to each flow: far more than it may hold.
const SIZE: usize = 200_000;
/// Only ends a test that has failed.
const PATIENCE: Duration = Duration::from_secs(500);

async fn pair(server: &Irm, client: &Irm) -> (Flow, Flow) {
    let spec = FlowSpec::reliable().encrypted().timeout(Duration::from_secs(60));
    let both = future::zip(server.accept("files"), client.allocate("files", spec)).await;
    (both.0.expect("accepted"), both.1.expect("allocated"))
}

fn byte(flow: usize, at: usize) -> u8 {
    (flow + at / 7) as u8
}

async fn write(number: usize, mut stream: FlowStream) {
    let data: Vec<u8> = (0..SIZE).map(|at| byte(number, at)).collect();
    stream.write_all(&data).await.expect("written");
    stream.close().await.expect("the peer has all of it");
}

async fn read(number: usize, mut stream: FlowStream) {
    let mut data = Vec::new();
    stream.read_to_end(&mut data).await.expect("read");
    assert!(data.len() == SIZE && data.iter().enumerate().all(|(at, b)| *b == byte(number, at)));
}

#[test]
fn many_flows_share_a_budget_and_none_is_forgotten() {
    set_buffer_budget(BUDGET);
    let work = async {
        let network = Network::new();
        let (server, client) = (Irm::new(), Irm::new());
        let layer = server.bootstrap("my_layer", network.station()).await.expect("a station");
        layer.register("files").await.expect("registered");
        client.bootstrap("my_layer", network.station()).await.expect("a station");
        let executor = async_executor::Executor::new();
        let (mut readers, mut writers) = (Vec::new(), Vec::new());
        for number in 0..FLOWS {
            let (accepted, allocated) = pair(&server, &client).await;
            readers.push(accepted.into_stream());
            writers.push(executor.spawn(write(number, allocated.into_stream())));
        }
        let bound = BUDGET + FLOWS as u64 * ALWAYS;
        let reading = async {
            // All write, and nobody reads, until no more is taken.
            let (mut most, mut same) = (0, 0);
            while most == 0 || same < 20 {
                let held = buffered_bytes();
                assert!(held <= bound, "{held} of {bound}");
                (most, same) = if held > most { (held, 0) } else { (most, same + 1) };
                async_io::Timer::after(Duration::from_millis(5)).await;
            }
            for (number, stream) in readers.drain(..).enumerate() {
                read(number, stream).await;
                let held = buffered_bytes();
                assert!(held <= bound, "{held} of {bound}");
            }
            for writer in writers {
                writer.await;
            }
        };
        executor.run(reading).await;
        // One alone has what the others have given back.
        let (accepted, allocated) = pair(&server, &client).await;
        future::zip(read(7, accepted.into_stream()), write(7, allocated.into_stream())).await;
        // What was closed may be acknowledged in the background yet.
        while buffered_bytes() > 0 {
            async_io::Timer::after(Duration::from_millis(5)).await;
        }
    };
    let late = async {
        async_io::Timer::after(PATIENCE).await;
        panic!("nothing moves any more: {} bytes are held", buffered_bytes());
    };
    future::block_on(work.or(late));
}
