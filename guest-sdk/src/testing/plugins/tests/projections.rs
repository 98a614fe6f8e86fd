//! Projections beside the other plugins.

use super::*;
use crate::projection::{Answer, Event, Projection, QueryError};
use crate::sql::Sql;

#[derive(Serialize, Deserialize)]
enum Query {
    Count,
}

/// Counts notes, and refuses those that say `End`.
struct Notes;
impl Projection for Notes {
    const NAME: &'static str = "notes";
    const SUBSCRIPTIONS: &'static [&'static str] = &["note.Said"];
    const SCHEMA: &'static str = "CREATE TABLE notes (id TEXT)";
    type Query = Query;

    fn project(event: &Event, sql: &Sql) -> Result<(), Failure> {
        if let NoteEvent::Said(Do::End) = event.decode()? {
            return Err(Failure::rejected("no ends here"));
        }
        sql.execute("INSERT INTO notes VALUES (?1)", crate::params![event.aggregate_id()])?;
        Ok(())
    }

    fn query(Query::Count: Query, sql: &Sql) -> Result<Answer, QueryError> {
        let count: Option<(u64,)> = sql.row("SELECT count(*) FROM notes", crate::params![])?;
        Answer::json(&count.map(|(count,)| count))
    }
}

#[test]
fn a_projection_has_seen_everything_and_one_that_stops_ends_the_test() {
    let mut world = world().projection::<Notes>();
    world.send("note", "1", &say(Do::SendLater { timer: None, ms: 1_000 }));
    assert_eq!(world.query::<Notes>(&Query::Count), 1);
    world.advance(SECOND);
    assert_eq!(world.query::<Notes>(&Query::Count), 2);
    let unknown = World::query(&mut world, "notes", "Cont", &Json::Null).unwrap_err();
    assert_eq!(unknown, "there is no query of projection notes Cont; did you mean Count? there are: Count");
    let other = World::query(&mut world, "note", "Count", &Json::Null).unwrap_err();
    assert_eq!(other, "there is no projection note; did you mean notes? there are: notes");
    let stopped = panic_of(|| drop(world.send("note", "1", &say(Do::End))));
    assert!(stopped.contains("projection notes stops at event 3, Said of note/1: rejected: no ends here"), "{stopped}");
}

#[test]
fn two_projections_of_a_name_are_refused() {
    let text = panic_of(|| drop(world().projection::<Notes>().projection::<Notes>()));
    assert!(text.contains("are both the projection `notes`"), "{text}");
}
