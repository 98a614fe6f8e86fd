//! The connections of readers. A reader borrows one for each call, so that many readers need few connections.

use super::connection::{Connection, Network};
use crate::store::Error;
use crate::supervise::Held as _;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// The most connections for reading. A call that finds none free waits for one.
pub(super) const READING_CONNECTIONS_MAX: usize = 8;

/// The interval at which a waiting call checks by itself, in case a wake-up is lost.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The connections of readers.
pub(super) struct Pool {
    network: Arc<Network>,
    held: Mutex<Held>,
    given_back: Condvar,
}

#[derive(Default)]
struct Held {
    idle: Vec<Connection>,
    /// The number of all connections, idle or not.
    open: usize,
}

impl Pool {
    /// Makes a pool without connections.
    pub(super) fn new(network: Arc<Network>) -> Arc<Self> {
        Arc::new(Self { network, held: Mutex::default(), given_back: Condvar::new() })
    }

    /// Lets `read` use a connection. If the connection was lost before it was used, as all are when the server was restarted,
    /// another one is made. `read` must only read, since it may be called twice.
    pub(super) fn with<T>(&self, mut read: impl FnMut(&Connection) -> Result<T, Error>) -> Result<T, Error> {
        let (connection, is_new) = self.take()?;
        let mut done = read(&connection);
        let is_lost = connection.is_lost();
        self.give(connection);
        if done.is_err() && is_lost && !is_new {
            self.drop_idle();
            let (connection, _) = self.take()?;
            done = read(&connection);
            self.give(connection);
        }
        done
    }

    /// Takes an idle connection, or makes one. The second value says whether it is new.
    fn take(&self) -> Result<(Connection, bool), Error> {
        let mut held = self.held.held();
        loop {
            while let Some(connection) = held.idle.pop() {
                if !connection.is_lost() {
                    return Ok((connection, false));
                }
                held.open -= 1;
            }
            if held.open < READING_CONNECTIONS_MAX {
                held.open += 1;
                break;
            }
            held = self.given_back.wait_timeout(held, LOOK_EVERY).unwrap_or_else(PoisonError::into_inner).0;
        }
        drop(held);
        let made = self.network.connect();
        if made.is_err() {
            self.held.held().open -= 1;
            self.given_back.notify_one();
        }
        made.map(|connection| (connection, true))
    }

    fn give(&self, connection: Connection) {
        let mut held = self.held.held();
        if connection.is_lost() {
            held.open -= 1;
        } else {
            held.idle.push(connection);
        }
        drop(held);
        self.given_back.notify_one();
    }

    fn drop_idle(&self) {
        let mut held = self.held.held();
        held.open -= held.idle.len();
        let idle = std::mem::take(&mut held.idle);
        drop(held);
        drop(idle);
    }
}
