//! An HTTP server on loopback that notes what comes, and answers as a test says: also badly.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// A request that came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Came {
    /// The method.
    pub method: String,
    /// The path and query.
    pub path: String,
    /// The names, in lower case, and the values of the headers.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: String,
}

impl Came {
    /// Returns the value of a header, or an empty text.
    pub fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }
}

/// What the server does with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// It sends these bytes and closes the connection.
    Bytes(Vec<u8>),
    /// It sends these bytes, and then never anything more.
    Hangs(Vec<u8>),
    /// It sends these bytes, and then a byte now and then, for ever.
    Drips(Vec<u8>),
    /// It sends these bytes, and then zeros without end.
    Floods(Vec<u8>),
}

impl Reply {
    /// A whole response.
    pub fn status(status: u16, headers: &[(&str, &str)], body: &str) -> Self {
        let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let length = body.len();
        let head = format!("HTTP/1.1 {status} x\r\n{headers}content-length: {length}\r\nconnection: close\r\n\r\n");
        Self::Bytes((head + body).into_bytes())
    }
}

/// A running server. It ends when the value is dropped.
pub struct Server {
    address: SocketAddr,
    came: Arc<Mutex<Vec<Came>>>,
    is_closed: Arc<AtomicBool>,
}

impl Server {
    /// Starts a server. `reply` gets the request, and how many came before it.
    pub fn start(reply: impl Fn(&Came, usize) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listen on loopback");
        let address = listener.local_addr().expect("an address");
        let (came, is_closed) = <(Arc<Mutex<Vec<Came>>>, Arc<AtomicBool>)>::default();
        let server = Self { address, came: came.clone(), is_closed: is_closed.clone() };
        let reply = Arc::new(reply);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if is_closed.load(Ordering::Acquire) {
                    return;
                }
                let (came, reply, is_closed) = (came.clone(), reply.clone(), is_closed.clone());
                // A client that ends in the middle, because it was killed, is no error.
                thread::spawn(move || serve(stream, &came, &*reply, &is_closed));
            }
        });
        server
    }

    /// Returns the URL of the server.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Returns the port.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Returns what came so far.
    pub fn came(&self) -> Vec<Came> {
        self.came.lock().expect("no panic").clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.is_closed.store(true, Ordering::Release);
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(
    mut stream: TcpStream,
    came: &Mutex<Vec<Came>>,
    reply: &(impl Fn(&Came, usize) -> Reply + ?Sized),
    is_closed: &AtomicBool,
) -> Option<()> {
    stream.set_read_timeout(Some(Duration::from_secs(30))).ok()?;
    let request = read(&mut stream)?;
    let before = {
        let mut came = came.lock().expect("no panic");
        came.push(request.clone());
        came.len() - 1
    };
    let is_open = || !is_closed.load(Ordering::Acquire);
    match reply(&request, before) {
        Reply::Bytes(bytes) => stream.write_all(&bytes).ok()?,
        Reply::Hangs(bytes) => {
            stream.write_all(&bytes).ok()?;
            // It ends when the client does.
            let _ = stream.read(&mut [0]);
        }
        Reply::Drips(bytes) => {
            stream.write_all(&bytes).ok()?;
            while is_open() && stream.write_all(b"x").is_ok() {
                thread::park_timeout(Duration::from_millis(20));
            }
        }
        Reply::Floods(bytes) => {
            stream.write_all(&bytes).ok()?;
            while is_open() && stream.write_all(&[0; 1 << 16]).is_ok() {}
        }
    }
    Some(())
}

/// Reads a request with a body of a known length.
fn read(stream: &mut TcpStream) -> Option<Came> {
    let mut bytes = Vec::new();
    let head = loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break end;
        }
        let mut buffer = [0; 4096];
        match stream.read(&mut buffer).ok()? {
            0 => return None,
            count => bytes.extend_from_slice(&buffer[..count]),
        }
    };
    let text = String::from_utf8(bytes[..head].to_vec()).ok()?;
    let mut lines = text.split("\r\n");
    let mut first = lines.next()?.split(' ');
    let (method, path) = (first.next()?.to_owned(), first.next()?.to_owned());
    let header = |line: &str| line.split_once(": ").map(|(name, value)| (name.to_lowercase(), value.to_owned()));
    let headers: Vec<(String, String)> = lines.filter_map(header).collect();
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let length: usize = length.map_or(Some(0), |(_, value)| value.parse().ok())?;
    let mut body = bytes.split_off(head + 4);
    let missing = length.saturating_sub(body.len());
    let mut rest = vec![0; missing];
    stream.read_exact(&mut rest).ok()?;
    body.extend(rest);
    Some(Came { method, path, headers, body: String::from_utf8(body).ok()? })
}
