//! A reliable flow as a stream of bytes. Not here: what carries it (`order`).

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use futures_lite::{
    future,
    io::{AsyncRead, AsyncWrite},
};

use super::{Flow, info::FlowInfo};
use crate::error::FlowError;

/// A reliable flow as a stream of bytes in each direction, in order, none lost.
///
/// It reads and writes by the traits of `futures-io` and, with the feature `tokio`, by
/// Tokio's. Neither end needs to know which of both uses messages and which a stream:
/// what is written here arrives as messages that joined are the stream, and what is
/// read are the peer's messages, joined.
///
/// # How a stream ends
///
/// Reading tells three ends apart:
///
/// - the peer has finished, and everything it wrote was read: 0 bytes (`Ok(0)`);
/// - the peer gave up ([`abort`](Self::abort), or it closed the flow before it had sent
///   all): [`ConnectionReset`](io::ErrorKind::ConnectionReset) or
///   [`ConnectionAborted`](io::ErrorKind::ConnectionAborted);
/// - the peer is gone: nothing was heard for the flow's timeout:
///   [`TimedOut`](io::ErrorKind::TimedOut); or `irmd`, which relayed the flow, is gone:
///   [`NotConnected`](io::ErrorKind::NotConnected).
///
/// The error's source is the [`FlowError`]. Towards a 0.23 peer, whose protocol has no
/// end of a stream, there is only the last.
///
/// # Dropping
///
/// When the stream is dropped, sending goes on in the background until the peer has all that
/// was written, for 30 s at most and as long as the process lives. To know that it arrived,
/// wait for [`close`](Self::close).
///
/// ```
/// use futures_lite::{AsyncReadExt, AsyncWriteExt, future};
/// use ouroboros::{FlowSpec, Irm, transport::memory::Network};
///
/// # future::block_on(async {
/// let network = Network::new();
/// let (server, client) = (Irm::new(), Irm::new());
/// let layer = server.bootstrap("my_layer", network.station()).await?;
/// layer.register("echo").await?;
/// client.bootstrap("my_layer", network.station()).await?;
/// let serve = async {
///     let (mut reader, mut writer) = server.accept("echo").await?.into_stream().split();
///     futures_lite::io::copy(&mut reader, &mut writer).await?;
///     writer.finish().await?;
///     Ok::<_, Box<dyn std::error::Error>>(())
/// };
/// let ask = async {
///     let spec = FlowSpec::reliable().encrypted();
///     let mut stream = client.allocate("echo", spec).await?.into_stream();
///     stream.write_all(b"once, and in order").await?;
///     stream.finish().await?;
///     let mut answer = Vec::new();
///     stream.read_to_end(&mut answer).await?;
///     assert_eq!(answer, b"once, and in order");
///     Ok::<_, Box<dyn std::error::Error>>(())
/// };
/// future::try_zip(serve, ask).await?;
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
#[derive(Debug)]
pub struct FlowStream {
    flow: Arc<Flow>,
}

/// The reading half of a [`FlowStream`].
#[derive(Debug)]
pub struct FlowReadHalf {
    flow: Arc<Flow>,
}

/// The writing half of a [`FlowStream`]. Dropping it finishes the stream in the
/// background.
#[derive(Debug)]
pub struct FlowWriteHalf {
    flow: Arc<Flow>,
}

impl Flow {
    /// This flow as a stream of bytes: see [`FlowStream`]. Of a flow that is not
    /// reliable ([`FlowSpec::reliable`](crate::FlowSpec::reliable)) all reads and writes
    /// fail with [`Unsupported`](io::ErrorKind::Unsupported).
    pub fn into_stream(self) -> FlowStream {
        FlowStream { flow: Arc::new(self) }
    }

    fn check_stream(&self) -> io::Result<()> {
        if self.info().qos.is_reliable() {
            return Ok(());
        }
        Err(io::Error::new(io::ErrorKind::Unsupported, "the flow is not reliable"))
    }

    fn poll_stream_read(
        &self,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        self.check_stream()?;
        if buffer.is_empty() {
            return Poll::Ready(Ok(0));
        }
        Poll::Ready(match ready!(self.poll_read(context, buffer)) {
            Ok(count) => Ok(count),
            Err(FlowError::EndOfStream | FlowError::ClosedWith(_)) => Ok(0),
            Err(error) => Err(error.into()),
        })
    }

