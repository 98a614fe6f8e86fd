//! The sandbox of a guest: the host functions that it can call (its log, effects and read model) and its limits.

use super::bindings::wasmill::plugin::{bus, log, sql, types};
use super::clock::{Deadline, Interrupted, Time};
use super::guest_log::GuestLog;
use super::guest_text;
use super::wasi::{AsWasi, Wasi};
use super::{
    Effect, Effects, OutgoingCommand, OutgoingMessage, OutgoingRequest, Plugin, ReadModel, SqlError, SqlValue,
};
use crate::model::{Due, Header};
use crate::names::{self, Name, Rule};
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tracing::Level;
use tracing::level_filters::LevelFilter;
use wasmtime::ResourceLimiter;
use wasmtime_wasi::{WasiCtxView, WasiView};

/// The limits on memories, tables and instances of one wasm store. A plugin of the SDK has one of each. Components from
/// other languages have a few dozen.
const MEMORIES_MAX: usize = 16;
const TABLES_MAX: usize = 256;
const INSTANCES_MAX: usize = 1_000;

/// The most bytes that a subscriber may have brought back with the outcome of a command or the response to a request.
pub(crate) const ATTACHMENT_BYTES_MAX: usize = 1 << 10;

/// The most bytes of a timer's name.
pub(crate) const TIMER_NAME_BYTES_MAX: usize = 255;

/// Why the sandbox refuses what a guest asks for: a limit that it exceeds, with the key that raises it, or a rule that it
/// breaks.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Refused(String);

fn refused(cause: impl Into<String>) -> wasmtime::Error {
    Refused(cause.into()).into()
}

/// The data of one wasm store.
pub(super) struct Sandbox {
    log: GuestLog,
    pub(super) usage: Usage,
    /// The effects that a subscriber asked for since the call began. `None` in other roles.
    pub(super) effects: Option<Effects>,
    effects_max: usize,
    /// The endpoints to which it may ask for requests.
    endpoints: Vec<Name>,
    /// The limit on the bytes of effects in one call; the bytes of this call follow.
    effects_bytes_max: usize,
    effects_bytes: usize,
    /// The effects of the calls for a list whose items are called alone, and their bytes.
    gathered: (usize, usize),
    time: Arc<Time>,
    /// Time limit of an item, in ticks.
    ticks: u64,
    call: Deadline,
    /// The item that the guest said it began, and its deadline.
    item: Option<(u32, Deadline)>,
    unknown_events: Arc<AtomicU64>,
    /// A projection's read model. `None` in other roles.
    pub(super) read_model: Option<Box<dyn ReadModel>>,
    /// The last error that the guest logged: a panic logs its message before it traps.
    last_error: Option<String>,
    /// WASI, if the plugin imports it.
    wasi: Option<Box<Wasi>>,
}

/// How much memory and how many table elements a guest has, and may have.
pub(super) struct Usage {
    /// The size of the linear memories, which never shrink.
    memory_bytes: usize,
    /// Their size when the instance had been created.
    memory_bytes_begun: usize,
    memory_bytes_max: usize,
    table_elements: usize,
    table_elements_max: usize,
    /// The bytes that are being requested, to be subtracted if the system refuses them.
    growing: usize,
    growing_beyond_own_maximum: bool,
    /// Why the system gave no memory although the limits allow it.
    pub(super) refused_by_system: Option<String>,
}

impl Usage {
    pub(super) fn memory_bytes(&self) -> usize {
        self.memory_bytes
    }

    /// Notes that the instance has been created.
    pub(super) fn begin(&mut self) {
        self.memory_bytes_begun = self.memory_bytes;
    }

    /// Whether the memory exceeds three quarters of its limit. If it did so from the beginning, a new guest would have no less.
    fn is_worn(&self) -> bool {
        self.memory_bytes > self.memory_bytes_begun && self.memory_bytes > self.memory_bytes_max / 4 * 3
    }
}

