//! HTTP/1.1 by hand: a request that a test writes in parts, and an answer that it reads while it arrives.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

/// Longest wait for a part of an answer.
const WAIT: Duration = Duration::from_secs(60);

/// A request and its answer, on a connection of their own.
pub struct Exchange {
    stream: TcpStream,
    /// What has arrived and is not read yet.
    arrived: Vec<u8>,
    /// The bytes that are left of the chunk that is being read.
    chunk: usize,
    is_over: bool,
}

impl Exchange {
    /// Connects, and sends the head of a request: its first line and its headers, each with its line break.
    pub fn begin(address: &str, line: &str, headers: &str) -> Self {
        let stream = TcpStream::connect(address).expect("connect");
        stream.set_read_timeout(Some(WAIT)).expect("set a limit");
        stream.set_write_timeout(Some(WAIT)).expect("set a limit");
        let mut exchange = Self { stream, arrived: Vec::new(), chunk: 0, is_over: false };
        exchange.write(format!("{line} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n").as_bytes());
        exchange
    }

    /// Posts a whole body.
    pub fn post(address: &str, path: &str, body: &[u8]) -> Self {
        let mut exchange =
            Self::begin(address, &format!("POST {path}"), &format!("Content-Length: {}\r\n", body.len()));
        exchange.write(body);
        exchange
    }

    /// Sends bytes, which must succeed.
    pub fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("send bytes");
    }

    /// Sends a chunk of a body with `Transfer-Encoding: chunked`. An empty one ends the body.
    pub fn write_chunk(&mut self, bytes: &[u8]) {
        self.write(format!("{:x}\r\n", bytes.len()).as_bytes());
        self.write(bytes);
        self.write(b"\r\n");
    }

    /// Returns another handle of the connection, for a thread that writes while this one reads.
    pub fn writer(&self) -> TcpStream {
        self.stream.try_clone().expect("clone a handle")
    }

    /// Reads the head of the answer. Returns the status and the headers as text in lower case.
    pub fn head(&mut self) -> (u16, String) {
        let mut head = Vec::new();
        loop {
            let line = self.raw_line().expect("the head of an answer");
            if line.is_empty() {
                break;
            }
            head.push(line);
        }
        let status = head[0].split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        (status, head[1..].join("\n").to_lowercase())
    }

    /// Reads the next line of a chunked answer. Returns `None` at its end, also if the connection ends before it.
    pub fn line(&mut self) -> Option<String> {
        let mut line = Vec::new();
        while !self.is_over {
            if self.chunk == 0 {
                let size = self.raw_line()?;
                self.chunk = usize::from_str_radix(&size, 16).expect("the size of a chunk");
                if self.chunk == 0 {
                    self.is_over = true;
                    break;
                }
            }
            if self.arrived.is_empty() && !self.receive() {
                self.is_over = true;
                break;
            }
            let part = &self.arrived[..self.chunk.min(self.arrived.len())];
            let end = part.iter().position(|byte| *byte == b'\n');
            let taken = end.map_or(part.len(), |end| end + 1);
            line.extend(self.arrived.drain(..taken));
            self.chunk -= taken;
            if self.chunk == 0 {
                self.raw_line()?;
            }
            if end.is_some() {
                line.pop();
                return Some(String::from_utf8(line).expect("text"));
            }
        }
        (!line.is_empty()).then(|| String::from_utf8(line).expect("text"))
    }

    /// Reads all lines that are left.
    pub fn lines(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.line()).collect()
    }

    /// Reads everything until the host closes the connection, as it was sent.
    pub fn rest(&mut self) -> String {
        while self.receive() {}
        String::from_utf8(std::mem::take(&mut self.arrived)).expect("text")
    }

    /// Whether the answer came to its end, and was not broken off.
    pub fn is_complete(&self) -> bool {
        self.is_over && self.chunk == 0
    }

    /// Reads a line as it was sent, without its line break.
    fn raw_line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.arrived.windows(2).position(|two| two == b"\r\n") {
                let line = self.arrived.drain(..end + 2).collect::<Vec<u8>>();
                return Some(String::from_utf8(line[..end].to_vec()).expect("text"));
            }
            if !self.receive() {
                return None;
            }
        }
    }

    /// Waits for more. Returns false if the connection has ended.
    fn receive(&mut self) -> bool {
        let mut buffer = [0; 16 << 10];
        match self.stream.read(&mut buffer) {
            Ok(count) => {
                self.arrived.extend_from_slice(&buffer[..count]);
                count > 0
            }
            Err(error) if error.kind() == ErrorKind::ConnectionReset => false,
            Err(error) => panic!("nothing arrives: {error}"),
        }
    }
}
