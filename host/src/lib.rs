//! x
pub mod filter;
pub mod model;
pub mod store;
