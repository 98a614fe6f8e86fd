//! WASI 0.2 for plugins that import it, as far as code that runs again must give the same result.
//!
//! A guest has no files, no sockets, no environment and no input. What it writes to standard output and error goes to the log.
//! Clocks and randomness belong to the item that the guest handles: a command, an event, a delivery. They depend on its id and
//! time alone, so the same item finds them the same when it is handled or applied again. Calls that have no item, such as the
//! start of an instance, `restore` and `snapshot`, see constants.

use super::guest_log::GuestLog;
use super::guest_text;
use crate::supervise::Held as _;
use rand::TryRng;
use sha2::{Digest, Sha256};
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tracing::Level;
use wasmtime::component::{HasSelf, Linker, Resource, ResourceTable};
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::bindings::clocks::monotonic_clock;
use wasmtime_wasi::p2::{DynPollable, OutputStream, Pollable, StreamResult, subscribe};
use wasmtime_wasi::{HostWallClock, WasiCtx, WasiCtxView, WasiView, async_trait};

/// The packages of WASI that a plugin may import.
const GRANTED: [&str; 6] =
    ["wasi:cli/", "wasi:clocks/", "wasi:filesystem/", "wasi:io/", "wasi:random/", "wasi:sockets/"];

/// The packages whose functions depend on the item.
const OF_ITEM: [&str; 2] = ["wasi:clocks/", "wasi:random/"];

/// The handles to streams and other resources that a guest may have at the same time.
pub(super) const HANDLES_MAX: usize = 10_000;

/// The bytes of randomness that a guest may ask for at once.
pub(super) const RANDOM_BYTES_MAX: u64 = 1 << 20;

/// The longest part of a line that waits for its end, in bytes.
const LINE_BYTES_MAX: usize = 8 << 10;

/// Which parts of WASI a component imports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Imported {
    /// Whether it imports any.
    pub(super) any: bool,
    /// Whether it imports clocks or randomness.
    pub(super) of_item: bool,
}

/// Whether a plugin may import this of WASI.
pub(super) fn is_granted(import: &str) -> bool {
    let is_of_version = import.split_once('@').is_some_and(|(_, version)| version.starts_with("0.2."));
    is_of_version && is_of_granted_package(import)
}

/// Whether a plugin may import this of WASI in another version.
pub(super) fn is_of_other_version(import: &str) -> bool {
    is_of_granted_package(import) && !is_granted(import)
}

fn is_of_granted_package(import: &str) -> bool {
    GRANTED.iter().any(|package| import.starts_with(package))
}

impl Imported {
    /// Notes an import.
    pub(super) fn add(&mut self, import: &str) {
        self.any |= is_granted(import);
        self.of_item |= OF_ITEM.iter().any(|package| import.starts_with(package));
    }
}

/// WASI of one wasm store.
pub(super) struct Wasi {
    ctx: WasiCtx,
    table: ResourceTable,
    moment: Arc<Mutex<Moment>>,
    errors: Arc<Mutex<LineBuffer>>,
    /// Whether the guest holds so many handles that the next call may find no room for another one.
    is_worn: bool,
}

/// The time and the randomness of an item.
struct Moment {
    /// Since 1970-01-01T00:00:00Z.
    time: Duration,
    /// The time that the guest has slept in the call, which takes none.
    slept: Duration,
    random: Stream,
    insecure: Stream,
}

impl Moment {
    fn new(time_ms: u64, id: &str) -> Self {
        Self {
            time: Duration::from_millis(time_ms),
            slept: Duration::ZERO,
            random: Stream::new(b"random", id),
            insecure: Stream::new(b"insecure", id),
        }
    }
}

/// Bytes that look random: the SHA-256 of a name, an id and the number of the block.
struct Stream {
    seed: Sha256,
    block: u64,
    bytes: [u8; 32],
    taken: usize,
}

impl Stream {
    fn new(name: &[u8], id: &str) -> Self {
        let seed = Sha256::new_with_prefix(name).chain_update([0]).chain_update(id).chain_update([0]);
        Self { seed, block: 0, bytes: [0; 32], taken: 32 }
    }

