//! The export macros. On wasm they export a role. Natively they only check what it declares, so a plugin's tests build like
//! those of any crate.

/// Exports a type that implements [`Aggregate`](crate::Aggregate), or several of different `TYPE`s. Use it once per crate, with
/// all of them: a second call is a duplicate symbol. The crate must be a `cdylib`.
///
/// ```
/// # mod shop {
/// # use wasmill_guest::prelude::*;
/// # #[derive(Default)] pub struct Order;
/// # #[derive(Default)] pub struct Customer;
/// # #[derive(Serialize, Deserialize)] pub enum Placed { Placed }
/// # macro_rules! aggregate { ($aggregate:ty, $name:literal) => { impl Aggregate for $aggregate {
/// #     const TYPE: &'static str = $name;
/// #     type Command = Placed; type Event = Placed; type Error = String;
/// #     fn handle(&self, _: Placed) -> Result<Vec<Placed>, String> { Ok(Vec::new()) }
/// #     fn apply(&mut self, _: Placed) {}
/// # } } }
/// # aggregate!(Order, "order");
/// # aggregate!(Customer, "customer");
/// wasmill_guest::export_aggregate!(Order, Customer);
/// # }
/// ```
#[macro_export]
macro_rules! export_aggregate {
    ($($aggregate:ty),+ $(,)?) => {
        $(
            const _: () = $crate::declared::assert_aggregate::<$aggregate>();
        )+
        const _: () = {
            type List = $crate::__aggregates!($($aggregate),+);
            const _: () = <List as $crate::glue::Aggregates>::TYPES.assert_distinct();
            $crate::__crate!();
            #[cfg(target_family = "wasm")]
            type Exported = $crate::glue::AggregateRole<List, This>;
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
            const _: () = $crate::declared::assert_subscriber::<$subscriber>();
            $crate::__crate!();
            #[cfg(target_family = "wasm")]
            type Exported = $crate::glue::SubscriberRole<$subscriber, This>;
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
            const _: () = $crate::declared::assert_projection::<$projection>();
            $crate::__crate!();
            #[cfg(target_family = "wasm")]
            type Exported = $crate::glue::ProjectionRole<$projection, This>;
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
            const _: () = $crate::declared::assert_saga::<$saga>();
            $crate::__crate!();
            #[cfg(target_family = "wasm")]
            type Exported = $crate::glue::SagaRole<$saga, This>;
            #[cfg(target_family = "wasm")]
    $crate::bindings::saga::export_world!(Exported with_types_in $crate::bindings::saga);
        };
    };
}

/// Says which settings and secrets a plugin takes: see [`configuration`](crate::configuration). Use it once per crate,
/// beside the roles.
///
/// The types implement `Deserialize`. Fields with `#[serde(default)]` may be absent from the manifest.
///
/// ```
/// # use wasmill_guest::prelude::*;
/// # mod one { use wasmill_guest::prelude::*;
/// # #[derive(Deserialize)] struct Rules {}
/// wasmill_guest::export_settings!(Rules);
/// # } mod two { use wasmill_guest::prelude::*;
/// # #[derive(Deserialize)] struct Rules {} #[derive(Deserialize)] struct Keys {}
/// wasmill_guest::export_settings!(Rules, secrets = Keys);
/// # } mod three { use wasmill_guest::prelude::*;
/// # #[derive(Deserialize)] struct Keys {}
/// wasmill_guest::export_settings!(secrets = Keys);
/// # }
/// ```
#[macro_export]
macro_rules! export_settings {
    (secrets = $secrets:ty) => {
        $crate::export_settings!($crate::configuration::Nothing, secrets = $secrets);
    };
    ($settings:ty) => {
        $crate::export_settings!($settings, secrets = $crate::configuration::Nothing);
    };
    ($settings:ty, secrets = $secrets:ty) => {
        const _: () = {
            type Exported = $crate::glue::Configured<$settings, $secrets>;
            #[cfg(not(target_family = "wasm"))]
            const _: () = Exported::DECODES;
            #[cfg(target_family = "wasm")]
    $crate::bindings::configuration::export_world!(Exported with_types_in $crate::bindings::configuration);
        };
    };
}

/// Makes the list of aggregates.
#[doc(hidden)]
#[macro_export]
macro_rules! __aggregates {
    ($aggregate:ty) => { $crate::glue::Only<$aggregate> };
    ($aggregate:ty, $($more:ty),+) => { $crate::glue::Beside<$aggregate, $crate::__aggregates!($($more),+)> };
}

/// Names the plugin's crate.
#[doc(hidden)]
#[macro_export]
macro_rules! __crate {
    () => {
        struct This;
        impl $crate::declared::Crate for This {
            const NAME: &'static str = ::core::env!("CARGO_PKG_NAME");
            const VERSION: &'static str = ::core::env!("CARGO_PKG_VERSION");
        }
        const _: () = $crate::declared::assert_crate::<This>();
    };
}
