//! Invariants 3 and 4: killed hosts resume, and nothing is lost or counted twice.

use std::process::Command;
use wasmill_tests::{baskets, built};

#[test]
fn the_demo_has_the_same_figures_after_crashes() {
    let figures = baskets::demo_figures(Command::new(built::program("grocery-demo")).args(["--crash", "4"]));
    assert_eq!(figures, baskets::figures(&built::grocery().join("data/baskets.jsonl.gz")));
}
