//! The tokens of clients. Only their digests are kept, and they are compared in constant time.

use super::Client;
use crate::manifest::Value;
use crate::secret;
use sha2::{Digest as _, Sha256};
use std::io;
use std::sync::Arc;
use subtle::ConstantTimeEq as _;

/// The shortest token. A shorter one could be guessed.
const TOKEN_BYTES_MIN: usize = 16;

/// The longest token. A longer one hardly fits into a header.
const TOKEN_BYTES_MAX: usize = 4_096;

/// The digest of a token.
pub(super) type Digest = [u8; 32];

/// All valid tokens.
#[derive(Clone, Default)]
pub(super) struct Tokens(Vec<Token>);

#[derive(Clone)]
struct Token {
    digest: Digest,
    client: Arc<Client>,
    /// Where it is from.
    place: Value,
}

impl Tokens {
    /// Adds the token at a place. A token that was there before stays valid if its file is there and can't be read now. The error
    /// completes a sentence about the place, and does not show the token.
    pub(super) fn add(&mut self, place: &Value, client: &Arc<Client>, before: Option<&Self>) -> Result<(), String> {
        let read = secret::value(place).and_then(|token| checked(&token));
        let (digest, error) = match read {
            Ok(digest) => (digest, Ok(())),
            Err(error) => match before.and_then(|before| before.kept(place, client)) {
                Some(digest) => (digest, Err(error)),
                None => return Err(error),
            },
        };
        if let Some(other) = self.client(&digest).filter(|other| other.name != client.name) {
            return Err(format!("is also a token of the client {}: give each client its own", other.name));
        }
        self.0.push(Token { digest, client: client.clone(), place: place.clone() });
        error
    }

    /// Returns the token that was at a place, if the place has one that can't be read at the moment.
    fn kept(&self, place: &Value, client: &Client) -> Option<Digest> {
        let Value::File(file) = place else { return None };
        let is_unread = std::fs::File::open(file).is_err_and(|error| error.kind() != io::ErrorKind::NotFound);
        let token = self.0.iter().find(|token| token.place == *place && token.client.name == client.name)?;
        is_unread.then_some(token.digest)
    }

    /// Returns the client of a token. It compares with every token, whether or not one of them is found to be the same.
    pub(super) fn client(&self, digest: &Digest) -> Option<&Arc<Client>> {
        let mut found = None;
        for token in &self.0 {
            if bool::from(digest.ct_eq(&token.digest)) {
                found = Some(&token.client);
            }
        }
        found
    }
}

fn checked(token: &str) -> Result<Digest, String> {
    let fits = token.bytes().all(is_of_token) && (TOKEN_BYTES_MIN..=TOKEN_BYTES_MAX).contains(&token.len());
    if fits {
        return Ok(digest(token.as_bytes()));
    }
    Err(format!(
        "is no token: it must have {TOKEN_BYTES_MIN} to {TOKEN_BYTES_MAX} letters, digits and the characters -._~+/= on one line, \
         such as the output of `openssl rand -hex 32`"
    ))
}

/// Returns the digest of a token.
pub(super) fn digest(token: &[u8]) -> Digest {
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
