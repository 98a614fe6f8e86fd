//! The summary for people.

use crate::run::Outcome;
use console::{Style, style};

/// Prints the outcome of a run to standard output.
pub(crate) fn print(outcome: &Outcome) {
    let figures = &outcome.figures;
    let heading = Style::new().bold();
    println!("{}", heading.apply_to("Where the baskets went"));
    row("baskets from Kafka", &grouped(figures.baskets), "topic baskets");
    row("orders placed", &grouped(figures.placed), &share(figures.placed, figures.baskets));
    row("orders refused", &grouped(figures.rejected), &share(figures.rejected, figures.baskets));
    row("orders confirmed", &grouped(figures.confirmed), &share(figures.confirmed, figures.placed));
    row("events in the store", &grouped(outcome.events), "");
    row("notifications", &grouped(figures.notifications), "topic notifications");
    row(
        "dead letters",
        &grouped(figures.dead_letters),
        if figures.dead_letters == 0 { "nothing was dead-lettered" } else { "see wasmill status" },
    );

    println!("\n{}", heading.apply_to("What was sold"));
    row("units", &signed(figures.units), "");
    row("sales", &money(figures.sales_cents), "");
    row("discounts", &money(figures.discount_cents), &off(figures.discount_cents, figures.sales_cents));
    row("stores", &grouped(figures.stores), "");
    row("households", &grouped(figures.households), &format!("{} became loyal", grouped(figures.loyal_households)));

    println!("\n{}", heading.apply_to("Best stores"));
    let best = figures.top_stores.first().map_or(0, |(_, cents)| *cents);
    for (store, cents) in &figures.top_stores {
        row(&format!("store {store}"), &money(*cents), &bar(*cents, best));
    }
    print_run(outcome, &heading);
}

fn print_run(outcome: &Outcome, heading: &Style) {
    let seconds = outcome.elapsed.as_secs_f64().max(0.001);
    let per_second = |count: u64| format!("{}/s", grouped((count as f64 / seconds) as u64));
    println!("\n{}", heading.apply_to("How it ran"));
    row("time", &format!("{seconds:.2} s"), "from the first record until everything was drained");
    row("baskets", &per_second(outcome.records), "");
    row("events", &per_second(outcome.events), "");
    if outcome.hosts > 1 {
        row("hosts", &grouped(outcome.hosts as u64), "on one store");
    }
    if let Some(kib) = outcome.memory_peak_kib {
        row("memory of a host", &format!("{} MiB", grouped(kib / 1024)), "at most");
    }
    if let Some(longest) = outcome.crashes.iter().map(|crash| crash.resumed).max() {
        let crashes = outcome.crashes.len() as u64;
        row("crashes", &grouped(crashes), &format!("back at work within {} ms", longest.as_millis()));
    }
    if let Some(folder) = &outcome.kept {
        row("data", "kept", &folder.display().to_string());
    }
}

fn row(name: &str, value: &str, note: &str) {
    println!("  {name:<22}{:>16}   {}", style(value).cyan(), style(note).dim());
}

fn bar(value: i64, longest: i64) -> String {
    const WIDTH: f64 = 24.0;
    let share = if longest > 0 { value as f64 / longest as f64 } else { 0.0 };
    // A cast from a float turns negative values into zero.
    "▇".repeat((share * WIDTH).round() as usize)
}

fn share(part: u64, whole: u64) -> String {
    if whole == 0 {
        return String::new();
    }
    format!("{:.1} %", part as f64 * 100.0 / whole as f64)
}

/// Returns the discount as a share of the price without it.
fn off(discount: i64, paid: i64) -> String {
    let unsigned = |cents: i64| u64::try_from(cents).unwrap_or(0);
    share(unsigned(discount), unsigned(discount.saturating_add(paid)))
}

fn money(cents: i64) -> String {
    let sign = if cents < 0 { "-" } else { "" };
    let cents = cents.unsigned_abs();
    format!("{sign}${}.{:02}", grouped(cents / 100), cents % 100)
}

fn signed(number: i64) -> String {
    let sign = if number < 0 { "-" } else { "" };
    format!("{sign}{}", grouped(number.unsigned_abs()))
}

fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let first = digits.len() % 3;
    let rest = digits.as_bytes()[first..].chunks(3).map(|chunk| String::from_utf8_lossy(chunk).into_owned());
    let head = (first > 0).then(|| digits[..first].to_owned());
    head.into_iter().chain(rest).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_money_read_well() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(18_448_543), "18,448,543");
        assert_eq!(money(54_894_680), "$548,946.80");
        assert_eq!(money(7), "$0.07");
        assert_eq!(money(-1_250), "-$12.50");
        assert_eq!(share(1, 8), "12.5 %");
        assert_eq!(bar(1, 0), "");
        assert_eq!(bar(1, 12), "▇▇");
    }
}
