//! Transfers a file over a stream, and shows how far it is.
//!
//! Without arguments it shows itself: both ends are in one process, over UDP on
//! loopback, and the file is made up. `transfer send ADDRESS FILE` and
//! `transfer receive ADDRESS FILE` are the two ends of a real one: the sender listens
//! at its own ADDRESS, and the receiver asks there.

use std::{
    env,
    io::{Read, Write},
    net::IpAddr,
    path::Path,
    process::ExitCode,
};

use async_std::{fs::File, task};
use futures_lite::{AsyncReadExt, AsyncWriteExt, future};
use ouroboros::{FlowSpec, Irm, transport::Udp};

type Outcome = Result<(), Box<dyn std::error::Error>>;

/// Where the sender listens beside other layers of the host.
const PORT: u16 = 3444;
const PIECE: usize = 64 * 1024;

/// Sends `file` to the first who asks.
async fn send(irm: Irm, file: &Path) -> Outcome {
    let mut file = File::open(file).await?;
    let size = file.metadata().await?.len();
    let mut stream = irm.accept("file").await?.into_stream();
    stream.write_all(&size.to_be_bytes()).await?;
    let mut piece = vec![0; PIECE];
    loop {
        match file.read(&mut piece).await? {
            0 => break,
            count => stream.write_all(&piece[..count]).await?,
        }
    }
    // Waits until the receiver's end has all of it.
    stream.close().await?;
    Ok(())
}

/// Receives the file into `file`.
async fn receive(irm: Irm, file: &Path) -> Outcome {
    let spec = FlowSpec::reliable().encrypted();
    let mut stream = irm.allocate("file", spec).await?.into_stream();
    let mut size = [0; 8];
    stream.read_exact(&mut size).await?;
    let size = u64::from_be_bytes(size);
    let mut file = File::create(file).await?;
    let (mut piece, mut done, mut shown) = (vec![0; PIECE], 0, 0);
    loop {
        // The end, an abort and a peer that vanished are three different things.
        let count = stream.read(&mut piece).await?;
        if count == 0 {
            break;
        }
        file.write_all(&piece[..count]).await?;
        done += count as u64;
        let percent = done * 100 / size.max(1);
        if percent / 10 > shown / 10 {
            shown = percent;
            println!("{percent} % of {size} bytes");
        }
    }
    file.flush().await?;
    if done != size {
        return Err(format!("{done} of {size} bytes came").into());
    }
    Ok(())
}

async fn sender(ip: IpAddr) -> Result<Irm, Box<dyn std::error::Error>> {
    let irm = Irm::new();
    irm.bootstrap("files", Udp::at(ip).port(PORT)).await?.register("file").await?;
    Ok(irm)
}

async fn receiver(from: IpAddr, own: IpAddr) -> Result<Irm, Box<dyn std::error::Error>> {
    let irm = Irm::new();
    irm.bootstrap("files", Udp::connect_only(own).server((from, PORT).into())).await?;
    Ok(irm)
}

async fn demonstrate() -> Outcome {
    let ip = IpAddr::from([127, 0, 0, 1]);
    let folder = env::temp_dir().join(format!("transfer-{}", std::process::id()));
    std::fs::create_dir(&folder)?;
    let (original, copy) = (folder.join("original"), folder.join("copy"));
    let text: Vec<u8> = (0..10_000_000u32).map(|at| (at / 7) as u8).collect();
    std::fs::File::create(&original)?.write_all(&text)?;
    let (server, client) = (sender(ip).await?, receiver(ip, ip).await?);
    future::try_zip(send(server, &original), receive(client, &copy)).await?;
    let mut copied = Vec::new();
    std::fs::File::open(&copy)?.read_to_end(&mut copied)?;
    std::fs::remove_dir_all(&folder)?;
    println!("{}", if copied == text { "the copy is the same" } else { "the copy differs" });
    Ok(())
}

fn main() -> ExitCode {
    let words: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let unspecified = IpAddr::from([0, 0, 0, 0]);
    let outcome = task::block_on(async {
        match words[..] {
            [] => demonstrate().await,
            ["send", ip, file] => send(sender(ip.parse()?).await?, Path::new(file)).await,
            ["receive", ip, file] => {
                receive(receiver(ip.parse()?, unspecified).await?, Path::new(file)).await
            }
            _ => Err("transfer: send ADDRESS FILE, receive ADDRESS FILE, or nothing".into()),
        }
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
