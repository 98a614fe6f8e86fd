//! The program of the grocery example; see the library.

fn main() -> anyhow::Result<std::process::ExitCode> {
    grocery_demo::main()
}