    fn fill(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            if self.taken == self.bytes.len() {
                self.bytes = self.seed.clone().chain_update(self.block.to_le_bytes()).finalize().into();
                (self.block, self.taken) = (self.block + 1, 0);
            }
            *byte = self.bytes[self.taken];
            self.taken += 1;
        }
    }
}

impl Wasi {
    /// Makes WASI for a guest, whose output goes to the log.
    pub(super) fn new(log: &GuestLog) -> Self {
        let moment = Arc::new(Mutex::new(Moment::new(0, "")));
        let output = |level, module| {
            Arc::new(Mutex::new(LineBuffer { log: log.clone(), level, module, begun: Vec::new(), said: None }))
        };
        let errors = output(Level::WARN, "stderr");
        let random = |of: fn(&mut Moment) -> &mut Stream| Random { moment: moment.clone(), of };
        let ctx = WasiCtx::builder()
            .stdout(Output(output(Level::INFO, "stdout")))
            .stderr(Output(errors.clone()))
            .allow_tcp(false)
            .allow_udp(false)
            .allow_ip_name_lookup(false)
            .secure_random(random(|moment| &mut moment.random))
            .insecure_random(random(|moment| &mut moment.insecure))
            .insecure_random_seed(0)
            .max_random_size(RANDOM_BYTES_MAX)
            .wall_clock(WallClock(moment.clone()))
            .build();
        let mut table = ResourceTable::new();
        table.set_max_capacity(HANDLES_MAX);
        Self { ctx, table, moment, errors, is_worn: false }
    }

    /// Sets the item of the next call: its time, in milliseconds since 1970-01-01T00:00:00Z, and its id.
    pub(super) fn set_item(&mut self, time_ms: u64, id: &str) {
        *self.moment.held() = Moment::new(time_ms, id);
    }

    /// Says that the next call has no item.
    pub(super) fn set_no_item(&mut self) {
        self.set_item(0, "");
    }

    /// Begins a call, to which no earlier line of standard error belongs.
    pub(super) fn begin_call(&mut self) {
        self.errors.held().said = None;
    }

    /// Ends a call, after which the guest may hold more handles than before it.
    pub(super) fn end_call(&mut self) {
        // The table does not tell how many there are. Few guests have more than a dozen, so counting takes next to no time.
        self.is_worn = self.table.iter_mut().count() >= HANDLES_MAX / 2;
    }

    /// Whether the guest holds so many handles that it should be recreated. It is half of them, so that a guest that leaks the
    /// same number in each call never reaches the limit.
    pub(super) fn is_worn(&self) -> bool {
        self.is_worn
    }

    /// Takes what the guest wrote to standard error since the call began: its first line, and its last one if there are several.
    /// The first one often says what went wrong, and the last ones how the runtime of a language ended because of it.
    pub(super) fn take_said(&mut self) -> Option<String> {
        let mut errors = self.errors.held();
        errors.end_line();
        let Said { first, last } = errors.said.take()?;
        Some(last.map_or_else(|| first.clone(), |last| format!("{first} … {last}")))
    }
}

/// Grants WASI to a component.
pub(super) fn add_to_linker<T: WasiView + AsWasi + 'static>(linker: &mut Linker<T>) -> wasmtime::Result<()> {
    wasmtime_wasi::p2::add_to_linker_sync(linker)?;
    // The clock of wasmtime-wasi lets a guest sleep in the host, where nothing interrupts it.
    linker.allow_shadowing(true);
    monotonic_clock::add_to_linker::<T, HasSelf<Wasi>>(linker, AsWasi::wasi)?;
    linker.allow_shadowing(false);
    Ok(())
}

/// What has WASI.
pub(super) trait AsWasi {
    /// Returns it. Only guests that import it ask for it.
    fn wasi(&mut self) -> &mut Wasi;
}

impl Wasi {
    pub(super) fn view(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.ctx, table: &mut self.table }
    }
}

struct WallClock(Arc<Mutex<Moment>>);

impl HostWallClock for WallClock {
    fn resolution(&self) -> Duration {
        Duration::from_millis(1)
    }

