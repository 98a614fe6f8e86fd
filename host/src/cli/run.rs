//! `wasmill run`: a host, from its manifest until a signal.

use super::descriptors;
use super::failure::{Failure, INTERRUPTED};
use super::host_file::HostFile;
use crate::api;
use crate::clock;
use crate::host::{Host, Startup};
use crate::log;
use crate::manifest::{Manifest, Overrides};
use crate::supervise;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

/// How often the host looks whether its file is still there.
const LOOK_EVERY: Duration = Duration::from_secs(2);

#[derive(clap::Args)]
pub(super) struct Args {
    /// The manifest, such as wasmill.toml.
    manifest: PathBuf,
    /// The data folder, in place of the manifest's.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// The Kafka brokers, in place of the manifest's: `embedded` or HOST:PORT,…
    #[arg(long, value_name = "BROKERS")]
    brokers: Option<String>,
    /// Where the API listens, in place of the manifest's address; port 0 takes a free one.
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
}

pub(super) fn run(args: Args, json: bool) -> Result<(), Failure> {
    let overrides = Overrides { data: args.data, brokers: args.brokers, listen: args.listen };
    let manifest = Manifest::load(&args.manifest)?.with(overrides)?;
    let limit = log::start(json).map_err(Failure::usage)?;
    supervise::log_panics();
    let runtime = tokio::runtime::Runtime::new().map_err(|cause| Failure::failed(format!("no threads: {cause}")))?;
    runtime.spawn(limit.clone().report_each_interval());
    let served = runtime.block_on(serve(manifest));
    limit.report_rest();
    // After a stop nothing is left to wait for; after an interrupted start there may be, and the next one copes.
    runtime.shutdown_background();
    served
}

#[expect(clippy::disallowed_methods, reason = "who signals twice does not wait for the stop; what is durable is whole")]
async fn end_at_next(mut signals: Signals) {
    signals.next().await;
    std::process::exit(INTERRUPTED.into());
}

async fn serve(mut manifest: Manifest) -> Result<(), Failure> {
    clock::follow_offset_file();
    let mut signals = Signals::new()?;
    let listener = listen(&mut manifest).await?;
    descriptors::allow(&manifest);
    let (settings, data, stop_max) = (manifest.api.clone(), manifest.data.clone(), manifest.host.stop_max());
    let host = start(manifest, &listener, &mut signals).await?;
    let file = HostFile::of(&host, &data, &settings).map_err(|cause| Failure::failed(cause.to_string()))?;
    let (served, deadline) = tokio::select! {
        ended = serve_api(listener, settings, host.clone(), (&file, &data), stop_max, &mut signals) => ended,
        lost = host.lost_store() => {
            // As after a crash: whatever the parts would finish could not be kept.
            std::mem::forget(host);
            return Err(Failure::taken_over(lost));
        }
    };
    tracing::info!("stopping; a second signal ends at once, and the next start goes on from there");
    tokio::spawn(end_at_next(signals));
    if tokio::time::timeout_at(deadline.into(), host.stop(deadline)).await.is_err() {
        return Err(Failure::failed(format!(
            "did not stop within {stop_max:?} (`host.stop_max_ms`), and ends now; the next start goes on from what is durable"
        )));
    }
    // Last: who waits for the file to go finds the data folder free.
    if let Err(cause) = file.remove(&data) {
        tracing::warn!(%cause, "{} stays behind", HostFile::path(&data).display());
    }
    tracing::info!("stopped");
    served
}

