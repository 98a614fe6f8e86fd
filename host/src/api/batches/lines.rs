//! A body that is cut into lines while it arrives. It holds one piece of the body, and the beginning of one line.

use axum::body::Bytes;
use memchr::memchr;

/// A line of a body.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// Its text, without its line break.
    Text(Bytes),
    /// It has white space only.
    Empty,
    /// It is longer than it may be. Its bytes were discarded.
    TooLong,
}

/// A body as lines.
pub(super) struct Lines {
    /// The most bytes of a line.
    bytes_max: usize,
    /// What has arrived and is not cut yet.
    rest: Bytes,
    /// The beginning of the line whose end has not arrived.
    begun: Vec<u8>,
    /// Whether that line is longer than it may be.
    is_too_long: bool,
    end: End,
    /// The number of the last line that was returned.
    number: u64,
}

/// What is known of the end of a body.
#[derive(PartialEq, Eq)]
enum End {
    /// There is more to come.
    Ahead,
    /// All of the body has arrived. What has no line break at its end is a line too.
    Reached,
    /// Nothing more comes of the body, or nothing more is wanted. A line without its end is none.
    Cut,
}

impl Lines {
    pub(super) fn new(bytes_max: usize) -> Self {
        let (rest, begun) = Default::default();
        Self { bytes_max, rest, begun, is_too_long: false, end: End::Ahead, number: 0 }
    }

    /// Returns the number of the last line, or 0 before the first one. Empty lines count.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Adds a piece of the body. There must be no lines left of the piece before.
    pub(super) fn add(&mut self, piece: Bytes) {
        self.rest = piece;
    }

    /// Ends the body.
    pub(super) fn end(&mut self) {
        self.end = End::Reached;
    }

    /// Takes no more of the body. Lines that have arrived as a whole stay.
    pub(super) fn cut(&mut self) {
        self.end = End::Cut;
    }

    /// Takes no more of the body, and none of the lines that have arrived and were not taken.
    pub(super) fn discard(&mut self) {
        (self.rest, self.begun) = Default::default();
        self.is_too_long = false;
        self.end = End::Cut;
    }

    /// Returns the bytes that have arrived and were not taken.
    pub(super) fn bytes(&self) -> usize {
        self.rest.len() + self.begun.len()
    }

    /// Whether the next piece of the body is needed.
    pub(super) fn wants_body(&self) -> bool {
        self.end == End::Ahead && self.rest.is_empty()
    }

    /// Whether there are no more lines, and none will come.
    pub(super) fn are_over(&self) -> bool {
        let is_cut = self.end == End::Cut || (self.end == End::Reached && self.begun.is_empty() && !self.is_too_long);
        self.rest.is_empty() && is_cut
    }

    /// Cuts the next line off, if its end has arrived.
    pub(super) fn next(&mut self) -> Option<Line> {
        let line = match memchr(b'\n', &self.rest) {
            Some(end) => {
                let line = self.rest.split_to(end);
                let _line_break = self.rest.split_to(1);
                line
            }
            None => {
                let begun = std::mem::take(&mut self.rest);
                self.begin(&begun);
                if self.end != End::Reached || (self.begun.is_empty() && !self.is_too_long) {
                    return None;
                }
                Bytes::new()
            }
        };
        self.number += 1;
        let begun = std::mem::take(&mut self.begun);
        if std::mem::take(&mut self.is_too_long) || begun.len() + line.len() > self.bytes_max {
            return Some(Line::TooLong);
        }
        let line = if begun.is_empty() { line } else { [&*begun, &*line].concat().into() };
        Some(if line.trim_ascii().is_empty() { Line::Empty } else { Line::Text(line) })
    }