impl ResourceLimiter for Usage {
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        let all = self.memory_bytes.saturating_add(desired.saturating_sub(current));
        if all > self.memory_bytes_max {
            return Err(refused(format!(
                "it needs {all} bytes of memory and the limit is {}: use less or raise limits.memory_mib",
                self.memory_bytes_max
            )));
        }
        self.growing = all - self.memory_bytes;
        self.growing_beyond_own_maximum = maximum.is_some_and(|maximum| desired > maximum);
        self.memory_bytes = all;
        Ok(true)
    }

    fn memory_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        self.memory_bytes -= std::mem::take(&mut self.growing);
        if !self.growing_beyond_own_maximum {
            self.refused_by_system = Some(error.root_cause().to_string());
        }
        Ok(())
    }

    fn table_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        let all = self.table_elements.saturating_add(desired.saturating_sub(current));
        if all > self.table_elements_max {
            return Err(refused(format!(
                "it needs tables of {all} elements and the limit is {}: raise limits.table_elements",
                self.table_elements_max
            )));
        }
        self.table_elements = all;
        Ok(true)
    }

    fn instances(&self) -> usize {
        INSTANCES_MAX
    }

    fn tables(&self) -> usize {
        TABLES_MAX
    }

    fn memories(&self) -> usize {
        MEMORIES_MAX
    }
}

impl Sandbox {
    pub(super) fn new(plugin: &Plugin) -> Self {
        let limits = &plugin.limits;
        Self {
            log: plugin.log.clone(),
            usage: Usage {
                memory_bytes: 0,
                memory_bytes_begun: 0,
                memory_bytes_max: limits.memory_bytes_max,
                table_elements: 0,
                table_elements_max: limits.table_elements_max,
                growing: 0,
                growing_beyond_own_maximum: false,
                refused_by_system: None,
            },
            effects: None,
            effects_max: limits.effects_max,
            endpoints: plugin.description.endpoints().cloned().collect(),
            effects_bytes_max: limits.output_bytes_max,
            effects_bytes: 0,
            gathered: (0, 0),
            time: plugin.time.clone(),
            ticks: 0,
            call: Deadline::default(),
            item: None,
            unknown_events: plugin.unknown_events.clone(),
            read_model: None,
            last_error: None,
            wasi: plugin.wasi.any.then(|| Box::new(Wasi::new(&plugin.log))),
        }
    }

    /// Sets the item of the next call, for WASI: its time, in milliseconds since 1970-01-01T00:00:00Z, and its id.
    pub(super) fn set_item(&mut self, item: Option<(u64, &str)>) {
        if let Some(wasi) = &mut self.wasi {
            match item {
                Some((time_ms, id)) => wasi.set_item(time_ms, id),
                None => wasi.set_no_item(),
            }
        }
    }

    /// Takes what the guest said in the call, if anything: the last error that it logged, or else what it wrote to standard
    /// error.
    pub(super) fn take_said(&mut self) -> Option<String> {
        let written = self.wasi.as_mut().and_then(|wasi| wasi.take_said());
        self.last_error.take().or(written)
    }

    /// Whether the guest should be recreated, because it has taken much of what it may have and gives nothing back: memory, or
    /// handles of WASI.
    pub(super) fn is_worn(&self) -> bool {
        self.usage.is_worn() || self.has_many_handles()
    }

    /// Whether the guest holds many handles of WASI.
    pub(super) fn has_many_handles(&self) -> bool {
        self.wasi.as_ref().is_some_and(|wasi| wasi.is_worn())
    }

    /// Begins a call that may take `ticks`, and each of its items `item_ticks`.
    #[inline]
    pub(super) fn begin_call(&mut self, ticks: u64, item_ticks: u64) {
        (self.ticks, self.item) = (item_ticks, None);
        self.call = self.time.deadline(ticks);
        if self.last_error.is_some() {
            self.last_error = None;
        }
        if let Some(wasi) = &mut self.wasi {
            wasi.begin_call();
        }
    }

    /// Ends a call.
    #[inline]
    pub(super) fn end_call(&mut self) {
        if let Some(wasi) = &mut self.wasi {
            wasi.end_call();
        }
    }

    /// Checks whether the current call may go on.
    pub(super) fn may_go_on(&self) -> Result<(), Interrupted> {
        self.time.allows(self.item.map_or(self.call, |(_, item)| item))
    }

    /// Returns the item that the guest was handling, if it said so.
    pub(super) fn item(&self) -> Option<u32> {
        self.item.map(|(index, _)| index)
    }

    /// Begins to collect the effects of a call with `deliveries`.
    pub(super) fn begin_effects(&mut self, deliveries: usize) {
        self.effects = Some(Effects { deliveries: deliveries as u32, list: Vec::new() });
        self.effects_bytes = 0;
    }

    /// Takes the effects of a call.
    pub(super) fn take_effects(&mut self) -> Effects {
        let effects = self.effects.take().unwrap_or_default();
        self.gathered.0 += effects.list.len();
        self.gathered.1 += self.effects_bytes;
        effects
    }

    /// Begins a list whose items are called alone.
    pub(super) fn begin_list(&mut self) {
        self.gathered = (0, 0);
    }

