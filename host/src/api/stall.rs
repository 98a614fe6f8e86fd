//! Connections whose client must keep reading, and complete the head of a request that it has begun.
//!
//! An answer waits in memory until its client reads it. A client that reads nothing could hold that memory, and its
//! connection, for any time. So after a while writing fails, which ends the connection and the request behind it.

use super::heads::{HeadTime, Heads};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// A stream whose writes fail if the client has read nothing for a given time, and whose reads fail if the head of a request takes
/// longer than another.
pub(super) struct Patient<S> {
    stream: S,
    head_time: HeadTime,
    time_max: Duration,
    /// The deadline of a write that waits.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl<S> Patient<S> {
    /// Wraps a stream. What its client does is noted in `heads`.
    pub(super) fn new(stream: S, time_max: Duration, heads: Arc<Heads>, head_max: Duration) -> Self {
        Self { stream, head_time: HeadTime::new(heads, head_max), time_max, deadline: None }
    }

    /// Returns the stream itself.
    pub(super) fn stream(&self) -> &S {
        &self.stream
    }

    /// Limits the time that a write may wait.
    fn within<T>(&mut self, written: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.deadline = None;
            return written;
        }
        self.head_time.heads().waits_for_reader();
        let time_max = self.time_max;
        let deadline = self.deadline.get_or_insert_with(|| Box::pin(tokio::time::sleep(time_max)));
        ready!(deadline.as_mut().poll(cx));
        self.head_time.heads().stall();
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client reads nothing")))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            self.head_time.came(Instant::now());
        }
        if read.is_pending() && self.head_time.is_late(cx) {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the head of a request takes too long")));
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.within(written, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bytes);
        self.within(written, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        // Nobody flushes before everything is written.
        if flushed.is_ready() {
            self.head_time.heads().is_sent();
        }
        self.within(flushed, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;

    /// A stream whose writes each wait for a given number of polls, and after the last one forever.
    struct Reader {
        looks: Vec<usize>,
    }

    impl AsyncWrite for Reader {
        fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            match self.looks.last_mut() {
                None => return Poll::Pending,
                Some(0) => {}
                Some(left) => {
                    *left -= 1;
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
            }
            self.looks.pop();
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn a_reader_may_be_slow_but_not_still() {
        let (heads, minute) = (Arc::<Heads>::default(), Duration::from_secs(60));
        let mut stream = Patient::new(Reader { looks: vec![5, 0, 3] }, minute, heads.clone(), minute);
        for _ in 0..3 {
            let written = poll_fn(|cx| Pin::new(&mut stream).poll_write(cx, b"page")).await;
            assert_eq!(written.unwrap(), 4);
            assert!(stream.deadline.is_none(), "the time begins again with the next write");
        }
        stream.time_max = Duration::from_millis(1);
        let error = poll_fn(|cx| Pin::new(&mut stream).poll_write(cx, b"page")).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(heads.is_stalled());
    }
}
