//! `wasmill kafka accept-cluster`: the answer to "this is another cluster than before" of a host.
//!
//! A store keeps the id of the cluster that it works with, and a host reads and writes nothing where another one answers. This
//! is the one way to say that the other one is right. Offsets of the old cluster mean nothing there, so it wants to
//! know where sources go on.

use super::offsets::{lasting, open, resets};
use super::{At, Cluster, Failure, confirmed, json_line, output, place};
use crate::kafka::admin::{Admin, stored};

#[derive(clap::Args)]
pub(in crate::cli) struct Args {
    /// Where sources go on in the topics of the cluster: beginning, end, an offset, or a time in UTC.
    #[arg(long, value_name = "PLACE", value_parser = place)]
    to: At,
    /// Do it.
    #[arg(long)]
    yes: bool,
}

pub(super) fn accept_cluster(cluster: &Cluster, args: &Args, json: bool) -> Result<(), Failure> {
    let manifest = cluster.manifest()?;
    let store = open(&manifest)?;
    let admin = Admin::connect(&lasting(&manifest)?)?;
    let (known, found) = (stored::cluster(&*store)?, admin.cluster_id()?);
    let Some(found) = found else {
        return Err(Failure::failed("the cluster has no id, so that none was kept: there is nothing to accept"));
    };
    if known.as_ref() == Some(&found) {
        return Err(Failure::failed(format!(
            "the store works with cluster {found} already: there is nothing to accept"
        )));
    }
    let was = known.as_deref().unwrap_or("none");
    let (moves, keep) = resets(&manifest, &admin, &*store, args.to)?;
    let text = format!("the store works with cluster {found} from now on; so far with {was}\n{moves}");
    confirmed(args.yes, text.trim_end())?;
    // The cluster comes last: a host that was started in between would still refuse to work.
    keep()?;
    stored::keep_cluster(&*store, found.clone())?;
    store.close();
    if json {
        json_line(&serde_json::json!({ "ok": true, "cluster": found, "was": known }))
    } else {
        output::text(&format!("{text}done\n"))
    }
}
