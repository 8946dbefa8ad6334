//! Pages for programs of this machine, over a Unix socket or a loopback address: one GET a
//! connection, and bounds on what it costs. Not here: what the pages say (`metrics`,
//! `ovpn::status`).

use std::{
    fmt, fs, io,
    net::{Shutdown::Write, SocketAddr, TcpListener, TcpStream},
    os::{
        fd::AsFd,
        unix::net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use async_io::{Async, Timer};
use futures_lite::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, future};
use rustix::{
    fs::{Mode, fchmod},
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with},
};

/// How long a connection may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of a request's head, at most.
const LARGEST_HEAD: usize = 4096;
/// Bytes that are read and thrown away so that who has sent them hears the answer.
const LARGEST_REST: usize = 64 * 1024;
/// Bytes of a page that is read, at most.
const LARGEST_PAGE: u64 = 64 << 20;
/// Connections that the kernel holds until they are taken.
const BACKLOG: i32 = 16;
/// How long to wait when no connection can be taken.
const EXHAUSTED: Duration = Duration::from_millis(100);

/// Where pages are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// A Unix socket.
    Unix(PathBuf),
    /// A port of this machine that no other reaches.
    Loopback(SocketAddr),
}

/// The text names no place that pages may be served at.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidListenAddress {
    /// Misuse: it is neither.
    #[error("expected unix:PATH, or a loopback address and a port, such as 127.0.0.1:9586")]
    Unknown,
    /// Misuse: everybody could read there.
    #[error("{0} is no loopback address: others could read there what is for this machine")]
    NotLoopback(SocketAddr),
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Loopback(address) => write!(f, "{address}"),
        }
    }
}

impl FromStr for ListenAddress {
    type Err = InvalidListenAddress;

    fn from_str(text: &str) -> Result<Self, InvalidListenAddress> {
        match text.strip_prefix("unix:") {
            Some("") => Err(InvalidListenAddress::Unknown),
            Some(path) => Ok(Self::Unix(path.into())),
            None => match text.parse::<SocketAddr>() {
                Ok(address) if address.ip().is_loopback() => Ok(Self::Loopback(address)),
                Ok(address) => Err(InvalidListenAddress::NotLoopback(address)),
                Err(_) => Err(InvalidListenAddress::Unknown),
            },
        }
    }
}

/// The answer to a GET.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Its media type.
    pub content_type: &'static str,
    /// Its text.
    pub body: String,
}

/// A listening socket; that of a path goes away with it.
#[derive(Debug)]
pub struct Server {
    listener: Listener,
    path: Option<PathBuf>,
}

#[derive(Debug)]
enum Listener {
    Unix(Async<UnixListener>),
    Tcp(Async<TcpListener>),
}

impl Server {
    /// Listens at `place`; a Unix socket has the permissions `mode`, and takes the place
    /// of one that nobody listens at.
    ///
    /// # Errors
    ///
    /// The place is another program's, or cannot be had.
    pub async fn bind(place: &ListenAddress, mode: u32) -> io::Result<Self> {
        let path = match place {
            ListenAddress::Unix(path) => path,
            ListenAddress::Loopback(address) => {
                let listener = Listener::Tcp(Async::<TcpListener>::bind(*address)?);
                return Ok(Self { listener, path: None });
            }
        };
        if is_left_over(path).await {
            fs::remove_file(path)?;
        }
        let listener = Listener::Unix(Async::new(listen_at(path, mode)?)?);
        Ok(Self { listener, path: Some(path.clone()) })
    }

    /// Returns where it listens, if that is an address.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        match &self.listener {
            Listener::Tcp(listener) => listener.get_ref().local_addr().ok(),
            Listener::Unix(_) => None,
        }
    }

    /// Answers with what `pages` has for a path, for ever. At most four connections are
    /// served at once; others wait.
    pub async fn serve<T>(&self, pages: impl AsyncFn(&str) -> Option<Page>) -> T {
        let one = || async {
            loop {
                self.answer_next(&pages).await;
            }
        };
        future::or(future::or(one(), one()), future::or(one(), one())).await
    }

    async fn answer_next(&self, pages: &impl AsyncFn(&str) -> Option<Page>) {
        let late = async {
            Timer::after(TIMEOUT).await;
            Err(io::ErrorKind::TimedOut.into())
        };
        let answered = match &self.listener {
            Listener::Unix(listener) => match accept(listener, UnixListener::accept).await {
                Ok(stream) => {
                    let end = |stream: &Async<UnixStream>| stream.get_ref().shutdown(Write);
                    future::or(answer(stream, pages, end), late).await
                }
                Err(error) => return not_accepted(&error).await,
            },
            Listener::Tcp(listener) => match accept(listener, TcpListener::accept).await {
                Ok(stream) => {
                    let end = |stream: &Async<TcpStream>| stream.get_ref().shutdown(Write);
                    future::or(answer(stream, pages, end), late).await
                }
                Err(error) => return not_accepted(&error).await,
            },
        };
        if let Err(error) = answered {
            tracing::debug!(%error, "a page is not read");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            let _ = fs::remove_file(path);
        }
    }
}

