//! `wasmill run`: a host, from its manifest until a signal.

use super::failure::{Failure, INTERRUPTED};
use super::host_file::HostFile;
use crate::api;
use crate::clock;
use crate::host::Host;
use crate::log;
use crate::manifest::{Manifest, Overrides};
use crate::supervise;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

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

async fn serve(mut manifest: Manifest) -> Result<(), Failure> {
    clock::follow_offset_file();
    let mut signals = Signals::new()?;
    let listener = listen(&mut manifest).await?;
    let (settings, data) = (manifest.api.clone(), manifest.data.clone());
    let host = tokio::select! {
        started = Host::start(manifest) => started.map_err(|cause| Failure::failed(cause.to_string()))?,
        () = signals.next() => return Err(Failure::interrupted()),
    };
    let served = tokio::select! {
        served = serve_api(listener, settings, host.clone(), &data, &mut signals) => served,
        lost = host.lost_store() => {
            // As after a crash: whatever the parts would finish could not be kept.
            std::mem::forget(host);
            return Err(Failure::taken_over(lost));
        }
    };
    tracing::info!("stopping; a second signal ends at once, and the next start goes on from there");
    tokio::spawn(async move {
        signals.next().await;
        std::process::exit(INTERRUPTED.into());
    });
    host.stop().await;
    tracing::info!("stopped");
    served
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

/// Serves the API until a signal, and lets the requests that are under way end.
async fn serve_api(
    listener: TcpListener,
    settings: crate::manifest::Api,
    host: Arc<Host>,
    data: &Path,
    signals: &mut Signals,
) -> Result<(), Failure> {
    let file = HostFile { pid: std::process::id(), url: format!("http://{}", settings.listen) };
    let unwritten = |cause| Failure::failed(format!("cannot write {}: {cause}", HostFile::path(data).display()));
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = api::serve(listener, settings, host.clone(), async {
        // A sender that is gone means the same: stop.
        let _ = stopped.await;
    });
    let mut serving = std::pin::pin!(serving);
    file.write(data).map_err(unwritten)?;
    tracing::info!("serving on {}", file.url);
    let served = tokio::select! {
        served = &mut serving => served,
        () = signals.next() => {
            drop(stop);
            host.interrupt();
            serving.await
        }
    };
    if let Err(cause) = file.remove(data) {
        tracing::warn!(%cause, "{} stays behind", HostFile::path(data).display());
    }
    served.map_err(|cause| Failure::failed(format!("the API failed: {cause}")))
}

/// SIGINT and SIGTERM.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> Result<Self, Failure> {
        let listen = |kind| signal(kind).map_err(|cause| Failure::failed(format!("cannot wait for signals: {cause}")));
        Ok(Self { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
