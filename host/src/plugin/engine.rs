//! The WebAssembly engine: the layout of guests' memories, and the compiler with its cache of compiled code.

use super::Error;
use super::cache::Cache;
use super::clock::{Clock, Time};
use super::guest_text;
use super::meter::PluginMeter;
use super::upcasting::Recorders;
use crate::clock::machine_time;
use crate::supervise::Held as _;
use base16ct::lower;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Instant;
use wasmtime::component::Component;
use wasmtime::{Config, Engine, Memory, MemoryType, Store};

/// The address space that a guest's memory reserves if there is enough, so that compiled code needs no bounds checks:
/// the memory and its guard region, as in wasmtime's defaults.
const ROOMY_BYTES: u64 = (4 << 30) + GUARD_BYTES;
const GUARD_BYTES: u64 = 32 << 20;

/// The size of the guard region when the address space is small.
const NARROW_GUARD_BYTES: u64 = 64 << 10;

/// The size of a component whose compilation is shown in the log, in bytes. It contains the runtime of a language.
const LARGE_BYTES: usize = 2 << 20;

/// The compiler of plugins, with a cache of compiled code on disk.
pub struct Compiler {
    engine: Engine,
    cache: Option<Cache>,
    time: Arc<Time>,
    recorders: Arc<Recorders>,
    /// What the guests of each plugin do.
    meters: Mutex<BTreeMap<String, Arc<PluginMeter>>>,
    /// The clock, which stops when the compiler is dropped.
    _clock: Arc<Clock>,
}

/// How much address space the guests of a host need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Demand {
    /// The number of guests that may exist at the same time.
    pub guests: usize,
    /// The largest memory that one of them may have, in bytes.
    pub memory_bytes_max: usize,
}

impl Demand {
    /// Returns the bytes of address space that the guests reserve if there is enough.
    pub fn address_bytes(&self) -> u64 {
        ROOMY_BYTES.saturating_mul(self.guests as u64)
    }

    /// Describes the address space that the guests need, and the setting that limits it.
    pub fn in_words(&self) -> String {
        format!(
            "{} GiB of address space for {} guests (`ulimit -v`; none of it is memory until it is used)",
            self.address_bytes().div_ceil(1 << 30),
            self.guests
        )
    }
}

impl Default for Demand {
    /// Returns the demand of one guest of any size.
    fn default() -> Self {
        Self { guests: 1, memory_bytes_max: 4 << 30 }
    }
}

impl Compiler {
    /// Creates a compiler that keeps compiled code in the folder `cache`, if there is one. The folder must belong to
    /// the operator, because the code in it is run. If the address space is too small for the demand, memories reserve
    /// no more than they may grow to, and the log has a warning.
    pub fn new(cache: Option<&Path>, demand: Demand) -> Result<Self, Error> {
        let failed =
            |error: &dyn std::fmt::Display| Error::Host(format!("can't prepare the WebAssembly engine: {error}"));
        let cache = cache.map(Cache::open).transpose().map_err(|error| failed(&error))?;
        let engine = engine_for(demand).map_err(|error| failed(&error))?;
        let time = Arc::new(Time::default());
        let clock = Arc::new(Clock::start(&engine, time.clone()).map_err(|error| failed(&error))?);
        Ok(Self { engine, cache, time, recorders: Arc::default(), meters: Mutex::default(), _clock: clock })
    }

    pub(super) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Returns the time that bounds the calls of this engine's guests.
    pub(super) fn time(&self) -> &Arc<Time> {
        &self.time
    }

    /// Returns the meter of a plugin.
    pub(super) fn meter(&self, plugin: &str) -> Arc<PluginMeter> {
        self.meters.held().entry(plugin.to_owned()).or_default().clone()
    }

    /// Returns the code that records the events of each type.
    pub(super) fn recorders(&self) -> &Arc<Recorders> {
        &self.recorders
    }

    /// Interrupts long calls, now and from now on, because the host is stopping.
    pub fn interrupt(&self) {
        self.time.stop();
    }

    /// Removes compiled code that nothing uses. Only the host that owns the data folder may call this, after its
    /// plugins are loaded.
    pub fn clean(&self) {
        if let Some(cache) = &self.cache {
            cache.clean(machine_time());
        }
    }