    /// Keeps the beginning of a line, unless it is too long.
    fn begin(&mut self, begun: &[u8]) {
        if self.is_too_long || self.begun.len() + begun.len() > self.bytes_max {
            self.is_too_long = true;
            self.begun = Vec::new();
        } else {
            self.begun.extend_from_slice(begun);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Cuts a body that arrives in pieces.
    fn cut<'p>(bytes_max: usize, pieces: impl IntoIterator<Item = &'p [u8]>, end: fn(&mut Lines)) -> Vec<(u64, Line)> {
        let (mut lines, mut found) = (Lines::new(bytes_max), Vec::new());
        let take = |lines: &mut Lines, found: &mut Vec<(u64, Line)>| {
            while let Some(line) = lines.next() {
                found.push((lines.number(), line));
            }
        };
        for piece in pieces {
            assert!(lines.wants_body() && !lines.are_over());
            lines.add(Bytes::copy_from_slice(piece));
            take(&mut lines, &mut found);
        }
        end(&mut lines);
        take(&mut lines, &mut found);
        assert!(lines.are_over() && !lines.wants_body());
        found
    }

    fn text(line: &str) -> Line {
        Line::Text(Bytes::copy_from_slice(line.as_bytes()))
    }

    #[test]
    fn lines_are_cut_and_counted_and_the_last_one_needs_no_line_break() {
        let lines = cut(4, [&b"ab\n\r\n"[..], b"abc", b"d\nabcde\n", b"abcdef", b"gh\nx", b"y"], Lines::end);
        let expected = [text("ab"), Line::Empty, text("abcd"), Line::TooLong, Line::TooLong, text("xy")];
        assert_eq!(lines, (1..).zip(expected).collect::<Vec<_>>());
        assert_eq!(cut(4, [&b"abcde"[..]], Lines::end), [(1, Line::TooLong)]);
        assert_eq!(cut(4, [&b"abc\n"[..]], Lines::end), [(1, text("abc"))]);
        assert_eq!(cut(4, [], Lines::end), []);
    }

    #[test]
    fn half_a_line_of_a_body_that_broke_off_is_none() {
        assert_eq!(cut(9, [&b"ab\ncd"[..]], Lines::cut), [(1, text("ab"))]);
        assert_eq!(cut(1, [&b"ab"[..]], Lines::cut), []);
    }

    #[test]
    fn what_is_discarded_is_not_taken() {
        for end in [|_: &mut Lines| {}, Lines::end, Lines::cut] {
            let mut lines = Lines::new(9);
            lines.add(Bytes::from_static(b"a\nb\nc"));
            assert_eq!((lines.next(), lines.bytes()), (Some(text("a")), 3));
            end(&mut lines);
            lines.discard();
            assert!(lines.are_over() && !lines.wants_body() && lines.bytes() == 0);
            assert_eq!((lines.next(), lines.number()), (None, 1));
        }
        let mut lines = Lines::new(9);
        lines.add(Bytes::from_static(b"half"));
        assert!(lines.next().is_none() && lines.bytes() == 4);
        lines.discard();
        assert!(lines.are_over() && lines.next().is_none());
    }

    proptest! {
        /// The lines are those of the whole text, however it arrives.
        #[test]
        fn pieces_do_not_matter(body in "[ab \n]{0,60}", cuts in prop::collection::vec(0..60usize, 0..8)) {
            let mut cuts: Vec<usize> = cuts.into_iter().filter(|at| *at < body.len()).collect();
            cuts.extend([0, body.len()]);
            cuts.sort();
            let pieces = cuts.windows(2).map(|pair| &body.as_bytes()[pair[0]..pair[1]]);
            let mut expected: Vec<&str> = body.split('\n').collect();
            if expected.last() == Some(&"") {
                expected.pop();
            }
            let line = |line: &str| match line {
                long if long.len() > 5 => Line::TooLong,
                line if line.trim().is_empty() => Line::Empty,
                line => text(line),
            };
            let expected: Vec<_> = (1..).zip(expected.into_iter().map(line)).collect();
            prop_assert_eq!(cut(5, pieces, Lines::end), expected);
        }
    }
}
