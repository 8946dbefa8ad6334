//! Standard output and standard error of the tools: writing never panics, and in a
//! program that runs for long it never blocks either. A full disk, a closed pipe or
//! a reader that stopped costs lines, not the program. Not here: what is written.
//!
//! The macros of this crate shadow those of the standard library, which panic.

use std::{
    fmt,
    io::{self, Write},
    sync::{
        Mutex, OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread,
    time::Duration,
};

use ouroboros::sync::lock;

/// Lines that wait for a slow reader, at most; more are dropped.
const WAITING: usize = 1024;
/// How long the end of a program waits for its last lines to be written.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(500);

/// One of the two streams. As a writer it takes everything and never fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

enum Message {
    Text(Stream, Vec<u8>),
    Flush(SyncSender<()>),
}

static QUEUE: OnceLock<SyncSender<Message>> = OnceLock::new();
static DROPPED: AtomicU64 = AtomicU64::new(0);
/// The first error of standard output.
static FAILED: Mutex<Option<io::Error>> = Mutex::new(None);

/// Has a thread of its own write from now on, so that no other is held up. Call it
/// when the process has given up its rights: threads keep those that they start with.
///
/// # Errors
///
/// No thread can be started.
pub fn start() -> io::Result<()> {
    let (queue, messages) = sync_channel(WAITING);
    thread::Builder::new().name("output".to_owned()).spawn(move || drain(&messages))?;
    // Called again: the first thread goes on.
    let _ = QUEUE.set(queue);
    Ok(())
}

/// Waits a moment until what was written has left the process.
///
/// # Errors
///
/// The first error of standard output, if any.
pub fn finish() -> io::Result<()> {
    if let Some(queue) = QUEUE.get() {
        let (done, written) = sync_channel(1);
        if queue.try_send(Message::Flush(done)).is_ok() {
            let _ = written.recv_timeout(FLUSH_TIMEOUT);
        }
    }
    let failed = lock(&FAILED).take();
    failed.map_or(Ok(()), Err)
}

/// Writes `text`, and the end of a line if `line`.
pub fn print(stream: Stream, text: fmt::Arguments<'_>, line: bool) {
    let mut bytes = text.to_string().into_bytes();
    if line {
        bytes.push(b'\n');
    }
    write(stream, bytes);
}

fn write(stream: Stream, bytes: Vec<u8>) {
    let Some(queue) = QUEUE.get() else { return put(stream, &bytes) };
    match queue.try_send(Message::Text(stream, bytes)) {
        Ok(()) => {}
        Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
            DROPPED.fetch_add(1, Relaxed);
        }
    }
}

fn drain(messages: &Receiver<Message>) {
    for message in messages {
        match message {
            Message::Text(stream, bytes) => {
                let dropped = DROPPED.swap(0, Relaxed);
                if dropped > 0 {
                    let notice = format!("({dropped} lines dropped: nobody read them)\n");
                    put(stream, notice.as_bytes());
                }
                put(stream, &bytes);
            }
            Message::Flush(done) => {
                let _ = done.try_send(());
            }
        }
    }
}

/// Returns `true` if standard output has taken no more, as when its reader has ended.
#[must_use]
pub fn has_failed() -> bool {
    lock(&FAILED).is_some()
}

fn put(stream: Stream, bytes: &[u8]) {
    let written = match stream {
        Stream::Out => {
            let mut out = io::stdout().lock();
            out.write_all(bytes).and_then(|()| out.flush())
        }
        // There is nowhere left to say it.
        Stream::Err => return drop(io::stderr().write_all(bytes)),
    };
    if let Err(error) = written {
        lock(&FAILED).get_or_insert(error);
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        write(*self, bytes.to_vec());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Like the standard library's, but neither panics nor blocks.
#[macro_export]
macro_rules! println {
    () => { $crate::output::print($crate::output::Stream::Out, ::std::format_args!(""), true) };
    ($($text:tt)*) => {
        $crate::output::print($crate::output::Stream::Out, ::std::format_args!($($text)*), true)
    };
}

/// Like the standard library's, but neither panics nor blocks.
#[macro_export]
macro_rules! print {
    ($($text:tt)*) => {
        $crate::output::print($crate::output::Stream::Out, ::std::format_args!($($text)*), false)
    };
}

/// Like the standard library's, but neither panics nor blocks.
#[macro_export]
macro_rules! eprintln {
    () => { $crate::output::print($crate::output::Stream::Err, ::std::format_args!(""), true) };
    ($($text:tt)*) => {
        $crate::output::print($crate::output::Stream::Err, ::std::format_args!($($text)*), true)
    };
}