    /// Whether the items of a list have asked for as many effects as one call may.
    pub(super) fn is_full(&self) -> bool {
        self.gathered.0 >= self.effects_max || self.gathered.1 >= self.effects_bytes_max
    }

    /// Notes that no item is at fault, because a limit of the whole call is reached. An item alone is at fault in any case.
    fn blame_call(&mut self) {
        self.item = None;
    }

    fn add(&mut self, what: &str, cause: u32, effect: Effect) -> wasmtime::Result<()> {
        let (effects_max, bytes_max) = (self.effects_max, self.effects_bytes_max);
        self.effects_bytes = self.effects_bytes.saturating_add(effect.bytes());
        if self.effects_bytes > bytes_max {
            self.blame_call();
            return Err(refused(format!(
                "effects of more than {bytes_max} bytes in one call: handle fewer deliveries (batch_max), send less or \
                 raise limits.output_mib"
            )));
        }
        let Some(effects) = &mut self.effects else {
            return Err(refused(format!(
                "{what} belongs to the `handle` of subscribers and sagas; there are no effects here"
            )));
        };
        if effects.list.len() >= effects_max {
            self.blame_call();
            return Err(refused(format!(
                "more than {effects_max} effects in one call: handle fewer deliveries (batch_max) or raise limits.effects_max"
            )));
        }
        if cause >= effects.deliveries {
            return Err(refused(format!(
                "{what} names delivery {cause} as its cause, of {} delivered",
                effects.deliveries
            )));
        }
        effects.list.push((cause, effect));
        Ok(())
    }
}

impl Effect {
    /// Returns its approximate size in bytes.
    fn bytes(&self) -> usize {
        let of_headers = |headers: &[Header]| headers.iter().map(Header::bytes).sum::<usize>();
        let of_command = |command: &OutgoingCommand| {
            let texts = command.aggregate_type.len() + command.aggregate_id.len() + command.name.len();
            let attachment = command.outcome.as_ref().map_or(0, Vec::len);
            texts + command.payload.len() + attachment + of_headers(&command.headers)
        };
        match self {
            Self::Command(command) => of_command(command),
            Self::Later(name, _, command) => name.as_ref().map_or(0, String::len) + of_command(command),
            Self::Wake(name, _, payload) => name.len() + payload.len(),
            Self::Cancel(name) => name.len(),
            Self::Message(message) => {
                let content = [&message.key, &message.payload].into_iter().flatten().map(Vec::len).sum::<usize>();
                message.topic.len() + content + of_headers(&message.headers)
            }
            Self::Http(request) => {
                let texts = request.endpoint.len() + request.method.len() + request.path.len();
                let attachment = request.response.as_ref().map_or(0, Vec::len);
                texts + request.body.len() + attachment + of_headers(&request.headers)
            }
        }
    }
}

impl WasiView for Sandbox {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        self.wasi().view()
    }
}

impl AsWasi for Sandbox {
    fn wasi(&mut self) -> &mut Wasi {
        self.wasi.as_mut().expect("a component that imports WASI has it")
    }
}

impl log::Host for Sandbox {
    fn max_level(&mut self) -> wasmtime::Result<log::Level> {
        Ok(match LevelFilter::current() {
            LevelFilter::TRACE => log::Level::Trace,
            LevelFilter::DEBUG => log::Level::Debug,
            LevelFilter::INFO => log::Level::Info,
            LevelFilter::WARN => log::Level::Warn,
            _ => log::Level::Error,
        })
    }

    fn write(
        &mut self,
        level: log::Level,
        target: String,
        message: String,
        fields: Vec<log::Field>,
    ) -> wasmtime::Result<()> {
        let mut text = message;
        // This includes lines that are not written. The fields, such as the place in the source, only go to the log.
        if let log::Level::Error = level {
            self.last_error = Some(guest_text::line(&text));
        }
        for field in fields {
            let _ = write!(text, " {}={}", field.name, field.value);
        }
        let level = match level {
            log::Level::Trace => Level::TRACE,
            log::Level::Debug => Level::DEBUG,
            log::Level::Info => Level::INFO,
            log::Level::Warn => Level::WARN,
            log::Level::Error => Level::ERROR,
        };
        self.log.write(level, &target, &text);
        Ok(())
    }

    fn unknown_event(&mut self, event: String) -> wasmtime::Result<()> {
        self.unknown_events.fetch_add(1, Ordering::Relaxed);
        tracing::debug!(target: "guest", plugin = &**self.log.label(), "skipped {}, which the code does not know", guest_text::line(&event));
        Ok(())
    }
}

