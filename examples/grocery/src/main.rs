//! The program of the grocery example, which is in the library.

fn main() -> std::process::ExitCode {
    grocery_demo::main()
}
