//! The bounds that hold in every part of a host: the length of a chain of causes, and the pauses that guests ask for.

use crate::model::Header;
use std::time::Duration;

/// The header of a Kafka record that carries the number of hops of its cause, so that a loop through Kafka is detected.
pub const HOPS_HEADER: &str = "wasmill-hops";

/// Bounds that all parts share, from the manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// How many subscribers a chain of causes may pass through. A longer chain is treated as a loop.
    pub hops_max: u32,
    /// The longest pause that a guest may ask for before it is called again.
    pub retry_after_max: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { hops_max: 100, retry_after_max: Duration::from_secs(60) }
    }
}

impl Bounds {
    /// Returns the pause before a retry: what the guest asks for, up to the limit, but never less than the host's own
    /// pause.
    pub fn pause(&self, own: Duration, asked_for: Duration) -> Duration {
        own.max(asked_for.min(self.retry_after_max))
    }

    /// Returns why a chain of causes must end before its next hop, or `None` if it may go on.
    pub fn refusal(&self, hops: u32, correlation_id: &str) -> Option<String> {
        let Self { hops_max, .. } = self;
        if hops <= *hops_max {
            return None;
        }
        let passed = match hops {
            u32::MAX => format!("the header {HOPS_HEADER} is no count"),
            _ => format!("the chain of causes has passed {hops_max} subscribers"),
        };
        Some(format!(
            "{passed}, so it is taken for a circle and ends here; find what it goes through by its correlation id \
             {correlation_id:?}, or raise `hops_max` in the manifest if it has an end; a retry starts the count over"
        ))
    }
}

/// Returns the number of hops in the headers: the highest if several carry one, and `u32::MAX` if one is not a number.
pub fn hops(headers: &[Header]) -> u32 {
    let own = headers.iter().filter(|header| is_hops(&header.name));
    own.map(|header| number(header.value.as_deref())).max().unwrap_or(0)
}

/// Whether a header is the host's own hop count.
pub fn is_hops(name: &str) -> bool {
    name.eq_ignore_ascii_case(HOPS_HEADER)
}

fn number(value: Option<&[u8]>) -> u32 {
    value.and_then(|value| std::str::from_utf8(value).ok()?.parse().ok()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hops_are_counted_on_and_what_is_no_count_is_too_many() {
        let bounds = Bounds { hops_max: 3, ..Bounds::default() };
        for (values, expected) in [
            (vec![], 0),
            (vec![Some("3")], 3),
            (vec![Some("1"), Some("4"), Some("2")], 4),
            (vec![Some("-1")], u32::MAX),
            (vec![Some("1"), None], u32::MAX),
        ] {
            let header = |value: &Option<&str>| Header {
                name: "Wasmill-Hops".into(),
                value: value.map(|value| value.as_bytes().to_vec()),
            };
            let hops = hops(&values.iter().map(header).collect::<Vec<_>>());
            assert_eq!(hops, expected, "{values:?}");
            assert_eq!(bounds.refusal(hops, "c-1").is_some(), hops > 3);
        }
        assert!(bounds.refusal(4, "c-1").unwrap().contains("c-1"));
    }

    #[test]
    fn a_guest_may_ask_for_a_pause_up_to_the_ceiling() {
        let bounds = Bounds { retry_after_max: Duration::from_secs(5), ..Bounds::default() };
        let [short, own, long] = [1, 3, 100_000].map(Duration::from_secs);
        assert_eq!(bounds.pause(own, short), own);
        assert_eq!(bounds.pause(own, long), Duration::from_secs(5));
        assert_eq!(
            bounds.pause(Duration::from_secs(30), long),
            Duration::from_secs(30),
            "the host's own may be longer"
        );
    }
}
