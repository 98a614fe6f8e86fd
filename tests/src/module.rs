//! WebAssembly modules made to be refused.

/// An empty module.
pub const EMPTY: &[u8] = b"\0asm\x01\0\0\0";

/// Makes a module that has only its description as a plugin.
pub fn described(description: &str) -> Vec<u8> {
    with_section(EMPTY.to_vec(), b"wasmill:plugin", description.as_bytes())
}

/// Makes a component that has only an import and its description as a plugin.
pub fn importing(import: &str, description: &str) -> Vec<u8> {
    const PREAMBLE: &[u8] = b"\0asm\x0d\0\x01\0";
    /// A section with one instance type, which has no exports.
    const TYPES: &[u8] = b"\x07\x03\x01\x42\x00";
    // There is one import: its name, and that it is an instance of type 0.
    let mut imports = vec![1, 0];
    imports.extend(leb128(import.len()));
    imports.extend(import.as_bytes());
    imports.extend([5, 0]);
    let component = [PREAMBLE, TYPES, &[10], &leb128(imports.len()), &imports].concat();
    with_section(component, b"wasmill:plugin", description.as_bytes())
}

/// Returns the same code under another digest, by adding a custom section.
pub fn rebuilt(module: Vec<u8>) -> Vec<u8> {
    with_section(module, b"build", b"another")
}

/// Adds a custom section to a module.
pub fn with_section(mut module: Vec<u8>, name: &[u8], content: &[u8]) -> Vec<u8> {
    let mut section = leb128(name.len());
    section.extend_from_slice(name);
    section.extend_from_slice(content);
    // Custom sections have the number 0.
    module.push(0);
    module.extend(leb128(section.len()));
    module.extend(section);
    module
}

fn leb128(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}
