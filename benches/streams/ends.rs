//! The two ends of the workload, over whatever carries a stream.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use ouroboros::{Flow, FlowError, FlowSpec, Irm, transport::Udp};
use ouroboros_benches::{CLIENT, SERVER};
use quinn::{ClientConfig, Endpoint, ServerConfig};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime::Runtime,
};

use crate::Outcome;

const PORT: u16 = 3435;
const PIECE: usize = 64 * 1024;
const SMALL: usize = 64;
const ROUND_TRIPS: usize = 20_000;

fn address(of: &str) -> SocketAddr {
    (of.parse::<IpAddr>().expect("an address"), PORT).into()
}

/// Seconds of processor time that this process has had.
fn processor_time() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

pub(crate) fn serve(of: &str, folder: &Path) -> Outcome<()> {
    Runtime::new()?.block_on(async {
        match of {
            "tcp" => {
                let listener = TcpListener::bind(address(SERVER)).await?;
                println!("listens");
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                let (mut reader, mut writer) = stream.into_split();
                take(&mut reader, &mut writer).await
            }
            "quinn" => {
                let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()])?;
                let certificate = CertificateDer::from(made.cert);
                fs::write(folder.join("certificate"), &certificate)?;
                let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
                let config = ServerConfig::with_single_cert(vec![certificate], key.into())?;
                let endpoint = Endpoint::server(config, address(SERVER))?;
                println!("listens");
                let connection = endpoint.accept().await.ok_or("closed")?.await?;
                let (mut writer, mut reader) = connection.accept_bi().await?;
                take(&mut reader, &mut writer).await?;
                connection.closed().await;
                Ok(())
            }
            of => {
                let irm = Irm::new();
                let layer = irm.bootstrap("layer", Udp::at(SERVER.parse()?).port(PORT)).await?;
                layer.register("bench").await?;
                println!("listens");
                let flow = irm.accept("bench").await?;
                if of == "ours-messages" {
                    return take_messages(&flow).await;
                }
                let (mut reader, mut writer) = flow.into_stream().split();
                take(&mut reader, &mut writer).await?;
                writer.finish().await?;
                Ok(())
            }
        }
    })
}

/// Echoes what is small, then takes the bulk and says that it came.
async fn take(
    reader: &mut (impl AsyncRead + Unpin),
    writer: &mut (impl AsyncWrite + Unpin),
) -> Outcome<()> {
    let mut small = [0; SMALL];
    for _ in 0..ROUND_TRIPS {
        reader.read_exact(&mut small).await?;
        writer.write_all(&small).await?;
    }
    let before = processor_time();
    let mut piece = vec![0; PIECE];
    while reader.read(&mut piece).await? > 0 {}
    println!("{}", processor_time() - before);
    writer.write_all(&[1]).await?;
    writer.shutdown().await?;
    Ok(())
}

async fn take_messages(flow: &Flow) -> Outcome<()> {
    let mut piece = vec![0; PIECE];
    for _ in 0..ROUND_TRIPS {
        let size = flow.recv(&mut piece).await?;
        flow.send(&piece[..size]).await?;
    }
    let before = processor_time();
    loop {
        match flow.recv(&mut piece).await {
            Ok(_) => {}
            Err(FlowError::EndOfStream) => break,
            Err(error) => return Err(error.into()),
        }
    }
    println!("{}", processor_time() - before);
    flow.send(&[1]).await?;
    flow.finish().await?;
    Ok(())
}

pub(crate) fn measure(of: &str, seconds: u64, folder: &Path) -> Outcome<()> {
    let time = Duration::from_secs(seconds);
    Runtime::new()?.block_on(async {
        match of {
            "tcp" => {
                let stream = TcpStream::connect(address(SERVER)).await?;
                stream.set_nodelay(true)?;
                let (mut reader, mut writer) = stream.into_split();
                give(&mut reader, &mut writer, time).await
            }
            "quinn" => {
                let mut roots = rustls::RootCertStore::empty();
                roots.add(fs::read(folder.join("certificate"))?.into())?;
                let mut endpoint = Endpoint::client("0.0.0.0:0".parse()?)?;
                let config = ClientConfig::with_root_certificates(Arc::new(roots))?;
                endpoint.set_default_client_config(config);
                let connection = endpoint.connect(address(SERVER), "localhost")?.await?;
                let (mut writer, mut reader) = connection.open_bi().await?;
                give(&mut reader, &mut writer, time).await?;
                connection.close(0u8.into(), b"");
                endpoint.wait_idle().await;
                Ok(())
            }
            of => {
                let irm = Irm::new();
                let there = Udp::connect_only(CLIENT.parse()?).server(address(SERVER));
                irm.bootstrap("layer", there).await?;
                let spec = FlowSpec::reliable().encrypted();
                let flow = irm.allocate("bench", spec).await?;
                if of == "ours-messages" {
                    return give_messages(&flow, time).await;
                }
                let (mut reader, mut writer) = flow.into_stream().split();
                give(&mut reader, &mut writer, time).await
            }
        }
    })
}

async fn give(
    reader: &mut (impl AsyncRead + Unpin),
    writer: &mut (impl AsyncWrite + Unpin),
    time: Duration,
) -> Outcome<()> {
    let (mut small, mut trips) = ([7; SMALL], Vec::with_capacity(ROUND_TRIPS));
    for _ in 0..ROUND_TRIPS {
        let begin = Instant::now();
        writer.write_all(&small).await?;
        reader.read_exact(&mut small).await?;
        trips.push(begin.elapsed());
    }
    let (piece, mut bytes) = (vec![7; PIECE], 0);
    let (begin, before) = (Instant::now(), processor_time());
    while begin.elapsed() < time {
        writer.write_all(&piece).await?;
        bytes += piece.len();
    }
    writer.shutdown().await?;
    // The server has read all of it.
    reader.read_exact(&mut [0]).await?;
    let (time, processor) = (begin.elapsed(), processor_time() - before);
    // Its end: before that nothing of it may be closed.
    reader.read_to_end(&mut Vec::new()).await?;
    conclude(bytes, time, processor, trips);
    Ok(())
}

async fn give_messages(flow: &Flow, time: Duration) -> Outcome<()> {
    let (mut small, mut trips) = ([7; SMALL], Vec::with_capacity(ROUND_TRIPS));
    for _ in 0..ROUND_TRIPS {
        let begin = Instant::now();
        flow.send(&small).await?;
        flow.recv(&mut small).await?;
        trips.push(begin.elapsed());
    }
    let (piece, mut bytes) = (vec![7; PIECE], 0);
    let (begin, before) = (Instant::now(), processor_time());
    while begin.elapsed() < time {
        flow.send(&piece).await?;
        bytes += piece.len();
    }
    flow.finish().await?;
    flow.recv(&mut small).await?;
    let (time, processor) = (begin.elapsed(), processor_time() - before);
    while flow.recv(&mut small).await.is_ok() {}
    conclude(bytes, time, processor, trips);
    Ok(())
}

fn conclude(bytes: usize, time: Duration, processor: f64, mut trips: Vec<Duration>) {
    trips.sort();
    let at = |part: usize| trips[trips.len() * part / 100].as_secs_f64() * 1e6;
    println!("{bytes} {} {processor} {} {}", time.as_secs_f64(), at(50), at(99));
}
