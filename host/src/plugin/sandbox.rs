//! The sandbox of a guest: the host functions that it can call (its log, effects and read model) and its limits.

use super::bindings::wasmill::plugin::{bus, log, sql, types};
use super::clock::{Deadline, Interrupted, Time};
use super::{
    Effect, Effects, OutgoingCommand, OutgoingMessage, OutgoingRequest, Plugin, ReadModel, SqlError, SqlValue,
};
use crate::model::{Due, Header};
use crate::names::{self, Name, Rule};
use crate::supervise::Held as _;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tracing::level_filters::LevelFilter;
use wasmtime::ResourceLimiter;

/// The maximum size of a guest's line in the host's log, in bytes.
const LOG_LINE_BYTES_MAX: usize = 8 << 10;

/// The number of lines that the guests of a plugin may write to the host's log in a second. Further lines are only
/// counted.
const LOG_LINES_MAX: u32 = 1_000;

/// The limits on memories, tables and instances of one wasm store. A plugin of the SDK has one of each. Components from
/// other languages have a few dozen.
const MEMORIES_MAX: usize = 16;
const TABLES_MAX: usize = 256;
const INSTANCES_MAX: usize = 1_000;

/// The most bytes that a subscriber may have brought back with the outcome of a command or the response to a request.
pub(crate) const ATTACHMENT_BYTES_MAX: usize = 1 << 10;

/// The most bytes of a timer's name.
pub(crate) const TIMER_NAME_BYTES_MAX: usize = 255;

/// A limit that a guest exceeded, with the key that raises it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Beyond(String);

/// The data of one wasm store.
pub(super) struct Sandbox {
    /// Name and version, for the log and errors.
    label: Arc<str>,
    pub(super) usage: Usage,
    /// The effects that a subscriber asked for since the call began. `None` in other roles.
    pub(super) effects: Option<Effects>,
    effects_max: usize,
    /// The endpoints to which it may ask for requests.
    endpoints: Vec<Name>,
    /// The limit on the bytes of effects in one call; the bytes of this call follow.
    effects_bytes_max: usize,
    effects_bytes: usize,
    time: Arc<Time>,
    /// Time limit of an item, in ticks.
    ticks: u64,
    call: Deadline,
    /// The item that the guest said it began, and its deadline.
    item: Option<(u32, Deadline)>,
    lines: Arc<Mutex<Lines>>,
    unknown_events: Arc<AtomicU64>,
    /// A projection's read model. `None` in other roles.
    pub(super) read_model: Option<Box<dyn ReadModel>>,
    /// The last error that the guest logged: a panic logs its message before it traps.
    pub(super) last_error: Option<String>,
}

/// How much memory and how many table elements a guest has, and may have.
pub(super) struct Usage {
    /// The size of the linear memories, which never shrink.
    memory_bytes: usize,
    memory_bytes_max: usize,
    table_elements: usize,
    table_elements_max: usize,
    /// The bytes that are being requested, to be subtracted if the system refuses them.
    growing: usize,
    growing_beyond_own_maximum: bool,
    /// Why the system gave no memory although the limits allow it.
    pub(super) refused_by_system: Option<String>,
}

/// The lines that the guests of a plugin have written in this second.
pub(super) struct Lines {
    since: Instant,
    written: u32,
    left_out: u64,
}

impl Default for Lines {
    fn default() -> Self {
        Self { since: Instant::now(), written: 0, left_out: 0 }
    }
}

/// What happens to a log line.
#[derive(Debug, PartialEq, Eq)]
enum Line {
    Written,
    /// The first line in its second that is left out.
    FirstLeftOut,
    LeftOut,
}

impl Usage {
    pub(super) fn memory_bytes(&self) -> usize {
        self.memory_bytes
    }

    /// Whether the memory exceeds three quarters of its limit.
    pub(super) fn is_worn(&self) -> bool {
        self.memory_bytes > self.memory_bytes_max / 4 * 3
    }
}

