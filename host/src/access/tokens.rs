//! The tokens of clients. Only their digests are kept, and they are compared in constant time.

use super::Client;
use crate::manifest::Value;
use crate::secret;
use sha2::{Digest as _, Sha256};
use std::sync::Arc;
use subtle::ConstantTimeEq as _;

/// The shortest token. A shorter one could be guessed.
const TOKEN_BYTES_MIN: usize = 16;

/// The longest token. A longer one hardly fits into a header.
const TOKEN_BYTES_MAX: usize = 4_096;

type Digest = [u8; 32];

/// All valid tokens, each with its client.
#[derive(Clone, Default)]
pub(super) struct Tokens(Vec<(Digest, Arc<Client>)>);

impl Tokens {
    /// Adds the token at a place. The error completes a sentence about the place, and does not show the token.
    pub(super) fn add(&mut self, place: &Value, client: &Arc<Client>) -> Result<(), String> {
        let token = secret::value(place)?;
        let fits = token.bytes().all(is_of_token);
        if !fits || !(TOKEN_BYTES_MIN..=TOKEN_BYTES_MAX).contains(&token.len()) {
            return Err(format!(
                "is no token: it must have {TOKEN_BYTES_MIN} to {TOKEN_BYTES_MAX} letters, digits and the characters -._~+/= \
                 on one line, such as the output of `openssl rand -hex 32`"
            ));
        }
        let digest = digest(token.as_bytes());
        if let Some(other) = self.find(&digest).filter(|other| other.name != client.name) {
            return Err(format!("is also a token of the client {}: give each client its own", other.name));
        }
        self.0.push((digest, client.clone()));
        Ok(())
    }

    /// Returns the client of a token.
    pub(super) fn client(&self, token: &[u8]) -> Option<&Arc<Client>> {
        self.find(&digest(token))
    }

    /// Compares with every token, whether or not one of them is found to be the same.
    fn find(&self, digest: &Digest) -> Option<&Arc<Client>> {
        let mut found = None;
        for (other, client) in &self.0 {
            if bool::from(digest.ct_eq(other)) {
                found = Some(client);
            }
        }
        found
    }
}

fn digest(token: &[u8]) -> Digest {
    Sha256::digest(token).into()
}

/// Returns the token in the value of an `Authorization` header (RFC 6750, section 2.1).
pub(super) fn bearer(authorization: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = authorization.split_at_checked("Bearer ".len())?;
    (scheme.eq_ignore_ascii_case(b"Bearer ")).then(|| token.trim_ascii())
}

/// Whether a token may have a byte (`token68` of RFC 7235, section 2.1).
fn is_of_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte)
}
