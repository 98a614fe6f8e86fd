//! Tests of the bank example as a whole: its four plugins together, natively and without a host. See `tests/bank.rs`.
//!
//! It is a crate of its own because a plugin can't depend on another plugin: only a test may.
