//! WebAssembly modules made to be refused.

/// A module with nothing in it.
pub const EMPTY: &[u8] = b"\0asm\x01\0\0\0";

/// A module with nothing in it but its description as a plugin.
pub fn described(description: &str) -> Vec<u8> {
    const NAME: &[u8] = b"wasmill:plugin";
    let mut section = leb128(NAME.len());
    section.extend_from_slice(NAME);
    section.extend_from_slice(description.as_bytes());
    let mut module = EMPTY.to_vec();
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
