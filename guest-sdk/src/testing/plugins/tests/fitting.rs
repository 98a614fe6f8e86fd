//! Which plugins fit together, their settings, and flows from a file.

use super::sagas::Errand;
use super::*;

#[test]
fn each_plugin_has_its_own_settings_and_secrets() {
    #[derive(Deserialize)]
    struct Rules {
        #[serde(default)]
        step: u32,
    }
    #[derive(Deserialize)]
    struct Keys {
        key: Secret,
    }
    struct Spy<const N: u8>;
    impl<const N: u8> Subscriber for Spy<N> {
        const SUBSCRIPTIONS: &'static [&'static str] = &["note.*"];

        fn handle(_: &Delivery, outbox: &mut Outbox) -> Result<(), Failure> {
            let text = format!("{N} {} {}", settings::<Rules>().step, secrets::<Keys>().key.expose());
            outbox.publish(Message::to("spies").bytes(text));
            Ok(())
        }
    }
    #[derive(Deserialize)]
    struct Others {}
    struct Other;
    impl Subscriber for Other {
        const SUBSCRIPTIONS: &'static [&'static str] = &["note.*"];

        fn handle(_: &Delivery, _: &mut Outbox) -> Result<(), Failure> {
            settings::<Others>();
            Ok(())
        }
    }
    let _of_the_test = crate::testing::settings(Rules { step: 9 });
    let mut world = Plugins::new()
        .aggregate::<Note>()
        .subscriber::<Spy<1>>("one")
        .with_settings(serde_json::json!({ "step": 1 }))
        .with_secrets(serde_json::json!({ "key": "k1" }))
        .subscriber::<Other>("other")
        .subscriber::<Spy<2>>("two")
        .with_settings(Rules { step: 2 })
        .with_secrets(Keys { key: Secret::new("k2") })
        .subscriber::<Spy<3>>("three")
        .with_settings(serde_json::json!({ "stop": 3 }));
    let message = |text: &str| Message::to("spies").bytes(text);
    let sent = world.send("note", "1", &say(Do::Nothing));
    sent.then_message(message("1 1 k1")).then_message(message("2 2 k2")).then_dead_letter("three", "unknown: `stop`");
    assert_eq!(settings::<Rules>().step, 9);
}

#[test]
fn plugins_that_do_not_fit_together_are_refused() {
    #[derive(Default)]
    struct SecondNote;
    impl Aggregate for SecondNote {
        const TYPE: &'static str = "note";
        type Command = NoteCommand;
        type Event = NoteEvent;
        type Error = String;

        fn handle(&self, _: NoteCommand) -> Result<Vec<NoteEvent>, String> {
            Ok(Vec::new())
        }

        fn apply(&mut self, _: NoteEvent) {}
    }
    struct Star;
    impl Subscriber for Star {
        const SUBSCRIPTIONS: &'static [&'static str] = &["note.S*"];

        fn handle(_: &Delivery, _: &mut Outbox) -> Result<(), Failure> {
            Ok(())
        }
    }
    let refused = |run: fn() -> Plugins, parts: &[&str]| {
        let text = panic_of(|| drop(run()));
        assert!(parts.iter().all(|part| text.contains(part)), "{text}");
    };
    refused(|| world().aggregate::<SecondNote>(), &["::Note and ", "::SecondNote both have the aggregate type `note`"]);
    refused(|| world().saga::<Errand>().saga::<Errand>(), &["both have the aggregate type `errand`"]);
    refused(|| world().subscriber::<Doer>("doer"), &["are both named `doer`"]);
    refused(|| world().saga::<Errand>().named("doer"), &["::Doer and ", "::Errand are both named `doer`"]);
    refused(|| world().subscriber::<Doer>("No"), &["the name of a plugin must be"]);
    refused(|| world().subscriber::<Star>("star"), &["\"note.S*\""]);
    refused(|| world().aggregate::<SecondNote>().with_secrets(1), &["both have the aggregate type"]);
    refused(|| Plugins::new().aggregate::<Note>().with_secrets(1), &["only subscribers and sagas get secrets"]);
    refused(|| Plugins::new().with_settings(1), &["comes after a plugin"]);
}

#[test]
fn a_subscription_to_an_event_that_does_not_exist_is_found() {
    struct Misspelt;
    impl Subscriber for Misspelt {
        const SUBSCRIPTIONS: &'static [&'static str] = &["note.Sayd", "elsewhere.Said"];

        fn handle(_: &Delivery, _: &mut Outbox) -> Result<(), Failure> {
            Ok(())
        }
    }
    let mut world = world().subscriber::<Misspelt>("misspelt");
    let text = panic_of(|| drop(world.send("note", "1", &say(Do::Nothing))));
    assert!(
        text.contains("::Misspelt subscribes to `note.Sayd`, and note has no such event; its events are Said"),
        "{text}"
    );
}

#[test]
fn a_flow_file_runs_and_says_what_there_is() {
    let text = r#"
        [[flow]]
        name = "no such things"
        start = "2027-01-01T00:00:00Z"
        steps = [{ send = "Nothing", to = "nots/1" }]
        [[flow]]
        name = "no such command"
        steps = [{ send = "Shout", to = "note/1" }]
        [[flow]]
        name = "no such projection"
        steps = [{ query = "notes/all" }]
        [[flow]]
        name = "no such event"
        steps = [{ send = "Nothing", to = "note/1", then.events = [{ on = "note/1", name = "Sayd" }] }]
        [[flow]]
        name = "a dead letter"
        steps = [
            { send = "Say", to = "note/1", payload = { Fail = { how = "rejected" } } },
        ]
        [[flow]]
        name = "good"
        steps = [
            { send = "Say", to = "note/1", payload = "Publish", headers = { by = "Ada" }, then.messages = [{ topic = "topic", key = "k", value = "v" }] },
            { send = "Refuse", to = "note/1", then.rejected = "no, 1" },
            { advance = "1h", then.events = [] },
        ]
    "#;
    let file = std::env::temp_dir().join(format!("wasmill-flows-{}.toml", std::process::id()));
    std::fs::write(&file, text).unwrap();
    let failed = panic_of(|| crate::testing::flows(&file, world));
    std::fs::remove_file(&file).unwrap();
    for part in [
        "5 of 6 flows failed",
        "no such things\nstep 1, Nothing to nots/1: there is no aggregate type nots; did you mean note? there are: note",
        "no such command\nstep 1, Shout to note/1: expected it to be accepted, and it is malformed: unknown name `Shout`",
        "no such projection\nstep 1, query notes/all: there is no projection notes, and no plugin has one",
        "no such event\nstep 1, Nothing to note/1: there is no event of aggregate type note Sayd; did you mean Said? there are: Said, Other",
        "a dead letter\nstep 1, Say to note/1: the dead letters are not the expected ones",
        "+ doer: rejected: not mine",
    ] {
        assert!(failed.contains(part), "no `{part}` in:\n{failed}");
    }
}
