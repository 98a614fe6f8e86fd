//! SASL OAUTHBEARER: a token for each connection, which is renewed before it expires.
//!
//! The source of the tokens is passed to librdkafka and back in its property `sasl.oauthbearer.config`, so that every
//! client of a connection can supply one. No error contains a token.

use super::Error;
use crate::manifest::{OAuth, Token};
use crate::secret;
use crate::supervise;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use crossbeam_channel::RecvTimeoutError;
use rdkafka::bindings as native;
use rdkafka::client::{Client, ClientContext, OAuthToken};
use serde_json::Value;
use std::ffi::{CStr, CString};
use std::io::Read as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The property in which librdkafka keeps the source of the tokens.
pub(super) const CONFIG: &str = "sasl.oauthbearer.config";
/// How long a program may take to print a token.
const COMMAND_MAX: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// The longest token that a program may print.
const TOKEN_BYTES_MAX: usize = 1 << 20;
/// The longest wait for output of a program that has ended.
const REST_MAX: Duration = Duration::from_secs(1);
/// The principal of a token that does not name one. Only librdkafka's log shows it.
const SOMEBODY: &str = "wasmill";

/// Returns the value of [`CONFIG`].
pub(super) fn config(oauth: &OAuth) -> String {
    serde_json::to_string(oauth).expect("it has nothing that is not JSON")
}

/// Returns a token. librdkafka passes the value of [`CONFIG`].
pub(super) fn token(config: Option<&str>) -> Result<OAuthToken, String> {
    let oauth: Option<OAuth> = config.and_then(|config| serde_json::from_str(config).ok());
    let oauth = oauth.ok_or("SASL OAUTHBEARER needs a token: say in [kafka.oauth] where it comes from")?;
    take(&oauth, crate::clock::machine_ms()).map_err(|cause| format!("the token of [kafka.oauth] {cause}"))
}

/// Gives a client its token now. Clients whose events are not polled need this, because librdkafka asks by an event.
pub(super) fn log_in<C: ClientContext>(client: &Client<C>, oauth: &OAuth) -> Result<(), Error> {
    let refused = |cause: String| Error::Property { section: "kafka".into(), property: "oauth".into(), cause };
    let token = token(Some(&config(oauth))).map_err(refused)?;
    let text = |text: String| CString::new(text).map_err(|_| refused("the token has a NUL character".into()));
    let (value, principal) = (text(token.token)?, text(token.principal_name)?);
    let mut cause = [0; 256];
    // SAFETY: the client is alive, both texts end with NUL, there are no extensions, and librdkafka writes no more into
    // `cause` than the length that it is given, with a NUL at the end. It keeps none of the pointers.
    let code = unsafe {
        native::rd_kafka_oauthbearer_set_token(
            client.native_ptr(),
            value.as_ptr(),
            token.lifetime_ms,
            principal.as_ptr(),
            std::ptr::null_mut(),
            0,
            cause.as_mut_ptr(),
            cause.len(),
        )
    };
    if code == native::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
        return Ok(());
    }
    // SAFETY: on a failure librdkafka has ended the text with NUL.
    let cause = unsafe { CStr::from_ptr(cause.as_ptr()) };
    Err(refused(format!("was refused by librdkafka: {}", cause.to_string_lossy())))
}

fn take(oauth: &OAuth, now_ms: u64) -> Result<OAuthToken, String> {
    let token = match &oauth.token {
        Token::Env(variable) => secret::from_env(variable)?,
        Token::File(path) => secret::from_file(path)?,
        Token::Command(words) => from_command(words)?,
        Token::Unsecured(principal) => unsecured(principal, now_ms, oauth.lifetime_ms),
    };
    let token = token.trim().to_owned();
    let claims = claims(&token);
    let claim = |name: &str| claims.as_ref().and_then(|claims| claims.get(name));
    let ends_ms = claim("exp").and_then(Value::as_f64).map(|seconds| (seconds * 1000.0) as u64);
    if ends_ms.is_some_and(|ends_ms| ends_ms <= now_ms) {
        return Err("has expired: provide a new one before the old one expires".to_owned());
    }
    let principal_name = claim("sub").and_then(Value::as_str).unwrap_or(SOMEBODY).to_owned();
    let lifetime_ms = ends_ms.unwrap_or(now_ms + oauth.lifetime_ms).try_into().unwrap_or(i64::MAX);
    Ok(OAuthToken { token, principal_name, lifetime_ms })
}

