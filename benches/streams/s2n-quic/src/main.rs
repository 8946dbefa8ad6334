//! s2n-quic's ends of the workload, with its defaults but for the congestion control. Run
//! by the bench `streams`.

#[path = "../../workload.rs"]
mod workload;

use std::{env, net::SocketAddr, path::Path};

use rustix::{
    process::{Resource, Rlimit, getrlimit, setrlimit},
    thread::{CpuSet, sched_setaffinity},
};
use s2n_quic::{
    Client, Connection, Server,
    client::Connect as To,
    connection::Handle,
    provider::{congestion_controller::Bbr, tls::rustls as tls},
    stream::{ReceiveStream, SendStream},
};
use tokio::runtime::Builder;
use workload::{Connect, Outcome, PORT, Stream, measure, serve};

const SERVER: &str = "10.97.0.1";
const PROTOCOL: [&str; 1] = ["streams"];

type Channel = Stream<ReceiveStream, SendStream, Handle>;

fn server(bbr: bool, folder: &Path) -> Outcome<Server> {
    let tls = tls::Server::builder()
        .with_certificate(&*folder.join("certificate.pem"), &*folder.join("key.pem"))?
        .with_application_protocols(PROTOCOL.iter())?
        .build()?;
    let server =
        Server::builder().with_tls(tls)?.with_io(SocketAddr::new(SERVER.parse()?, PORT))?;
    Ok(if bbr {
        server.with_congestion_controller(Bbr::default())?.start()?
    } else {
        server.start()?
    })
}

async fn serve_connection(mut connection: Connection) -> Outcome<()> {
    let handle = connection.handle();
    while let Some(stream) = connection.accept_bidirectional_stream().await? {
        let (reader, writer) = stream.split();
        tokio::spawn(serve(Stream { reader, writer, connection: handle.clone() }));
    }
    Ok(())
}

#[derive(Clone)]
struct S2n(Client);

impl S2n {
    fn new(bbr: bool, folder: &Path) -> Outcome<Self> {
        let tls = tls::Client::builder()
            .with_certificate(&*folder.join("certificate.pem"))?
            .with_application_protocols(PROTOCOL.iter())?
            .build()?;
        let client = Client::builder().with_tls(tls)?.with_io("0.0.0.0:0")?;
        Ok(Self(if bbr {
            client.with_congestion_controller(Bbr::default())?.start()?
        } else {
            client.start()?
        }))
    }
}

async fn channel(mut connection: Handle) -> Outcome<Channel> {
    let (reader, writer) = connection.open_bidirectional_stream().await?.split();
    Ok(Stream { reader, writer, connection })
}

impl Connect for S2n {
    type Channel = Channel;

    async fn connect(&self) -> Outcome<Channel> {
        let to = To::new(SocketAddr::new(SERVER.parse()?, PORT)).with_server_name("localhost");
        let mut connection = self.0.connect(to).await?;
        connection.keep_alive(true)?;
        channel(connection.handle()).await
    }

    async fn open(&self, beside: &Channel) -> Outcome<Channel> {
        channel(beside.connection.clone()).await
    }
}

fn main() -> Outcome<()> {
    let words: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let [end, name, processor, folder, ref work @ ..] = words[..] else {
        return Err("run by the bench `streams`".into());
    };
    if let Ok(processor) = processor.parse() {
        let mut set = CpuSet::new();
        set.set(processor);
        sched_setaffinity(None, &set)?;
    }
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    let (bbr, folder) = (name.ends_with("-bbr"), Path::new(folder));
    Builder::new_current_thread().enable_all().build()?.block_on(async {
        match (end, work) {
            ("server", []) => {
                let mut server = server(bbr, folder)?;
                println!("listens");
                while let Some(connection) = server.accept().await {
                    tokio::spawn(serve_connection(connection));
                }
                Ok(())
            }
            ("client", [what, value, parallel]) => {
                let client = S2n::new(bbr, folder)?;
                let figures = measure(client, what, value.parse()?, parallel.parse()?).await?;
                println!("{}", figures.iter().map(f64::to_string).collect::<Vec<_>>().join(" "));
                Ok(())
            }
            _ => Err("run by the bench `streams`".into()),
        }
    })
}
