//! What `roster` and `greeter` know of members: the newest shape of their registration.

use wasmill_guest::prelude::*;

#[derive(Deserialize)]
pub(crate) struct FullName {
    pub(crate) first: String,
    pub(crate) last: String,
}

#[derive(Deserialize)]
pub(crate) enum Known {
    Registered { name: FullName },
}
