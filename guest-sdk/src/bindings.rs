//! The bindings that wit-bindgen generates from `wit/`: one module per world, with the shared interfaces in the first.
//!
//! This is the only file that generates bindings. Authors never see these types, except for those that the SDK
//! re-exports (`sql::Value`). The bindings also compile natively, except for the imports, so that the test kit runs the
//! same glue.

/// Generates the bindings. The interfaces that worlds share are named with the version in `wit/types.wit`, or it does not compile.
macro_rules! worlds {
    ($types:tt, $log:tt, $bus:tt) => {
        /// The world of aggregates, and the interfaces that every world shares.
        pub mod aggregate {
            wit_bindgen::generate!({
                path: "../wit",
                world: "aggregate-plugin",
                additional_derives: [PartialEq],
                pub_export_macro: true,
                export_macro_name: "export_world",
                default_bindings_module: "wasmill_guest::bindings::aggregate",
            });
        }

        /// The world of subscribers.
        pub mod subscriber {
            wit_bindgen::generate!({
                path: "../wit",
                world: "subscriber-plugin",
                pub_export_macro: true,
                export_macro_name: "export_world",
                default_bindings_module: "wasmill_guest::bindings::subscriber",
                with: {
                    $types: crate::bindings::aggregate::wasmill::plugin::types,
                    $log: crate::bindings::aggregate::wasmill::plugin::log,
                },
            });
        }

        /// The world of projections.
        pub mod projection {
            wit_bindgen::generate!({
                path: "../wit",
                world: "projection-plugin",
                pub_export_macro: true,
                export_macro_name: "export_world",
                default_bindings_module: "wasmill_guest::bindings::projection",
                additional_derives: [PartialEq],
                with: {
                    $types: crate::bindings::aggregate::wasmill::plugin::types,
                    $log: crate::bindings::aggregate::wasmill::plugin::log,
                },
            });
        }

        /// The world of sagas.
        pub mod saga {
            wit_bindgen::generate!({
                path: "../wit",
                world: "saga-plugin",
                pub_export_macro: true,
                export_macro_name: "export_world",
                default_bindings_module: "wasmill_guest::bindings::saga",
                with: {
                    $types: crate::bindings::aggregate::wasmill::plugin::types,
                    $log: crate::bindings::aggregate::wasmill::plugin::log,
                    $bus: crate::bindings::subscriber::wasmill::plugin::bus,
                },
            });
        }

        /// The world of what takes settings and secrets.
        pub mod configuration {
            wit_bindgen::generate!({
                path: "../wit",
                world: "configured-plugin",
                pub_export_macro: true,
                export_macro_name: "export_world",
                default_bindings_module: "wasmill_guest::bindings::configuration",
            });
        }
    };
}

worlds!("wasmill:plugin/types@1.1.0", "wasmill:plugin/log@1.1.0", "wasmill:plugin/bus@1.1.0");

pub use aggregate::wasmill::plugin::{log, types};
pub use projection::wasmill::plugin::sql;
pub use subscriber::wasmill::plugin::bus;
