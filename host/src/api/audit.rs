//! The audit log: what clients changed in the host.
//!
//! It is `audit.jsonl` in the data folder. A request that changes something is written before it is carried out, and its answer
//! afterwards, each durably. A request that can't be written is refused, so nothing is changed that the log does not have.

use super::Server;
use super::answer::HttpError;
use super::body::Whole;
use super::connections::Connection;
use super::problem::ProblemType;
use crate::supervise::Held as _;
use axum::body::{Body, Bytes};
use axum::extract::{FromRequest as _, Request};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::value::RawValue;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// The size at which the log is renamed to `audit.1.jsonl`, in the place of the one before, and a new one is begun.
const LOG_BYTES_MAX: u64 = 64 << 20;

/// The longest body that the log shows.
const BODY_BYTES_MAX: usize = 4_096;

/// The audit log of a host.
pub(super) struct AuditLog {
    path: PathBuf,
    file: Mutex<Option<File>>,
}

/// A line of the log.
#[derive(Serialize)]
struct Line<'l> {
    time_ms: u64,
    /// The id of the request. The line of its answer has it too.
    id: &'l str,
    #[serde(flatten)]
    what: What<'l>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum What<'l> {
    Request {
        /// The client, or nothing if the manifest names none.
        client: Option<&'l str>,
        /// The address of the client.
        peer: Option<String>,
        method: &'l str,
        /// The path with the query.
        path: &'l str,
        #[serde(skip_serializing_if = "Option::is_none")]
        body: Option<&'l RawValue>,
    },
    Answer {
        status: u16,
    },
}

impl AuditLog {
    pub(super) fn new(data: &Path) -> Self {
        Self { path: data.join("audit.jsonl"), file: Mutex::default() }
    }

    /// Writes a line, and returns once it is durable.
    fn write(&self, line: &Line<'_>) -> io::Result<()> {
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        let mut open = self.file.held();
        // After an error the file is opened again, because its disk or folder may be another by then.
        let mut file = match open.take().filter(|file| self.is_in_place(file)) {
            Some(file) => file,
            None => self.open()?,
        };
        if file.metadata()?.len() >= LOG_BYTES_MAX {
            std::fs::rename(&self.path, self.path.with_extension("1.jsonl"))?;
            file = self.open()?;
        }
        file.write_all(&text)?;
        file.sync_data()?;
        *open = Some(file);
        Ok(())
    }

    /// Whether a file is still the one at the path. Somebody may have renamed or deleted it.
    fn is_in_place(&self, file: &File) -> bool {
        let identity = |about: &std::fs::Metadata| (about.dev(), about.ino());
        match (file.metadata(), std::fs::metadata(&self.path)) {
            (Ok(file), Ok(path)) => identity(&file) == identity(&path),
            _ => false,
        }
    }

    fn open(&self) -> io::Result<File> {
        match std::fs::metadata(&self.path) {
            Ok(found) if !found.is_file() => {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "it is no regular file: remove it"));
            }
            _ => {}
        }
        let mut file = OpenOptions::new().create(true).append(true).read(true).mode(0o600).open(&self.path)?;
        // A crash may have left a part of a line.
        if !ends_with_line(&mut file)? {
            file.write_all(b"\n")?;
        }
        Ok(file)
    }
}

fn ends_with_line(file: &mut File) -> io::Result<bool> {
    use std::io::{Read as _, Seek as _, SeekFrom};
    if file.metadata()?.len() == 0 {
        return Ok(true);
    }
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}

