//! `wasmill kafka accept-cluster`: accepts another Kafka cluster than before.
//!
//! A store keeps the id of its cluster, and a host reads and writes nothing if another cluster answers. This command is
//! the only way to accept the other cluster. The offsets of the old cluster mean nothing there, so the command needs
//! the place where the sources resume.

use super::offsets::{lasting, open, resets};
use super::{At, Cluster, CommandFailure, confirmed, json_line, output, place};
use crate::kafka::admin::{Admin, stored};

#[derive(clap::Args)]
pub(in crate::cli) struct Args {
    /// Where the sources resume in the topics of the cluster: beginning, end, an offset, or a time in UTC.
    #[arg(long, value_name = "PLACE", value_parser = place)]
    to: At,
    /// Confirm the change.
    #[arg(long)]
    yes: bool,
}

pub(super) fn accept_cluster(cluster: &Cluster, args: &Args, json: bool) -> Result<(), CommandFailure> {
    let manifest = cluster.manifest()?;
    let store = open(&manifest)?;
    let admin = Admin::connect(&lasting(&manifest)?)?;
    let (known, found) = (stored::cluster(&*store)?, admin.cluster_id()?);
    let Some(found) = found else {
        return Err(CommandFailure::failed(
            "the cluster has no id, and the store keeps none: there is nothing to accept",
        ));
    };
    if known.as_ref() == Some(&found) {
        return Err(CommandFailure::failed(format!(
            "the store already works with cluster {found}: there is nothing to accept"
        )));
    }
    let was = known.as_deref().unwrap_or("none");
    let (moves, keep) = resets(&manifest, &admin, &*store, args.to)?;
    let text = format!("the store works with cluster {found} from now on; before, it worked with {was}\n{moves}");
    confirmed(args.yes, text.trim_end())?;
    // The id of the cluster is written last: a host that starts in between still refuses to work.
    keep()?;
    stored::keep_cluster(&*store, found.clone())?;
    store.close();
    if json {
        json_line(&serde_json::json!({ "ok": true, "cluster": found, "was": known }))
    } else {
        output::text(&format!("{text}done\n"))
    }
}
