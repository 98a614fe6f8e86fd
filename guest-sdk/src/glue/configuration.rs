//! The export that takes settings and secrets.

use crate::bindings::configuration::exports::wasmill::plugin::configuration as wit;
use crate::configuration;
use crate::log::install_panic_hook;
use serde::de::DeserializeOwned;
use std::marker::PhantomData;

/// The export for settings of the type `S` and secrets of the type `K`.
pub struct Configured<S, K>(PhantomData<(S, K)>);

impl<S: DeserializeOwned + 'static, K: DeserializeOwned + 'static> Configured<S, K> {
    /// Checks natively that both types can be decoded.
    #[cfg(not(target_family = "wasm"))]
    pub const DECODES: () = ();
}

impl<S: DeserializeOwned + 'static, K: DeserializeOwned + 'static> wit::Guest for Configured<S, K> {
    fn configure(settings: Vec<u8>, secrets: Option<Vec<wit::Secret>>) -> Result<(), String> {
        install_panic_hook();
        let pairs = |secrets: Vec<wit::Secret>| secrets.into_iter().map(|secret| (secret.name, secret.value)).collect();
        configuration::configure::<S, K>(&settings, secrets.map(pairs))
    }
}
