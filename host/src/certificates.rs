//! Certificates in PEM files, and those of this machine.
//!
//! Nothing here knows who is recognised by them.

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use std::path::Path;

/// Reads the certificates of a file, of which there is at least one. The error says what is wrong with the file.
pub(crate) fn of_file(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    // Another kind of file may never end.
    crate::paths::require_file(file).map_err(|cause| cause.to_string())?;
    let found = CertificateDer::pem_file_iter(file).and_then(Iterator::collect);
    let found: Vec<_> = found.map_err(|cause| cause.to_string())?;
    if found.is_empty() { Err("it has none".to_owned()) } else { Ok(found) }
}

/// Returns the root certificates of this machine.
pub(crate) fn of_machine() -> Vec<CertificateDer<'static>> {
    rustls_native_certs::load_native_certs().certs
}
