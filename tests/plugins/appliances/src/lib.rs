//! Two aggregates in one plugin.

use wasmill_guest::prelude::*;

/// A lamp, which is on or off.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Lamp {
    is_on: bool,
}

/// What a lamp can be asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the name says it")]
pub enum LampCommand {
    Switch,
}

/// What can have happened to a lamp.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the name says it")]
pub enum LampEvent {
    Switched { is_on: bool },
}

impl Aggregate for Lamp {
    const TYPE: &'static str = "lamp";
    const SNAPSHOTS: Snapshots<Self> = Snapshots::json();
    type Command = LampCommand;
    type Event = LampEvent;
    type Error = String;

    fn handle(&self, LampCommand::Switch: LampCommand) -> Result<Vec<LampEvent>, String> {
        Ok(vec![LampEvent::Switched { is_on: !self.is_on }])
    }

    fn apply(&mut self, LampEvent::Switched { is_on }: LampEvent) {
        self.is_on = is_on;
    }
}

/// A fan, which has a speed.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Fan {
    speed: u32,
}

/// What a fan can be asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub enum FanCommand {
    Turn { by: u32 },
    Break,
}

/// What can have happened to a fan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the name says it")]
pub enum FanEvent {
    Turned { by: u32 },
}

/// Version 1 counted in halves.
const UPCASTS: &[Upcasts] = &[Upcasts::of("Turned", &[from_halves])];

fn from_halves(event: Json) -> Result<Json, String> {
    let halves = event["halves"].as_u64().ok_or("it has no `halves`")?;
    Ok(json!({ "by": halves / 2 }))
}

impl Aggregate for Fan {
    const TYPE: &'static str = "fan";
    const SNAPSHOTS: Snapshots<Self> = Snapshots::json();
    const UPCASTS: &'static [Upcasts] = UPCASTS;
    type Command = FanCommand;
    type Event = FanEvent;
    type Error = String;

    fn handle(&self, command: FanCommand) -> Result<Vec<FanEvent>, String> {
        match command {
            FanCommand::Turn { by } => Ok(vec![FanEvent::Turned { by }]),
            FanCommand::Break => panic!("the fan broke at speed {}", self.speed),
        }
    }

    fn apply(&mut self, FanEvent::Turned { by }: FanEvent) {
        self.speed += by;
    }
}

export_aggregate!(Lamp, Fan);
