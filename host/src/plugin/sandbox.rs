//! What a guest can reach: its log, the effects it asks for, its read model, and nothing else. And its limits.

use super::bindings::wasmill::plugin::{bus, log, sql, types};
use super::{Effect, Effects, Limits, OutgoingCommand, OutgoingMessage, ReadModel, SqlError, SqlValue};
use crate::model::Header;
use std::fmt::Write as _;
use std::sync::Arc;
use tracing::level_filters::LevelFilter;
use wasmtime::ResourceLimiter;

/// Bytes of one line in the host's log at most.
const LOG_LINE_BYTES_MAX: usize = 8 << 10;

/// The data of one wasm store.
pub(super) struct Sandbox {
    /// Name and version, for the log and errors.
    label: Arc<str>,
    pub(super) usage: Usage,
    /// What a subscriber asked for since the call began. `None` in other roles.
    pub(super) effects: Option<Effects>,
    effects_max: usize,
    /// A projection's read model. `None` in other roles.
    pub(super) read_model: Option<Box<dyn ReadModel>>,
    /// The last error that the guest logged: a panic logs its message before it traps.
    pub(super) last_error: Option<String>,
}

/// How much a guest has, and may have.
pub(super) struct Usage {
    /// Size of the linear memory. It never shrinks.
    memory_bytes: usize,
    memory_bytes_max: usize,
    table_elements_max: usize,
}

impl Usage {
    pub(super) fn memory_bytes(&self) -> usize {
        self.memory_bytes
    }

    /// Past three quarters of the limit.
    pub(super) fn is_worn(&self) -> bool {
        self.memory_bytes > self.memory_bytes_max / 4 * 3
    }
}

impl ResourceLimiter for Usage {
    fn memory_growing(&mut self, _current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        if desired > self.memory_bytes_max {
            wasmtime::bail!(
                "it needs {desired} bytes of memory and the limit is {}: use less or raise limits.memory_mib",
                self.memory_bytes_max
            );
        }
        self.memory_bytes = desired;
        Ok(true)
    }

    fn table_growing(&mut self, _current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        if desired > self.table_elements_max {
            wasmtime::bail!(
                "it needs a table of {desired} elements and the limit is {}: raise limits.table_elements",
                self.table_elements_max
            );
        }
        Ok(true)
    }
}

impl Sandbox {
    pub(super) fn new(label: Arc<str>, limits: &Limits) -> Self {
        Self {
            label,
            usage: Usage {
                memory_bytes: 0,
                memory_bytes_max: limits.memory_bytes_max,
                table_elements_max: limits.table_elements_max,
            },
            effects: None,
            effects_max: limits.effects_max,
            read_model: None,
            last_error: None,
        }
    }

    fn add(&mut self, what: &str, cause: u32, effect: Effect) -> wasmtime::Result<()> {
        let effects_max = self.effects_max;
        let Some(effects) = &mut self.effects else {
            wasmtime::bail!("{what} belongs to subscribers; this role has no effects");
        };
        if effects.list.len() >= effects_max {
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
        for field in fields {
            let _ = write!(text, " {}={}", field.name, field.value);
        }
        if text.len() > LOG_LINE_BYTES_MAX {
            let cut = text.floor_char_boundary(LOG_LINE_BYTES_MAX);
            let lost = text.len() - cut;
            text.truncate(cut);
            let _ = write!(text, "… ({lost} bytes cut)");
        }
        let plugin = &*self.label;
        match level {
            log::Level::Trace => tracing::trace!(target: "guest", plugin, module = target, "{text}"),
            log::Level::Debug => tracing::debug!(target: "guest", plugin, module = target, "{text}"),
            log::Level::Info => tracing::info!(target: "guest", plugin, module = target, "{text}"),
            log::Level::Warn => tracing::warn!(target: "guest", plugin, module = target, "{text}"),
            log::Level::Error => {
                tracing::error!(target: "guest", plugin, module = target, "{text}");
                self.last_error = Some(text);
            }
        }
        Ok(())
    }
}

impl types::Host for Sandbox {}

impl bus::Host for Sandbox {
    fn send_command(&mut self, cause: u32, command: bus::OutgoingCommand) -> wasmtime::Result<()> {
        let bus::OutgoingCommand { aggregate_type, aggregate_id, name, payload, headers } = command;
        let headers = headers_from(headers);
        let command = OutgoingCommand { aggregate_type, aggregate_id, name, payload, headers };
        self.add("bus.send-command", cause, Effect::Command(command))
    }

    fn publish(&mut self, cause: u32, message: bus::Message) -> wasmtime::Result<()> {
        let bus::Message { topic, key, partition, headers, payload } = message;
        let message = OutgoingMessage { topic, key, partition, headers: headers_from(headers), payload };
        self.add("bus.publish", cause, Effect::Message(message))
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
            SqlValue::Real(value) => Self::Real(value),
            SqlValue::Text(value) => Self::Text(value),
            SqlValue::Blob(value) => Self::Blob(value),
        }
    }
}
