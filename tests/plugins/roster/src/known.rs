//! What `roster` and `greeter` know of members: the newest shape of their registration.

use wasmill_guest::prelude::*;

#[derive(Deserialize)]
pub struct FullName {
    pub first: String,
    pub last: String,
}

#[derive(Deserialize)]
pub enum Known {
    Registered { name: FullName },
}
