//! The memory of a batch: some of its own, and more as long as there is room for the bodies of requests.
//!
//! A batch that needs more than it gets waits: it reads no more of its body until what it holds is answered and sent. If all that
//! it holds is the beginning of a line, only the rest of the body could free that. Several such batches could wait for each other
//! for ever. So one of them at a time may exceed the limit by its line.

use super::super::body::Room;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The bytes that each batch has of its own, besides `api.in_flight_mib`.
pub(super) const OWN_BYTES_MAX: usize = 512 << 10;

/// The steps in which it takes more, in kibibytes.
const STEP_KIB: usize = 256;

/// The turn of the batch whose line exceeds the limit.
pub(in crate::api) type LineTurn = Arc<Semaphore>;

/// The room that a batch has.
pub(super) struct Share {
    room: Room,
    line_turn: LineTurn,
    taken: Option<OwnedSemaphorePermit>,
    /// Whether its line may exceed the limit.
    turn: Option<OwnedSemaphorePermit>,
}

impl Share {
    pub(super) fn new(room: Room, line_turn: LineTurn) -> Self {
        Self { room, line_turn, taken: None, turn: None }
    }

    /// Takes room for all that the batch holds, or gives back what it does not need any more. Returns false if there is not enough.
    pub(super) fn covers(&mut self, bytes: usize) -> bool {
        let wanted = bytes.saturating_sub(OWN_BYTES_MAX).div_ceil(STEP_KIB << 10) * STEP_KIB;
        let taken = self.taken.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        if wanted < taken {
            let spare = self.taken.as_mut().and_then(|permit| permit.split(taken - wanted));
            drop(spare);
        } else if wanted > taken {
            let more = u32::try_from(wanted - taken).unwrap_or(u32::MAX);
            let Ok(more) = self.room.clone().try_acquire_many_owned(more) else { return false };
            match &mut self.taken {
                Some(permit) => permit.merge(more),
                None => self.taken = Some(more),
            }
        }
        self.turn = None;
        true
    }

    /// Returns whether a batch that holds nothing but the beginning of a line may go on reading it, although there is no room.
    pub(super) fn may_exceed(&mut self) -> bool {
        if self.turn.is_none() {
            self.turn = self.line_turn.clone().try_acquire_owned().ok();
        }
        self.turn.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    #[test]
    fn batches_share_the_room_and_give_it_back() {
        let (room, turn): (Room, LineTurn) = (Arc::new(Semaphore::new(1 << 10)), Arc::new(Semaphore::new(1)));
        let mut shares = [(); 3].map(|()| Share::new(room.clone(), turn.clone()));
        assert!(shares.iter_mut().all(|share| share.covers(OWN_BYTES_MAX)) && room.available_permits() == 1 << 10);
        let [first, second, third] = &mut shares;
        assert!(first.covers(MIB) && first.covers(MIB - 1) && room.available_permits() == 512);
        assert!(!second.covers(2 * MIB) && second.covers(MIB) && room.available_permits() == 0);
        assert!(!third.covers(OWN_BYTES_MAX + 1));
        // Who finds no room keeps what it has.
        assert!(!first.covers(2 * MIB) && room.available_permits() == 0);
        assert!(first.covers(0) && room.available_permits() == 512);
        assert!(third.covers(MIB) && room.available_permits() == 0);
        drop(shares);
        assert_eq!(room.available_permits(), 1 << 10);
    }

    #[test]
    fn one_batch_at_a_time_goes_on_without_room() {
        let (room, turn): (Room, LineTurn) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(1)));
        let [mut first, mut second] = [(); 2].map(|()| Share::new(room.clone(), turn.clone()));
        assert!(!first.covers(MIB) && !second.covers(MIB));
        assert!(first.may_exceed() && first.may_exceed() && !second.may_exceed());
        // It keeps its turn until its line is done.
        assert!(!first.covers(2 * MIB) && !second.may_exceed());
        assert!(first.covers(0) && second.may_exceed() && !first.may_exceed());
        drop(second);
        assert!(first.may_exceed());
    }
}
