//! Tests of the kit itself, with plugins that do what their commands say.

mod fitting;
mod http;
#[cfg(feature = "testing-sql")]
mod projections;
mod sagas;
mod shapes;

use super::*;
use crate::aggregate::{Context, Snapshots};
use crate::configuration::{Secret, secrets, settings};
use crate::failure::Failure;
use crate::saga::Step;
use crate::subscriber::{Delivery, Due, Ending, Message, Outbox, Outcome, OutgoingCommand, Timer};
use serde::Deserialize;
use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};

const SECOND: Duration = Duration::from_secs(1);

thread_local! {
    /// What the subscriber saw.
    static SEEN: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
    /// A state that plugins must not have.
    static CALLS: Cell<u32> = const { Cell::new(0) };
}

fn seen() -> Vec<String> {
    SEEN.take()
}

/// An aggregate that records what it is told.
#[derive(Default)]
struct Note;

#[derive(Clone, Debug, Serialize, Deserialize)]
enum NoteCommand {
    /// Records what the subscriber or the saga shall do.
    Say(Do),
    Refuse,
    Panic,
    /// Decides differently each time.
    Dice,
    Large,
    Nothing,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum NoteEvent {
    Said(Do),
    Other,
}

/// What a subscriber does about an event.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Do {
    Nothing,
    Send { to: String, id: String, command: String, payload: String, expected: Option<u64>, asks: bool },
    Wake { timer: String, ms: u64 },
    WakeAt { timer: String, ms: u64 },
    SendLater { timer: Option<String>, ms: u64 },
    Cancel { timer: String },
    Publish,
    Fail { how: String },
    Loop,
    End,
}

impl Aggregate for Note {
    const TYPE: &'static str = "note";
    type Command = NoteCommand;
    type Event = NoteEvent;
    type Error = String;

    fn handle_with(&self, command: NoteCommand, context: &Context<'_>) -> Result<Vec<NoteEvent>, String> {
        Ok(vec![match command {
            NoteCommand::Say(what) => NoteEvent::Said(what),
            NoteCommand::Refuse => return Err(format!("no, {}", context.aggregate_id())),
            NoteCommand::Panic => panic!("ouch"),
            NoteCommand::Dice => {
                CALLS.set(CALLS.get() + 1);
                NoteEvent::Said(Do::Fail { how: CALLS.get().to_string() })
            }
            NoteCommand::Large => NoteEvent::Said(Do::Fail { how: "x".repeat(1 << 20) }),
            NoteCommand::Nothing => return Ok(Vec::new()),
        }])
    }

    fn handle(&self, _: NoteCommand) -> Result<Vec<NoteEvent>, String> {
        unreachable!("`handle_with` is called")
    }

    fn apply(&mut self, _: NoteEvent) {}
}

fn act(what: Do, outbox: &mut Outbox) -> Result<(), Failure> {
    let say = |id: &str, what: Do| OutgoingCommand::new("note", id, &NoteCommand::Say(what));
    match what {
        Do::Nothing | Do::End => {}
        Do::Send { to, id, command, payload, expected, asks } => {
            let mut sent = OutgoingCommand::new(to, id, &NoteCommand::Nothing)?;
            (sent.0.name, sent.0.payload, sent.0.expected_version) = (command, payload.into_bytes(), expected);
            outbox.send_command(if asks { sent.asking_outcome(&"seven")? } else { sent });
        }
        Do::Wake { timer, ms } => outbox.wake(timer, Duration::from_millis(ms), &ms)?,
        Do::WakeAt { timer, ms } => outbox.wake(timer, Due::At(ms), &ms)?,
        Do::SendLater { timer: Some(timer), ms } => {
            outbox.send_at_timer(timer, Duration::from_millis(ms), say("later", Do::Nothing)?);
        }
        Do::SendLater { timer: None, ms } => {
            outbox.send_later(Duration::from_millis(ms), say("later", Do::Nothing)?);
        }
        Do::Cancel { timer } => outbox.cancel(timer),
        Do::Publish => outbox.publish(Message::to("topic").key("k").json("v")?),
        Do::Fail { how } => match how.as_str() {
            "rejected" => return Err(Failure::rejected("not mine")),
            "retry" => return Err(Failure::retry(SECOND, "not yet")),
            "once" if CALLS.replace(CALLS.get() + 1) == 0 => return Err(Failure::retry(SECOND, "not yet")),
            "once" => {}
            other => panic!("{other}"),
        },
        Do::Loop => outbox.send_command(say("loop", Do::Loop)?),
    }
    Ok(())
}

/// A subscriber that does what events say.
struct Doer;

