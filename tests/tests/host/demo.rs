//! The grocery demo ends with the figures that its input gives.

use std::process::Command;
use wasmill_tests::{baskets, built};

#[test]
fn the_demo_prints_what_came_of_its_baskets() {
    let figures = baskets::demo_figures(&mut Command::new(built::program("grocery-demo")));
    assert_eq!(figures, baskets::figures(&built::grocery().join("data/baskets.jsonl.gz")));
}
