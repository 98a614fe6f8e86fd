//! `wasmill run`: runs the host of a manifest until a signal.

use super::default_manifest::ManifestArg;
use super::descriptors;
use super::failure::{CommandFailure, INTERRUPTED};
use super::host_file::HostFile;
use crate::access::Access;
use crate::api::{self, Listeners};
use crate::clock;
use crate::host::{Host, Startup};
use crate::log;
use crate::manifest::{Manifest, Overrides};
use crate::supervise;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

/// The interval at which the host checks if its file is still there.
const LOOK_EVERY: Duration = Duration::from_secs(2);

#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    manifest: ManifestArg,
    /// The data folder, instead of the manifest's.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// The Kafka brokers, instead of the manifest's: `embedded` or HOST:PORT,…
    #[arg(long, value_name = "BROKERS")]
    brokers: Option<String>,
    /// The address of the API, instead of the manifest's; with port 0 the system chooses a free port.
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
}

impl Args {
    /// Reads the manifest. With `dev` its plugins run the code that `wasmill dev` builds.
    pub(super) fn manifest(self, dev: bool) -> Result<Manifest, CommandFailure> {
        let overrides = Overrides { data: self.data, brokers: self.brokers, listen: self.listen, dev };
        Ok(Manifest::load(self.manifest.path()?)?.with(overrides)?)
    }
}

pub(super) fn run(args: Args, json: bool) -> Result<(), CommandFailure> {
    host(args.manifest(false)?, json, |_| {})
}

/// Runs the host of a manifest until a signal. `started` gets the host once it has started.
pub(super) fn host(manifest: Manifest, json: bool, started: impl FnOnce(Arc<Host>)) -> Result<(), CommandFailure> {
    let limit = log::start(json).map_err(CommandFailure::usage)?;
    supervise::log_panics();
    tracing::info!("{}", summary(&manifest));
    let runtime = tokio::runtime::Runtime::new()
        .map_err(|cause| CommandFailure::failed(format!("can't start threads: {cause}")))?;
    runtime.spawn(limit.clone().report_each_interval());
    let served = runtime.block_on(serve(manifest, started));
    limit.report_rest();
    // After a stop there is nothing to wait for. An interrupted start may leave work behind, which the next start can
    // handle.
    runtime.shutdown_background();
    served
}

/// Says what runs: the manifest, its plugins and the data folder.
fn summary(manifest: &Manifest) -> String {
    let plugins: Vec<&str> = manifest.plugins.keys().map(String::as_str).collect();
    let plugins = match plugins[..] {
        [] => "no plugins".to_owned(),
        [plugin] => format!("plugin {plugin}"),
        _ => format!("plugins {}", plugins.join(", ")),
    };
    format!("running {}: {plugins}; data in {}", manifest.path.display(), manifest.data.display())
}

#[expect(
    clippy::disallowed_methods,
    reason = "after a second signal nobody waits for the stop; durable data is consistent"
)]
async fn end_at_next(mut signals: Signals) {
    signals.next().await;
    std::process::exit(INTERRUPTED.into());
}

async fn serve(mut manifest: Manifest, started: impl FnOnce(Arc<Host>)) -> Result<(), CommandFailure> {
    clock::follow_offset_file();
    let mut signals = Signals::new()?;
    let access = access(&manifest)?;
    let listeners = listen(&mut manifest).await?;
    descriptors::allow(&manifest);
    let (settings, data) = (manifest.api.clone(), manifest.data.clone());
    let host = start(manifest, &listeners, &access, &mut signals).await?;
    started(host.clone());
    let file = HostFile::of(&host, &data, &settings).map_err(|cause| CommandFailure::failed(cause.to_string()))?;
    let (served, deadline) = tokio::select! {
        ended = serve_api(listeners, access, host.clone(), (&file, &data), &mut signals) => ended,
        lost = host.lost_store() => {
            // This is like a crash: the parts could not make durable what they would finish.
            std::mem::forget(host);
            return Err(CommandFailure::taken_over(lost));
        }
    };
    tracing::info!("stopping; a second signal exits at once, and the next start resumes from what is durable");
    tokio::spawn(end_at_next(signals));
    if tokio::time::timeout_at(deadline.into(), host.stop(deadline)).await.is_err() {
        let stop_max = host.stop_max();
        return Err(CommandFailure::failed(format!(
            "the host did not stop within {stop_max:?} (`host.stop_max_ms`) and exits now; the next start resumes from \
             what is durable"
        )));
    }
    // The file is removed last. A program that waits until the file is gone can then use the data folder.
    if let Err(cause) = file.remove(&data) {
        tracing::warn!(%cause, "{} could not be removed", HostFile::path(&data).display());
    }
    tracing::info!("stopped");
    served
}

