//! The queues in front of a shard: commands of subscriptions go ahead of commands that arrive from outside.
//!
//! A source that has much to read fills any queue. If the commands of subscriptions waited behind its commands, each
//! hop of a flow would wait for the whole queue, and by then the aggregates that they are sent to would have been
//! evicted for newer ones. So they have their own queue. Commands from outside still get their turn.

use super::pending_command::PendingCommand;
use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded};

/// The number of subscriptions' commands in a row while others wait.
const ROW_MAX: u32 = 16;

/// The sending ends of the queues.
pub(super) struct Senders {
    /// The queue of commands that follow from recorded events.
    pub(super) follow_ups: Sender<PendingCommand>,
    /// The queue of all other commands.
    pub(super) arrivals: Sender<PendingCommand>,
}

/// The receiving ends of the queues.
pub(super) struct Receivers {
    pub(super) follow_ups: Receiver<PendingCommand>,
    pub(super) arrivals: Receiver<PendingCommand>,
    in_a_row: u32,
}

/// Creates both queues, with room for `queue_max` commands each.
pub(super) fn queues(queue_max: usize) -> (Senders, Receivers) {
    let (follow_ups, arrivals) = (bounded(queue_max), bounded(queue_max));
    let senders = Senders { follow_ups: follow_ups.0, arrivals: arrivals.0 };
    (senders, Receivers { follow_ups: follow_ups.1, arrivals: arrivals.1, in_a_row: 0 })
}

impl Receivers {
    /// Takes the next command. Returns `Disconnected` once all senders are dropped and both queues are empty.
    pub(super) fn next(&mut self) -> Result<PendingCommand, TryRecvError> {
        if self.in_a_row < ROW_MAX
            && let Ok(order) = self.follow_ups.try_recv()
        {
            self.in_a_row += 1;
            return Ok(order);
        }
        self.in_a_row = 0;
        match self.arrivals.try_recv() {
            Ok(order) => Ok(order),
            Err(TryRecvError::Empty) => self.follow_ups.try_recv().map_err(|_| TryRecvError::Empty),
            Err(TryRecvError::Disconnected) => self.follow_ups.try_recv(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follow_ups_go_first_and_arrivals_get_their_turn() {
        let (senders, mut receivers) = queues(100);
        for _ in 0..40 {
            senders.follow_ups.send(PendingCommand::example("f")).unwrap();
        }
        for _ in 0..2 {
            senders.arrivals.send(PendingCommand::example("a")).unwrap();
        }
        drop(senders);
        let taken: String =
            std::iter::from_fn(|| receivers.next().ok().map(|order| order.command.name.to_string())).collect();
        assert_eq!(taken, format!("{0}a{0}a{1}", "f".repeat(16), "f".repeat(8)));
        assert!(matches!(receivers.next(), Err(TryRecvError::Disconnected)));
    }

    #[test]
    fn nothing_is_lost_when_the_senders_go() {
        let (senders, mut receivers) = queues(100);
        assert!(matches!(receivers.next(), Err(TryRecvError::Empty)));
        senders.follow_ups.send(PendingCommand::example("f")).unwrap();
        senders.arrivals.send(PendingCommand::example("a")).unwrap();
        drop(senders);
        assert!(receivers.next().is_ok() && receivers.next().is_ok());
        assert!(matches!(receivers.next(), Err(TryRecvError::Disconnected)));
    }
}
