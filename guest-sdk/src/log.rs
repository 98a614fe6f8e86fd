//! The plugin's log: `tracing`-style macros that reach the host's log with level, target, message and fields.
//!
//! The host says what it listens to once; a line below that costs a comparison. Natively, lines from `info` on go to
//! standard error, or to [`testing::logs`](crate::testing::logs).

mod sink;

pub(crate) use sink::install_panic_hook;
#[cfg(not(target_family = "wasm"))]
pub(crate) use sink::native;
pub use sink::{enabled, write};

/// How severe a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Every step.
    Trace,
    /// For the author.
    Debug,
    /// What happened.
    Info,
    /// Something to look at.
    Warn,
    /// Something failed.
    Error,
}

/// A name and a value beside a message.
pub type Field = (&'static str, String);

/// Writes a line of level trace; see [`info!`](crate::info).
#[macro_export]
macro_rules! trace { ($($line:tt)+) => { $crate::__log!($crate::log::Level::Trace, $($line)+) }; }

/// Writes a line of level debug; see [`info!`](crate::info).
#[macro_export]
macro_rules! debug { ($($line:tt)+) => { $crate::__log!($crate::log::Level::Debug, $($line)+) }; }

/// Writes a line of level info: fields first (`%` for Display, `?` for Debug), then a format string.
///
/// ```
/// use wasmill_guest::{info, testing};
///
/// let (order, store) = ("31198570044", Some(330));
/// let ((), lines) = testing::logs(|| info!(order = %order, items = 3, ?store, "created by {}", "me"));
/// assert_eq!(lines[0].message, "created by me");
/// assert_eq!(lines[0].field("order"), Some("31198570044"));
/// assert_eq!(lines[0].field("store"), Some("Some(330)"));
/// ```
#[macro_export]
macro_rules! info { ($($line:tt)+) => { $crate::__log!($crate::log::Level::Info, $($line)+) }; }

/// Writes a line of level warn; see [`info!`](crate::info).
#[macro_export]
macro_rules! warn { ($($line:tt)+) => { $crate::__log!($crate::log::Level::Warn, $($line)+) }; }

/// Writes a line of level error; see [`info!`](crate::info).
#[macro_export]
macro_rules! error { ($($line:tt)+) => { $crate::__log!($crate::log::Level::Error, $($line)+) }; }

/// Nothing is formatted unless somebody listens.
#[doc(hidden)]
#[macro_export]
macro_rules! __log {
    ($level:expr, $($line:tt)+) => {
        if $crate::log::enabled($level) {
            $crate::__log_line!($level, [] $($line)+)
        }
    };
}

/// Takes the fields one by one, then the message.
#[doc(hidden)]
#[macro_export]
macro_rules! __log_line {
    ($level:expr, [$($fields:tt)*]) => {
        $crate::__log_line!($level, [$($fields)*] "")
    };
    ($level:expr, [$($fields:tt)*] $format:literal $(, $argument:expr)* $(,)?) => {
        $crate::log::write($level, ::core::module_path!(), ::std::format!($format $(, $argument)*), ::std::vec![$($fields)*])
    };
    ($level:expr, [$($fields:tt)*] $($name:ident).+ = % $value:expr $(, $($rest:tt)*)?) => {
        $crate::__log_line!($level, [$($fields)* (::core::stringify!($($name).+), ::std::format!("{}", $value)),] $($($rest)*)?)
    };
    ($level:expr, [$($fields:tt)*] $($name:ident).+ = ? $value:expr $(, $($rest:tt)*)?) => {
        $crate::__log_line!($level, [$($fields)* (::core::stringify!($($name).+), ::std::format!("{:?}", $value)),] $($($rest)*)?)
    };
    ($level:expr, [$($fields:tt)*] $($name:ident).+ = $value:expr $(, $($rest:tt)*)?) => {
        $crate::__log_line!($level, [$($fields)* (::core::stringify!($($name).+), ::std::format!("{}", $value)),] $($($rest)*)?)
    };
    ($level:expr, [$($fields:tt)*] % $name:ident $(, $($rest:tt)*)?) => {
        $crate::__log_line!($level, [$($fields)* (::core::stringify!($name), ::std::format!("{}", $name)),] $($($rest)*)?)
    };
    ($level:expr, [$($fields:tt)*] ? $name:ident $(, $($rest:tt)*)?) => {
        $crate::__log_line!($level, [$($fields)* (::core::stringify!($name), ::std::format!("{:?}", $name)),] $($($rest)*)?)
    };
    ($level:expr, [$($fields:tt)*] $name:ident $(, $($rest:tt)*)?) => {
        $crate::__log_line!($level, [$($fields)* (::core::stringify!($name), ::std::format!("{}", $name)),] $($($rest)*)?)
    };
}
