//! `torture KILLS SECONDS [SEED]` kills a host under load this many times, with faults beside the kills, and checks the
//! result. `cargo xtask torture` runs it.

use std::time::Duration;
use wasmill_tests::torture::{Plan, torture};

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (kills, seconds, seed) = match &args[..] {
        [kills, seconds] => (kills, seconds, None),
        [kills, seconds, seed] => (kills, seconds, Some(seed)),
        _ => panic!("torture KILLS SECONDS [SEED], not {args:?}"),
    };
    let kills = kills.parse().expect("KILLS is a number");
    let time = Duration::from_secs(seconds.parse().expect("SECONDS is a number"));
    let seed = seed.map_or_else(|| fastrand::u64(..), |seed| seed.parse().expect("SEED is a number"));
    println!("{}", torture(Plan { kills, time, seed }, |line| println!("{line}")));
}
