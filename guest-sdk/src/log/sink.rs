//! The destination of log lines: the host's import on wasm; standard error or a test's list natively.

use super::{Field, Level};

/// Returns whether the host records lines of this level.
#[inline]
pub fn enabled(level: Level) -> bool {
    target::enabled(level)
}

/// Writes one line. Call it through the macros, which check the level first.
#[cold]
pub fn write(level: Level, target: &str, message: String, fields: Vec<Field>) {
    target::write(level, target, message, fields);
}

/// Installs a panic hook that writes the panic's message and place to the host's log before the guest traps. Calling it
/// again costs little.
#[inline]
pub(crate) fn install_panic_hook() {
    #[cfg(target_family = "wasm")]
    target::install_panic_hook();
}

#[cfg(not(target_family = "wasm"))]
pub(crate) use target as native;

#[cfg(target_family = "wasm")]
mod target {
    use super::super::{Field, Level};
    use crate::bindings::log as wit;
    use std::panic::{PanicHookInfo, set_hook};
    use std::sync::{Once, OnceLock};

    /// The host's level. The host promises that it stays the same while the instance lives.
    static MAX_LEVEL: OnceLock<Level> = OnceLock::new();

    #[inline]
    pub(super) fn enabled(level: Level) -> bool {
        level
            >= *MAX_LEVEL.get_or_init(|| match wit::max_level() {
                wit::Level::Trace => Level::Trace,
                wit::Level::Debug => Level::Debug,
                wit::Level::Info => Level::Info,
                wit::Level::Warn => Level::Warn,
                wit::Level::Error => Level::Error,
            })
    }

    pub(super) fn write(level: Level, target: &str, message: String, fields: Vec<Field>) {
        let level = match level {
            Level::Trace => wit::Level::Trace,
            Level::Debug => wit::Level::Debug,
            Level::Info => wit::Level::Info,
            Level::Warn => wit::Level::Warn,
            Level::Error => wit::Level::Error,
        };
        let fields: Vec<_> =
            fields.into_iter().map(|(name, value)| wit::Field { name: name.to_owned(), value }).collect();
        wit::write(level, target, &message, &fields);
    }

    #[inline]
    pub(super) fn install_panic_hook() {
        static INSTALLED: Once = Once::new();
        INSTALLED.call_once(|| set_hook(Box::new(report)));
    }

    fn report(panic: &PanicHookInfo<'_>) {
        let message = panic.payload_as_str().unwrap_or("no message").to_owned();
        let place = panic.location().map(|place| ("place", place.to_string()));
        write(Level::Error, "panic", message, place.into_iter().collect());
    }
}

#[cfg(not(target_family = "wasm"))]
pub(crate) mod target {
    use super::super::{Field, Level};
    use std::cell::RefCell;

    /// A line as the macros wrote it.
    #[derive(Clone, Debug)]
    pub struct Line {
        /// The severity.
        pub level: Level,
        /// The module that wrote the line.
        pub target: String,
        /// The text.
        pub message: String,
        /// The fields, in the order in which they were written.
        pub fields: Vec<Field>,
    }

    impl Line {
        /// The value of a field.
        pub fn field(&self, name: &str) -> Option<&str> {
            self.fields.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_str())
        }
    }

    thread_local! {
        static CAPTURED: RefCell<Option<Vec<Line>>> = const { RefCell::new(None) };
    }

    pub(super) fn enabled(level: Level) -> bool {
        level >= Level::Info || CAPTURED.with_borrow(Option::is_some)
    }

    pub(super) fn write(level: Level, target: &str, message: String, fields: Vec<Field>) {
        let line = Line { level, target: target.to_owned(), message, fields };
        CAPTURED.with_borrow_mut(|captured| match captured {
            Some(lines) => lines.push(line),
            None => eprintln!("{:?} {}: {} {:?}", line.level, line.target, line.message, line.fields),
        });
    }

    /// Runs a function and returns its result with the lines that it wrote on this thread.
    pub fn logs<T>(run: impl FnOnce() -> T) -> (T, Vec<Line>) {
        let outer = CAPTURED.replace(Some(Vec::new()));
        let value = run();
        (value, CAPTURED.replace(outer).unwrap_or_default())
    }
}
