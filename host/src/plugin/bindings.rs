//! The types and calls that wasmtime generates from `wit/`. They are not used outside of `plugin`.

wasmtime::component::bindgen!({
    path: "../wit",
    inline: "
        package wasmill:host;
        world every-role {
            import wasmill:plugin/log@0.8.0;
            import wasmill:plugin/bus@0.8.0;
            import wasmill:plugin/sql@0.8.0;
            export wasmill:plugin/aggregate@0.8.0;
            export wasmill:plugin/subscriber@0.8.0;
            export wasmill:plugin/projection@0.8.0;
            export wasmill:plugin/saga@0.8.0;
            export wasmill:plugin/configuration@0.8.0;
        }
    ",
    world: "wasmill:host/every-role",
    // Commands and events are borrowed by the call, so that lowering copies them only once, into the guest's memory.
    ownership: Borrowing { duplicate_if_necessary: true },
    imports: { default: trappable },
});
