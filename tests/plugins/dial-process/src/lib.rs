//! A saga that sends a request and ends with its answer.

use wasmill_guest::prelude::*;

/// One arranged call.
#[derive(Default)]
pub struct DialProcess;

/// What it records.
#[derive(Serialize, Deserialize)]
pub enum Event {
    /// The request is sent.
    Sent,
    /// The answer came.
    Answered {
        /// The answer, as text.
        text: String,
    },
}

#[derive(Deserialize)]
enum Input {
    Arranged { path: String },
}

#[derive(Serialize)]
enum Call {
    Hear { text: String },
}

impl Saga for DialProcess {
    const TYPE: &'static str = "dial-process";
    const STARTS: &'static [&'static str] = &["call.Arranged"];
    const ENDPOINTS: &'static [&'static str] = &["server"];
    type Event = Event;

    fn handle(&self, event: &Delivery, step: &mut Step<Event>) -> Result<(), Failure> {
        let Input::Arranged { path } = event.decode()?;
        step.record(Event::Sent);
        let id = event.aggregate_id()?.to_owned();
        step.http(Request::put("server", path).body(id.clone()).asking_response(&id)?);
        Ok(())
    }

    fn response(&self, response: &Response<'_>, step: &mut Step<Event>) -> Result<(), Failure> {
        let text = format!("the saga got {}", response.answer());
        step.record(Event::Answered { text: text.clone() });
        step.send("call", response.attachment::<String>()?, &Call::Hear { text })?;
        match response.answer().is_success() {
            true => step.complete(),
            false => step.compensated(),
        }
        Ok(())
    }

    fn apply(&mut self, _: Event) {}
}
export_saga!(DialProcess);
