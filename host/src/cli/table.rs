//! Tables in plain text, and the format of numbers and times for people.

use crate::clock;
use crate::escape::escape;
use std::fmt;
use std::time::Duration;

/// The alignment of a column's cells.
#[derive(Clone, Copy)]
pub(super) enum Align {
    Left,
    Right,
}

/// A table with a heading. A column is as wide as its widest cell. Notes stand under their row, outside the columns.
/// Cells and notes are escaped, because their content may come from outside.
pub(super) struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Row>,
}

enum Row {
    Cells(Vec<String>),
    Note(String),
}

impl Table {
    pub(super) fn new(columns: impl IntoIterator<Item = (&'static str, Align)>) -> Self {
        Self { columns: columns.into_iter().collect(), rows: Vec::new() }
    }

    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(Row::Cells(cells.into_iter().map(|cell| escape(&cell).into_owned()).collect()));
    }

    /// Adds lines under the previous row.
    pub(super) fn note(&mut self, text: &str) {
        self.rows.extend(text.lines().map(|line| Row::Note(escape(line).into_owned())));
    }

    fn widths(&self) -> Vec<usize> {
        let mut widths: Vec<usize> = self.columns.iter().map(|(heading, _)| heading.chars().count()).collect();
        for row in &self.rows {
            if let Row::Cells(cells) = row {
                widths.iter_mut().zip(cells).for_each(|(width, cell)| *width = (*width).max(cell.chars().count()));
            }
        }
        widths
    }

    fn line<'c>(&self, widths: &[usize], cells: impl Iterator<Item = &'c str>) -> String {
        let padded = cells.zip(widths).zip(&self.columns).map(|((cell, width), (_, align))| match align {
            Align::Left => format!("{cell:<width$}"),
            Align::Right => format!("{cell:>width$}"),
        });
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let widths = self.widths();
        writeln!(f, "{}", self.line(&widths, self.columns.iter().map(|(heading, _)| *heading)))?;
        for row in &self.rows {
            match row {
                Row::Cells(cells) => writeln!(f, "{}", self.line(&widths, cells.iter().map(String::as_str)))?,
                Row::Note(text) => writeln!(f, "  {text}")?,
            }
        }
        Ok(())
    }
}

/// Formats a whole number with separators between thousands.
pub(super) fn number(number: impl Into<u64>) -> String {
    let digits = number.into().to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Formats a time in UTC, from milliseconds since 1970-01-01T00:00:00Z.
pub(super) fn time(time_ms: u64) -> String {
    humantime::format_rfc3339_seconds(clock::writable(time_ms)).to_string()
}

/// Formats a time that may be unknown.
pub(super) fn time_if_known(time_ms: Option<u64>) -> String {
    time_ms.map_or_else(|| "unknown".to_owned(), time)
}

/// Formats a duration in whole seconds.
pub(super) fn duration(ms: u64) -> String {
    humantime::format_duration(Duration::from_secs(ms / 1000)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new([("NAME", Align::Left), ("COUNT", Align::Right), ("WHY", Align::Left)]);
        table.row(["größer".into(), number(1_234_567u64), String::new()]);
        table.note("a note\nin two lines");
        table.row(["b".into(), number(0u64), "because".into()]);
        let expected = "\
NAME        COUNT  WHY
größer  1,234,567
  a note
  in two lines
b               0  because
";
        assert_eq!(table.to_string(), expected);
    }

    #[test]
    fn what_is_in_a_table_cannot_leave_its_place() {
        let mut table = Table::new([("NAME", Align::Left), ("WHY", Align::Left)]);
        table.row(["a\nb".into(), "\u{1b}[2J".into()]);
        table.note("first\u{202e}\nsecond");
        let expected = "\
NAME  WHY
a\\nb  \\u{1b}[2J
  first\\u{202e}
  second
";
        assert_eq!(table.to_string(), expected);
    }

    #[test]
    fn numbers_have_their_thousands_apart() {
        for (value, text) in [(0u64, "0"), (999, "999"), (1000, "1,000"), (54_894_680, "54,894,680")] {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn any_time_can_be_shown() {
        assert_eq!(time(1_700_000_000_000), "2023-11-14T22:13:20Z");
        assert_eq!(time(u64::MAX), "9999-12-31T23:59:59Z");
    }
}