    /// Returns the component of a file's bytes: from the cache, or compiled now. A core module is first turned into a
    /// component.
    pub(super) fn compile(&self, label: &str, bytes: &[u8], digest: &str) -> Result<Component, Error> {
        let Some(cache) = &self.cache else { return self.compile_now(label, bytes) };
        let mut version = std::hash::DefaultHasher::new();
        self.engine.precompile_compatibility_hash().hash(&mut version);
        let name = format!("{digest}-{:016x}", version.finish());
        if let Some(code) = cache.get(&name, label) {
            // SAFETY: the folder belongs to the operator, and the content has the digest that a host wrote with the
            // output of this engine.
            match unsafe { Component::deserialize(&self.engine, &code) } {
                Ok(component) => return Ok(component),
                Err(error) => {
                    tracing::warn!("plugin {label} is compiled again: its cached code can't be loaded: {error}")
                }
            }
        }
        let compiled = self.compile_now(label, bytes)?;
        let kept = compiled.serialize().map_err(|error| format!("{error:#}"));
        let kept = kept.and_then(|code| cache.put(&name, &code).map_err(|error| error.to_string()));
        if let Err(error) = kept {
            tracing::warn!("the compiled code of plugin {label} is not kept, so the next start compiles it: {error}");
        }
        Ok(compiled)
    }

    fn compile_now(&self, label: &str, bytes: &[u8]) -> Result<Component, Error> {
        let component = componentize(label, bytes)?;
        let (is_large, begun) = (component.len() >= LARGE_BYTES, Instant::now());
        if is_large {
            tracing::info!(
                "plugin {label} is being compiled, which takes a while: it has {} MiB",
                component.len().div_ceil(1 << 20)
            );
        }
        let compiled = Component::new(&self.engine, &component).map_err(|error| {
            let cause = guest_text::of_library(&format_args!("{error:#}"));
            Error::Plugin(format!(
                "plugin {label} does not compile: {cause}; build it again, with current tools of its language"
            ))
        })?;
        if is_large {
            tracing::info!("plugin {label} is compiled, after {:.1} s", begun.elapsed().as_secs_f64());
        }
        Ok(compiled)
    }
}

/// Creates an engine that fits the address space.
fn engine_for(demand: Demand) -> wasmtime::Result<Engine> {
    let roomy = Engine::new(&config())?;
    let Err(cause) = reserve(&roomy, demand.guests) else { return Ok(roomy) };
    tracing::warn!(
        "the address space is too small for {} ({cause}): guests check the bounds of their memory, which takes time; raise \
         `ulimit -v`, or lower `shards` or the number of plugins",
        demand.in_words()
    );
    let mut narrow = config();
    narrow
        .memory_reservation(demand.memory_bytes_max as u64)
        .memory_guard_size(NARROW_GUARD_BYTES)
        .memory_reservation_for_growth(0)
        .guard_before_linear_memory(false);
    Engine::new(&narrow)
}

fn config() -> Config {
    let mut config = Config::new();
    config
        .wasm_component_model(true)
        // Guests are called from one thread at a time. Bookkeeping for concurrent tasks would more than double the cost
        // of a call.
        .concurrency_support(false)
        .epoch_interruption(true)
        .max_wasm_stack(1 << 20);
    config
}

/// Tests whether the address space suffices: creates a memory for each guest, all at the same time, and frees them.
fn reserve(engine: &Engine, guests: usize) -> wasmtime::Result<()> {
    let smallest = MemoryType::new(0, None);
    let mut held = Vec::new();
    for _ in 0..guests {
        let mut store = Store::new(engine, ());
        Memory::new(&mut store, smallest.clone())?;
        held.push(store);
    }
    Ok(())
}

/// Returns the digest that identifies a plugin's code.
pub(super) fn digest(bytes: &[u8]) -> String {
    lower::encode_string(&Sha256::digest(bytes))
}

fn componentize(label: &str, bytes: &[u8]) -> Result<Vec<u8>, Error> {
    if wasmparser::Parser::is_component(bytes) {
        return Ok(bytes.to_owned());
    }
    wit_component::ComponentEncoder::default()
        .module(bytes)
        .and_then(|encoder| encoder.validate(true).encode())
        .map_err(|error| {
            Error::Plugin(format!(
                "plugin {label} can't be turned into a component: {}; export a role with the SDK's export macros",
                guest_text::of_library(&format_args!("{error:#}"))
            ))
        })
}