/// Returns the claims of a token, if it is a JSON web token. The broker verifies them.
fn claims(token: &str) -> Option<Value> {
    let payload = token.split('.').nth(1)?;
    serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(payload.trim_end_matches('=')).ok()?).ok()
}

fn unsecured(principal: &str, now_ms: u64, lifetime_ms: u64) -> String {
    let seconds = |ms: u64| ms as f64 / 1000.0;
    let claims = serde_json::json!({ "sub": principal, "iat": seconds(now_ms), "exp": seconds(now_ms + lifetime_ms) });
    let encode = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}.", encode(&serde_json::json!({ "alg": "none" })), encode(&claims))
}

/// Returns the first line that a program prints. Its standard error is discarded, because it may contain secrets.
fn from_command(words: &[String]) -> Result<String, String> {
    let (program, args) = words.split_first().ok_or("has no program to come from")?;
    let failed = |cause: String| format!("comes from the program {program}, which {cause}; run it by hand to see why");
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(|cause| failed(format!("can't be started: {cause}")))?;
    let (print, printed) = crossbeam_channel::bounded(1);
    if let Some(mut out) = child.stdout.take() {
        let read = move || {
            let (mut taken, mut chunk) = (0, [0; 4096]);
            // All output is read, so that the program can end. Only the beginning of it is kept.
            while let Ok(count @ 1..) = out.read(&mut chunk) {
                taken += count;
                if taken <= TOKEN_BYTES_MAX && print.send(chunk[..count].to_vec()).is_err() {
                    return;
                }
            }
        };
        supervise::once("kafka-token", read).map_err(|cause| failed(format!("can't be read: {cause}")))?;
    }
    let mut text = Vec::new();
    let deadline = Instant::now() + COMMAND_MAX;
    let status = loop {
        match child.try_wait().map_err(|cause| failed(cause.to_string()))? {
            Some(status) => break status,
            None if Instant::now() > deadline => {
                // If it can't be killed, it is left running.
                let _ = child.kill().and_then(|()| child.wait());
                return Err(failed(format!("did not end within {} s", COMMAND_MAX.as_secs())));
            }
            // Its output must be taken meanwhile, so that it does not wait for room.
            None => match printed.recv_timeout(LOOK_EVERY) {
                Ok(more) => text.extend(more),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => std::thread::park_timeout(LOOK_EVERY),
            },
        }
    };
    if !status.success() {
        return Err(failed(format!("ended with {status}")));
    }
    // Everything that the program printed can be read by now. What it started may keep the output open.
    while !text.contains(&b'\n')
        && let Ok(more) = printed.recv_timeout(REST_MAX)
    {
        text.extend(more);
    }
    let text = String::from_utf8_lossy(&text);
    match text.lines().next().map(str::trim).filter(|token| !token.is_empty()) {
        Some(token) => Ok(token.to_owned()),
        None => Err(failed("printed no token".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn oauth(token: Token) -> OAuth {
        OAuth { token, lifetime_ms: 60_000 }
    }

    fn printed(script: &str) -> OAuth {
        oauth(Token::Command(["sh", "-c", script].map(str::to_owned).to_vec()))
    }

    #[test]
    fn a_token_says_who_it_is_for_and_when_it_ends() {
        let made = take(&oauth(Token::Unsecured("alice".to_owned())), 1_000_000).unwrap();
        assert_eq!((made.principal_name.as_str(), made.lifetime_ms), ("alice", 1_060_000));
        let opaque = take(&printed("echo opaque; echo more"), 1_000_000).unwrap();
        assert_eq!((opaque.token.as_str(), opaque.lifetime_ms), ("opaque", 1_060_000));
        let ended = take(&printed(&format!("echo {}", made.token)), 2_000_000).err().unwrap();
        assert!(ended.starts_with("has expired"), "{ended}");
        // What a program starts may keep its output open, and a program may print more than a token.
        for script in ["sleep 60 & echo tok", "sleep 60 & printf tok", "echo tok; head -c 3000000 /dev/zero"] {
            assert_eq!(take(&printed(script), 0).unwrap().token, "tok", "{script}");
        }
    }

    #[test]
    fn a_program_that_fails_is_named_without_what_it_printed() {
        for (script, expected) in [("echo hush; exit 3", "ended with exit status: 3"), ("true", "printed no token")] {
            let error = take(&printed(script), 0).err().unwrap();
            assert!(error.contains(expected) && !error.contains("hush"), "{error}");
        }
        assert!(token(None).err().unwrap().contains("[kafka.oauth]"));
    }
}
