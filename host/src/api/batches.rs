//! `POST /v1/commands`: commands as lines of JSON, with an answer for each line.
//!
//! Body and answers stream at the same time. Answers come in the order of the lines. The commands of one aggregate are
//! decided in the order of their lines, and those of others in parallel. Nothing here grows with the length of the body:
//! if too many commands are under way, if the client does not read its answers, or if there is no room for what is held, no more of
//! the body is read.
//!
//! One task serves a request, not its connection: if the client goes away, the lines that were read are still decided.

mod lines;
mod parsing;
mod room;
mod window;

use super::answer::{self, HttpError};
use super::command_answers::{write_line, write_refused_line};
use super::commands::refusal;
use super::problem::ProblemType;
use super::{STOP_TIME_MAX, Server};
use crate::access::Caller;
use crate::ack::Ack;
use crate::host::Unqueued;
use crate::model::Outcome;
use axum::body::{Body, BodyDataStream, Bytes, HttpBody as _};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Extension, Query, State};
use axum::http::{HeaderMap, header};
use axum::response::Response;
use lines::{Line, Lines};
pub(super) use parsing::LineCommand;
use parsing::Names;
pub(super) use room::LineTurn;
use room::Share;
use schemars::JsonSchema;
use serde::Deserialize;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_stream::StreamExt;
use window::{Answered, Window};

/// The path, whose body has no limit of its length.
pub(super) const PATH: &str = "/v1/commands";

/// The most batches at the same time.
pub(super) const BATCHES_MAX: usize = 64;

/// The most bytes of answers that wait for the client. At the limit no more lines are taken.
const UNSENT_BYTES_MAX: usize = 4 << 20;

/// The longest time for which a command is offered again to an aggregate that has too many commands of other senders.
const BUSY_TIME_MAX: Duration = Duration::from_secs(30);

/// The pause before a command is offered again to a shard whose queue is full.
const FULL_PAUSE: Duration = Duration::from_millis(2);

/// The number of commands that are offered again at a time after that.
const OFFERED_AGAIN: usize = 64;

/// The pause before a batch that found no room for more of its body asks again.
const ROOM_PAUSE: Duration = Duration::from_millis(10);

/// The size at which answers are handed to the connection in one piece.
const PIECE_BYTES: usize = 64 << 10;

/// The answer to a line. The other members are those of the answer to a single command.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "only its schema is used")]
pub(super) struct AnsweredLine {
    /// The number of the line, beginning with 1.
    line: u64,
    /// The status that a single command would have got.
    status: u16,
}

/// The parameters of the path, of which there is none.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Nothing {}

