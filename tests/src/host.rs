//! A running host, which tests use over HTTP.

use serde_json::Value;
use std::ffi::CString;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};
use wasmill_driver::host::Host;
use wasmill_driver::{api, process};

/// Longest wait for a condition.
const WAIT: Duration = Duration::from_secs(60);
/// Interval at which a condition is checked that nothing announces.
const LOOK: Duration = Duration::from_millis(10);

/// A host that serves. It ends when the value is dropped.
pub struct TestHost {
    host: Host,
    client: api::Client,
}

/// An answer of the API.
#[derive(Debug, PartialEq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The JSON, or null if there is none.
    pub body: Value,
}

impl TestHost {
    pub(crate) fn new(host: Host) -> Self {
        Self { host, client: api::Client::new(WAIT * 2) }
    }

    /// Uses a client with this token from now on.
    #[must_use]
    pub fn with_token(self, token: &str) -> Self {
        Self { client: api::Client::new(WAIT * 2).with_token(Some(token)), ..self }
    }

    /// Uses a client with this token from now on, which recognises the host by a certificate in PEM.
    #[must_use]
    pub fn secured(self, certificate: &str, token: &str) -> Self {
        let client = api::Client::secured(WAIT * 2, certificate).expect("a certificate in PEM");
        Self { client: client.with_token(Some(token)), ..self }
    }

    /// Sends a command.
    pub fn send(&self, aggregate: &str, id: &str, command: &str, payload: &Value) -> Answer {
        self.send_with(aggregate, id, command, payload, &[])
    }

    /// Sends a command with headers.
    pub fn send_with(
        &self,
        aggregate: &str,
        id: &str,
        command: &str,
        payload: &Value,
        headers: &[(&str, &str)],
    ) -> Answer {
        self.post(&format!("/v1/commands/{aggregate}/{id}/{command}"), payload, headers)
    }

    /// Sends a query to a projection.
    pub fn query(&self, projection: &str, query: &str, params: &Value) -> Answer {
        self.post(&format!("/v1/queries/{projection}/{query}"), params, &[])
    }

    /// Posts JSON.
    pub fn post(&self, path: &str, body: &Value, headers: &[(&str, &str)]) -> Answer {
        answer(self.client.post(&self.url(path), body, headers), path)
    }

    /// Gets JSON.
    pub fn get(&self, path: &str) -> Answer {
        answer(self.client.get(&self.url(path)), path)
    }

    /// Posts JSON, and posts it again if the host was killed before it answered. It must be safe to send twice.
    pub fn post_through_crashes(&self, path: &str, body: &Value, headers: &[(&str, &str)]) -> Answer {
        self.through_crashes(path, |url| self.client.post(url, body, headers))
    }

    /// Gets JSON, and asks again if the host was killed before it answered.
    pub fn get_through_crashes(&self, path: &str) -> Answer {
        self.through_crashes(path, |url| self.client.get(url))
    }

    fn through_crashes(&self, path: &str, call: impl Fn(&str) -> Result<api::Answer, api::Error>) -> Answer {
        self.host.call(path, call).unwrap_or_else(|error| panic!("no answer to {path}: {error:?}")).into()
    }

    /// Returns the host's status.
    pub fn status(&self) -> Value {
        self.get("/v1/status").body
    }

    /// Returns the recorded events that pass the filter, in order.
    pub fn events(&self, filter: &str) -> Vec<Value> {
        let path = format!("/v1/events?from=1&limit=100000&type={filter}");
        let text = self.client.get(&self.url(&path)).expect("read events").text;
        text.lines().map(|line| serde_json::from_str(line).expect("an event is JSON")).collect()
    }

    /// Waits until the host is drained.
    pub fn drained(&self) {
        let deadline = Instant::now() + WAIT;
        loop {
            let answer = self.get("/v1/drained?timeout_ms=1000");
            if answer.body["drained"] == true {
                return;
            }
            assert!(Instant::now() < deadline, "not drained: {answer:?}\n{}", self.log());
        }
    }

    /// Waits until the host says that it is ready.
    pub fn until_ready(&self) {
        let deadline = Instant::now() + WAIT;
        loop {
            let answer = self.get("/v1/ready");
            if answer.status == 200 {
                return;
            }
            assert!(Instant::now() < deadline, "not ready: {answer:?}\n{}", self.log());
            thread::park_timeout(LOOK);
        }
    }

    /// Waits until the host's status meets a condition, and returns it.
    pub fn until(&self, what: &str, condition: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + WAIT;
        loop {
            let status = self.status();
            if condition(&status) {
                return status;
            }
            assert!(Instant::now() < deadline, "waited in vain until {what}: {status:#}\n{}", self.log());
            thread::park_timeout(LOOK);
        }
    }

    /// Asks until the answer meets a condition, and returns it.
    pub fn until_answered(&self, path: &str, condition: impl Fn(&Answer) -> bool) -> Answer {
        let deadline = Instant::now() + WAIT;
        loop {
            let answer = self.get(path);
            if condition(&answer) {
                return answer;
            }
            assert!(Instant::now() < deadline, "waited in vain at {path}: {answer:?}\n{}", self.log());
            thread::park_timeout(LOOK);
        }
    }

    /// Waits until the text at a path meets a condition, and returns it.
    pub fn text_until(&self, path: &str, condition: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + WAIT;
        loop {
            let text = self.client.get(&self.url(path)).expect("read a text").text;
            if condition(&text) {
                return text;
            }
            assert!(Instant::now() < deadline, "waited in vain at {path}: {text}\n{}", self.log());
            thread::park_timeout(LOOK);
        }
    }

