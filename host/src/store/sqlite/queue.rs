//! The queues in front of the writer: steps of subscriptions and sinks go before appends.
//!
//! A step moves what many appends have led to, and its sender has few of them under way. Behind a full queue of appends
//! each would wait for several transactions, and a flow of some hops for many. Appends keep their order among
//! themselves, and so do steps.

use super::writer::Request;
use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded, select};

/// Where requests go in. Nothing comes after the last of these is dropped.
pub(super) struct Entrance {
    steps: Sender<Request>,
    appends: Sender<Request>,
}

/// Where the writer takes them out.
pub(super) struct Requests {
    steps: Receiver<Request>,
    appends: Receiver<Request>,
}

/// So many requests may wait in either queue.
pub(super) fn queues(queue_max: usize) -> (Entrance, Requests) {
    let (steps, appends) = (bounded(queue_max), bounded(queue_max));
    (Entrance { steps: steps.0, appends: appends.0 }, Requests { steps: steps.1, appends: appends.1 })
}

impl Entrance {
    /// How many requests wait.
    pub(super) fn len(&self) -> usize {
        self.steps.len() + self.appends.len()
    }

    /// Waits while the queue is full. Hands the request back where the writer is gone.
    pub(super) fn send(&self, request: Request) -> Result<(), Request> {
        let queue = match request {
            Request::Advance(..) | Request::Published { .. } => &self.steps,
            _ => &self.appends,
        };
        queue.send(request).map_err(|refused| refused.0)
    }
}

impl Requests {
    /// The next request that is there. `Disconnected` once nothing is left and nothing will come.
    pub(super) fn try_next(&self) -> Result<Request, TryRecvError> {
        match self.steps.try_recv() {
            Ok(step) => Ok(step),
            Err(TryRecvError::Empty) => self.appends.try_recv().map_err(|_| TryRecvError::Empty),
            Err(TryRecvError::Disconnected) => self.appends.try_recv(),
        }
    }

    /// Waits for the next request; `None` once nothing is left and nothing will come.
    pub(super) fn next(&self) -> Option<Request> {
        loop {
            match self.try_next() {
                Ok(request) => return Some(request),
                Err(TryRecvError::Disconnected) => return None,
                Err(TryRecvError::Empty) => {}
            }
            // Both ends go at once; which is noticed first does not matter, the next look tells.
            let found = select! {
                recv(self.steps) -> step => step,
                recv(self.appends) -> append => append,
            };
            if let Ok(request) = found {
                return Some(request);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(number: u64) -> Request {
        Request::Published { sink: "outbox".into(), from: number, to: number, done: Box::new(|_| {}) }
    }

    fn append(number: u64) -> Request {
        Request::StartLedger { ledger: "l".into(), next: number, done: Box::new(|_| {}) }
    }

    fn number(request: Request) -> u64 {
        match request {
            Request::Published { to, .. } => to,
            Request::StartLedger { next, .. } => next,
            _ => unreachable!("none was made"),
        }
    }

    #[test]
    fn steps_go_first_and_each_kind_keeps_its_order() {
        let (entrance, requests) = queues(9);
        for request in [append(1), append(2), step(3), append(4), step(5)] {
            assert!(entrance.send(request).is_ok());
        }
        let mut taken: Vec<u64> = (0..3).map(|_| number(requests.next().unwrap())).collect();
        drop(entrance);
        taken.extend(std::iter::from_fn(|| requests.next()).map(number));
        assert_eq!(taken, [3, 5, 1, 2, 4]);
        assert!(matches!(requests.try_next(), Err(TryRecvError::Disconnected)));
    }
}
