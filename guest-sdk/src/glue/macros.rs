//! The export macros. On wasm they export a role and describe it in the module's custom section. Natively they only
//! check the description, so a plugin's tests build like those of any crate.

/// Exports a type that implements [`Aggregate`](crate::Aggregate). Use it once per crate. The crate must be a `cdylib`.
#[macro_export]
macro_rules! export_aggregate {
    ($aggregate:ty) => {
        const _: () = {
            $crate::__describe!($crate::section::Role::Aggregate(<$aggregate as $crate::Aggregate>::TYPE));
            #[cfg(target_family = "wasm")]
            type Exported = $crate::glue::AggregateRole<$aggregate>;
            #[cfg(target_family = "wasm")]
    $crate::bindings::aggregate::export_world!(Exported with_types_in $crate::bindings::aggregate);
        };
    };
}

/// Exports a type that implements [`Subscriber`](crate::Subscriber). Use it once per crate. The crate must be a
/// `cdylib`.
#[macro_export]
macro_rules! export_subscriber {
    ($subscriber:ty) => {
        const _: () = {
            $crate::__describe!($crate::section::Role::Subscriber(<$subscriber as $crate::Subscriber>::SUBSCRIPTIONS));
            #[cfg(target_family = "wasm")]
            type Exported = $crate::glue::SubscriberRole<$subscriber>;
            #[cfg(target_family = "wasm")]
    $crate::bindings::subscriber::export_world!(Exported with_types_in $crate::bindings::subscriber);
        };
    };
}

/// Exports a type that implements [`Projection`](crate::Projection). Use it once per crate. The crate must be a
/// `cdylib`.
#[macro_export]
macro_rules! export_projection {
    ($projection:ty) => {
        const _: () = {
            $crate::__describe!($crate::section::Role::Projection(
                <$projection as $crate::Projection>::NAME,
                <$projection as $crate::Projection>::SUBSCRIPTIONS
            ));
            #[cfg(target_family = "wasm")]
            type Exported = $crate::glue::ProjectionRole<$projection>;
            #[cfg(target_family = "wasm")]
    $crate::bindings::projection::export_world!(Exported with_types_in $crate::bindings::projection);
        };
    };
}

/// Exports a type that implements [`Saga`](crate::Saga). Use it once per crate. The crate must be a `cdylib`.
#[macro_export]
macro_rules! export_saga {
    ($saga:ty) => {
        const _: () = {
            $crate::__describe!($crate::section::Role::Saga(
                <$saga as $crate::Saga>::TYPE,
                <$saga as $crate::Saga>::STARTS,
                <$saga as $crate::Saga>::SUBSCRIPTIONS
            ));
            #[cfg(target_family = "wasm")]
            type Exported = $crate::glue::SagaRole<$saga>;
            #[cfg(target_family = "wasm")]
    $crate::bindings::saga::export_world!(Exported with_types_in $crate::bindings::saga);
        };
    };
}

/// Makes the line of the custom section at compile time.
#[doc(hidden)]
#[macro_export]
macro_rules! __describe {
    ($role:expr) => {
        const LINE: $crate::section::Line = $crate::section::Line {
            plugin: ::core::env!("CARGO_PKG_NAME"),
            version: ::core::env!("CARGO_PKG_VERSION"),
            role: $role,
        };
        const LENGTH: usize = LINE.length();
        #[used]
        #[cfg_attr(target_family = "wasm", unsafe(link_section = "wasmill:plugin"))]
        static SECTION: [u8; LENGTH] = LINE.bytes();
    };
}
