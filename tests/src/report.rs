//! Reports of benchmarks: rows with a ratio, as a table and in a file.
//!
//! A ratio is the value divided by the baseline of the same run. Absolute figures depend on the machine, ratios hardly
//! do. The file is the JSON list that `WASMILL_BENCH_RESULTS` names. A row replaces the one with its name, and rows of
//! other benchmarks stay. Nothing here knows what is measured.

use serde_json::{Value, json};
use std::path::Path;

/// The bound that a ratio must keep.
#[derive(Clone, Copy, Debug)]
pub enum Budget {
    /// A lower bound, for rates.
    AtLeast(f64),
    /// An upper bound, for times and sizes.
    AtMost(f64),
}

impl Budget {
    fn verdict(self, ratio: f64) -> String {
        let (met, sign, bound) = match self {
            Self::AtLeast(bound) => (ratio >= bound, "≥", bound),
            Self::AtMost(bound) => (ratio <= bound, "≤", bound),
        };
        format!("{sign} {bound:.2} {}", if met { "met" } else { "MISSED" })
    }
}

/// Rows of one benchmark. They are printed as they come and written at the end.
#[derive(Default)]
pub struct Report {
    rows: Vec<Value>,
}

/// Runs the benchmarks whose names are arguments of this program, or all of them, and writes their rows.
pub fn run<'b, M: FnOnce(&mut Report)>(benchmarks: impl IntoIterator<Item = (&'b str, M)>) {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let mut report = Report::default();
    for (name, measure) in benchmarks {
        if wanted.is_empty() || wanted.iter().any(|wanted| wanted == name) {
            measure(&mut report);
        }
    }
    report.write();
}

impl Report {
    /// Adds a row that is judged. `value` and `baseline` were measured in this run, in the same unit.
    pub fn judge(&mut self, name: &str, value: f64, unit: &str, baseline: f64, budget: Budget) {
        self.compare(name, value, unit, baseline, &budget.verdict(value / baseline));
    }

    /// Adds a row with a baseline of the same run and without a bound.
    pub fn ratio(&mut self, name: &str, value: f64, unit: &str, baseline: f64) {
        self.compare(name, value, unit, baseline, "");
    }

    /// Adds a row without a baseline that must not exceed a bound.
    pub fn bound(&mut self, name: &str, value: f64, unit: &str, bound: f64) {
        let verdict = if value <= bound { "met" } else { "MISSED" };
        println!("{name:<26} {:>12} {unit:<6} ≤ {} {verdict}", shown(value), shown(bound));
        self.rows.push(json!({"name": name, "value": value, "unit": unit, "baseline": null, "ratio": null}));
    }

    /// Adds a row without a baseline.
    pub fn figure(&mut self, name: &str, value: f64, unit: &str) {
        println!("{name:<26} {:>12} {unit:<6}", shown(value));
        self.rows.push(json!({"name": name, "value": value, "unit": unit, "baseline": null, "ratio": null}));
    }

    fn compare(&mut self, name: &str, value: f64, unit: &str, baseline: f64, verdict: &str) {
        let ratio = value / baseline;
        let (shown_value, shown_baseline) = (shown(value), shown(baseline));
        println!("{name:<26} {shown_value:>12} {unit:<6} baseline {shown_baseline:>12}   ratio {ratio:.2}   {verdict}");
        self.rows.push(json!({"name": name, "value": value, "unit": unit, "baseline": baseline, "ratio": ratio}));
    }

    /// Adds the rows to the results file, if one is named.
    pub fn write(self) {
        let Some(path) = std::env::var_os("WASMILL_BENCH_RESULTS") else { return };
        let path = Path::new(&path);
        let earlier = std::fs::read(path).ok().and_then(|text| serde_json::from_slice(&text).ok());
        let rows = merged(earlier.unwrap_or_default(), self.rows);
        std::fs::write(path, serde_json::to_string_pretty(&rows).expect("rows are JSON")).expect("write the results");
    }
}

/// Returns the earlier rows that were not measured again, then the new ones.
fn merged(mut rows: Vec<Value>, new: Vec<Value>) -> Vec<Value> {
    rows.retain(|row| new.iter().all(|new| new["name"] != row["name"]));
    rows.extend(new);
    rows
}

/// Formats a value with three significant digits.
fn shown(value: f64) -> String {
    let decimals = match value.abs() {
        0.0..10.0 => 2,
        10.0..100.0 => 1,
        _ => 0,
    };
    format!("{value:.decimals$}")
}

/// Measures several things in turn, a few times, and returns the median of each. So other load of the machine affects
/// all of them alike.
pub fn in_turn<const N: usize>(times: usize, things: [&mut dyn FnMut() -> f64; N]) -> [f64; N] {
    rounds(times, things).map(median)
}

/// Measures several things in turn, a few times, and returns the measurements of each, by round.
pub fn rounds<const N: usize>(times: usize, mut things: [&mut dyn FnMut() -> f64; N]) -> [Vec<f64>; N] {
    let mut measured = [const { Vec::new() }; N];
    for _ in 0..times {
        for (thing, values) in things.iter_mut().zip(&mut measured) {
            values.push(thing());
        }
    }
    measured
}

/// Returns value and baseline of the round with the median ratio. On a machine with changing load this says more than
/// two medians, because both were measured at nearly the same time.
pub fn middle(values: &[f64], baselines: &[f64]) -> (f64, f64) {
    let mut pairs: Vec<_> = values.iter().copied().zip(baselines.iter().copied()).collect();
    pairs.sort_by(|one, other| (one.0 / one.1).total_cmp(&(other.0 / other.1)));
    pairs[pairs.len() / 2]
}

/// Returns the median.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[cfg(test)]
mod tests {
    use super::{merged, middle};
    use serde_json::json;

    #[test]
    fn a_row_replaces_the_one_of_its_name_and_others_stay() {
        let rows = |pairs: &[(&str, i32)]| {
            pairs.iter().map(|(name, value)| json!({"name": name, "value": value})).collect::<Vec<_>>()
        };
        let earlier = rows(&[("commands/raw", 1), ("kafka/sink", 2)]);
        assert_eq!(
            merged(earlier, rows(&[("commands/raw", 3), ("commands/many", 4)])),
            rows(&[("kafka/sink", 2), ("commands/raw", 3), ("commands/many", 4)])
        );
    }

    #[test]
    fn the_round_in_the_middle_is_that_of_the_middle_ratio() {
        assert_eq!(middle(&[10.0, 50.0, 90.0], &[10.0, 100.0, 60.0]), (10.0, 10.0));
    }
}