/// Runs a request that changes something, between its two lines of the log.
pub(super) async fn audited(server: &Server, client: Option<&Arc<str>>, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    // The rest of the request is only to say how long the body is and what it holds.
    let whole = Whole::from_request(Request::from_parts(parts.clone(), body), server).await;
    let Whole(body) = match whole {
        Ok(whole) => whole,
        Err(refusal) => return refusal.into_response(),
    };
    let id = uuid::Uuid::now_v7().to_string();
    let path = parts.uri.path_and_query().map_or_else(|| parts.uri.path(), |path| path.as_str());
    let peer = parts.extensions.get::<Connection>().map(|connection| connection.peer.to_string());
    let what = What::Request {
        client: client.map(|client| &**client),
        peer,
        method: parts.method.as_str(),
        path,
        body: shown(&body),
    };
    if let Err(error) = write(server, &id, what) {
        let text = format!("the request was not carried out, because it can't be written into the audit log: {error}");
        tracing::error!("{text}");
        return HttpError::new(ProblemType::AuditFailed, text).into_response();
    }
    let who = client.map_or_else(|| "a client".to_owned(), |client| format!("client {client}"));
    tracing::info!("{who} asks for {} {path}", parts.method);
    let mut parts = parts;
    // What comes next must not wait for a body that was read.
    parts.headers.remove(axum::http::header::TRANSFER_ENCODING);
    let server = server.clone();
    // The change goes on if the client goes away, and so does the log.
    let carried_out = tokio::spawn(async move {
        let answer = next.run(Request::from_parts(parts, Body::from(body))).await;
        if let Err(error) = write(&server, &id, What::Answer { status: answer.status().as_u16() }) {
            tracing::error!("the answer to request {id} can't be written into the audit log: {error}");
        }
        answer
    });
    carried_out.await.unwrap_or_else(|_| {
        HttpError::new(ProblemType::HostFailed, "the request failed; the log of the host says why").into_response()
    })
}

/// Returns a body as JSON on one line, if it is short enough.
fn shown(body: &Bytes) -> Option<&RawValue> {
    let json: &RawValue = serde_json::from_slice(body).ok()?;
    (body.len() <= BODY_BYTES_MAX && !json.get().contains(['\n', '\r'])).then_some(json)
}

fn write(server: &Server, id: &str, what: What<'_>) -> io::Result<()> {
    let line = Line { time_ms: crate::clock::machine_ms(), id, what };
    let written = tokio::task::block_in_place(|| server.audit.write(&line));
    written.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", server.audit.path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(log: &AuditLog, id: &str) -> io::Result<()> {
        log.write(&Line { time_ms: 1, id, what: What::Answer { status: 200 } })
    }

    #[test]
    fn a_line_begins_on_a_line_of_its_own_after_a_crash() {
        let data = tempfile::tempdir().unwrap();
        std::fs::write(data.path().join("audit.jsonl"), "{\"time_ms\":1,\"id\"").unwrap();
        let log = AuditLog::new(data.path());
        answer(&log, "a").unwrap();
        answer(&log, "b").unwrap();
        let text = std::fs::read_to_string(&log.path).unwrap();
        let expected = "{\"time_ms\":1,\"id\"\n{\"time_ms\":1,\"id\":\"a\",\"status\":200}\n{\"time_ms\":1,\"id\":\"b\",\"status\":200}\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_full_log_gives_way_to_a_new_one() {
        let data = tempfile::tempdir().unwrap();
        let log = AuditLog::new(data.path());
        let full = File::create(&log.path).unwrap();
        full.set_len(LOG_BYTES_MAX).unwrap();
        answer(&log, "a").unwrap();
        assert_eq!(std::fs::metadata(data.path().join("audit.1.jsonl")).unwrap().len(), LOG_BYTES_MAX + 1);
        assert_eq!(std::fs::read_to_string(&log.path).unwrap().lines().count(), 1);
    }

    #[test]
    fn a_folder_in_the_place_of_the_log_refuses_until_it_is_gone() {
        let data = tempfile::tempdir().unwrap();
        let log = AuditLog::new(data.path());
        std::fs::create_dir(&log.path).unwrap();
        assert!(answer(&log, "a").unwrap_err().to_string().contains("no regular file"));
        std::fs::remove_dir(&log.path).unwrap();
        answer(&log, "a").unwrap();
    }

    #[test]
    fn a_body_is_shown_if_it_is_json_on_a_line() {
        assert_eq!(shown(&Bytes::from(r#"{"to":1}"#)).map(RawValue::get), Some(r#"{"to":1}"#));
        for body in ["", "no", "{\n}"] {
            assert!(shown(&Bytes::from(body)).is_none(), "{body}");
        }
        assert!(shown(&Bytes::from(format!("\"{}\"", "x".repeat(BODY_BYTES_MAX)))).is_none());
    }
}