/// A Unix socket that has its permissions before anybody can connect: Linux gives the path
/// those of the socket, less the umask.
fn listen_at(path: &Path, mode: u32) -> io::Result<UnixListener> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    fchmod(&socket, Mode::from_raw_mode(mode))?;
    bind(&socket, &SocketAddrUnix::new(path)?)?;
    listen(&socket, BACKLOG)?;
    Ok(socket.into())
}

/// Returns `true` if there is a socket at `path` that nobody listens at.
async fn is_left_over(path: &Path) -> bool {
    let connected = Async::<UnixStream>::connect(path).await;
    connected.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

/// The next connection. `Async::accept` would try again whenever the task is woken for something
/// else.
async fn accept<L, S: AsFd, A>(
    listener: &Async<L>,
    accept: impl Fn(&L) -> io::Result<(S, A)>,
) -> io::Result<Async<S>> {
    listener.readable().await?;
    Async::new(accept(listener.get_ref())?.0)
}

async fn not_accepted(error: &io::Error) {
    if error.kind() == io::ErrorKind::WouldBlock {
        // Another of those who wait was faster.
        return;
    }
    tracing::debug!(%error, "cannot take a connection");
    Timer::after(EXHAUSTED).await;
}

/// Answers a request; `end` says that there is no more.
async fn answer<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    pages: &impl AsyncFn(&str) -> Option<Page>,
    end: impl FnOnce(&S) -> io::Result<()>,
) -> io::Result<()> {
    let (status, page) = match requested(&mut stream).await? {
        Ok(path) => match pages(&path).await {
            Some(page) => ("200 OK", page),
            None => ("404 Not Found", plain("there is no such page\n")),
        },
        Err(status) => (status, plain("expected GET and a path, in HTTP/1\n")),
    };
    let head = format!(
        "HTTP/1.0 {status}\r\nContent-Type: {}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        page.content_type,
        page.body.len(),
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(page.body.as_bytes()).await?;
    end(&stream)?;
    // Closing a socket with bytes unread would take the answer back.
    let (mut rest, mut buffer) = (LARGEST_REST, [0; 1024]);
    while rest > 0 {
        match stream.read(&mut buffer).await? {
            0 => break,
            size => rest = rest.saturating_sub(size),
        }
    }
    Ok(())
}

fn plain(body: &str) -> Page {
    Page { content_type: "text/plain; charset=utf-8", body: body.to_owned() }
}

/// The path that is asked for, without a query; or the status of what is wrong.
async fn requested(
    stream: &mut (impl AsyncRead + Unpin),
) -> io::Result<Result<String, &'static str>> {
    let (mut head, mut size) = ([0; LARGEST_HEAD], 0);
    let end = b"\r\n\r\n";
    while !head[..size].windows(end.len()).any(|window| window == end) {
        if size == head.len() {
            return Ok(Err("431 Request Header Fields Too Large"));
        }
        match stream.read(&mut head[size..]).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            more => size += more,
        }
    }
    let line = head[..size].split(|byte| *byte == b'\r').next().unwrap_or_default();
    let words: Vec<_> = std::str::from_utf8(line).unwrap_or_default().split(' ').collect();
    Ok(match words[..] {
        ["GET", path, version] if path.starts_with('/') && version.starts_with("HTTP/1.") => {
            Ok(path.split('?').next().unwrap_or_default().to_owned())
        }
        [_, path, version] if path.starts_with('/') && version.starts_with("HTTP/1.") => {
            Err("405 Method Not Allowed")
        }
        _ => Err("400 Bad Request"),
    })
}

