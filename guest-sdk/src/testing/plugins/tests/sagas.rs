//! Sagas from their start to their end, and what fails.

use super::*;

/// A saga that does what notes say. Its key is the id of the note up to a `-`.
#[derive(Default)]
pub(super) struct Errand {
    steps: u32,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum ErrandEvent {
    Stepped,
}

impl Saga for Errand {
    const TYPE: &'static str = "errand";
    const STARTS: &'static [&'static str] = &["note.Said"];
    const SUBSCRIPTIONS: &'static [&'static str] = &["note.Other"];
    type Event = ErrandEvent;

    fn key(event: &Delivery) -> Result<Option<String>, Failure> {
        match event.aggregate_id()?.split('-').next() {
            Some("bad") => Err(Failure::malformed("it has no key")),
            Some("none") => Ok(None),
            key => Ok(key.map(str::to_owned)),
        }
    }

    fn handle(&self, event: &Delivery, step: &mut Step<ErrandEvent>) -> Result<(), Failure> {
        let NoteEvent::Said(what) = event.decode()? else { return Ok(()) };
        match what {
            Do::Nothing => return Ok(()),
            Do::Publish => step.publish(Message::to("steps").json(&self.steps)?),
            Do::End => {
                step.record(ErrandEvent::Stepped);
                step.complete();
            }
            what => {
                step.record(ErrandEvent::Stepped);
                act(what, step)?;
            }
        }
        Ok(())
    }

    fn outcome(&self, _: &Outcome<'_>, step: &mut Step<ErrandEvent>) -> Result<(), Failure> {
        step.record(ErrandEvent::Stepped);
        Ok(())
    }

    fn timer(&self, _: &Timer<'_>, step: &mut Step<ErrandEvent>) -> Result<(), Failure> {
        step.record(ErrandEvent::Stepped);
        Ok(())
    }

    fn apply(&mut self, _: ErrandEvent) {
        self.steps += 1;
    }
}

fn errands() -> Plugins {
    CALLS.set(0);
    Plugins::new().aggregate::<Note>().saga::<Errand>().named("errands")
}

#[test]
fn a_saga_lives_from_its_start_to_its_end() {
    let mut world = errands();
    let steps = |world: &Plugins, key: &str| world.events_of("errand", key).len();
    world.send("note", "none", &say(Do::End));
    world.send("note", "a-1", &say(Do::Nothing));
    assert_eq!((steps(&world, "none"), steps(&world, "a")), (0, 0), "an input without effects starts nothing");
    world.send("note", "a-1", &say(Do::Wake { timer: "t".into(), ms: 1_000 }));
    world.send("note", "a-2", &say(Do::SendLater { timer: Some("s".into()), ms: 1_000 }));
    world.send("note", "a-2", &say(Do::SendLater { timer: None, ms: 1_000 }));
    // Timers of another saga have other names.
    world.send("note", "b", &say(Do::Wake { timer: "t".into(), ms: 1_000 }));
    world.send("note", "a-3", &say(send("Nothing", true)));
    assert_eq!(steps(&world, "a"), 5, "the outcome is an input too");
    world.send("note", "a-4", &say(Do::Publish)).then_message(Message::to("steps").json(&5).unwrap());
    world.send("note", "a-5", &say(Do::End)).then_events("errand", "a", [ErrandEvent::Stepped]);
    world.send("note", "a-6", &say(Do::End)).then_events("note", "a-6", [NoteEvent::Said(Do::End)]).then_nothing();
    // The timers of `a` that have a name are cancelled.
    world
        .advance(2 * SECOND)
        .then_events("note", "later", [NoteEvent::Said(Do::Nothing)])
        .then_events("errand", "b", [ErrandEvent::Stepped])
        .then_nothing();
    assert_eq!(steps(&world, "a"), 6);
    let to_saga = panic_of(|| drop(world.send("errand", "a", &NoteCommand::Nothing)));
    assert!(to_saga.contains("`errand` is a saga"), "{to_saga}");
}

#[test]
fn an_input_that_fails_holds_its_saga_and_what_no_saga_can_take_holds_nothing() {
    let mut world = errands();
    world
        .send("note", "bad", &say(Do::End))
        .then_dead_letter("errands", "can't be determined: malformed: it has no key");
    world
        .send("note", "\u{20}-", &say(Do::Publish))
        .then_dead_letter("errands", "the first decision of a saga has no event");
    world.send("note", "c", &say(Do::Wake { timer: "a/b".into(), ms: 1 })).then_dead_letter("errands", "has no `/`");
    world.send("note", "a-1", &say(send("Nothing", false)));
    world.send("note", "a-1", &say(Do::Wake { timer: "t".into(), ms: 1 }));
    world.send("note", "a-2", &say(Do::Fail { how: "retry".into() })).then_dead_letter("errands", "(tried 5 times)");
    let said = |what| [NoteEvent::Said(what)];
    world.send("note", "a-3", &say(Do::End)).then_events("note", "a-3", said(Do::End)).then_nothing();
    world.send("note", "b", &say(Do::End)).then_events("errand", "b", [ErrandEvent::Stepped]);
    // Outcomes and timers pass.
    world.advance(SECOND).then_events("errand", "a", [ErrandEvent::Stepped]).then_nothing();
}
