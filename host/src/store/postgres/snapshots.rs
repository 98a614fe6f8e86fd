//! Snapshots: a cache in a table. It is never the source of truth.
//!
//! A thread writes the snapshots, so that no command and no transaction of the store waits for them. If the thread can't keep
//! up, snapshots are dropped. Each snapshot names the last event that is in it. So a snapshot of another history is not found.

use super::connection::{Change, Connection, Network, int, uint, value};
use crate::model::{StreamId, Version};
use crate::store::snapshot_limits::{QUEUE_MAX, refuse_large};
use crate::store::{Error, Snapshot};
use crate::supervise::{self, Held as _};
use crossbeam_channel::{Receiver, Sender};
use std::sync::{Arc, Mutex};

/// The writing side. The thread and its connection are made with the first snapshot.
pub(super) struct Snapshots {
    network: Arc<Network>,
    writing: Mutex<Writing>,
}

#[derive(Default)]
enum Writing {
    #[default]
    NotYet,
    Open(Sender<Snapshot>, supervise::Thread),
    Closed,
}

impl Snapshots {
    pub(super) fn new(network: Arc<Network>) -> Self {
        Self { network, writing: Mutex::default() }
    }

    /// Keeps a snapshot. It never waits.
    pub(super) fn keep(&self, snapshot: Snapshot) {
        if refuse_large(&snapshot) {
            return;
        }
        let mut writing = self.writing.held();
        if matches!(*writing, Writing::NotYet) {
            match self.start() {
                Ok((queue, thread)) => *writing = Writing::Open(queue, thread),
                Err(error) => return tracing::warn!("no snapshots are kept: {error}"),
            }
        }
        if let Writing::Open(queue, _) = &*writing {
            // If the queue is full, the snapshot is dropped. The next one comes after later events.
            let _ = queue.try_send(snapshot);
        }
    }

    fn start(&self) -> Result<(Sender<Snapshot>, supervise::Thread), Error> {
        let keeper = Keeper { network: self.network.clone(), connection: None };
        let (queue, snapshots) = crossbeam_channel::bounded(QUEUE_MAX);
        let work = move |keeper: &mut Keeper| keeper.run(&snapshots);
        let thread = supervise::restarting("snapshots", || Ok(keeper), |_| Ok::<_, Error>(()), work)
            .map_err(|error| Error::Failed(format!("can't start the snapshots' thread: {error}")))?;
        Ok((queue, thread))
    }

    /// Writes the queued snapshots and ends the thread.
    pub(super) fn close(&self) {
        let writing = std::mem::replace(&mut *self.writing.held(), Writing::Closed);
        if let Writing::Open(queue, thread) = writing {
            drop(queue);
            thread.join();
        }
    }
}

/// The thread that writes snapshots.
struct Keeper {
    network: Arc<Network>,
    connection: Option<Connection>,
}

impl Keeper {
    fn run(&mut self, snapshots: &Receiver<Snapshot>) {
        for first in snapshots {
            supervise::round();
            let batch: Vec<Snapshot> = std::iter::once(first).chain(snapshots.try_iter().take(QUEUE_MAX)).collect();
            let count = batch.len();
            if let Err(error) = self.keep(batch) {
                self.connection = None;
                tracing::warn!("{count} snapshots are not kept: {error}");
            }
        }
    }

    fn keep(&mut self, batch: Vec<Snapshot>) -> Result<(), Error> {
        let connection = match self.connection.take().filter(|connection| !connection.is_lost()) {
            Some(connection) => connection,
            None => self.network.connect()?,
        };
        // One statement can't replace a row twice, so each aggregate's newest one counts.
        let mut newest: std::collections::BTreeMap<StreamId, Snapshot> = std::collections::BTreeMap::new();
        for snapshot in batch {
            newest.insert(snapshot.stream.clone(), snapshot);
        }
        let [mut types, mut codes] = [const { Vec::new() }; 2];
        let ([mut ids, mut states], mut versions) = ([const { Vec::new() }; 2], Vec::new());
        for Snapshot { stream, version, code, state } in newest.into_values() {
            types.push(stream.aggregate_type.to_string());
            ids.push(stream.aggregate_id.as_bytes().to_vec());
            versions.push(int(version.0));
            codes.push(code.to_string());
            states.push(state);
        }
        // A snapshot past the end of its stream finds no event, and is not kept.
        let sql = "INSERT INTO snapshots (aggregate_type, aggregate_id, version, event, code, state)
                   SELECT n.aggregate_type, n.aggregate_id, n.version, e.id, n.code, n.state
                   FROM unnest($1::text[], $2::bytea[], $3::bigint[], $4::text[], $5::bytea[])
                       AS n(aggregate_type, aggregate_id, version, code, state)
                   JOIN aggregate_types t ON t.name = n.aggregate_type
                   JOIN events e ON e.aggregate_type = t.id AND e.aggregate_id = n.aggregate_id AND e.version = n.version
                   ON CONFLICT (aggregate_type, aggregate_id) DO UPDATE SET (version, event, code, state) =
                   (excluded.version, excluded.event, excluded.code, excluded.state)";
        let values = vec![value(types), value(ids), value(versions), value(codes), value(states)];
        let change = Change { doing: "keeping snapshots", sql, values };
        connection.run(&[change], false).map_err(Error::from)?;
        self.connection = Some(connection);
        Ok(())
    }
}

/// Returns the newest snapshot of a stream that this code made, if its last event is at its place in the stream.
pub(super) fn find(connection: &Connection, stream: &StreamId, code: &str) -> Result<Option<Snapshot>, Error> {
    let sql = "SELECT s.version, s.state FROM snapshots s JOIN aggregate_types t ON t.name = s.aggregate_type
               JOIN events e ON e.aggregate_type = t.id AND e.aggregate_id = s.aggregate_id AND e.version = s.version
               AND e.id = s.event WHERE s.aggregate_type = $1 AND s.aggregate_id = $2 AND s.code = $3";
    let (aggregate_type, id) = (&*stream.aggregate_type, stream.aggregate_id.as_bytes());
    let row = connection.first("reading a snapshot", sql, &[&aggregate_type, &id, &code])?;
    Ok(row.map(|row| Snapshot {
        stream: stream.clone(),
        version: Version(uint(&row, 0)),
        code: code.into(),
        state: row.get(1),
    }))
}
