//! WebAssembly modules and components made to be refused.

use wasmill::plugin::API_VERSION;

/// An empty module.
pub const EMPTY: &[u8] = b"\0asm\x01\0\0\0";

/// Makes a component that exports nothing but an empty interface of this name.
pub fn exporting(interface: &str) -> Vec<u8> {
    parsed(&format!("(component (instance) (export {interface:?} (instance 0)))"))
}

/// Makes a component that has an import, and the aggregate role without its functions.
pub fn importing(import: &str) -> Vec<u8> {
    let export = format!("wasmill:plugin/aggregate@{API_VERSION}");
    parsed(&format!("(component (import {import:?} (instance)) (instance $none) (export {export:?} (instance $none)))"))
}

/// Makes a component that imports a function of an interface, and the aggregate role without its functions.
pub fn importing_function(import: &str, function: &str) -> Vec<u8> {
    let export = format!("wasmill:plugin/aggregate@{API_VERSION}");
    parsed(&format!(
        "(component (import {import:?} (instance (export {function:?} (func)))) (instance $none) (export {export:?} (instance $none)))"
    ))
}

/// Makes a module or a component from its text.
pub fn parsed(text: &str) -> Vec<u8> {
    wat::parse_str(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// Returns the same code under another digest, by adding a custom section.
pub fn rebuilt(mut module: Vec<u8>) -> Vec<u8> {
    // Custom sections have the number 0. The length of this one is in the next byte, and that of its name in the one after.
    module.extend(b"\0\x0d\x05buildanother");
    module
}
