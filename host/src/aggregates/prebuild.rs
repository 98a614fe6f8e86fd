//! Live aggregates of new code, rebuilt before it serves.
//!
//! Without it, the first command to each aggregate after a swap waits until its history is applied, and all others wait behind it.
//! So the most recently used aggregates of a shard are rebuilt beside it, in a guest of the new code. The shard takes that guest over
//! when the code switches, and each aggregate catches up with its stream when it is used next.

use super::handlers::{Guest, GuestError};
use crate::bell::Bell;
use crate::model::{StreamId, Version};
use crate::store::{self, Reader};
use crossbeam_channel::{Receiver, Sender, bounded};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The most aggregates of a shard that are rebuilt.
const AGGREGATES_MAX: usize = 2_000;

/// The longest wait for a shard that says which aggregates it used last.
const ANSWER_MAX: Duration = Duration::from_secs(1);

/// The events that are read and applied at once.
const PAGE: usize = 500;

/// The requests that wait for a shard.
const REQUESTS_MAX: usize = 4;

/// What a shard is asked for.
pub(super) enum PrebuildRequest<G: Guest> {
    /// The ids of the aggregates that it used last, the most recent first.
    Recent(Sender<Vec<Arc<str>>>),
    /// To take these over when their code serves.
    Adopt(Prebuilt<G>),
}

/// A guest of new code with live aggregates.
pub(super) struct Prebuilt<G: Guest> {
    pub(super) guest: G,
    /// The live aggregates, each with the version of its state, the most recently used first.
    pub(super) live: Vec<(Arc<str>, G::Live, Version)>,
}

/// The sending end of the requests to a shard.
pub(super) struct Requests<G: Guest> {
    queue: Sender<PrebuildRequest<G>>,
    bell: Bell,
}

/// Creates the queue of requests to a shard. The bell rings after each.
pub(super) fn requests<G: Guest>(bell: Bell) -> (Requests<G>, Receiver<PrebuildRequest<G>>) {
    let (queue, requested) = bounded(REQUESTS_MAX);
    (Requests { queue, bell }, requested)
}

impl<G: Guest> Requests<G> {
    /// Asks the shard. Returns false if it has ended, or is busy with other requests.
    fn ask(&self, request: PrebuildRequest<G>) -> bool {
        let is_queued = self.queue.try_send(request).is_ok();
        self.bell.ring();
        is_queued
    }
}

/// Rebuilds the aggregates that a shard used last in a guest of new code, until the time is up, and hands them to the shard.
pub(super) fn prebuild<G: Guest>(
    guest: G,
    reader: &mut dyn Reader,
    aggregate_type: &Arc<str>,
    shard: &Requests<G>,
    until: Instant,
) {
    let (answer, answered) = bounded(1);
    // If the shard does not answer, its aggregates are rebuilt when they are used.
    if !shard.ask(PrebuildRequest::Recent(answer)) {
        return;
    }
    let Ok(mut recent) = answered.recv_timeout(ANSWER_MAX) else { return };
    recent.truncate(AGGREGATES_MAX.min(guest.instances_max()));
    let mut built = Prebuilt { guest, live: Vec::with_capacity(recent.len()) };
    for id in recent {
        let stream = StreamId { aggregate_type: aggregate_type.clone(), aggregate_id: id };
        match built.add(&stream, reader, until) {
            Ok(true) => {}
            Ok(false) => break,
            // The guest is lost with all that is in it.
            Err(_) => return,
        }
    }
    shard.ask(PrebuildRequest::Adopt(built));
}

impl<G: Guest> Prebuilt<G> {
    /// Rebuilds an aggregate. Returns false if there is no time or room for it, or for more. One that can't be rebuilt is left out:
    /// the first command to it says why.
    fn add(&mut self, stream: &StreamId, reader: &mut dyn Reader, until: Instant) -> Result<bool, GuestError> {
        if Instant::now() > until || self.guest.memory_bytes() > self.guest.live_bytes_max() {
            return Ok(false);
        }
        let live = self.guest.create(&stream.aggregate_id)?;
        let mut version = Version(0);
        loop {
            let Ok(events) = reader.read_stream(stream, version, PAGE) else { return Ok(false) };
            let Some(last) = events.last() else { break };
            version = last.version;
            if self.guest.apply(&live, &events)?.is_err() {
                return self.guest.discard(live).map(|()| true);
            }
            if !store::is_full(&events, PAGE) {
                break;
            }
            if Instant::now() > until {
                return self.guest.discard(live).map(|()| false);
            }
        }
        self.live.push((stream.aggregate_id.clone(), live, version));
        Ok(true)
    }
}