    /// Waits until the log has a line that meets a condition.
    pub fn until_logged(&self, what: &str, condition: impl Fn(&str) -> bool) {
        let deadline = Instant::now() + WAIT;
        while !self.log().lines().any(&condition) {
            assert!(Instant::now() < deadline, "waited in vain for a line of the log {what}\n{}", self.log());
            thread::park_timeout(LOOK);
        }
    }

    /// Returns the whole log.
    pub fn log(&self) -> String {
        fs::read_to_string(self.host.data().join("host.log")).expect("read the host's log")
    }

    /// Returns the address of its Kafka.
    pub fn brokers(&self) -> String {
        self.host.dev_broker().unwrap_or_else(|error| panic!("{error:?}"))
    }

    /// Returns the peak memory of the running process in KiB, if the system reports it.
    pub fn memory_peak_kib(&self) -> Option<u64> {
        self.host.memory_peak_kib()
    }

    /// Kills the host and restarts it on the same folder. Returns how long it took until it served.
    pub fn crash(&self) -> Duration {
        self.host.crash().unwrap_or_else(|error| panic!("{error:?}"))
    }

    /// Kills the host. It stays away until it is revived.
    pub fn kill(&self) {
        self.host.kill().unwrap_or_else(|error| panic!("{error:?}"));
    }

    /// Stops the host in order, unless it has ended, and starts it again on the same folder.
    pub fn restart(&self) {
        self.host.restart().unwrap_or_else(|error| panic!("{error:?}"));
    }

    /// Starts the host again on the same folder if it has ended. Returns the exit code with which it had ended by itself.
    pub fn revive(&self) -> Option<i32> {
        self.host.revive().unwrap_or_else(|error| panic!("{error:?}"))?.code()
    }

    /// Returns the newest lines of its log.
    pub fn log_end(&self) -> String {
        self.host.log_end()
    }

    /// Freezes the process, as a machine that is suspended would.
    pub fn freeze(&self) {
        signal(self.host.place().pid, libc::SIGSTOP);
    }

    /// Sends the signal that has the host apply its manifest.
    pub fn hang_up(&self) {
        signal(self.host.place().pid, libc::SIGHUP);
    }

    /// Lets a frozen process resume.
    pub fn wake(&self) {
        signal(self.host.place().pid, libc::SIGCONT);
    }

    /// Prevents the process from writing files beyond a size, as if the disk were full. `None` removes the limit.
    pub fn file_size_max(&self, bytes: Option<u64>) {
        let pid = self.host.place().pid.try_into().expect("a process id");
        let limit = libc::rlimit { rlim_cur: bytes.unwrap_or(libc::RLIM_INFINITY), rlim_max: libc::RLIM_INFINITY };
        // SAFETY: reads the limit, writes nothing; the process is a child that nobody has waited for yet.
        let done = unsafe { libc::prlimit(pid, libc::RLIMIT_FSIZE, &raw const limit, std::ptr::null_mut()) };
        assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
    }

    /// Waits until the host has ended by itself. Returns its exit code, unless a signal ended it.
    pub fn ended(self) -> Option<i32> {
        self.host.ended().unwrap_or_else(|error| panic!("{error:?}")).code()
    }

    /// Limits the address space of the process to this many bytes more than it has. `None` removes the limit.
    pub fn address_space_max(&self, more: Option<u64>) {
        let pid = self.host.place().pid;
        let pages = fs::read_to_string(format!("/proc/{pid}/statm")).expect("read the process's size");
        let pages: u64 = pages.split(' ').next().and_then(|pages| pages.parse().ok()).expect("a number of pages");
        let limit = more.map_or(libc::RLIM_INFINITY, |more| pages * 4096 + more);
        let limit = libc::rlimit { rlim_cur: limit, rlim_max: libc::RLIM_INFINITY };
        let pid = pid.try_into().expect("a process id");
        // SAFETY: reads the limit, writes nothing; the process is a child that nobody has waited for yet.
        let done = unsafe { libc::prlimit(pid, libc::RLIMIT_AS, &raw const limit, std::ptr::null_mut()) };
        assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
    }

    /// Asks the process to stop in order and does not wait for it.
    pub fn terminate(&self) {
        signal(self.host.place().pid, libc::SIGTERM);
    }

    /// Stops the host in order. It must succeed.
    pub fn stop(self) {
        self.host.stop().unwrap_or_else(|error| panic!("{error:?}"));
    }

    /// Returns the address of its API, for a connection of the test's own.
    pub fn address(&self) -> String {
        let url = self.host.place().url;
        url.trim_start_matches("https://").trim_start_matches("http://").to_owned()
    }

    /// Returns the URL of a path.
    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.host.place().url)
    }
}

/// Makes a named pipe. Opening it blocks until another process opens the other end.
pub fn make_pipe(path: &Path) {
    let path = CString::new(path.as_os_str().as_encoded_bytes()).expect("a path");
    // SAFETY: the path is a text that ends with NUL.
    assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o600) }, 0, "make a pipe");
}

/// Sends a signal to a child that nobody has waited for yet.
pub fn signal(pid: u32, signal: i32) {
    process::signal(pid, signal).unwrap_or_else(|error| panic!("send signal {signal}: {error}"));
}

fn answer(answer: Result<api::Answer, api::Error>, path: &str) -> Answer {
    answer.unwrap_or_else(|error| panic!("no answer to {path}: {error}")).into()
}

impl From<api::Answer> for Answer {
    fn from(answer: api::Answer) -> Self {
        Self { status: answer.status, body: serde_json::from_str(&answer.text).unwrap_or(Value::Null) }
    }
}