/// Starts the host, and meanwhile answers that it is starting.
async fn start(manifest: Manifest, listener: &TcpListener, signals: &mut Signals) -> Result<Arc<Host>, Failure> {
    let startup = Startup::default();
    let (started, is_started) = oneshot::channel::<()>();
    let meanwhile = tokio::spawn(api::serve_starting(again(listener)?, startup.clone(), async {
        // A sender that is gone means the same: it is over.
        let _ = is_started.await;
    }));
    let host = tokio::select! {
        host = Host::start(manifest, startup) => host.map_err(|cause| Failure::failed(cause.to_string()))?,
        () = signals.next() => return Err(Failure::interrupted()),
    };
    drop(started);
    match meanwhile.await {
        Ok(Ok(())) => {}
        Ok(Err(cause)) => tracing::warn!("while it started the API failed: {cause}"),
        Err(cause) => tracing::warn!("while it started the API failed: {cause}"),
    }
    Ok(host)
}

/// Another handle of the same listener: what comes in after one is dropped waits for the other.
fn again(listener: &TcpListener) -> Result<TcpListener, Failure> {
    let again = || {
        let fd = std::os::fd::AsFd::as_fd(listener).try_clone_to_owned()?;
        TcpListener::from_std(fd.into())
    };
    again().map_err(|cause: std::io::Error| Failure::failed(format!("cannot listen while starting: {cause}")))
}

/// Takes the address before anything is started, and notes in the manifest which port it became.
async fn listen(manifest: &mut Manifest) -> Result<TcpListener, Failure> {
    let wanted = manifest.api.listen;
    let bound = async {
        let listener = TcpListener::bind(wanted).await?;
        manifest.api.listen = listener.local_addr()?;
        Ok(listener)
    };
    bound.await.map_err(|cause: std::io::Error| {
        let remedy = "stop what listens there, or name another address with --listen";
        Failure::failed(format!("cannot listen on {wanted}: {cause}; {remedy}"))
    })
}

/// Serves the API until a signal, and lets the requests that are under way end. Returns by when the host must have
/// stopped as well.
async fn serve_api(
    listener: TcpListener,
    settings: crate::manifest::Api,
    host: Arc<Host>,
    (file, data): (&HostFile, &Path),
    stop_max: Duration,
    signals: &mut Signals,
) -> (Result<(), Failure>, Instant) {
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = api::serve(listener, settings, host.clone(), async {
        // A sender that is gone means the same: stop.
        let _ = stopped.await;
    });
    let mut serving = std::pin::pin!(serving);
    if let Err(failure) = file.write(data).map_err(|cause| Failure::failed(cause.to_string())) {
        return (Err(failure), Instant::now() + stop_max);
    }
    tracing::info!("serving on {}", file.url);
    let mut deadline = None;
    let served = tokio::select! {
        served = &mut serving => served,
        never = keep_written(file, data) => match never {},
        () = signals.next() => {
            deadline = Some(Instant::now() + stop_max);
            drop(stop);
            host.interrupt();
            serving.await
        }
    };
    let served = served.map_err(|cause| Failure::failed(format!("the API failed: {cause}")));
    (served, deadline.unwrap_or_else(|| Instant::now() + stop_max))
}

/// Writes the host's file again when somebody has removed or changed it: until then no command finds the host.
async fn keep_written(file: &HostFile, data: &Path) -> Infallible {
    let mut is_told = false;
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        match HostFile::read(data) {
            Ok(found) if found == *file => continue,
            // The file is there, and this host is what lacks something.
            Err(cause) if matches!(cause.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) => continue,
            _ => {}
        }
        let path = HostFile::path(data);
        match file.write(data) {
            Ok(()) => {
                is_told = false;
                tracing::warn!("{} was removed or changed, and is written again", path.display());
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

/// SIGINT, SIGTERM and SIGHUP: each has the host stop in order.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
}

impl Signals {
    fn new() -> Result<Self, Failure> {
        let listen = |kind| signal(kind).map_err(|cause| Failure::failed(format!("cannot wait for signals: {cause}")));
        // A limit on the size of files is then the error of a write, as a full disk is, and ends no process.
        let _ = listen(SignalKind::from_raw(libc::SIGXFSZ))?;
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hang_up: listen(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hang_up.recv() => {}
        }
    }
}