    fn poll_stream_write(&self, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.check_stream()?;
        if data.is_empty() {
            return Poll::Ready(Ok(0));
        }
        Poll::Ready(Ok(ready!(self.poll_write(context, data))?))
    }

    async fn write_stream_bytes(&self, mut data: Bytes) -> io::Result<()> {
        self.check_stream()?;
        while !data.is_empty() {
            let count = future::poll_fn(|context| self.poll_write_owned(context, &data)).await?;
            data.advance(count);
        }
        Ok(())
    }

    fn poll_stream_close(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check_stream()?;
        Poll::Ready(Ok(ready!(self.poll_finish(context))?))
    }
}

impl FlowStream {
    /// Says that nothing more will be written, and waits until the peer's end of the
    /// flow has everything. That its application has read it is not said. Reading
    /// goes on.
    ///
    /// Cancel safe: the end is told in any case.
    ///
    /// # Errors
    ///
    /// The flow has ended before, or the peer reads no more.
    pub async fn finish(&self) -> Result<(), FlowError> {
        self.flow.finish().await
    }

    /// Writes all of `bytes` without copying them: they are held until the peer has them.
    /// Waits while as much is under way as may be, as any write does. Towards a 0.23 peer
    /// they are copied, and so are few bytes.
    ///
    /// Not cancel safe: when the future is dropped, some of the bytes may have been written.
    ///
    /// ```
    /// # use futures_lite::{AsyncReadExt, future};
    /// # use ouroboros::{FlowSpec, Irm, transport::memory::Network};
    /// # future::block_on(async {
    /// # let network = Network::new();
    /// # let (server, client) = (Irm::new(), Irm::new());
    /// # server.bootstrap("l", network.station()).await?.register("files").await?;
    /// # client.bootstrap("l", network.station()).await?;
    /// # let spec = FlowSpec::reliable().encrypted();
    /// # let both = future::zip(server.accept("files"), client.allocate("files", spec));
    /// # let (accepted, allocated) = both.await;
    /// # let (mut reader, stream) = (accepted?.into_stream(), allocated?.into_stream());
    /// use ouroboros::Bytes;
    ///
    /// let page = Bytes::from(vec![7; 4096]);
    /// stream.write_bytes(page.clone()).await?;
    /// stream.write_bytes(page.slice(..100)).await?;
    /// # stream.finish().await?;
    /// # let mut all = Vec::new();
    /// # reader.read_to_end(&mut all).await?;
    /// # assert_eq!(all, [7; 4196]);
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    ///
    /// As for writing: the flow has ended, or the peer reads no more.
    pub async fn write_bytes(&self, bytes: Bytes) -> io::Result<()> {
        self.flow.write_stream_bytes(bytes).await
    }

    /// Finishes, waits until the peer's end has everything, and closes the flow.
    ///
    /// Cancel safe: what was written goes on as if the stream had been dropped.
    ///
    /// # Errors
    ///
    /// As [`finish`](Self::finish): the peer may not have all that was written.
    pub async fn close(self) -> Result<(), FlowError> {
        let finished = self.flow.finish().await;
        self.flow.close();
        finished
    }

    /// As [`close`](Self::close), and tells the peer why: see [`Flow::close_with`]. The peer
    /// reads to the end as if the stream had been finished, and finds the reason in
    /// [`Flow::closed`].
    ///
    /// Dropping the future drops the stream.
    ///
    /// # Errors
    ///
    /// As [`finish`](Self::finish): the peer may not have all that was written.
    pub async fn close_with(self, code: u32, reason: impl AsRef<[u8]>) -> Result<(), FlowError> {
        self.flow.close_with(code, reason).await
    }

    /// Ends the flow at once, and tells the peer `code`: what it has not received yet
    /// is dropped, and reading fails there with [`FlowError::Aborted`].
    pub fn abort(self, code: u32) {
        self.flow.abort(code);
    }

    /// Two halves, for two tasks. The flow is closed when both are dropped.
    pub fn split(self) -> (FlowReadHalf, FlowWriteHalf) {
        let Self { flow } = self;
        (FlowReadHalf { flow: flow.clone() }, FlowWriteHalf { flow })
    }

    /// Returns the agreed terms of the flow.
    pub fn info(&self) -> &FlowInfo {
        self.flow.info()
    }

    /// The flow below: for its statistics, and to watch or close it.
    pub fn flow(&self) -> &Flow {
        &self.flow
    }
}

