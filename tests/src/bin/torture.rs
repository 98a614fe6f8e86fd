//! `torture KILLS SECONDS` kills a host under load so many times, and checks what is left. `cargo xtask torture` runs it.

use std::time::Duration;
use wasmill_tests::torture::{Plan, torture};

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [kills, seconds] = &args[..] else { panic!("torture KILLS SECONDS, not {args:?}") };
    let kills = kills.parse().expect("KILLS is a number");
    let time = Duration::from_secs(seconds.parse().expect("SECONDS is a number"));
    println!("{}", torture(Plan { kills, time }, |line| println!("{line}")));
}
