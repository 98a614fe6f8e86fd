//! The faults of a tortured host beside the kills: of its broker, its disk, its plugins and its clock.
//!
//! All faults are drawn from one seed. Each fault surrounds a kill, so that hosts also start while it lasts.

use super::disk::Disk;
use crate::built;
use crate::host::TestHost;
use crate::kafka::Kafka;
use crate::setting::Setting;
use std::fmt;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

/// The plugins of a tortured host.
pub(super) const PLUGINS: [&str; 6] = ["orders", "households", "warehouse", "notifier", "sales", "cart"];

/// Largest time by which the clock is moved in either direction, in milliseconds: three days.
const CLOCK_MS_MAX: i64 = 3 * 24 * 60 * 60 * 1_000;

/// The fault around a kill.
pub(super) enum Fault {
    /// Nothing else happens.
    None,
    /// The broker answers nobody.
    BrokerFrozen(Duration),
    /// The broker is killed before the host and restarted after it.
    BrokerRestarted,
    /// The host's disk is full.
    DiskFull(Duration),
    /// The file of a plugin is replaced by one with another digest and the same behaviour.
    PluginSwapped(&'static str, Duration),
    /// From now on the wall clock differs from the machine's by this many milliseconds.
    ClockMoved(i64, Duration),
}

impl Fault {
    /// Draws the next fault. Half of the kills have none.
    pub(super) fn draw(rng: &mut fastrand::Rng, has_broker: bool) -> Self {
        let pause = |rng: &mut fastrand::Rng, max_ms| Duration::from_millis(rng.u64(1..=max_ms));
        match rng.u8(0..20) {
            0..3 if has_broker => Self::BrokerFrozen(pause(rng, 4_000)),
            3 if has_broker => Self::BrokerRestarted,
            4..6 => Self::DiskFull(pause(rng, 2_000)),
            6..9 => Self::PluginSwapped(PLUGINS[rng.usize(0..PLUGINS.len())], pause(rng, 500)),
            9..11 => Self::ClockMoved(rng.i64(-CLOCK_MS_MAX..=CLOCK_MS_MAX), pause(rng, 500)),
            _ => Self::None,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => Ok(()),
            Self::BrokerFrozen(time) => write!(f, ", the broker frozen for {} ms", time.as_millis()),
            Self::BrokerRestarted => write!(f, ", the broker killed and started again"),
            Self::DiskFull(time) => write!(f, ", after {} ms with a full disk", time.as_millis()),
            Self::PluginSwapped(plugin, time) => write!(f, ", {} ms after {plugin} was swapped", time.as_millis()),
            Self::ClockMoved(by, time) => write!(f, ", {} ms after the clock moved to {by} ms off", time.as_millis()),
        }
    }
}

/// The host and the parts of its environment that faults affect.
pub(super) struct Scene<'a> {
    pub(super) setting: &'a Setting,
    pub(super) host: &'a TestHost,
    /// The broker, if it may be frozen and killed.
    pub(super) kafka: Option<&'a Kafka>,
    pub(super) disk: &'a Disk,
}

impl Scene<'_> {
    /// Kills the host with a fault around it. Returns how long it took until the host served again.
    pub(super) fn kill(&self, fault: &Fault) -> Duration {
        match fault {
            Fault::None => self.host.crash(),
            Fault::BrokerFrozen(time) => {
                let kafka = self.kafka.expect("a broker of its own");
                kafka.freeze();
                pause(*time / 2);
                let served = self.host.crash();
                pause(*time / 2);
                kafka.wake();
                served
            }
            Fault::BrokerRestarted => {
                let mut served = Duration::ZERO;
                self.kafka.expect("a broker of its own").restart(|| served = self.host.crash());
                served
            }
            Fault::DiskFull(time) => {
                self.disk.fill(self.host);
                pause(*time);
                self.disk.free(self.host);
                self.host.crash()
            }
            Fault::PluginSwapped(plugin, time) => {
                self.swap(plugin);
                pause(*time);
                self.host.crash()
            }
            Fault::ClockMoved(by, time) => {
                self.setting.write(CLOCK, by.to_string());
                pause(*time);
                self.host.crash()
            }
        }
    }

    /// Replaces a plugin's file by one with another custom section, which changes only the digest.
    fn swap(&self, plugin: &str) {
        let file = file(plugin);
        let mut module = std::fs::read(self.setting.path(&file)).expect("read a plugin");
        module.extend_from_slice(&[0, 5, 4, b's', b'w', b'a', b'p']);
        self.setting.write(&file, module);
    }
}

/// The file with the offset of the host's clock from the machine's.
pub(super) const CLOCK: &str = "clock-offset-ms";

/// Copies the plugins into the setting, so that they can be swapped there.
pub(super) fn place_plugins(setting: &Setting) {
    for plugin in PLUGINS {
        setting.write(&file(plugin), std::fs::read(built::plugin(plugin)).expect("read a plugin"));
    }
}

/// Returns the file of a plugin, relative to the setting's folder.
pub(super) fn file(plugin: &str) -> String {
    PathBuf::from("plugins").join(plugin).with_extension("wasm").to_string_lossy().into_owned()
}

/// Sleeps. A test may do that here, because a fault is defined by its length.
pub(super) fn pause(time: Duration) {
    let until = Instant::now() + time;
    while Instant::now() < until {
        thread::park_timeout(until.saturating_duration_since(Instant::now()));
    }
}