/// Starts the host. Until it has started, the API answers that it is starting.
async fn start(
    manifest: Manifest,
    listeners: &Listeners,
    access: &Arc<Access>,
    signals: &mut Signals,
) -> Result<Arc<Host>, CommandFailure> {
    let startup = Startup::default();
    let (started, is_started) = oneshot::channel::<()>();
    let listeners =
        Listeners { all: again(&listeners.all)?, probes: listeners.probes.as_ref().map(again).transpose()? };
    let settings = manifest.api.clone();
    let meanwhile = tokio::spawn(api::serve_starting(listeners, settings, access.clone(), startup.clone(), async {
        // A dropped sender also means that the start is over.
        let _ = is_started.await;
    }));
    let host = tokio::select! {
        host = Host::start(manifest, startup) => host.map_err(|cause| CommandFailure::failed(cause.to_string()))?,
        () = signals.next() => return Err(CommandFailure::interrupted()),
    };
    drop(started);
    match meanwhile.await {
        Ok(Ok(())) => {}
        Ok(Err(cause)) => tracing::warn!("the API failed during the start: {cause}"),
        Err(cause) => tracing::warn!("the API failed during the start: {cause}"),
    }
    Ok(host)
}

/// Makes another handle of the same listener. Connections that arrive after one handle is dropped wait for the other.
fn again(listener: &TcpListener) -> Result<TcpListener, CommandFailure> {
    let again = || {
        let fd = std::os::fd::AsFd::as_fd(listener).try_clone_to_owned()?;
        TcpListener::from_std(fd.into())
    };
    again().map_err(|cause: std::io::Error| CommandFailure::failed(format!("cannot listen while starting: {cause}")))
}

/// Reads the tokens and certificates before anything is started.
fn access(manifest: &Manifest) -> Result<Arc<Access>, CommandFailure> {
    let opened = Access::open(&manifest.api);
    let failed =
        |errors: Vec<String>| CommandFailure::failed(format!("{}: {}", manifest.path.display(), errors.join("\n")));
    let access = opened.map_err(failed)?;
    if !manifest.api.listen.ip().is_loopback() && manifest.api.tls.is_none() {
        tracing::warn!(
            "the API is served without TLS on {}, which other machines reach (`api.allow_plain`): tokens and data can be read on the \
             way unless a proxy in front of it ends TLS",
            manifest.api.listen
        );
    }
    Ok(Arc::new(access))
}

/// Binds the addresses before anything is started, and writes the actual ports into the manifest.
async fn listen(manifest: &mut Manifest) -> Result<Listeners, CommandFailure> {
    let all = bind(&mut manifest.api.listen, "name another address with --listen").await?;
    let probes = match &mut manifest.api.probes_listen {
        Some(address) => Some(bind(address, "name another address in `api.probes_listen`").await?),
        None => None,
    };
    Ok(Listeners { all, probes })
}

async fn bind(address: &mut SocketAddr, remedy: &str) -> Result<TcpListener, CommandFailure> {
    let wanted = *address;
    let bound = async {
        let listener = TcpListener::bind(wanted).await?;
        *address = listener.local_addr()?;
        Ok(listener)
    };
    bound.await.map_err(|cause: std::io::Error| {
        CommandFailure::failed(format!("cannot listen on {wanted}: {cause}; stop what listens there, or {remedy}"))
    })
}

