//! The short form of `cargo xtask torture`: kills at random moments of a host under every kind of load.

use std::time::Duration;
use wasmill_tests::torture::{Plan, torture};

#[test]
fn a_host_under_load_counts_everything_once_through_kills() {
    let plan = Plan { kills: 8, time: Duration::from_secs(12), seed: fastrand::u64(..) };
    println!("{}", torture(plan, |line| println!("{line}")));
}