impl Subscriber for Doer {
    const SUBSCRIPTIONS: &'static [&'static str] = &["note.*"];

    fn handle(delivery: &Delivery, outbox: &mut Outbox) -> Result<(), Failure> {
        #[derive(Deserialize)]
        enum Known {
            Said(Do),
        }
        let Known::Said(what) = delivery.decode()?;
        SEEN.with_borrow_mut(|seen| seen.push(format!("{} {what:?}", delivery.aggregate_id().unwrap())));
        act(what, outbox)
    }

    fn outcome(outcome: &Outcome<'_>, _: &mut Outbox) -> Result<(), Failure> {
        let (attachment, ending): (String, _) = (outcome.attachment()?, outcome.ending());
        let key = String::from_utf8_lossy(outcome.key().unwrap()).into_owned();
        SEEN.with_borrow_mut(|seen| seen.push(format!("{key} {attachment} {}: {ending}", outcome.command())));
        if let Ending::Rejected(_) = ending { Err(Failure::rejected("an outcome")) } else { Ok(()) }
    }

    fn timer(timer: &Timer<'_>, _: &mut Outbox) -> Result<(), Failure> {
        let since = timer.metadata().time_ms() - START_MS;
        let first = timer.first_ms() - START_MS;
        SEEN.with_borrow_mut(|seen| seen.push(format!("timer {} at {since}, first {first}", timer.name())));
        Ok(())
    }
}

fn world() -> Plugins {
    SEEN.take();
    CALLS.set(0);
    Plugins::new().aggregate::<Note>().subscriber::<Doer>("doer")
}

fn say(what: Do) -> NoteCommand {
    NoteCommand::Say(what)
}

fn send(command: &str, asks: bool) -> Do {
    let (to, payload) = ("note".to_owned(), "null".to_owned());
    Do::Send { to, id: "other".into(), command: command.into(), payload, expected: None, asks }
}

fn panic_of(run: impl FnOnce()) -> String {
    let panic = catch_unwind(AssertUnwindSafe(run)).unwrap_err();
    panic.downcast_ref::<String>().cloned().or_else(|| panic.downcast_ref::<&str>().map(|&text| text.into())).unwrap()
}

#[test]
fn a_command_ends_as_its_aggregate_says() {
    let mut world = world();
    world.send("note", "1", &say(Do::Nothing)).then_accepted();
    world.send("note", "1", &NoteCommand::Refuse).then_rejected("no, 1").then_nothing();
    world.send("note", "1", &NoteCommand::Panic).then_failed("it panicked: ouch").then_nothing();
    world.send("note", "1", &NoteCommand::Large).then_malformed("store.event_bytes_max").then_nothing();
    world.send_json("note", "1", "Shout", "").then_malformed("known are Say, Refuse").then_nothing();
    world.send_json("note", "a\n", "Nothing", "null").then_malformed("control character").then_nothing();
    world.send_json("note", &"a".repeat(513), "Nothing", "null").then_malformed("513 bytes").then_nothing();
    assert_eq!(world.events_of("note", "1").len(), 1);
    let refused = panic_of(|| drop(world.send("note", "1", &NoteCommand::Refuse)));
    assert!(refused.contains("the test does not expect it: rejected: no, 1"), "{refused}");
    let unknown = panic_of(|| drop(world.send("nots", "1", &NoteCommand::Refuse)));
    assert_eq!(unknown, "there is no aggregate type nots; did you mean note? there are: note");
}

#[test]
fn each_ending_comes_back_to_who_asked_and_else_is_refused_or_dead_lettered() {
    for (command, ending) in [
        ("Nothing", "accepted at version 0"),
        ("Shout", "malformed: unknown name `Shout`"),
        ("Panic", "it panicked: ouch (tried 3 times)"),
        ("Say", "malformed: "),
    ] {
        let is_accepted = command == "Nothing";
        let mut world = world();
        let asked = world.send("note", "1", &say(send(command, true)));
        if !is_accepted {
            asked.then_refused("note", "other", command, "");
        }
        assert!(seen()[1].starts_with(&format!("1 seven {command}: {ending}")), "{ending}");
        let unasked = world.send("note", "1", &say(send(command, false)));
        if !is_accepted {
            unasked.then_refused("note", "other", command, "").then_dead_letter("doer", "");
        }
        assert_eq!(seen().len(), 1, "{ending}: nobody asked");
    }
    let mut world = world();
    world.send("note", "1", &say(send("Refuse", false))).then_refused("note", "other", "Refuse", "no, other");
    let asked = world.send("note", "1", &say(send("Refuse", true)));
    asked.then_refused("note", "other", "Refuse", "").then_dead_letter("doer", "rejected: an outcome");
    // An outcome that is dead-lettered holds nothing.
    world.send("note", "1", &say(send("Nothing", true)));
    assert_eq!(seen().last().unwrap(), "1 seven Nothing: accepted at version 0");
}