/// Serves the API until a signal, then lets the running requests finish. Returns the deadline for the stop of the host.
async fn serve_api(
    listeners: Listeners,
    access: Arc<Access>,
    host: Arc<Host>,
    (file, data): (&HostFile, &Path),
    signals: &mut Signals,
) -> (Result<(), CommandFailure>, Instant) {
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = api::serve(listeners, access, host.clone(), async {
        // A dropped sender also means that the API must stop.
        let _ = stopped.await;
    });
    let mut serving = std::pin::pin!(serving);
    if let Err(failure) = file.write(data).map_err(|cause| CommandFailure::failed(cause.to_string())) {
        return (Err(failure), Instant::now() + host.stop_max());
    }
    tracing::info!("serving on {}", file.url);
    if let Some(probes) = host.manifest().api.probes_listen {
        tracing::info!("serving probes and metrics on http://{probes}");
    }
    let mut deadline = None;
    let served = tokio::select! {
        served = &mut serving => served,
        never = keep_written(file, data) => match never {},
        () = signals.until_stop(&host) => {
            deadline = Some(Instant::now() + host.stop_max());
            drop(stop);
            host.interrupt();
            serving.await
        }
    };
    let served = served.map_err(|cause| CommandFailure::failed(format!("the API failed: {cause}")));
    (served, deadline.unwrap_or_else(|| Instant::now() + host.stop_max()))
}

/// Writes the host's file again if somebody has removed or changed it, because commands find the host through it.
async fn keep_written(file: &HostFile, data: &Path) -> Infallible {
    let mut is_told = false;
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        match HostFile::read(data) {
            Ok(found) if found == *file => continue,
            // The file may be there: this process has too many open files to read it.
            Err(cause) if matches!(cause.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) => continue,
            _ => {}
        }
        let path = HostFile::path(data);
        match file.write(data) {
            Ok(()) => {
                is_told = false;
                tracing::warn!("{} was removed or changed, and was written again", path.display());
            }
            Err(_) if is_told => {}
            Err(cause) => {
                is_told = true;
                tracing::error!(
                    "{} was removed or changed: {cause}; until it is written again, commands need `--url {}`",
                    path.display(),
                    file.url
                );
            }
        }
    }
}

/// The signals SIGINT and SIGTERM, which stop the host in order, and SIGHUP, which has it apply its manifest. If SIGHUP says that
/// the terminal of the host is gone, it stops the host as well.
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
    has_terminal: bool,
}

impl Signals {
    pub(super) fn new() -> Result<Self, CommandFailure> {
        let listen =
            |kind| signal(kind).map_err(|cause| CommandFailure::failed(format!("cannot wait for signals: {cause}")));
        // With a handler for it, a limit on the size of files becomes the error of a write, like a full disk. Otherwise
        // the signal would end the process.
        let _ = listen(SignalKind::from_raw(libc::SIGXFSZ))?;
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hang_up: listen(SignalKind::hangup())?,
            has_terminal: has_terminal(),
        })
    }

    /// Waits for a signal that stops the host. Nobody applies the manifest yet.
    pub(super) async fn next(&mut self) {
        while !self.next_stops().await {}
    }

    /// Waits for a signal that stops the host, and applies the manifest at each signal to do so.
    async fn until_stop(&mut self, host: &Arc<Host>) {
        while !self.next_stops().await {
            let host = host.clone();
            // It logs what it does, or why it does not. A stop does not wait for it here.
            tokio::spawn(async move { drop(host.reload_manifest(false).await) });
        }
    }

    /// Waits for a signal. Returns whether it stops the host.
    async fn next_stops(&mut self) -> bool {
        tokio::select! {
            _ = self.interrupt.recv() => true,
            _ = self.terminate.recv() => true,
            _ = self.hang_up.recv() => self.has_lost_terminal(),
        }
    }

    fn has_lost_terminal(&self) -> bool {
        self.has_terminal && !has_terminal()
    }
}

/// Whether the process has a terminal that controls it. A terminal that hangs up controls nobody any more.
fn has_terminal() -> bool {
    std::fs::File::open("/dev/tty").is_ok()
}
