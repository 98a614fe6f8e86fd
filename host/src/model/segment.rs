//! Segments: the shares into which a subscription to recorded events is divided, so that several threads, or several hosts, handle
//! its events.
//!
//! A stable hash of a key decides its segment, so all deliveries with one key are in one segment, and stay in their order. The key of
//! an event is the id of its aggregate, or the key of the saga that it is for. Outcomes, timers and responses have the key of the
//! delivery that asked for them.

use siphasher::sip::SipHasher13;
use std::fmt::{self, Display, Formatter};
use std::hash::Hasher as _;

/// The largest number of segments of a subscription.
pub const SEGMENTS_MAX: u32 = 64;

/// A segment of a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Segment {
    /// Its number, from 0.
    index: u32,
    /// The number of segments of the subscription.
    count: u32,
}

impl Segment {
    /// The only segment of a subscription that is not divided.
    pub const WHOLE: Self = Self { index: 0, count: 1 };

    /// Returns the segments of a subscription that has this many.
    pub fn all(count: u32) -> impl Iterator<Item = Self> {
        (0..count).map(move |index| Self { index, count })
    }

    /// Returns the segment of a key among this many.
    pub fn of(key: Option<&[u8]>, count: u32) -> Self {
        if count == 1 {
            return Self::WHOLE;
        }
        // SipHash-1-3 with zeros for its key. The hash is a part of what a store means, so it must never change.
        let mut hasher = SipHasher13::new();
        hasher.write(key.unwrap_or_default());
        Self { index: (hasher.finish() % u64::from(count)) as u32, count }
    }

    /// Returns whether a key is in this segment.
    pub fn has(self, key: &[u8]) -> bool {
        Self::of(Some(key), self.count) == self
    }

    /// Returns its number, from 0.
    pub fn index(self) -> u32 {
        self.index
    }

    /// Returns the number of segments of the subscription.
    pub fn count(self) -> u32 {
        self.count
    }

    /// Reads what [`Display`] writes. The subscription that is not divided is not written.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (number, count) = text.split_once("of")?;
        let (number, count) = (number.parse::<u32>().ok()?, count.parse::<u32>().ok()?);
        ((1..=count).contains(&number) && count > 1).then(|| Self { index: number - 1, count })
    }
}

/// `2of4`: people count from 1.
impl Display for Segment {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}of{}", self.index + 1, self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_is_in_one_segment_and_always_in_the_same() {
        // The hash is a part of what a store means.
        let of = |key: &str| Segment::of(Some(key.as_bytes()), 4).index();
        assert_eq!(["", "1", "household-1", "household-2", "Ä"].map(of), [0, 1, 1, 0, 0]);
        assert_eq!(Segment::of(None, 4), Segment::of(Some(b""), 4));
        for count in 1..=SEGMENTS_MAX {
            for key in 0..50 {
                let key = format!("key {key}");
                assert_eq!(Segment::all(count).filter(|segment| segment.has(key.as_bytes())).count(), 1);
            }
        }
    }

    #[test]
    fn keys_are_spread_evenly() {
        let mut counts = [0; 4];
        (0..4_000)
            .for_each(|key| counts[Segment::of(Some(format!("order-{key}").as_bytes()), 4).index() as usize] += 1);
        assert!(counts.iter().all(|count| (900..1_100).contains(count)), "{counts:?}");
    }

    #[test]
    fn a_segment_reads_back_as_what_it_was() {
        for segment in (2..5).flat_map(Segment::all) {
            assert_eq!(Segment::parse(&segment.to_string()), Some(segment));
        }
        for text in ["", "1of1", "0of2", "3of2", "1of", "of2", "1of2of3", "aofb", "-1of2", "1 of 2"] {
            assert_eq!(Segment::parse(text), None, "{text}");
        }
    }
}
