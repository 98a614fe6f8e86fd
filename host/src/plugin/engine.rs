//! The engine, its clock and its cache of compiled code.

use super::Error;
use sha2::{Digest, Sha256};
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use wasmtime::component::Component;
use wasmtime::{Config, Engine};

/// How often the engine's clock ticks. A time limit is as exact as this.
const TICK: Duration = Duration::from_millis(5);

/// Compiles plugins and keeps the results on disk.
pub struct Compiler {
    engine: Engine,
    cache: Option<PathBuf>,
    /// Stops the clock when the last user of the engine is gone.
    _clock: Arc<Clock>,
}

impl Compiler {
    /// An engine whose compiled code lies in the folder `cache`, or is not kept. The folder must belong to the
    /// operator: what lies in it is run.
    pub fn new(cache: Option<&Path>) -> Result<Self, Error> {
        let failed =
            |error: &dyn std::fmt::Display| Error::Host(format!("can't prepare the WebAssembly engine: {error}"));
        cache.map_or(Ok(()), std::fs::create_dir_all).map_err(|error| failed(&error))?;
        let mut config = Config::new();
        config
            .wasm_component_model(true)
            // Guests are called from one thread at a time: bookkeeping for concurrent tasks would more than double a call.
            .concurrency_support(false)
            .epoch_interruption(true)
            .max_wasm_stack(1 << 20);
        let engine = Engine::new(&config).map_err(|error| failed(&error))?;
        let clock = Arc::new(Clock::start(&engine).map_err(|error| failed(&error))?);
        Ok(Self { engine, cache: cache.map(Path::to_owned), _clock: clock })
    }

    pub(super) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The component behind a file's bytes: from the cache, or compiled now. Core modules are made components first.
    pub(super) fn compile(&self, label: &str, bytes: &[u8], digest: &str) -> Result<Component, Error> {
        let Some(cache) = &self.cache else { return self.compile_now(label, bytes) };
        let mut version = std::hash::DefaultHasher::new();
        self.engine.precompile_compatibility_hash().hash(&mut version);
        let cached = cache.join(format!("{digest}-{:016x}.cwasm", version.finish()));
        if cached.is_file() {
            // SAFETY: the folder is the operator's, and the host alone writes such files into it, whole or not at all.
            match unsafe { Component::deserialize_file(&self.engine, &cached) } {
                Ok(component) => return Ok(component),
                Err(error) => tracing::warn!("compiling plugin {label} again, {}: {error}", cached.display()),
            }
        }
        let compiled = self.compile_now(label, bytes)?;
        if let Err(error) = store(&cached, &compiled) {
            tracing::warn!("the compiled code of plugin {label} is not kept, {}: {error:#}", cached.display());
        }
        Ok(compiled)
    }

    fn compile_now(&self, label: &str, bytes: &[u8]) -> Result<Component, Error> {
        let component = componentize(label, bytes)?;
        Component::new(&self.engine, &component)
            .map_err(|error| Error::Plugin(format!("plugin {label} does not compile: {error:#}")))
    }
}

/// The digest that names a plugin's code.
pub(super) fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
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
                "plugin {label} can't be made a component: {error:#}; export a role with the SDK's export macros"
            ))
        })
}

/// Writes the whole file or nothing.
fn store(path: &Path, component: &Component) -> anyhow::Result<()> {
    let bytes = component.serialize().map_err(|error| anyhow::anyhow!("{error:#}"))?;
    let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
    std::fs::write(&temporary, bytes)?;
    std::fs::rename(&temporary, path)?;
    Ok(())
}

/// Moves the engine's epoch on, so that calls past their deadline are interrupted.
struct Clock {
    stop: Option<std::sync::mpsc::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Clock {
    fn start(engine: &Engine) -> std::io::Result<Self> {
        let engine = engine.weak();
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::Builder::new().name("epoch-clock".into()).spawn(move || {
            while let Err(std::sync::mpsc::RecvTimeoutError::Timeout) = stopped.recv_timeout(TICK) {
                match engine.upgrade() {
                    Some(engine) => engine.increment_epoch(),
                    None => return,
                }
            }
        })?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A time limit in the engine's ticks, rounded up.
pub(super) fn ticks(limit: Duration) -> u64 {
    (limit.as_nanos().div_ceil(TICK.as_nanos()) as u64).saturating_add(1)
}
