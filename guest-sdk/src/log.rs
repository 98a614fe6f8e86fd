//! The plugin's log: macros in the style of `tracing`. The host's log shows a line with its level, target, message and
//! fields, under the plugin's name and version.
//!
//! The host tells its level once, so a less severe line costs only a comparison. Natively, lines of level `info` and
//! above go to standard error, or to [`testing::logs`](crate::testing::logs).

mod sink;

pub(crate) use sink::install_panic_hook;
#[cfg(not(target_family = "wasm"))]
pub(crate) use sink::native;
pub use sink::{enabled, write};

/// The severity of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// A single step.
    Trace,
    /// A detail for the plugin's author.
    Debug,
    /// A normal event.
    Info,
    /// A condition that needs attention.
    Warn,
    /// A failure.
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

/// Writes a line of level info, like [`info!`](crate::info), but with a format string only, like the macro of the standard library.
/// Natively it is that macro, so a test shows the line as usual.
///
/// In a plugin, `println!` of the standard library writes nowhere. `use wasmill_guest::println;` puts this one in its place.
///
/// ```
/// use wasmill_guest::println;
///
/// println!("{} of {}", 1, 2);
/// println!();
/// ```
#[macro_export]
macro_rules! println {
    () => { $crate::println!("") };
    ($($line:tt)+) => { $crate::__print!($($line)+) };
}

/// Writes an expression, its value and its place as a line of level info, and returns the value, like the macro of the standard
/// library. Natively it is that macro, so a test shows the value as usual.
///
/// In a plugin, `dbg!` of the standard library writes nowhere. `use wasmill_guest::dbg;` puts this one in its place.
///
/// ```
/// use wasmill_guest::dbg;
///
/// let doubled = dbg!(1 + 2) * 2;
/// assert_eq!(doubled, 6);
/// ```
#[macro_export]
macro_rules! dbg {
    () => { $crate::__debug!("") };
    ($value:expr $(,)?) => {
        // As in the standard library: temporary values live as long as they would without the macro.
        match $value {
            value => {
                $crate::__debug!(" {} = {:#?}", ::core::stringify!($value), &value);
                value
            }
        }
    };
    ($($value:expr),+ $(,)?) => { ($($crate::dbg!($value)),+,) };
}

/// Writes a line to the log or, natively, to standard output.
#[doc(hidden)]
#[macro_export]
#[cfg(target_family = "wasm")]
macro_rules! __print { ($($line:tt)+) => {
    $crate::log::write($crate::log::Level::Info, ::core::module_path!(), ::std::format!($($line)+), ::std::vec![])
} }

/// Writes what `dbg!` says to the log or, natively, to standard error.
#[doc(hidden)]
#[macro_export]
#[cfg(target_family = "wasm")]
macro_rules! __debug { ($format:literal $($argument:tt)*) => {
    $crate::__print!(::core::concat!("[{}:{}]", $format), ::core::file!(), ::core::line!() $($argument)*)
} }

/// Writes what `dbg!` says to the log or, natively, to standard error.
#[doc(hidden)]
#[macro_export]
#[cfg(not(target_family = "wasm"))]
macro_rules! __debug { ($format:literal $($argument:tt)*) => {
    ::std::eprintln!(::core::concat!("[{}:{}]", $format), ::core::file!(), ::core::line!() $($argument)*)
} }

/// Writes a line to the log or, natively, to standard output.
#[doc(hidden)]
#[macro_export]
#[cfg(not(target_family = "wasm"))]
macro_rules! __print { ($($line:tt)+) => { ::std::println!($($line)+) } }

/// Formats a line only if its level is enabled.
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
