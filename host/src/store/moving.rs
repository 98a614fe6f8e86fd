//! Moving a store: from a file into PostgreSQL, or back, with its identity and everything that it has.
//!
//! Both stores are owned while this runs, so no host writes to them. The target has a mark from its first moment on, so no host
//! starts on it before it is complete. If the process ends at any moment, the same move resumes: events never change,
//! so those that are there stay, and everything else is copied again.
//!
//! At the end both stores are verified and compared, row by row. Then **the source is marked first**: from there on no host
//! starts on either of them, and nothing can be written to the source any more. Then the mark of the target is taken off. If the
//! process ends in between, the next run finds both marks with the id of one move, and only takes the mark off.

use super::content::{Content, Head, Row, Rows, Table, Value};
use super::fault::{self, FaultPoint};
use super::move_mark::{Mark, Side, command};
use super::verify::Report;
use super::{Error, Location, postgres, sqlite};
use uuid::Uuid;

/// The result of a move.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moved {
    /// The identity of the store, which it keeps.
    pub identity: Uuid,
    /// The position of the newest event.
    pub position: u64,
    /// The number of rows that this run has copied: 0 if an earlier run had copied all of them.
    pub rows: u64,
    /// The number of these that are events. Others were there.
    pub events: u64,
}

/// What a move is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MoveStep {
    /// It verifies the source.
    VerifySource,
    /// It copies events.
    CopyEvents,
    /// It copies everything else.
    CopyRest,
    /// It verifies the target.
    VerifyTarget,
    /// It compares both stores.
    Compare,
}

/// Is told how far a move is: the step, the number of rows, and the number of all of them, or 0 if that is not known.
type Watch<'w> = &'w mut dyn FnMut(MoveStep, u64, u64);

/// A store that takes part in a move, and that this process owns.
pub(super) trait End: Content {
    fn mark(&mut self) -> Result<Option<Mark>, Error>;

    /// Sets the mark, or takes it off, in one transaction.
    fn set_mark(&mut self, mark: Option<&Mark>) -> Result<(), Error>;

    /// Sets the mark, and deletes everything but the events, in one transaction.
    fn begin(&mut self, mark: &Mark) -> Result<(), Error>;

    /// Adds rows of a table, all or none.
    fn write(&mut self, table: Table, rows: &[Row]) -> Result<(), Error>;

    /// Writes everything of a head but the identity, in one transaction.
    fn set_head(&mut self, head: &Head) -> Result<(), Error>;

    fn verify(&mut self, watch: &mut dyn FnMut(u64, u64)) -> Result<Report, Error>;

    /// Gives the store up, so that a host can start at once.
    fn close(self: Box<Self>) -> Result<(), Error>;
}

/// Moves a store, and tells `watch` how far it is: the step, the number of rows, and the number of all of them, or 0 if that is not
/// known. Fails if a host owns one of them, if the target has anything but an earlier part of the source, or if the source is
/// not sound. After a failure the same call resumes the move.
pub fn migrate(from: &Location, to: &Location, watch: Watch<'_>) -> Result<Moved, Error> {
    refuse_kinds(from, to)?;
    let names = Names { from: from.in_command(), to: to.in_command() };
    let mut source = own(from)?.ok_or_else(|| Error::NotFound(format!("there is no store {from}")))?;
    match source.mark()? {
        Some(mark) if mark.side == Side::Unfinished => {
            return Err(Error::Invalid(mark.refusal(&names.from)));
        }
        Some(mark) => return names.again(complete(&mut *source, to, &names, &mark)),
        None => {}
    }
    let head = source.head()?;
    let mut target = own(to)?;
    let mark = match &mut target {
        Some(target) => names.adopt(&mut **target, head.identity)?,
        None => Mark::unfinished(&names.from),
    };
    let report = source.verify(&mut |rows, of| watch(MoveStep::VerifySource, rows, of))?;
    names.refuse_unsound(&report)?;
    let made = match target {
        Some(target) => Ok(target),
        None => make(to, head.identity, &mark),
    };
    let moved = made.and_then(|mut target| {
        let moved = Move { source: &mut *source, target: &mut *target, names: &names, watch }.run(&head, &mark)?;
        target.close()?;
        Ok(moved)
    });
    let moved = names.again(moved)?;
    source.close()?;
    Ok(moved)
}

/// Lets a store that was moved start again, with what it had then. This is for the case that the store to which it was moved is lost.
/// Returns the name of that one.
pub fn reopen(location: &Location) -> Result<String, Error> {
    let mut store = own(location)?.ok_or_else(|| Error::NotFound(format!("there is no store {location}")))?;
    match store.mark()? {
        Some(mark) if mark.side == Side::Moved => {
            store.set_mark(None)?;
            store.close()?;
            Ok(mark.other)
        }
        Some(mark) => Err(Error::Invalid(mark.refusal(&location.in_command()))),
        None => Err(Error::Invalid(format!("the store {location} was not moved: a host starts on it as it is"))),
    }
}

