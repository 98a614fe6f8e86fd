//! What the code before would make of a command at which new code fails.
//!
//! New code is watched for a while. A failure counts against it only if the code before does not fail in the same way. That code
//! is asked with the history that the store has now, and nothing that it decides is recorded.

use super::handlers::{Guest, GuestError};
use crate::model::{Command, Failing, Refusal, Version};
use crate::store::{self, Reader};
use std::time::{Duration, Instant};

/// The events that are read and applied at once.
const PAGE: usize = 500;

/// The longest time that the code before takes to rebuild an aggregate. Its shard waits for it.
const REBUILD_MAX: Duration = Duration::from_secs(1);

/// The watch of code that has just begun to serve.
pub trait CodeWatch: Send + Sync {
    /// Counts a command that the code has been given.
    fn handled(&self);

    /// Counts a command at which the code before would not fail in this way.
    fn failed(&self, reason: &str);

    /// Returns the time for which commands that failed are held, unless the code changes before.
    fn rest(&self) -> Duration;
}

/// Returns how code fails at a command, if it does. `Err` says why it can't be asked. A guest that is not lost is kept.
pub(super) fn failing<G: Guest>(
    kept: &mut Option<G>,
    make: impl Fn() -> Option<G>,
    reader: &mut dyn Reader,
    command: &Command,
) -> Result<Option<Failing>, String> {
    let until = Instant::now() + REBUILD_MAX;
    // A page may take longer than one event may. Event by event it shows whether the code is at fault.
    for page in [PAGE, 1] {
        let mut guest = kept.take().or_else(&make).ok_or("there is no guest of it")?;
        let asked = ask(&mut guest, reader, command, page, until);
        if let Ok(None) = asked {
            *kept = Some(guest);
        }
        match asked {
            Ok(failing) => return Ok(failing),
            Err(Unasked::Overrun) => {}
            Err(Unasked::Host(reason)) => return Err(reason),
        }
    }
    Ok(Some(Failing::Trap))
}

/// Why code could not be asked.
enum Unasked {
    Overrun,
    Host(String),
}

fn ask<G: Guest>(
    guest: &mut G,
    reader: &mut dyn Reader,
    command: &Command,
    page: usize,
    until: Instant,
) -> Result<Option<Failing>, Unasked> {
    let of_guest = |error: GuestError| match error {
        GuestError::Host(reason) => Err(Unasked::Host(reason)),
        GuestError::Overrun(_) => Err(Unasked::Overrun),
        GuestError::Failed { .. } => Ok(Some(Failing::Trap)),
    };
    let live = match guest.create(&command.stream.aggregate_id) {
        Ok(live) => live,
        Err(error) => return of_guest(error),
    };
    let mut reached = Version(0);
    loop {
        let read = reader.read_stream(&command.stream, reached, PAGE);
        let events = read.map_err(|error| Unasked::Host(error.to_string()))?;
        let Some(last) = events.last() else { break };
        reached = last.version;
        for events in events.chunks(page) {
            if Instant::now() > until {
                return Err(Unasked::Host(format!(
                    "it takes longer than {REBUILD_MAX:?} to rebuild {}",
                    command.stream
                )));
            }
            match guest.apply(&live, events) {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Ok(Some(Failing::Trap)),
                Err(error) => return of_guest(error),
            }
        }
        if !store::is_full(&events, PAGE) {
            break;
        }
    }
    match guest.handle(&live, command) {
        Ok(Err(Refusal::Malformed(_))) => Ok(Some(Failing::Malformed)),
        Ok(_) => guest.discard(live).map(|()| None).or_else(of_guest),
        Err(error) => of_guest(error),
    }
}