impl FlowReadHalf {
    /// Says that nothing more will be read: see [`Flow::stop`].
    pub fn stop(&self, code: u32) {
        self.flow.stop(code);
    }

    /// The flow below.
    pub fn flow(&self) -> &Flow {
        &self.flow
    }
}

impl FlowWriteHalf {
    /// As [`FlowStream::write_bytes`].
    ///
    /// # Errors
    ///
    /// As [`FlowStream::write_bytes`].
    pub async fn write_bytes(&self, bytes: Bytes) -> io::Result<()> {
        self.flow.write_stream_bytes(bytes).await
    }

    /// As [`FlowStream::finish`].
    ///
    /// # Errors
    ///
    /// As [`FlowStream::finish`].
    pub async fn finish(&self) -> Result<(), FlowError> {
        self.flow.finish().await
    }

    /// The flow below.
    pub fn flow(&self) -> &Flow {
        &self.flow
    }
}

impl Drop for FlowWriteHalf {
    fn drop(&mut self) {
        // The reader may live on, and the peer is to see the end.
        let _ = self.flow.shared.finish_order();
    }
}

macro_rules! reads {
    ($stream:ty) => {
        impl AsyncRead for $stream {
            fn poll_read(
                self: Pin<&mut Self>,
                context: &mut Context<'_>,
                buffer: &mut [u8],
            ) -> Poll<io::Result<usize>> {
                self.flow.poll_stream_read(context, buffer)
            }
        }

        #[cfg(feature = "tokio")]
        impl tokio::io::AsyncRead for $stream {
            fn poll_read(
                self: Pin<&mut Self>,
                context: &mut Context<'_>,
                buffer: &mut tokio::io::ReadBuf<'_>,
            ) -> Poll<io::Result<()>> {
                let unfilled = buffer.initialize_unfilled();
                let count = ready!(self.flow.poll_stream_read(context, unfilled))?;
                buffer.advance(count);
                Poll::Ready(Ok(()))
            }
        }
    };
}

macro_rules! writes {
    ($stream:ty) => {
        impl AsyncWrite for $stream {
            fn poll_write(
                self: Pin<&mut Self>,
                context: &mut Context<'_>,
                data: &[u8],
            ) -> Poll<io::Result<usize>> {
                self.flow.poll_stream_write(context, data)
            }

            fn poll_write_vectored(
                self: Pin<&mut Self>,
                context: &mut Context<'_>,
                parts: &[IoSlice<'_>],
            ) -> Poll<io::Result<usize>> {
                self.flow.poll_stream_write(context, &joined(parts))
            }

            /// Nothing waits to be flushed: what was written is sent as soon as it may.
            fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
                Poll::Ready(Ok(()))
            }

            /// As [`FlowStream::finish`].
            fn poll_close(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
                self.flow.poll_stream_close(context)
            }
        }

        #[cfg(feature = "tokio")]
        impl tokio::io::AsyncWrite for $stream {
            fn poll_write(
                self: Pin<&mut Self>,
                context: &mut Context<'_>,
                data: &[u8],
            ) -> Poll<io::Result<usize>> {
                self.flow.poll_stream_write(context, data)
            }

            fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
                Poll::Ready(Ok(()))
            }

            fn poll_shutdown(
                self: Pin<&mut Self>,
                context: &mut Context<'_>,
            ) -> Poll<io::Result<()>> {
                self.flow.poll_stream_close(context)
            }
        }
    };
}

reads!(FlowStream);
reads!(FlowReadHalf);
writes!(FlowStream);
writes!(FlowWriteHalf);

/// Bytes of several parts that are written at once, at most.
const VECTORED: usize = 64 * 1024;

/// One part as it is, several as one, cut to [`VECTORED`] bytes.
fn joined<'a>(parts: &'a [IoSlice<'a>]) -> std::borrow::Cow<'a, [u8]> {
    let mut filled = parts.iter().filter(|part| !part.is_empty());
    let (Some(first), second) = (filled.next(), filled.next()) else { return (&[][..]).into() };
    let Some(second) = second else { return (&first[..]).into() };
    let mut bytes = first[..first.len().min(VECTORED)].to_vec();
    for part in std::iter::once(second).chain(filled) {
        let room = VECTORED - bytes.len();
        bytes.extend_from_slice(&part[..part.len().min(room)]);
    }
    bytes.into()
}
