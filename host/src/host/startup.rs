//! The progress of a host's start, for those who ask meanwhile.

use tokio::sync::watch;

/// The step that a starting host is at. It is cheap to clone.
#[derive(Clone, Debug)]
pub struct Startup(watch::Sender<String>);

impl Default for Startup {
    fn default() -> Self {
        Self(watch::Sender::new("reading the manifest".to_owned()))
    }
}

impl Startup {
    /// Returns the progress of a change of a host, for the log.
    pub(super) fn of_change() -> Self {
        Self(watch::Sender::new("changing the host".to_owned()))
    }

    /// Notes the next step, also in the log.
    pub fn does(&self, what: String) {
        tracing::info!("{what}");
        self.0.send_replace(what);
    }

    /// Returns the current step, as a phrase.
    pub fn doing(&self) -> String {
        self.0.borrow().clone()
    }
}
