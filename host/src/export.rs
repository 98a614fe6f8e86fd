//! Exported events: a file with all events of a store, one on each line, from which another store is made.
//!
//! The first line says the format, the store and the range. A line for each event follows, in the order of positions, and
//! then one for each archived stream. The last line has the numbers of both and the SHA-256 of all lines between, so a
//! file that was cut or changed is noticed. An export has the events of the store as they were when it began: events are never
//! changed, so it needs no long view of the store. Archived streams are read after them, as they are then. `line.rs` has the lines, `writing.rs` makes them of a store, `reading.rs` reads
//! and checks them. Nothing here knows files, connections or databases.

mod line;
mod reading;
mod writing;

pub use line::{End, FORMAT, Head};
pub use reading::{Broken, Check, Item, Lines, Reading, Rules};
pub use writing::Export;