/// Returns where a store was moved to, if it was moved.
pub fn moved_to(location: &Location) -> Result<Option<String>, Error> {
    let mark = look(location)?.and_then(|(_, mark)| mark);
    Ok(mark.filter(|mark| mark.side == Side::Moved).map(|mark| mark.other))
}

/// Fails if no host starts on a store, because it takes part in a move.
pub(super) fn refuse_marked(location: &Location) -> Result<(), Error> {
    match look(location)? {
        Some((_, Some(mark))) => Err(Error::Invalid(mark.refusal(&location.in_command()))),
        _ => Ok(()),
    }
}

/// How a person names both stores.
struct Names {
    from: String,
    to: String,
}

impl Names {
    /// Fails if the content of a target is not an earlier part of the source. Returns the mark that it has, or is to have.
    fn adopt(&self, target: &mut dyn End, identity: Uuid) -> Result<Mark, Error> {
        let (mark, there) = (target.mark()?, target.head()?.identity);
        let Self { from, to } = self;
        let refused = match (mark, there == identity) {
            (Some(mark), true) if mark.side == Side::Unfinished => return Ok(mark),
            // It has what the source had before it came from there.
            (Some(_), true) => return Ok(Mark::unfinished(from)),
            (Some(mark), false) if mark.side == Side::Unfinished => {
                let command = command(&mark.other, to);
                format!(
                    "{to} is the target of a move of another store, from {}: end that one with {command}",
                    mark.other
                )
            }
            (Some(mark), false) => format!("{to} has another store, which was moved to {}", mark.other),
            (None, true) => {
                format!("{to} has a complete copy of this store already, on which a host may have written since")
            }
            (None, false) => format!("{to} has another store, {there}"),
        };
        Err(Error::Invalid(format!("{refused}; nothing was moved: choose a place for the new store that has none")))
    }

    fn refuse_unsound(&self, report: &Report) -> Result<(), Error> {
        let Some(first) = report.problems.first() else { return Ok(()) };
        let count = report.problems.len() as u64 + report.more_problems;
        Err(Error::Invalid(format!(
            "the store {} has problems ({count}), of which the first is: {first}; nothing was moved: `wasmill store verify` lists \
             all of them; restore the store from a backup, or move a sound copy of it",
            self.from
        )))
    }

    /// Adds to a failure in the middle of a move what to do then.
    fn again<T>(&self, result: Result<T, Error>) -> Result<T, Error> {
        result.map_err(|error| match error {
            Error::Failed(text) => {
                Error::Failed(format!("{text}; nothing is lost: run the same command again, and it goes on"))
            }
            other => other,
        })
    }
}

fn refuse_kinds(from: &Location, to: &Location) -> Result<(), Error> {
    let refused = match (from, to) {
        (Location::Sqlite(one), Location::Sqlite(other)) if one == other => "both are the same store",
        (Location::Postgres(one), Location::Postgres(other)) if one == other => "both are the same store",
        (Location::Sqlite(_), Location::Sqlite(_)) => {
            "both are files: stop the host and move the whole data folder, or use `wasmill store backup` and `restore`"
        }
        (Location::Postgres(_), Location::Postgres(_)) => {
            "both are in PostgreSQL: stop the host, and use `pg_dump --schema NAME` and `pg_restore`"
        }
        _ => return Ok(()),
    };
    Err(Error::Invalid(format!("a store is moved from a file into PostgreSQL or back, and {refused}")))
}

/// Takes over a store, if there is one.
fn own(location: &Location) -> Result<Option<Box<dyn End>>, Error> {
    match location {
        Location::Sqlite(file) => Ok(sqlite::End::own(file)?.map(|end| Box::new(end) as _)),
        Location::Postgres(address) => Ok(postgres::End::own(address)?.map(|end| Box::new(end) as _)),
    }
}

/// Makes a store without events, with this identity and this mark, and takes it over.
fn make(location: &Location, identity: Uuid, mark: &Mark) -> Result<Box<dyn End>, Error> {
    Ok(match location {
        Location::Sqlite(file) => Box::new(sqlite::End::make(file, identity, mark)?),
        Location::Postgres(address) => Box::new(postgres::End::make(address, identity, mark)?),
    })
}

/// Returns the identity and the mark of a store. Another process may own it.
fn look(location: &Location) -> Result<Option<(Uuid, Option<Mark>)>, Error> {
    match location {
        Location::Sqlite(file) => sqlite::look(file),
        Location::Postgres(address) => postgres::look(address),
    }
}

/// Ends the move of a source that is marked, if this is its target.
fn complete(source: &mut dyn End, to: &Location, names: &Names, mark: &Mark) -> Result<Moved, Error> {
    let head = source.head()?;
    let moved = Moved { identity: head.identity, position: head.position, rows: 0, events: 0 };
    match look(to)? {
        Some((_, Some(there))) if there.id == mark.id && there.side == Side::Unfinished => {
            let mut target = own(to)?.ok_or_else(|| Error::NotFound(format!("there is no store {to}")))?;
            target.set_mark(None)?;
            fault::at(FaultPoint::MoveEnded);
            target.close()?;
            Ok(moved)
        }
        // The move had ended, and a host may be there.
        Some((identity, None)) if identity == head.identity && mark.other == names.to => Ok(moved),
        _ => Err(Error::Invalid(mark.refusal(&names.from))),
    }
}

