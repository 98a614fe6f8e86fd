//! Matching the segments of a pattern over `aggregate-type.EventName`.

/// A segment of a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segment<T> {
    /// This text.
    Text(T),
    /// `*`: any one segment.
    One,
    /// `**`: any number of segments, including none.
    Many,
}

impl<'s> Segment<&'s str> {
    /// Reads a segment. Returns `None` if it has a `*` beside other characters.
    pub fn parse(segment: &'s str) -> Option<Self> {
        match segment {
            "*" => Some(Self::One),
            "**" => Some(Self::Many),
            text if text.contains('*') => None,
            text => Some(Self::Text(text)),
        }
    }
}

/// Returns whether each segment with a `*` is `*` or `**`, and nothing else beside it. It is a `const fn`, for the SDK.
///
/// ```
/// use wasmill_names::pattern::has_whole_wildcards;
///
/// assert!(has_whole_wildcards("order.*") && has_whole_wildcards("**.Placed"));
/// assert!(!has_whole_wildcards("order.*Placed") && !has_whole_wildcards("order.***"));
/// ```
pub const fn has_whole_wildcards(pattern: &str) -> bool {
    let bytes = pattern.as_bytes();
    let (mut at, mut stars, mut others) = (0, 0, 0);
    while at < bytes.len() {
        match bytes[at] {
            b'.' => (stars, others) = (0, 0),
            b'*' => stars += 1,
            _ => others += 1,
        }
        if stars > 2 || (stars > 0 && others > 0) {
            return false;
        }
        at += 1;
    }
    true
}

/// Returns whether a pattern matches the segments of an event.
///
/// It walks through both lists. On a mismatch, only the last `**` takes one segment more; earlier ones need not change. So the
/// time is bounded by the product of the lengths.
///
/// ```
/// use wasmill_names::pattern::{Segment, matches};
///
/// let pattern = [Segment::Text("order"), Segment::Many, Segment::Text("Added")];
/// assert!(matches(&pattern, &["order", "item", "Added"]));
/// assert!(!matches(&pattern, &["order", "item"]));
/// ```
pub fn matches<T: AsRef<str>>(pattern: &[Segment<T>], segments: &[&str]) -> bool {
    let (mut at, mut next) = (0, 0);
    // The place after the last `**` of the pattern, and the first segment that it does not cover.
    let mut again: Option<(usize, usize)> = None;
    while at < segments.len() {
        match pattern.get(next) {
            Some(Segment::Many) => {
                next += 1;
                again = Some((next, at));
                continue;
            }
            Some(Segment::One) => (at, next) = (at + 1, next + 1),
            Some(Segment::Text(text)) if text.as_ref() == segments[at] => (at, next) = (at + 1, next + 1),
            _ => {
                let Some((after, taken)) = again else { return false };
                (next, at) = (after, taken + 1);
                again = Some((after, at));
            }
        }
    }
    pattern[next..].iter().all(|segment| matches!(segment, Segment::Many))
}

#[cfg(test)]
mod tests {
    use super::{Segment, has_whole_wildcards};

    #[test]
    fn wildcards_are_whole_if_each_segment_can_be_read() {
        for pattern in
            ["a", "*", "**", "a.*", "*.a", "**.*", "a.**.b", "a*", "*a", "***", "a.b*", "a.*b.c", "**a", "a**"]
        {
            let is_read = pattern.split('.').all(|segment| Segment::parse(segment).is_some());
            assert_eq!(has_whole_wildcards(pattern), is_read, "{pattern}");
        }
    }
}
