//! A client for benchmarks that costs little: it sends requests that are made before, and looks at no more of an answer than its
//! status and its length. It runs in one thread.

use axum::body::Bytes;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Poll, ready};
use std::time::Instant;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::ServerName;
use wasmill_tests::certificates::client_config;

/// Host and port.
pub(crate) type Address = String;

/// Bytes of an answer that are read at once.
const READ_BYTES: usize = 64 << 10;

/// How to reach a server.
pub(crate) trait Connect: Clone + Send + Sync + 'static {
    /// A connection.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// Opens a connection.
    fn connect(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

/// A server without TLS, at this address.
#[derive(Clone)]
pub(crate) struct Plain(pub(crate) Address);

impl Connect for Plain {
    type Stream = TcpStream;

    async fn connect(&self) -> io::Result<TcpStream> {
        let stream = TcpStream::connect(&self.0).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

/// A server with TLS, at this address, which is recognised by its certificate.
#[derive(Clone)]
pub(crate) struct Secured {
    address: Address,
    connector: TlsConnector,
}

impl Secured {
    /// Makes a way to a server with a certificate for `localhost` that this authority has issued.
    pub(crate) fn new(address: Address, authority: &str) -> Self {
        Self { address, connector: client_config(authority).into() }
    }
}

impl Connect for Secured {
    type Stream = TlsStream<TcpStream>;

    async fn connect(&self) -> io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(&self.address).await?;
        stream.set_nodelay(true)?;
        self.connector.connect(ServerName::try_from("localhost").expect("a name"), stream).await
    }
}

/// Makes a request that posts JSON. `more` has further headers, each with its line end.
pub(crate) fn request(path: &str, more: &str, body: &str) -> Bytes {
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{more}Content-Length: {length}\r\n\r\n{body}"
    )
    .into()
}

/// Sends `count` requests in turn, with `in_flight` of them under way at any time, each on a connection of its own. Returns how many
/// were answered in a second. All must be answered with 200.
pub(crate) fn load(server: &impl Connect, requests: &[Bytes], in_flight: usize, count: u64) -> f64 {
    let (requests, next) = (Arc::<[Bytes]>::from(requests), Arc::new(AtomicU64::new(0)));
    runtime().block_on(async {
        let mut streams = Vec::new();
        for _ in 0..in_flight {
            streams.push(server.connect().await.expect("connect"));
        }
        let started = Instant::now();
        let mut tasks = JoinSet::new();
        for mut stream in streams {
            let (requests, next) = (requests.clone(), next.clone());
            tasks.spawn(async move {
                let mut buffer = vec![0; READ_BYTES];
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        return;
                    }
                    let request = &requests[(number % requests.len() as u64) as usize];
                    write(&mut stream, request).await.expect("send a request");
                    answer(&mut stream, &mut buffer).await.expect("an answer");
                }
            });
        }
        while let Some(done) = tasks.join_next().await {
            done.expect("no client panics");
        }
        count as f64 / started.elapsed().as_secs_f64()
    })
}

/// Sends the lines of a batch again and again, `count` in all, and reads the answers meanwhile. Returns how many were answered in a
/// second. The caller must check that they were accepted.
pub(crate) fn batch(server: &impl Connect, lines: &[u8], lines_count: u64, count: u64) -> f64 {
    assert_eq!(count % lines_count, 0, "all lines are sent as often as each other");
    let length = lines.len() as u64 * (count / lines_count);
    let head =
        format!("POST /v1/commands HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n").into_bytes();
    runtime().block_on(async {
        let mut stream = server.connect().await.expect("connect");
        let mut buffer = vec![0; READ_BYTES];
        let started = Instant::now();
        write(&mut stream, &head).await.expect("send the head");
        let (mut sent, mut answers) = (0, 0);
        poll_fn(|cx| {
            while sent < length {
                let rest = &lines[(sent % lines.len() as u64) as usize..];
                match Pin::new(&mut stream).poll_write(cx, rest) {
                    Poll::Ready(written) => sent += written.expect("send lines") as u64,
                    Poll::Pending => break,
                }
            }
            while answers < count {
                let mut read = ReadBuf::new(&mut buffer);
                ready!(Pin::new(&mut stream).poll_read(cx, &mut read)).expect("read answers");
                assert!(!read.filled().is_empty(), "the host closed the connection after {answers} answers");
                // Each answer is an object, without others in it.
                answers += read.filled().iter().filter(|byte| **byte == b'{').count() as u64;
            }
            Poll::Ready(())
        })
        .await;
        count as f64 / started.elapsed().as_secs_f64()
    })
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

async fn write(stream: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<()> {
    stream.write_all(bytes).await?;
    stream.flush().await
}

/// Reads an answer to its end.
async fn answer(stream: &mut (impl AsyncRead + Unpin), buffer: &mut [u8]) -> io::Result<()> {
    let mut filled = 0;
    loop {
        let more = stream.read(&mut buffer[filled..]).await?;
        assert!(more > 0, "the server closed the connection");
        filled += more;
        if length(&buffer[..filled]).is_some_and(|length| filled >= length) {
            return Ok(());
        }
    }
}

/// Returns the bytes of an answer, if its head has arrived.
fn length(bytes: &[u8]) -> Option<usize> {
    const NAME: &[u8] = b"content-length: ";
    let head = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
    assert!(bytes.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(bytes));
    let at = bytes[..head].windows(NAME.len()).position(|name| name == NAME).expect("answers have a length");
    let digits = bytes[at + NAME.len()..head].iter().take_while(|byte| byte.is_ascii_digit());
    let body = digits.fold(0, |length, digit| length * 10 + usize::from(digit - b'0'));
    Some(head + 4 + body)
}