struct Move<'m> {
    source: &'m mut dyn End,
    target: &'m mut dyn End,
    names: &'m Names,
    watch: Watch<'m>,
}

impl Move<'_> {
    fn run(mut self, head: &Head, mark: &Mark) -> Result<Moved, Error> {
        let resumed = self.newest_of_target(head)?;
        self.target.begin(mark)?;
        fault::at(FaultPoint::MoveBegun);
        let events = self.events(resumed, head.position)?;
        let rest = self.rest()?;
        self.target.set_head(head)?;
        fault::at(FaultPoint::MoveCopied);
        let watch = &mut self.watch;
        let report = self.target.verify(&mut |rows, of| watch(MoveStep::VerifyTarget, rows, of))?;
        if let Some(problem) = report.problems.first() {
            return Err(Error::Failed(format!("what was copied to {} has problems: {problem}", self.names.to)));
        }
        self.compare(head)?;
        fault::at(FaultPoint::MoveCompared);
        self.source.set_mark(Some(&Mark { side: Side::Moved, other: self.names.to.clone(), ..mark.clone() }))?;
        fault::at(FaultPoint::SourceMarked);
        self.target.set_mark(None)?;
        fault::at(FaultPoint::MoveEnded);
        Ok(Moved { identity: head.identity, position: head.position, rows: events + rest, events })
    }

    /// Returns the position of the newest event that the target has. Fails if it is another one than that of the source.
    fn newest_of_target(&mut self, head: &Head) -> Result<u64, Error> {
        let newest = self.target.head()?.position;
        if newest == 0 {
            return Ok(0);
        }
        let before = [Value::Int(newest.cast_signed() - 1)];
        let there = self.target.page(Table::Events, Some(&before))?.into_iter().next();
        let here = self.source.page(Table::Events, Some(&before))?.into_iter().next();
        if newest > head.position || here != there {
            let Names { from, to } = self.names;
            return Err(Error::Invalid(format!(
                "{to} has another event at position {newest} than {from}, or {from} ends before: one of both was restored from a \
                 backup or changed since; nothing was moved: choose a place for the new store that has none"
            )));
        }
        Ok(newest)
    }

    /// Copies the events after a position.
    fn events(&mut self, after: u64, newest: u64) -> Result<u64, Error> {
        let last = (after > 0).then(|| vec![Value::Int(after.cast_signed())]);
        self.copy(Table::Events, last, |watch, row, _| watch(MoveStep::CopyEvents, row[0].count(), newest))
    }

    /// Copies all rows that are no events.
    fn rest(&mut self) -> Result<u64, Error> {
        let mut copied = 0;
        for table in Table::but_events().map(Table::to_copy) {
            copied += self.copy(table, None, |watch, _, of_table| watch(MoveStep::CopyRest, copied + of_table, 0))?;
        }
        Ok(copied)
    }

    /// Copies the rows of a table after one, page by page. After each page `told` gets its last row and the number of rows so far.
    fn copy(
        &mut self,
        table: Table,
        mut last: Option<Row>,
        told: impl Fn(&mut dyn FnMut(MoveStep, u64, u64), &Row, u64),
    ) -> Result<u64, Error> {
        let mut copied = 0;
        loop {
            let page = self.source.page(table, last.as_deref())?;
            if page.is_empty() {
                return Ok(copied);
            }
            self.target.write(table, &page)?;
            fault::at(FaultPoint::PageMoved);
            copied += page.len() as u64;
            last = page.into_iter().next_back();
            last.iter().for_each(|row| told(&mut *self.watch, row, copied));
        }
    }

    /// Fails if both stores do not have the same content.
    fn compare(&mut self, head: &Head) -> Result<(), Error> {
        let Names { from, to } = self.names;
        let differs = |what: String| {
            Error::Failed(format!(
                "{what} is not the same in {from} and in {to}, so nothing was declared complete; if that is so again, choose a place \
                 for the new store that has none"
            ))
        };
        let [here, there] = [self.source.head()?, self.target.head()?];
        if here != *head || there != *head {
            return Err(differs("the head of the store".to_owned()));
        }
        let mut compared = 0;
        for table in Table::ALL {
            let (mut here, mut there) = (Rows::of(table), Rows::of(table));
            loop {
                let (one, other) = (here.next(self.source)?, there.next(self.target)?);
                if one != other {
                    let row = one.or(other).unwrap_or_default();
                    return Err(differs(table.place(&row)));
                }
                if one.is_none() {
                    break;
                }
                compared += 1;
                (self.watch)(MoveStep::Compare, compared, 0);
            }
        }
        Ok(())
    }
}