impl types::Host for Sandbox {}

impl bus::Host for Sandbox {
    fn begin(&mut self, delivery: u32) -> wasmtime::Result<()> {
        // From here on no item is at fault if the batch as a whole takes too long.
        self.item = None;
        let Some(effects) = &self.effects else {
            return Err(refused("bus.begin belongs to subscribers; this role has no deliveries"));
        };
        if delivery >= effects.deliveries {
            return Err(refused(format!("bus.begin names delivery {delivery}, of {} delivered", effects.deliveries)));
        }
        self.time.allows(self.call)?;
        self.item = Some((delivery, self.time.deadline(self.ticks)));
        Ok(())
    }

    fn send_command(&mut self, cause: u32, command: bus::OutgoingCommand) -> wasmtime::Result<()> {
        let command = command_from("bus.send-command", command)?;
        self.add("bus.send-command", cause, Effect::Command(command))
    }

    fn send_later(
        &mut self,
        cause: u32,
        timer: Option<String>,
        due: bus::Due,
        command: bus::OutgoingCommand,
    ) -> wasmtime::Result<()> {
        timer.as_deref().map_or(Ok(()), |name| checked_timer("bus.send-later", name))?;
        let command = command_from("bus.send-later", command)?;
        self.add("bus.send-later", cause, Effect::Later(timer, due.into(), command))
    }

    fn wake(&mut self, cause: u32, timer: String, due: bus::Due, payload: Vec<u8>) -> wasmtime::Result<()> {
        checked_timer("bus.wake", &timer)?;
        self.add("bus.wake", cause, Effect::Wake(timer, due.into(), payload))
    }

    fn cancel(&mut self, cause: u32, timer: String) -> wasmtime::Result<()> {
        checked_timer("bus.cancel", &timer)?;
        self.add("bus.cancel", cause, Effect::Cancel(timer))
    }

    fn publish(&mut self, cause: u32, message: bus::Message) -> wasmtime::Result<()> {
        let bus::Message { topic, key, partition, headers, payload } = message;
        let message = OutgoingMessage { topic, key, partition, headers: headers_from(headers), payload };
        self.add("bus.publish", cause, Effect::Message(message))
    }

    fn http(&mut self, cause: u32, request: bus::Request) -> wasmtime::Result<()> {
        let bus::Request { endpoint, method, path, headers, body, response } = request;
        if !self.endpoints.iter().any(|known| **known == *endpoint) {
            return Err(refused(format!(
                "bus.http names the endpoint {}, which the plugin does not declare: add it to ENDPOINTS of the role",
                names::shown(&endpoint)
            )));
        }
        check_attachment(response.as_deref(), || {
            let (method, path) = (names::shown(&method), names::shown(&path));
            format!("bus.http asks for the response to {method} with the path {path} at {endpoint}")
        })?;
        let header = |types::HttpHeaderResult { name, value }| Header { name, value: Some(value) };
        let headers = headers.into_iter().map(header).collect();
        let request = OutgoingRequest { endpoint, method, path, headers, body, response };
        self.add("bus.http", cause, Effect::Http(request))
    }
}

fn command_from(call: &str, command: bus::OutgoingCommand) -> wasmtime::Result<OutgoingCommand> {
    let bus::OutgoingCommand { aggregate_type, aggregate_id, name, payload, headers, expected_version, outcome } =
        command;
    checked(call, "an aggregate type", &aggregate_type, Rule::Part)?;
    checked(call, "a command", &name, Rule::Message)?;
    check_attachment(outcome.as_deref(), || format!("{call} asks for the outcome of {name}"))?;
    let headers = headers_from(headers);
    Ok(OutgoingCommand { aggregate_type, aggregate_id, name, payload, headers, expected_version, outcome })
}

/// Refuses bytes that are too many to come back. `asked` says what the guest has asked for.
fn check_attachment(attachment: Option<&[u8]>, asked: impl Fn() -> String) -> wasmtime::Result<()> {
    match attachment.map(<[u8]>::len) {
        Some(bytes) if bytes > ATTACHMENT_BYTES_MAX => Err(refused(format!(
            "{} with {bytes} bytes, and at most {ATTACHMENT_BYTES_MAX} come back with it: send an id, and look the rest up",
            asked()
        ))),
        _ => Ok(()),
    }
}

fn checked(call: &str, what: &str, text: &str, rule: Rule) -> wasmtime::Result<()> {
    match names::checked(text, rule) {
        Ok(_) => Ok(()),
        Err(cause) => Err(refused(format!("the name of {what} in {call} {cause}"))),
    }
}

