//! The program of the grocery example; see the library.

fn main() -> std::process::ExitCode {
    grocery_demo::main()
}
