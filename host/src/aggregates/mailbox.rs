//! The queues in front of a shard: commands of subscriptions go ahead of commands that arrive from outside.
//!
//! A source that has much to read fills any queue. If the commands of subscriptions waited behind its commands, each
//! hop of a flow would wait for the whole queue, and by then the aggregates that they are sent to would have been
//! evicted for newer ones. So they have their own queue. Commands from outside still get their turn.

use super::pending_command::PendingCommand;
use crate::bell::Bell;
use crossbeam_channel::{Receiver, SendError, Sender, TryRecvError, TrySendError, bounded};

/// The number of subscriptions' commands in a row while others wait.
const ROW_MAX: u32 = 16;

/// The sending ends of the queues.
pub(super) struct Senders {
    /// The queue of commands that follow from recorded events.
    follow_ups: Sender<PendingCommand>,
    /// The queue of all other commands.
    arrivals: Sender<PendingCommand>,
    /// The shard's bell. It is the last field, because the shard has to find the queues without senders.
    bell: LastBell,
}

/// A bell that rings once more when it is dropped.
struct LastBell(Bell);

impl Drop for LastBell {
    fn drop(&mut self) {
        self.0.ring();
    }
}

impl Senders {
    /// Queues a command that follows from recorded events, and waits while the queue is full.
    pub(super) fn follow_up(&self, order: PendingCommand) -> Result<(), SendError<PendingCommand>> {
        self.follow_ups.send(order)?;
        self.bell.0.ring();
        Ok(())
    }

    /// Queues any other command.
    pub(super) fn arrive(&self, order: PendingCommand) -> Result<(), TrySendError<PendingCommand>> {
        self.arrivals.try_send(order)?;
        self.bell.0.ring();
        Ok(())
    }
}

/// The receiving ends of the queues.
pub(super) struct Receivers {
    follow_ups: Receiver<PendingCommand>,
    arrivals: Receiver<PendingCommand>,
    in_a_row: u32,
}

/// Creates both queues, with room for `queue_max` commands each. The bell rings after each command.
pub(super) fn queues(queue_max: usize, bell: Bell) -> (Senders, Receivers) {
    let (follow_ups, arrivals) = (bounded(queue_max), bounded(queue_max));
    let senders = Senders { follow_ups: follow_ups.0, arrivals: arrivals.0, bell: LastBell(bell) };
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
    use crate::bell;

    #[test]
    fn follow_ups_go_first_and_arrivals_get_their_turn() {
        let (senders, mut receivers) = queues(100, bell::bell().0);
        for _ in 0..40 {
            assert!(senders.follow_up(PendingCommand::example("f")).is_ok());
        }
        for _ in 0..2 {
            assert!(senders.arrive(PendingCommand::example("a")).is_ok());
        }
        drop(senders);
        let taken: String =
            std::iter::from_fn(|| receivers.next().ok().map(|order| order.command.name.to_string())).collect();
        assert_eq!(taken, format!("{0}a{0}a{1}", "f".repeat(16), "f".repeat(8)));
        assert!(matches!(receivers.next(), Err(TryRecvError::Disconnected)));
    }

    #[test]
    fn nothing_is_lost_when_the_senders_go() {
        let (senders, mut receivers) = queues(100, bell::bell().0);
        assert!(matches!(receivers.next(), Err(TryRecvError::Empty)));
        assert!(senders.follow_up(PendingCommand::example("f")).is_ok());
        assert!(senders.arrive(PendingCommand::example("a")).is_ok());
        drop(senders);
        assert!(receivers.next().is_ok() && receivers.next().is_ok());
        assert!(matches!(receivers.next(), Err(TryRecvError::Disconnected)));
    }
}