/// The page at `path` of the server whose Unix socket is `socket`.
///
/// # Errors
///
/// Nobody answers, not in time, or with another status than 200.
pub async fn get(socket: &Path, path: &str) -> io::Result<String> {
    let asked = async {
        let mut stream = Async::<UnixStream>::connect(socket).await?;
        let request = format!("GET {path} HTTP/1.0\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.take(LARGEST_PAGE).read_to_string(&mut answer).await?;
        let unknown = || io::Error::from(io::ErrorKind::InvalidData);
        let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(unknown)?;
        match head.split(' ').nth(1) {
            Some("200") => Ok(body.to_owned()),
            _ => Err(unknown()),
        }
    };
    let late = async {
        Timer::after(TIMEOUT).await;
        Err(io::ErrorKind::TimedOut.into())
    };
    future::or(asked, late).await
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        os::unix::fs::PermissionsExt,
        thread,
    };

    use ouroboros_testing::Folder;

    use super::*;

    async fn pages(path: &str) -> Option<Page> {
        (path == "/page").then(|| plain("what it says\n"))
    }

    fn ask(mut stream: impl Read + Write, request: &[u8]) -> String {
        stream.write_all(request).expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("answered");
        answer
    }

    #[test]
    fn a_place_is_this_machine_s_alone() {
        let parse = |text: &str| text.parse::<ListenAddress>();
        let loopback = |text: &str| Ok(ListenAddress::Loopback(text.parse().expect("an address")));
        assert_eq!(parse("unix:/run/a:b"), Ok(ListenAddress::Unix("/run/a:b".into())));
        for text in ["127.0.0.1:9586", "127.8.8.8:1", "[::1]:9586"] {
            assert_eq!(parse(text), loopback(text));
        }
        for text in ["0.0.0.0:9586", "10.0.0.1:9586", "[::]:9586", "[fe80::1]:9586"] {
            assert!(matches!(parse(text), Err(InvalidListenAddress::NotLoopback(_))), "{text}");
        }
        for text in ["", "unix:", "9586", ":9586", "127.0.0.1", "localhost:9586", "/run/a"] {
            assert_eq!(parse(text), Err(InvalidListenAddress::Unknown), "{text}");
        }
    }

    #[test]
    fn pages_are_answered_and_everything_else_is_refused() {
        let place = "127.0.0.1:0".parse().expect("a place");
        let server = future::block_on(Server::bind(&place, 0o600)).expect("bound");
        let address = server.address().expect("an address");
        let (stop, stopped) = async_channel::bounded::<()>(1);
        let client = thread::spawn(move || {
            let connect = || TcpStream::connect(address).expect("connected");
            let mut silent: Vec<_> = (0..3).map(|_| connect()).collect();
            for (request, status) in [
                (&b"GET /page HTTP/1.1\r\nHost: a\r\n\r\n"[..], "200"),
                (b"GET /page?a=b HTTP/1.0\r\n\r\n", "200"),
                (b"GET /other HTTP/1.1\r\n\r\n", "404"),
                (b"POST /page HTTP/1.1\r\n\r\nbody", "405"),
                (b"GET page HTTP/1.1\r\n\r\n", "400"),
                (b"\xff\xfe\r\n\r\n", "400"),
                (b"GET /page HTTP/2\r\n\r\n", "400"),
                (&[b'a'; 3 * LARGEST_HEAD], "431"),
            ] {
                let answer = ask(connect(), request);
                assert_eq!(answer.split(' ').nth(1), Some(status), "{answer}");
                let page = answer.ends_with("\r\n\r\nwhat it says\n");
                assert_eq!(page, status == "200", "{answer}");
            }
            // Who says half of it is no end of the others.
            silent[0].write_all(b"GET /page HT").expect("sent");
            drop(silent);
            assert!(ask(connect(), b"GET /page HTTP/1.1\r\n\r\n").contains("200 OK"));
            drop(stop);
        });
        future::block_on(future::or(server.serve(pages), async {
            let _ = stopped.recv().await;
        }));
        client.join().expect("the client");
    }

    #[test]
    fn a_unix_socket_is_its_owner_s_and_goes_with_the_server() {
        let folder = Folder::new();
        let path = folder.path().join("a.sock");
        let place = ListenAddress::Unix(path.clone());
        // One that a killed program has left.
        drop(UnixListener::bind(&path).expect("bound"));
        let server = future::block_on(Server::bind(&place, 0o600)).expect("bound");
        let mode = fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let asked = async { (get(&path, "/page").await, get(&path, "/other").await) };
        let (page, other) = future::block_on(future::or(server.serve(pages), asked));
        assert_eq!(page.expect("answered"), "what it says\n");
        assert!(other.is_err());
        // Of one that lives it is not taken.
        let second = future::block_on(Server::bind(&place, 0o600)).expect_err("in use");
        assert_eq!(second.kind(), io::ErrorKind::AddrInUse);
        drop(server);
        assert!(!path.exists());
    }
}
