//! CPU time and memory of a process, as Linux reports them.

use std::fs;

/// Clock ticks of `/proc` per second.
const TICKS: f64 = 100.0;

/// Returns the CPU seconds of a process since it started, its ended threads included.
pub(crate) fn cpu_seconds(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process is there");
    seconds(&stat)
}

/// Returns the CPU seconds of threads by name, the busiest first.
pub(crate) fn threads(pid: u32) -> Vec<(String, f64)> {
    let mut threads = std::collections::BTreeMap::<String, f64>::new();
    for task in fs::read_dir(format!("/proc/{pid}/task")).expect("the process is there").flatten() {
        // A thread that ends meanwhile is skipped.
        let Ok(stat) = fs::read_to_string(task.path().join("stat")) else { continue };
        let name = stat.split(['(', ')']).nth(1).unwrap_or_default().to_owned();
        *threads.entry(name).or_default() += seconds(&stat);
    }
    let mut threads: Vec<_> = threads.into_iter().filter(|(_, seconds)| *seconds >= 0.05).collect();
    threads.sort_by(|one, other| other.1.total_cmp(&one.1));
    threads
}

/// Returns the peak memory of a process, and its present memory that belongs to no file, in mebibytes.
pub(crate) fn memory_mib(pid: u32) -> (f64, f64) {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process is there");
    let mib = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok()).expect("Linux tells") / 1024.0
    };
    (mib("VmHWM:"), mib("RssAnon:"))
}

/// Returns the sum of user and system time in a `stat` file, in seconds.
fn seconds(stat: &str) -> f64 {
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |index: usize| fields[index].parse::<f64>().expect("a number");
    (ticks(11) + ticks(12)) / TICKS
}
