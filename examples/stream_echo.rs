//! An echo over a stream, both ends in one process: over UDP they would be two, with
//! `Udp::at(...)` for the network.

use futures_lite::{AsyncReadExt, AsyncWriteExt, future, io};
use ouroboros::{FlowSpec, Irm, transport::memory::Network};

#[async_std::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (network, server, client) = (Network::new(), Irm::new(), Irm::new());
    server.bootstrap("my_layer", network.station()).await?.register("echo").await?;
    client.bootstrap("my_layer", network.station()).await?;
    let serve = async {
        let (mut reader, mut writer) = server.accept("echo").await?.into_stream().split();
        io::copy(&mut reader, &mut writer).await?;
        Ok::<_, Box<dyn std::error::Error>>(writer.finish().await?)
    };
    let ask = async {
        let spec = FlowSpec::reliable().encrypted();
        let mut stream = client.allocate("echo", spec).await?.into_stream();
        stream.write_all(b"hello, again, goodbye").await?;
        stream.finish().await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        println!("{answer}");
        Ok(())
    };
    future::try_zip(serve, ask).await?;
    Ok(())
}