    fn now(&self) -> Duration {
        let moment = self.0.held();
        moment.time.saturating_add(moment.slept)
    }
}

/// The running time is the time of the item. Sleeping takes no time, and the clocks stand at the end of the longest sleep.
impl monotonic_clock::Host for Wasi {
    fn now(&mut self) -> wasmtime::Result<u64> {
        let moment = self.moment.held();
        Ok(nanoseconds(moment.time.saturating_add(moment.slept)))
    }

    fn resolution(&mut self) -> wasmtime::Result<u64> {
        Ok(nanoseconds(Duration::from_millis(1)))
    }

    fn subscribe_instant(&mut self, when: u64) -> wasmtime::Result<Resource<DynPollable>> {
        let timer = self.table.push(Timer { moment: self.moment.clone(), until: Duration::from_nanos(when) })?;
        subscribe(&mut self.table, timer)
    }

    fn subscribe_duration(&mut self, duration: u64) -> wasmtime::Result<Resource<DynPollable>> {
        let now = monotonic_clock::Host::now(self)?;
        self.subscribe_instant(now.saturating_add(duration))
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// A sleep, which ends at once.
struct Timer {
    moment: Arc<Mutex<Moment>>,
    /// Since 1970-01-01T00:00:00Z, as the clock shows it.
    until: Duration,
}

#[async_trait]
impl Pollable for Timer {
    async fn ready(&mut self) {
        let mut moment = self.moment.held();
        moment.slept = moment.slept.max(self.until.saturating_sub(moment.time));
    }
}

struct Random {
    moment: Arc<Mutex<Moment>>,
    of: fn(&mut Moment) -> &mut Stream,
}

impl TryRng for Random {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut bytes = [0; 4];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        (self.of)(&mut self.moment.held()).fill(bytes);
        Ok(())
    }
}

/// Standard output or error of a guest.
struct Output(Arc<Mutex<LineBuffer>>);

/// The line that a guest has begun.
struct LineBuffer {
    log: GuestLog,
    level: Level,
    module: &'static str,
    begun: Vec<u8>,
    /// What the guest has written in this call.
    said: Option<Said>,
}

/// The lines with text in them that an error shows.
struct Said {
    first: String,
    /// The last line, if there are several.
    last: Option<String>,
}

impl LineBuffer {
    fn write(&mut self, bytes: &[u8]) {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.begun.extend_from_slice(part.strip_suffix(b"\n").unwrap_or(part));
            if part.ends_with(b"\n") || self.begun.len() >= LINE_BYTES_MAX {
                self.end_line();
            }
        }
    }

    fn end_line(&mut self) {
        let line = std::mem::take(&mut self.begun);
        let line = String::from_utf8_lossy(&line);
        let line = line.trim_end();
        if !line.is_empty() {
            self.log.write(self.level, self.module, line);
            let line = guest_text::line(line);
            match &mut self.said {
                Some(said) => said.last = Some(line),
                None => self.said = Some(Said { first: line, last: None }),
            }
        }
    }
}

impl Drop for LineBuffer {
    fn drop(&mut self) {
        self.end_line();
    }
}

impl IsTerminal for Output {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Output {
    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(Output(self.0.clone()))
    }

    fn async_stream(&self) -> Box<dyn tokio::io::AsyncWrite + Send + Sync> {
        Box::new(tokio::io::sink())
    }
}

#[async_trait]
impl Pollable for Output {
    async fn ready(&mut self) {}
}

