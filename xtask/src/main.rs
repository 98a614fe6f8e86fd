//! The program behind `cargo xtask`. All its code is in the library.

fn main() -> std::process::ExitCode {
    xtask::main()
}
