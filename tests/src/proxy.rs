//! A reverse proxy for HTTP/1.1, on a loopback address of its own. It ends the connections of its clients, and has connections to
//! the host over TLS.
//!
//! It passes requests on as they are, also their `Host` header, and adds the token that the host asks for. As proxies do, it keeps
//! connections to the host open, makes a new one when the host has closed one, and reads token and certificates from files.

use crate::certificates::client_config;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::ServerName;

/// The most bytes of a head.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// How long a connection to the host is used. A new one sees a new certificate.
const UPSTREAM_MAX: Duration = Duration::from_millis(200);

/// What a proxy is in front of.
#[derive(Clone)]
pub struct Upstream {
    /// The address of the host.
    pub address: SocketAddr,
    /// The name in its certificate.
    pub name: String,
    /// A PEM file with the certificate of the authority.
    pub authority: PathBuf,
    /// A file with the token.
    pub token: PathBuf,
}

/// A running proxy. It ends when the value is dropped.
pub struct Proxy {
    address: SocketAddr,
    _runtime: Runtime,
}

impl Proxy {
    /// Starts a proxy on a free port of a loopback address.
    pub fn start(ip: &str, upstream: Upstream) -> Self {
        let runtime = Runtime::new().expect("start a runtime");
        let listener = runtime.block_on(TcpListener::bind((ip, 0))).expect("bind a port");
        let address = listener.local_addr().expect("a bound address");
        let upstream = Arc::new(upstream);
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let upstream = upstream.clone();
                tokio::spawn(async move { drop(pass(stream, &upstream).await) });
            }
        });
        Self { address, _runtime: runtime }
    }

    /// Returns its address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Passes the requests of a client on, one after the other.
async fn pass(mut client: TcpStream, upstream: &Upstream) -> io::Result<()> {
    client.set_nodelay(true)?;
    let mut host = connected(upstream).await?;
    let mut since = tokio::time::Instant::now();
    let mut rest = Vec::new();
    loop {
        let Some((head, body)) = message(&mut client, &mut rest).await? else { return Ok(()) };
        if since.elapsed() > UPSTREAM_MAX {
            // The host sees the end of a connection between two requests.
            let _ = host.shutdown().await;
            (host, since) = (connected(upstream).await?, tokio::time::Instant::now());
        }
        let token = std::fs::read_to_string(&upstream.token)?;
        let head = head.replacen("\r\n", &format!("\r\nauthorization: Bearer {}\r\n", token.trim()), 1);
        host.write_all(&[head.as_bytes(), &body].concat()).await?;
        let Some((head, body)) = message(&mut host, &mut Vec::new()).await? else {
            return Err(io::ErrorKind::UnexpectedEof.into());
        };
        client.write_all(&[head.as_bytes(), &body].concat()).await?;
    }
}

async fn connected(upstream: &Upstream) -> io::Result<TlsStream<TcpStream>> {
    let config = client_config(&std::fs::read_to_string(&upstream.authority)?);
    let stream = TcpStream::connect(upstream.address).await?;
    stream.set_nodelay(true)?;
    let name = ServerName::try_from(upstream.name.clone()).map_err(io::Error::other)?;
    TlsConnector::from(config).connect(name, stream).await
}

/// Reads a request or a response, whose head says how long its body is. Returns nothing at the end of the stream.
async fn message(stream: &mut (impl AsyncRead + Unpin), rest: &mut Vec<u8>) -> io::Result<Option<(String, Vec<u8>)>> {
    let mut bytes = std::mem::take(rest);
    let mut buffer = [0; 16 << 10];
    let head = loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        let count = stream.read(&mut buffer).await?;
        if count == 0 || bytes.len() > HEAD_BYTES_MAX {
            return Ok(None);
        }
        bytes.extend(&buffer[..count]);
    };
    let text = String::from_utf8(bytes[..head].to_vec()).map_err(io::Error::other)?;
    let length = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    let whole = head + length.unwrap_or(0);
    while bytes.len() < whole {
        let count = stream.read(&mut buffer).await?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        bytes.extend(&buffer[..count]);
    }
    *rest = bytes.split_off(whole);
    Ok(Some((text, bytes.split_off(head))))
}