impl ResourceLimiter for Usage {
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        let all = self.memory_bytes.saturating_add(desired.saturating_sub(current));
        if all > self.memory_bytes_max {
            return Err(Beyond(format!(
                "it needs {all} bytes of memory and the limit is {}: use less or raise limits.memory_mib",
                self.memory_bytes_max
            ))
            .into());
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
            return Err(Beyond(format!(
                "it needs tables of {all} elements and the limit is {}: raise limits.table_elements",
                self.table_elements_max
            ))
            .into());
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
            label: plugin.label.clone(),
            usage: Usage {
                memory_bytes: 0,
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
            time: plugin.time.clone(),
            ticks: 0,
            call: Deadline::default(),
            item: None,
            lines: plugin.lines.clone(),
            unknown_events: plugin.unknown_events.clone(),
            read_model: None,
            last_error: None,
        }
    }

    /// Begins a call that may take `ticks`, and each of its items `item_ticks`.
    #[inline]
    pub(super) fn begin_call(&mut self, ticks: u64, item_ticks: u64) {
        (self.ticks, self.item) = (item_ticks, None);
        self.call = self.time.deadline(ticks);
        if self.last_error.is_some() {
            self.last_error = None;
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

    /// Notes that no item is at fault, because a limit of the whole call is reached. An item alone is at fault in any case.
    fn blame_call(&mut self) {
        self.item = None;
    }

    fn add(&mut self, what: &str, cause: u32, effect: Effect) -> wasmtime::Result<()> {
        let (effects_max, bytes_max) = (self.effects_max, self.effects_bytes_max);
        self.effects_bytes = self.effects_bytes.saturating_add(effect.bytes());
        if self.effects_bytes > bytes_max {
            self.blame_call();
            wasmtime::bail!(
                "effects of more than {bytes_max} bytes in one call: handle fewer deliveries (batch_max), send less or \
                 raise limits.output_mib"
            );
        }
        let Some(effects) = &mut self.effects else {
            wasmtime::bail!("{what} belongs to the `handle` of subscribers and sagas; there are no effects here");
        };
        if effects.list.len() >= effects_max {
            self.blame_call();
            wasmtime::bail!(
                "more than {effects_max} effects in one call: handle fewer deliveries (batch_max) or raise limits.effects_max"
            );
        }
        if cause >= effects.deliveries {
            wasmtime::bail!("{what} names delivery {cause} as its cause, of {} delivered", effects.deliveries);
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

impl Lines {
    /// Decides about the next line, and returns how many lines were left out in the second that has just ended.
    fn next(&mut self, now: Instant) -> (Line, u64) {
        let mut left_out = 0;
        if now.saturating_duration_since(self.since) >= Duration::from_secs(1) {
            left_out = std::mem::take(&mut self.left_out);
            (self.since, self.written) = (now, 0);
        }
        if self.written < LOG_LINES_MAX {
            self.written += 1;
            return (Line::Written, left_out);
        }
        self.left_out += 1;
        (if self.left_out == 1 { Line::FirstLeftOut } else { Line::LeftOut }, left_out)
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
            self.last_error = Some(text[..text.floor_char_boundary(LOG_LINE_BYTES_MAX)].to_owned());
        }
        for field in fields {
            let _ = write!(text, " {}={}", field.name, field.value);
        }
        if text.len() > LOG_LINE_BYTES_MAX {
            let cut = text.floor_char_boundary(LOG_LINE_BYTES_MAX);
            let lost = text.len() - cut;
            text.truncate(cut);
            let _ = write!(text, "… ({lost} bytes cut)");
        }
        let (target, text) = (printable(target), printable(text));
        let plugin = &*self.label;
        let (line, left_out) = self.lines.held().next(Instant::now());
        if left_out > 0 {
            tracing::warn!(target: "guest", plugin, "{left_out} lines were left out");
        }
        match line {
            Line::Written => {}
            Line::LeftOut => return Ok(()),
            Line::FirstLeftOut => {
                tracing::warn!(target: "guest", plugin, "lines beyond {LOG_LINES_MAX} in this second are left out");
                return Ok(());
            }
        }
        match level {
            log::Level::Trace => tracing::trace!(target: "guest", plugin, module = target, "{text}"),
            log::Level::Debug => tracing::debug!(target: "guest", plugin, module = target, "{text}"),
            log::Level::Info => tracing::info!(target: "guest", plugin, module = target, "{text}"),
            log::Level::Warn => tracing::warn!(target: "guest", plugin, module = target, "{text}"),
            log::Level::Error => tracing::error!(target: "guest", plugin, module = target, "{text}"),
        }
        Ok(())
    }

    fn unknown_event(&mut self, event: String) -> wasmtime::Result<()> {
        self.unknown_events.fetch_add(1, Ordering::Relaxed);
        tracing::debug!(target: "guest", plugin = &*self.label, "skipped {}, which the code does not know", printable(event));
        Ok(())
    }
}

/// Escapes control characters, so that a line stays one line and a guest can't control a terminal.
fn printable(text: String) -> String {
    if !text.chars().any(char::is_control) {
        return text;
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        if character.is_control() {
            escaped.extend(character.escape_default());
        } else {
            escaped.push(character);
        }
    }
    escaped
}

impl types::Host for Sandbox {}

impl bus::Host for Sandbox {
    fn begin(&mut self, delivery: u32) -> wasmtime::Result<()> {
        // From here on no item is at fault if the batch as a whole takes too long.
        self.item = None;
        let Some(effects) = &self.effects else {
            wasmtime::bail!("bus.begin belongs to subscribers; this role has no deliveries");
        };
        if delivery >= effects.deliveries {
            wasmtime::bail!("bus.begin names delivery {delivery}, of {} delivered", effects.deliveries);
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
            wasmtime::bail!(
                "bus.http names the endpoint {endpoint:?}, which the plugin does not declare: add it to ENDPOINTS of the role"
            );
        }
        check_attachment(response.as_deref(), || {
            format!("bus.http asks for the response to {method} {endpoint}/{path}")
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
        Some(bytes) if bytes > ATTACHMENT_BYTES_MAX => wasmtime::bail!(
            "{} with {bytes} bytes, and at most {ATTACHMENT_BYTES_MAX} come back with it: send an id, and look the rest up",
            asked()
        ),
        _ => Ok(()),
    }
}

fn checked(call: &str, what: &str, text: &str, rule: Rule) -> wasmtime::Result<()> {
    match names::checked(text, rule) {
        Ok(_) => Ok(()),
        Err(cause) => wasmtime::bail!("the name of {what} in {call} {cause}"),
    }
}

fn checked_timer(call: &str, name: &str) -> wasmtime::Result<()> {
    if name.is_empty() || name.len() > TIMER_NAME_BYTES_MAX || name.contains(char::is_control) {
        wasmtime::bail!(
            "{call} names a timer with {} bytes: a name has 1 to {TIMER_NAME_BYTES_MAX} bytes and no control characters",
            name.len()
        );
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
            None => wasmtime::bail!("sql belongs to projections; this role has no read model"),
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
    fn lines_of_a_second_are_bounded_and_those_left_out_are_counted() {
        let mut lines = Lines::default();
        let begin = lines.since;
        assert!((0..LOG_LINES_MAX).all(|_| lines.next(begin) == (Line::Written, 0)));
        assert_eq!(lines.next(begin), (Line::FirstLeftOut, 0));
        assert_eq!(lines.next(begin), (Line::LeftOut, 0));
        let next = begin + Duration::from_secs(1);
        assert_eq!(lines.next(next), (Line::Written, 2));
        assert_eq!(lines.next(next), (Line::Written, 0));
    }

    #[test]
    fn a_line_of_a_guest_stays_a_line() {
        assert_eq!(printable("a\nb\u{1b}[2Jé".to_owned()), "a\\nb\\u{1b}[2Jé");
        assert_eq!(printable("plain".to_owned()), "plain");
    }

    #[test]
    fn memories_count_together_and_what_the_system_refuses_is_known() {
        let mut usage = Usage {
            memory_bytes: 0,
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