#[test]
fn an_expected_version_and_an_unserved_type_are_endings_too() {
    let mut world = world();
    let expecting = |expected| Do::Send {
        to: "note".into(),
        id: "1".into(),
        command: "Nothing".into(),
        payload: "null".into(),
        expected: Some(expected),
        asks: true,
    };
    world.send("note", "1", &say(expecting(1)));
    world.send("note", "1", &say(expecting(1))).then_refused(
        "note",
        "1",
        "Nothing",
        "it conflicts: the stream has version 2",
    );
    let Do::Send { id, command, payload, .. } = expecting(0) else { unreachable!() };
    let nowhere = Do::Send { to: "nowhere".into(), id, command, payload, expected: None, asks: true };
    world.send("note", "1", &say(nowhere)).then_refused("nowhere", "1", "Nothing", "served are: note");
    let endings: Vec<_> = seen().into_iter().filter(|seen| seen.contains("seven")).collect();
    let unserved = "1 seven Nothing: no plugin serves aggregate type nowhere; served are: note";
    let conflict = "1 seven Nothing: conflict: the stream is at version 2";
    assert_eq!(endings, ["1 seven Nothing: accepted at version 1", conflict, unserved]);
}

#[test]
fn a_dead_letter_holds_its_key_and_no_other() {
    for (how, reason) in [
        ("rejected", "rejected: not mine"),
        ("retry", "not yet (tried 5 times)"),
        ("bang", "it panicked: bang (tried 5 times)"),
    ] {
        let mut world = world();
        world.send("note", "1", &say(Do::Fail { how: how.into() })).then_dead_letter("doer", reason);
        seen();
        world
            .send("note", "1", &say(Do::Publish))
            .then_events("note", "1", [NoteEvent::Said(Do::Publish)])
            .then_nothing();
        world.send("note", "2", &say(Do::Publish)).then_message(Message::to("topic").key("k").json("v").unwrap());
        assert_eq!(seen(), ["2 Publish"]);
    }
    let mut world = world();
    world.send("note", "1", &say(Do::Fail { how: "once".into() }));
    assert_eq!(seen().len(), 2, "it is tried again");
    let unexpected = panic_of(|| drop(world.send("note", "1", &say(Do::Fail { how: "rejected".into() }))));
    assert!(unexpected.contains("dead letters that the test does not expect") && unexpected.contains("not mine"));
}

#[test]
fn timers_fire_at_their_time_in_their_order_and_once() {
    let mut world = world();
    let wake = |timer: &str, ms| say(Do::Wake { timer: timer.into(), ms });
    world.send("note", "1", &wake("late", 5_000));
    world.send("note", "1", &wake("early", 2_000));
    world.send("note", "1", &say(Do::SendLater { timer: None, ms: 3_000 }));
    world.send("note", "1", &wake("cancelled", 2_500));
    world.send("note", "2", &say(Do::Cancel { timer: "cancelled".into() }));
    seen();
    world.advance(Duration::from_millis(1_999)).then_nothing();
    assert_eq!(seen(), [""; 0]);
    world.advance(Duration::from_millis(1)).then_nothing();
    assert_eq!(seen(), ["timer early at 2000, first 0"]);
    // It replaces the one of the same name.
    world.send("note", "1", &wake("late", 3_000));
    world.advance(10 * SECOND).then_events("note", "later", [NoteEvent::Said(Do::Nothing)]).then_nothing();
    assert_eq!(seen()[1..], ["later Nothing", "timer late at 5000, first 2000"]);
    world.send("note", "1", &say(Do::WakeAt { timer: "past".into(), ms: START_MS + 7 }));
    assert_eq!(seen()[1], "timer past at 7, first 12000");
    world.advance(100 * SECOND).then_nothing();
    assert_eq!(world.now_ms(), START_MS + 112_000);
}

#[test]
fn the_command_of_a_timer_has_its_time() {
    let mut world = world();
    world.send("note", "1", &say(Do::SendLater { timer: Some("t".into()), ms: 3_000 }));
    world.advance(10 * SECOND);
    let event = world.store.history(&Stream::new("note", "later")).pop().unwrap();
    assert_eq!(
        (event.metadata.time, event.recorded_time, event.first_time),
        (START_MS + 3_000, START_MS + 3_000, START_MS)
    );
    assert_eq!(crate::Metadata(&event.metadata).correlation_id(), "command-1");
    assert_eq!(crate::Metadata(&event.metadata).causation_id(), Some("doer:1:0"));
}

