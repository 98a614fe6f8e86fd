//! What a starting host is doing, for those who ask while it starts.

use tokio::sync::watch;

/// Told what is being done; read by whoever asks. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Startup(watch::Sender<String>);

impl Default for Startup {
    fn default() -> Self {
        Self(watch::Sender::new("reading the manifest".to_owned()))
    }
}

impl Startup {
    /// Notes what is being done from now on, also in the log.
    pub fn does(&self, what: String) {
        tracing::info!("starting: {what}");
        self.0.send_replace(what);
    }

    /// What is being done, as a phrase.
    pub fn doing(&self) -> String {
        self.0.borrow().clone()
    }
}
