//! The types and calls that wasmtime generates from `wit/`. They are not used outside of `plugin`.

wasmtime::component::bindgen!({
    path: "../wit",
    world: "every-role",
    // Commands and events are borrowed by the call, so that lowering copies them only once, into the guest's memory.
    ownership: Borrowing { duplicate_if_necessary: true },
    imports: { default: trappable },
});
