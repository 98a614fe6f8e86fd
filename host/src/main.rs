//! The `wasmill` command.

/// Commands and events are made by one thread and freed by another.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> std::process::ExitCode {
    wasmill::cli::main()
}
