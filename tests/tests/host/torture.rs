//! The short forms of `cargo xtask torture`: kills at random moments of a host, and faults of several hosts on one store, under every
//! kind of load.

use std::time::Duration;
use wasmill_tests::torture::{Plan, torture, torture_hosts};

#[test]
fn a_host_under_load_counts_everything_once_through_kills() {
    let plan = Plan { kills: 8, time: Duration::from_secs(12), seed: fastrand::u64(..) };
    println!("{}", torture(plan, |line| println!("{line}")));
}

#[test]
fn three_hosts_under_load_count_everything_once_through_faults() {
    let plan = Plan { kills: 6, time: Duration::from_secs(12), seed: fastrand::u64(..) };
    if let Some(account) = torture_hosts(plan, 3, |line| println!("{line}")) {
        println!("{account}");
    }
}
