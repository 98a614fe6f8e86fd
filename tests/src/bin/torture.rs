//! `torture KILLS SECONDS HOSTS [SEED]` lets a host under load be killed this many times, with other faults beside, and checks the result.
//! With 0 hosts it is one host on the embedded store; otherwise so many share a store in PostgreSQL. `cargo xtask torture` runs it.

use std::time::Duration;
use wasmill_tests::torture::{Plan, torture, torture_hosts};

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (kills, seconds, hosts, seed) = match &args[..] {
        [kills, seconds, hosts] => (kills, seconds, hosts, None),
        [kills, seconds, hosts, seed] => (kills, seconds, hosts, Some(seed)),
        _ => panic!("torture KILLS SECONDS HOSTS [SEED], not {args:?}"),
    };
    let kills = kills.parse().expect("KILLS is a number");
    let time = Duration::from_secs(seconds.parse().expect("SECONDS is a number"));
    let seed = seed.map_or_else(|| fastrand::u64(..), |seed| seed.parse().expect("SEED is a number"));
    let (plan, tell) = (Plan { kills, time, seed }, |line: &str| println!("{line}"));
    match hosts.parse().expect("HOSTS is a number") {
        0 => println!("{}", torture(plan, tell)),
        hosts => match torture_hosts(plan, hosts, tell) {
            Some(account) => println!("{account}"),
            None => std::process::exit(1),
        },
    }
}