#[test]
fn a_circle_ends_with_a_dead_letter_and_one_without_hops_is_an_error() {
    let mut world = world();
    world.send("note", "loop", &say(Do::Loop)).then_dead_letter("doer", "passed 100 subscribers");
    assert_eq!(world.events_of("note", "loop").len(), 101);

    /// A subscriber that sets a timer whenever one fires.
    struct Ticker;
    impl Subscriber for Ticker {
        const SUBSCRIPTIONS: &'static [&'static str] = &["note.**"];

        fn handle(_: &Delivery, outbox: &mut Outbox) -> Result<(), Failure> {
            Ok(outbox.wake("tick", Duration::ZERO, &())?)
        }

        fn timer(_: &Timer<'_>, outbox: &mut Outbox) -> Result<(), Failure> {
            Ok(outbox.wake("tick", Duration::ZERO, &())?)
        }
    }
    let mut world = Plugins::new().aggregate::<Note>().subscriber::<Ticker>("ticker");
    let endless = panic_of(|| drop(world.send("note", "1", &NoteCommand::Say(Do::Nothing))));
    assert!(endless.contains("do not come to rest: 10000 deliveries") && endless.contains("the timer tick to ticker"));

    /// A subscriber that wakes up every second.
    struct Clock;
    impl Subscriber for Clock {
        const SUBSCRIPTIONS: &'static [&'static str] = &["note.**"];

        fn handle(_: &Delivery, outbox: &mut Outbox) -> Result<(), Failure> {
            Ok(outbox.wake("tick", SECOND, &())?)
        }

        fn timer(_: &Timer<'_>, outbox: &mut Outbox) -> Result<(), Failure> {
            Ok(outbox.wake("tick", SECOND, &())?)
        }
    }
    let mut world = Plugins::new().aggregate::<Note>().subscriber::<Clock>("clock");
    world.send("note", "1", &NoteCommand::Say(Do::Nothing));
    world.advance(600 * SECOND).then_nothing();
    let too_often = panic_of(|| drop(world.advance(1_000_000 * SECOND)));
    assert!(too_often.contains("move the clock in smaller steps"), "{too_often}");
}

#[test]
fn names_that_a_host_refuses_are_refused() {
    let mut world = world();
    for what in [
        Do::Wake { timer: String::new(), ms: 1 },
        Do::Cancel { timer: "a".repeat(256) },
        Do::SendLater { timer: Some("a\n".into()), ms: 1 },
    ] {
        let id = format!("{what:?}").len().to_string();
        world.send("note", &id, &say(what)).then_dead_letter("doer", "a name has 1 to 255 bytes");
    }
    let Do::Send { id, command, payload, .. } = send("Nothing", false) else { unreachable!() };
    let to_nobody = Do::Send { to: "No body".into(), id, command, payload, expected: None, asks: false };
    world.send("note", "a", &say(to_nobody)).then_dead_letter("doer", "the name of an aggregate type must be");
    world.send("note", "b", &say(send("no command", false))).then_dead_letter("doer", "the name of a command must be");
}

#[test]
fn unknown_events_are_skipped() {
    /// The same aggregate type with an event that the subscriber does not know.
    #[derive(Default)]
    struct Newer;
    impl Aggregate for Newer {
        const TYPE: &'static str = "note";
        type Command = NoteCommand;
        type Event = NoteEvent;
        type Error = String;

        fn handle(&self, _: NoteCommand) -> Result<Vec<NoteEvent>, String> {
            Ok(vec![NoteEvent::Other])
        }

        fn apply(&mut self, _: NoteEvent) {}
    }
    seen();
    let mut world = Plugins::new().aggregate::<Newer>().subscriber::<Doer>("doer");
    world.send("note", "1", &NoteCommand::Nothing).then_events("note", "1", [NoteEvent::Other]).then_nothing();
    assert_eq!(seen(), [""; 0]);
}

#[test]
fn an_aggregate_that_its_events_do_not_determine_is_found() {
    let mut world = world();
    let dice = panic_of(|| drop(world.send("note", "1", &NoteCommand::Dice)));
    assert!(dice.contains("note/1 decides on Dice in another way once it is rebuilt"), "{dice}");

    /// An aggregate whose state counts calls of `apply` in the process.
    #[derive(Default, Serialize, Deserialize)]
    struct Counting {
        calls: u32,
    }
    impl Aggregate for Counting {
        const TYPE: &'static str = "counting";
        const SNAPSHOTS: Snapshots<Self> = Snapshots::json();
        type Command = NoteCommand;
        type Event = NoteEvent;
        type Error = String;

        fn handle(&self, _: NoteCommand) -> Result<Vec<NoteEvent>, String> {
            Ok(vec![NoteEvent::Other])
        }

        fn apply(&mut self, _: NoteEvent) {
            CALLS.set(CALLS.get() + 1);
            self.calls = CALLS.get();
        }
    }
    let mut world = Plugins::new().aggregate::<Counting>();
    let counting = panic_of(|| drop(world.send("counting", "1", &NoteCommand::Nothing)));
    assert!(counting.contains("counting/1 has a state in another way once it is rebuilt"), "{counting}");
}