impl OutputStream for Output {
    fn write(&mut self, bytes: bytes::Bytes) -> StreamResult<()> {
        self.0.held().write(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(LINE_BYTES_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wasi() -> Wasi {
        Wasi::new(&GuestLog::new("p".into()))
    }

    fn random(wasi: &Wasi, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        wasi.moment.held().random.fill(&mut bytes);
        bytes
    }

    #[test]
    fn randomness_depends_on_the_item_alone() {
        let (mut one, mut other) = (wasi(), wasi());
        one.set_item(5, "a");
        other.set_item(9, "b");
        let of_b = random(&other, 100);
        assert_ne!(random(&one, 100), of_b);
        assert_ne!(random(&one, 100), random(&one, 100), "it goes on");
        one.set_item(9, "b");
        assert_eq!([random(&one, 33), random(&one, 67)].concat(), of_b, "in parts as at once");
        let insecure = &mut [0; 100];
        other.moment.held().insecure.fill(insecure);
        assert_ne!(insecure.as_slice(), of_b);
    }

    /// The stream must be the same in each version of the host.
    #[test]
    fn randomness_is_what_it_always_was() {
        let mut wasi = wasi();
        wasi.set_item(0, "018f");
        let expected = Sha256::digest(b"random\x00018f\0\0\0\0\0\0\0\0\0");
        assert_eq!(random(&wasi, 32), expected.as_slice());
    }

    #[test]
    fn clocks_show_the_time_of_the_item_and_sleep_moves_them_at_once() {
        let mut wasi = wasi();
        wasi.set_item(1_500, "a");
        let clock = WallClock(wasi.moment.clone());
        assert_eq!((clock.now(), clock.now()), (Duration::from_millis(1_500), Duration::from_millis(1_500)));
        assert_eq!(monotonic_clock::Host::now(&mut wasi).unwrap(), 1_500_000_000);
        let mut timer = Timer { moment: wasi.moment.clone(), until: Duration::from_millis(3_601_500) };
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(timer.ready());
        runtime.block_on(timer.ready());
        assert_eq!(clock.now(), Duration::from_millis(3_601_500));
        wasi.set_no_item();
        assert_eq!(clock.now(), Duration::ZERO);
    }

    #[test]
    fn output_becomes_lines() {
        let mut wasi = wasi();
        let write = |wasi: &Wasi, bytes: &[u8]| wasi.errors.held().write(bytes);
        write(&wasi, b"one\n\ntw");
        assert_eq!(wasi.errors.held().said.as_ref().map(|said| said.first.as_str()), Some("one"));
        write(&wasi, b"o\xff\r\nthree");
        assert_eq!(wasi.take_said().as_deref(), Some("one … three"));
        assert_eq!(wasi.take_said(), None);
        write(&wasi, &vec![b'x'; 3 * LINE_BYTES_MAX]);
        assert!(wasi.errors.held().begun.len() < LINE_BYTES_MAX);
        wasi.begin_call();
        assert_eq!(wasi.take_said(), None, "that was in another call");
        write(&wasi, b"t\xffo\r\n");
        assert_eq!(wasi.take_said().as_deref(), Some("t\u{fffd}o"));
    }

    /// What the runtime of JavaScript writes when a module throws while it starts.
    #[test]
    fn the_cause_and_the_end_of_what_a_guest_wrote_are_said() {
        let mut wasi = wasi();
        wasi.errors.held().write(b"an earlier call\n");
        wasi.begin_call();
        wasi.errors.held().write(
            b"Exception while evaluating top-level script\nError: no such setting\nStack:\n  f@index.js:1\n\
              Redirecting call to abort() to mozalloc_abort\n",
        );
        assert_eq!(
            wasi.take_said().as_deref(),
            Some("Exception while evaluating top-level script … Redirecting call to abort() to mozalloc_abort")
        );
    }

    #[test]
    fn a_guest_that_leaks_handles_is_worn_before_there_is_no_room_for_another() {
        for leaked in [1, 3, 1_000, 3_333, 5_000] {
            let mut wasi = wasi();
            for _ in 0..2 * HANDLES_MAX / leaked {
                let dropped = wasi.table.push("dropped").unwrap();
                for _ in 0..leaked {
                    wasi.table.push("leaked").unwrap_or_else(|error| panic!("{leaked} in each call: {error}"));
                }
                wasi.table.delete(dropped).unwrap();
                wasi.end_call();
                if wasi.is_worn() {
                    wasi.table = Wasi::new(&GuestLog::new("p".into())).table;
                }
            }
        }
        let mut wasi = wasi();
        for _ in 0..3 * HANDLES_MAX {
            let dropped = wasi.table.push("dropped").unwrap();
            wasi.table.delete(dropped).unwrap();
            wasi.end_call();
            assert!(!wasi.is_worn(), "it leaks nothing");
        }
    }
}