pub(super) async fn send(
    State(server): State<Server>,
    nothing: Result<Query<Nothing>, QueryRejection>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, HttpError> {
    let Query(Nothing {}) = nothing?;
    let permit = server.batches.clone().try_acquire_owned().map_err(|_| too_many(&server))?;
    let mut body = body.into_data_stream();
    // A client that waits for `100 Continue` gets it when its body is read, but not once the answer has begun.
    let first = match headers.contains_key(header::EXPECT) {
        true => Some(timeout(idle_time(&server), body.next()).await.map_err(|_| silent(&server))?),
        false => None,
    };
    let (answers, sent) = mpsc::channel(1);
    let (ended, outcomes) = outcomes();
    let mut batch = Batch {
        lines: Lines::new(server.settings.body_mib << 20),
        names: Names::default(),
        window: Window::default(),
        unsent: Unsent::default(),
        share: Share::new(server.bodies.clone(), server.line_turn.clone()),
        ended,
        is_gone: false,
        caller,
        server,
        _permit: permit,
    };
    if let Some(first) = first {
        batch.arrived(first);
    }
    tokio::spawn(batch.run(body, answers, outcomes));
    Ok(answer::lines(sent))
}

fn too_many(server: &Server) -> HttpError {
    server.host.traffic().turned_away.fetch_add(1, Ordering::Relaxed);
    let text =
        format!("{BATCHES_MAX} batches of commands are under way, which is the most: try again when one has ended");
    tracing::warn!("{text}");
    HttpError::new(ProblemType::NoRoom, text)
}

fn idle_time(server: &Server) -> Duration {
    Duration::from_secs(server.settings.idle_seconds)
}

/// Makes the refusal of a body of which nothing comes any more.
fn silent(server: &Server) -> HttpError {
    let seconds = server.settings.idle_seconds;
    let text = format!(
        "nothing of the body came for {seconds} s (the manifest's `api.idle_seconds`): send this line and those after it again"
    );
    HttpError::new(ProblemType::BodyTooSlow, text)
}

/// The outcome of a command, with the number of its entry in the window.
type Ended = (u64, Outcome);

/// Creates the queue of outcomes. Those who give them are threads of shards, which must not wait.
#[expect(clippy::disallowed_methods, reason = "what comes back is bounded by what is in the window")]
fn outcomes() -> (mpsc::UnboundedSender<Ended>, mpsc::UnboundedReceiver<Ended>) {
    mpsc::unbounded_channel()
}

/// One request.
struct Batch {
    server: Server,
    lines: Lines,
    names: Names,
    window: Window,
    unsent: Unsent,
    /// The room for what is held.
    share: Share,
    ended: mpsc::UnboundedSender<Ended>,
    /// Whether the client has gone away. What was read is then decided, and answered to nobody.
    is_gone: bool,
    caller: Caller,
    _permit: OwnedSemaphorePermit,
}

impl Batch {
    async fn run(
        mut self,
        mut body: BodyDataStream,
        answers: mpsc::Sender<Result<Bytes, Infallible>>,
        mut outcomes: mpsc::UnboundedReceiver<Ended>,
    ) {
        let (idle_time, mut closing) = (idle_time(&self.server), self.server.closing.clone());
        let mut closing = pin!(closing.wait_for(|closing| *closing));
        let mut idle = pin!(sleep(idle_time));
        // Whether `idle` runs: it does while only the client is waited for.
        let (mut is_idle, mut is_cut) = (false, false);
        loop {
            while let Ok((number, outcome)) = outcomes.try_recv() {
                self.end(number, outcome);
            }
            self.advance();
            if self.is_over() {
                break;
            }
            let (wants_body, has_no_room) = self.wants_body();
            let was_idle = std::mem::replace(&mut is_idle, wants_body && self.has_answered());
            if is_idle && !was_idle {
                idle.as_mut().reset(Instant::now() + idle_time);
            }
            let room_due = has_no_room.then(|| Instant::now() + ROOM_PAUSE);
            let due = self.due().into_iter().chain(room_due).min();
            tokio::select! {
                biased;
                Some((number, outcome)) = outcomes.recv() => self.end(number, outcome),
                place = answers.reserve(), if !self.unsent.is_empty() => match place {
                    Ok(place) => place.send(Ok(self.unsent.next())),
                    Err(_) => self.leave(),
                },
                piece = body.next(), if wants_body => {
                    is_idle = false;
                    self.arrived(piece);
                }
                () = &mut idle, if is_idle => {
                    is_cut = true;
                    let silent = silent(&self.server);
                    self.cut(silent);
                }
                _ = &mut closing, if !is_cut => {
                    is_cut = true;
                    // All of it may have arrived, without its end having been asked for.
                    if self.lines.wants_body() && body.is_end_stream() {
                        self.lines.end();
                    }
                    let text = "the host is stopping: send this line and those after it again";
                    self.cut(HttpError::new(ProblemType::HostStopping, text));
                }
                () = async { sleep_until(due.unwrap_or_else(Instant::now)).await }, if due.is_some() => {}
            }
        }
        self.share.covers(0);
        drop(answers);
        if is_cut {
            // A client that is cut off while it writes does not see its answers.
            let rest = async { while let Some(Ok(_)) = body.next().await {} };
            let _ = timeout(STOP_TIME_MAX, rest).await;
        }
    }

    /// Does all that can be done without waiting: it offers commands, answers lines, and takes more of them.
    fn advance(&mut self) {
        self.window.resume(Instant::now);
        self.window.again(OFFERED_AGAIN);
        loop {
            self.offer();
            self.answer();
            let mut has_taken = false;
            while self.may_take()
                && let Some(line) = self.lines.next()
            {
                has_taken = true;
                self.take(line);
                self.offer();
            }
            if !has_taken {
                return;
            }
        }
    }

    /// Whether another line may be taken. Without room they go one by one.
    fn may_take(&mut self) -> bool {
        let is_covered = self.is_covered();
        self.is_within_limits() && (is_covered || self.has_answered())
    }

    /// Whether more of the body is to be read, and whether nothing but room is missing for that.
    fn wants_body(&mut self) -> (bool, bool) {
        if !self.lines.wants_body() || !self.is_within_limits() {
            return (false, false);
        }
        let has_room = self.is_covered() || (self.has_answered() && self.share.may_exceed());
        (has_room, !has_room)
    }

    fn is_within_limits(&self) -> bool {
        self.window.has_room() && self.unsent.bytes < UNSENT_BYTES_MAX
    }

    /// Whether there is room for what is held. It is taken, and what is not needed any more is given back.
    fn is_covered(&mut self) -> bool {
        self.share.covers(self.lines.bytes() + self.window.bytes() + self.unsent.bytes)
    }

    /// Whether all that was taken is answered, and was handed to the connection.
    fn has_answered(&self) -> bool {
        self.window.is_empty() && self.unsent.is_empty()
    }

    fn is_over(&self) -> bool {
        self.lines.are_over() && self.window.is_empty() && (self.is_gone || self.unsent.is_empty())
    }

    /// Returns the time at which commands are to be offered again.
    fn due(&self) -> Option<Instant> {
        if self.window.waits_for_room() { Some(Instant::now() + FULL_PAUSE) } else { self.window.due() }
    }

    /// Takes a line: as a command, or as a refusal.
    fn take(&mut self, line: Line) {
        let number = self.lines.number();
        let command = match line {
            Line::Empty => return,
            Line::Text(text) => {
                let (names, host) = (&mut self.names, &self.server.host);
                parsing::command_of_line(&text, names, host.ids(), host.clock(), &self.caller)
            }
            Line::TooLong => {
                let text = "the line is longer than the manifest's `api.body_mib` allows";
                Err(HttpError::new(ProblemType::BodyTooLong, text))
            }
        };
        match command {
            Ok(command) => self.window.push(number, command.into()),
            Err(refusal) => {
                self.refused(number, &refusal);
                self.window.push_refusal(number, refusal);
            }
        }
    }

    fn refused(&self, line: u64, refusal: &HttpError) {
        self.server.host.traffic().count_refused();
        tracing::info!("line {line} of a batch is not a valid command: {}", refusal.detail);
    }

    /// Offers the commands whose turn it is. Those that find a queue full are set aside.
    fn offer(&mut self) {
        while let Some((number, command)) = self.window.ready() {
            let (command, ended) = (command.clone(), self.ended.clone());
            // An error means that the task has ended, with the runtime.
            let ack = Ack::new(move |outcome| drop(ended.send((number, outcome))));
            match self.server.host.offer(command.clone(), ack) {
                Ok(()) => self.window.queued(),
                Err(Unqueued::Full) => self.window.note_full(),
                Err(Unqueued::Untaken(untaken)) => {
                    let refusal = refusal(untaken, &command.stream.aggregate_type);
                    self.window.queued();
                    self.refused(self.window.line(number), &refusal);
                    self.window.refuse(number, refusal);
                }
            }
        }
    }

    /// Takes the outcome of a command.
    fn end(&mut self, number: u64, outcome: Outcome) {
        // The shard takes no more commands to this aggregate. Those of this request are offered one after the other, so
        // other senders are the cause.
        if let Outcome::Busy { retry_after_ms } = outcome
            && self.window.postpone(number, Duration::from_millis(retry_after_ms), BUSY_TIME_MAX)
        {
            return;
        }
        self.server.host.traffic().count(&outcome);
        self.window.end(number, outcome);
    }

    /// Writes the answers to the lines before the first one that is not answered yet.
    fn answer(&mut self) {
        while let Some((line, answered)) = self.window.pop() {
            if !self.is_gone {
                self.unsent.write(|to| write_answer(to, line, &answered));
            }
        }
    }

    /// Takes a piece of the body, or its end.
    fn arrived(&mut self, piece: Option<Result<Bytes, axum::Error>>) {
        match piece {
            Some(Ok(bytes)) => self.lines.add(bytes),
            Some(Err(cause)) => {
                tracing::debug!("the body of a batch broke off after line {}: {cause}", self.lines.number());
                self.lines.cut();
            }
            None => self.lines.end(),
        }
    }

    /// Takes no more lines, and answers so in place of the next one. Nobody reads that if the client has gone away.
    fn cut(&mut self, refusal: HttpError) {
        if !self.is_gone {
            cut(&mut self.lines, &mut self.window, refusal);
        }
    }

    /// Goes on without the client.
    fn leave(&mut self) {
        tracing::debug!("the client of a batch went away after line {}", self.lines.number());
        self.is_gone = true;
        self.unsent = Unsent::default();
        self.lines.cut();
    }
}

/// Discards the lines that are not taken, and has the first of them refused. There is none if all of the body was taken.
fn cut(lines: &mut Lines, window: &mut Window, refusal: HttpError) {
    if !lines.are_over() {
        lines.discard();
        window.push_refusal(lines.number() + 1, refusal);
    }
}

fn write_answer(to: &mut Vec<u8>, line: u64, answered: &Answered) {
    match answered {
        Answered::Ended(id, outcome) => write_line(to, line, id, outcome),
        Answered::Refused(refusal) => write_refused_line(to, line, refusal),
    }
}

/// Answers that wait for the client.
#[derive(Default)]
struct Unsent {
    /// Full pieces.
    pieces: VecDeque<Bytes>,
    /// The piece that is being written.
    last: Vec<u8>,
    bytes: usize,
}

impl Unsent {
    fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    fn write(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let before = self.last.len();
        write(&mut self.last);
        self.bytes += self.last.len() - before;
        if self.last.len() >= PIECE_BYTES {
            self.pieces.push_back(std::mem::take(&mut self.last).into());
        }
    }

    /// Takes the next piece, which may be a short one.
    fn next(&mut self) -> Bytes {
        let piece = self.pieces.pop_front().unwrap_or_else(|| std::mem::take(&mut self.last).into());
        self.bytes -= piece.len();
        piece
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Outcome;

    fn stopping() -> HttpError {
        HttpError::new(ProblemType::HostStopping, "the host is stopping")
    }

    /// Takes lines as long as the window has room.
    fn take(lines: &mut Lines, window: &mut Window) {
        while window.has_room()
            && let Some(line) = lines.next()
        {
            let Line::Text(text) = line else { panic!("{line:?} is not a command") };
            let text = std::str::from_utf8(&text).expect("text");
            window.push(lines.number(), parsing::tests::parse(text).expect("a command").into());
        }
    }

    #[test]
    fn a_line_that_has_arrived_when_the_host_stops_is_refused_or_answered_but_not_both() {
        let (mut lines, mut window) = (Lines::new(1 << 20), Window::default());
        lines.add(Bytes::from("{\"type\":\"order\",\"aggregate_id\":\"1\",\"name\":\"Create\"}\n".repeat(3_000)));
        take(&mut lines, &mut window);
        let taken = lines.number();
        assert!((1..3_000).contains(&taken), "{taken} lines are taken, all of them behind the first one");
        cut(&mut lines, &mut window, stopping());
        // Room for more, once the commands have ended.
        let mut answered = Vec::new();
        while let Some((number, _)) = window.ready() {
            window.queued();
            window.end(number, Outcome::Busy { retry_after_ms: 0 });
            while let Some((line, answer)) = window.pop() {
                answered.push((line, matches!(answer, Answered::Refused(_))));
            }
            take(&mut lines, &mut window);
        }
        let expected: Vec<_> = (1..=taken).map(|line| (line, false)).chain([(taken + 1, true)]).collect();
        assert!(answered == expected && window.is_empty() && lines.are_over(), "{:?}", answered.last());
    }

    #[test]
    fn a_body_that_was_taken_as_a_whole_is_not_cut() {
        let (mut lines, mut window) = (Lines::new(1 << 20), Window::default());
        lines.add(Bytes::from_static(b"{\"type\":\"order\",\"aggregate_id\":\"1\",\"name\":\"Create\"}"));
        assert!(lines.next().is_none());
        lines.end();
        take(&mut lines, &mut window);
        cut(&mut lines, &mut window, stopping());
        window.queued();
        window.end(0, Outcome::Busy { retry_after_ms: 0 });
        let answered: Vec<_> = std::iter::from_fn(|| window.pop()).map(|(line, _)| line).collect();
        assert_eq!(answered, [1]);
    }
}