fn checked_timer(call: &str, name: &str) -> wasmtime::Result<()> {
    if name.is_empty() || name.len() > TIMER_NAME_BYTES_MAX || name.contains(char::is_control) {
        return Err(refused(format!(
            "{call} names a timer with {} bytes: a name has 1 to {TIMER_NAME_BYTES_MAX} bytes and no control characters",
            name.len()
        )));
    }
    Ok(())
}

impl From<bus::Due> for Due {
    fn from(due: bus::Due) -> Self {
        match due {
            bus::Due::After(ms) => Self::After(ms),
            bus::Due::At(ms) => Self::At(ms),
        }
    }
}

fn headers_from(headers: Vec<types::HeaderResult>) -> Vec<Header> {
    headers.into_iter().map(|types::HeaderResult { name, value }| Header { name, value }).collect()
}

impl sql::Host for Sandbox {
    fn execute(&mut self, statement: String, parameters: Vec<sql::Value>) -> wasmtime::Result<Result<u64, sql::Error>> {
        let read_model = self.read_model()?;
        let parameters = parameters.into_iter().map(SqlValue::from).collect();
        Ok(read_model.execute(&statement, parameters).map_err(|error| sql_error(error, statement)))
    }

    fn query(
        &mut self,
        statement: String,
        parameters: Vec<sql::Value>,
    ) -> wasmtime::Result<Result<sql::Rows, sql::Error>> {
        let read_model = self.read_model()?;
        let parameters = parameters.into_iter().map(SqlValue::from).collect();
        Ok(match read_model.query(&statement, parameters) {
            Ok(found) => Ok(sql::Rows {
                columns: found.columns,
                rows: found.rows.into_iter().map(|row| row.into_iter().map(sql::Value::from).collect()).collect(),
            }),
            Err(error) => Err(sql_error(error, statement)),
        })
    }
}

impl Sandbox {
    fn read_model(&mut self) -> wasmtime::Result<&mut Box<dyn ReadModel>> {
        match &mut self.read_model {
            Some(read_model) => Ok(read_model),
            None => Err(refused("sql belongs to projections; this role has no read model")),
        }
    }
}

fn sql_error(error: SqlError, statement: String) -> sql::Error {
    sql::Error { message: error.0, statement }
}

impl From<sql::Value> for SqlValue {
    fn from(value: sql::Value) -> Self {
        match value {
            sql::Value::Null => Self::Null,
            sql::Value::Integer(value) => Self::Integer(value),
            sql::Value::Unsigned(value) => Self::Unsigned(value),
            sql::Value::Real(value) => Self::Real(value),
            sql::Value::Text(value) => Self::Text(value),
            sql::Value::Blob(value) => Self::Blob(value),
        }
    }
}

impl From<SqlValue> for sql::Value {
    fn from(value: SqlValue) -> Self {
        match value {
            SqlValue::Null => Self::Null,
            SqlValue::Integer(value) => Self::Integer(value),
            SqlValue::Unsigned(value) => Self::Unsigned(value),
            SqlValue::Real(value) => Self::Real(value),
            SqlValue::Text(value) => Self::Text(value),
            SqlValue::Blob(value) => Self::Blob(value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memories_count_together_and_what_the_system_refuses_is_known() {
        let mut usage = Usage {
            memory_bytes: 0,
            memory_bytes_begun: 0,
            memory_bytes_max: 100,
            table_elements: 0,
            table_elements_max: 10,
            growing: 0,
            growing_beyond_own_maximum: false,
            refused_by_system: None,
        };
        assert!(usage.memory_growing(0, 60, None).is_ok());
        assert!(usage.memory_growing(0, 30, None).is_ok());
        assert!(usage.memory_growing(60, 80, None).unwrap_err().to_string().contains("limits.memory_mib"));
        assert!(usage.memory_growing(60, 65, Some(60)).is_ok());
        usage.memory_grow_failed(wasmtime::Error::msg("beyond its own maximum")).unwrap();
        assert_eq!((usage.memory_bytes(), usage.refused_by_system.take()), (90, None));
        assert!(usage.memory_growing(60, 65, None).is_ok());
        usage.memory_grow_failed(wasmtime::Error::msg("Cannot allocate memory")).unwrap();
        assert_eq!(usage.memory_bytes(), 90);
        assert_eq!(usage.refused_by_system.as_deref(), Some("Cannot allocate memory"));
        assert!(usage.table_growing(0, 6, None).is_ok());
        assert!(usage.table_growing(0, 6, None).unwrap_err().to_string().contains("limits.table_elements"));
    }
}
