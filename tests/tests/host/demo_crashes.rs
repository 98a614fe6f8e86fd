//! Invariants 3 and 4: killed hosts resume, and nothing is lost or counted twice.

use std::process::Command;
use wasmill_tests::{baskets, built};

#[test]
fn the_demo_has_the_same_figures_after_crashes() {
    let figures = baskets::demo_figures(Command::new(built::program("grocery-demo")).args(["--crash", "4"]));
    assert_eq!(figures, baskets::figures(&built::grocery().join("data/baskets.jsonl.gz")));
}

#[test]
fn the_demo_has_the_same_figures_with_its_store_in_postgresql() {
    if built::left_out(xtask::postgres::missing()) {
        return;
    }
    let args = ["--postgres", "--crash", "1"];
    let figures = baskets::demo_figures(Command::new(built::program("grocery-demo")).args(args));
    assert_eq!(figures, baskets::figures(&built::grocery().join("data/baskets.jsonl.gz")));
}
