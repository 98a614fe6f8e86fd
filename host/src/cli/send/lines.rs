//! `wasmill send --lines`: sends the commands in a file or in standard input, and prints an answer for each.
//!
//! The client of the command line sends a request before it reads the answer, so the lines are sent in batches that the
//! host answers without waiting for its client. A batch ends early if no more lines have arrived, so that the commands of a
//! pipe are sent at once.

use super::super::client::{Client, Target};
use super::super::failure::CommandFailure;
use super::super::output;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

/// The most lines of a batch.
const LINES_MAX: u64 = 1_000;

/// The size at which a batch is sent.
const BATCH_BYTES_MAX: usize = 256 << 10;

/// The most bytes of a line. The host refuses shorter ones already.
const LINE_BYTES_MAX: u64 = 1 << 30;

/// The size of the buffer of the input.
const BUFFER_BYTES: usize = 64 << 10;

/// What every answer to a line has.
#[derive(serde::Deserialize)]
struct Answer {
    /// The number of the line in its batch.
    line: u64,
    status: u16,
}

/// Counts of the commands that were sent.
#[derive(Default)]
struct Counts {
    answered: u64,
    refused: u64,
}

pub(super) fn send(file: &Path, target: &Target, json: bool) -> Result<(), CommandFailure> {
    let mut input = BufReader::with_capacity(BUFFER_BYTES, open(file)?);
    let client = Client::new(target)?;
    let (mut before, mut counts) = (0, Counts::default());
    loop {
        let unread = |cause| CommandFailure::failed(format!("cannot read {} after line {before}: {cause}", name(file)));
        let (batch, lines) = batch(&mut input).map_err(unread)?;
        if lines == 0 {
            break;
        }
        send_batch(&client, &batch, before, &mut counts)?;
        before += lines;
    }
    match counts {
        Counts { refused: 0, .. } => Ok(()),
        _ if json => Err(CommandFailure::told()),
        Counts { answered, refused } => {
            Err(CommandFailure::failed(format!("{refused} of {answered} commands were not accepted")))
        }
    }
}

fn name(file: &Path) -> String {
    if is_standard_input(file) { "standard input".to_owned() } else { file.display().to_string() }
}

fn is_standard_input(file: &Path) -> bool {
    file == Path::new("-")
}

fn open(file: &Path) -> Result<Box<dyn Read>, CommandFailure> {
    if is_standard_input(file) {
        return Ok(Box::new(io::stdin().lock()));
    }
    let opened = File::open(file);
    let file = opened.map_err(|cause| CommandFailure::usage(format!("cannot read {}: {cause}", file.display())))?;
    Ok(Box::new(file))
}

/// Reads the next batch. It waits for a first line, and takes those that have arrived behind it. Returns the number of
/// lines too, which is 0 at the end.
fn batch(input: &mut BufReader<impl Read>) -> io::Result<(Vec<u8>, u64)> {
    let (mut batch, mut lines) = (Vec::new(), 0);
    while lines == 0 || (lines < LINES_MAX && batch.len() < BATCH_BYTES_MAX && input.buffer().contains(&b'\n')) {
        if Read::take(&mut *input, LINE_BYTES_MAX).read_until(b'\n', &mut batch)? == 0 {
            break;
        }
        lines += 1;
    }
    Ok((batch, lines))
}

/// Sends a batch and prints its answers. `before` is the number of lines before it.
fn send_batch(client: &Client, batch: &[u8], before: u64, counts: &mut Counts) -> Result<(), CommandFailure> {
    let unknown = |text: String| {
        CommandFailure::failed(format!("{text}; what became of line {} and those after it is not known", before + 1))
    };
    let reply = client.post("/v1/commands", &[], batch).and_then(|reply| reply.successful());
    let reply = match reply {
        Err(failure) if before > 0 => return Err(unknown(failure.text())),
        reply => reply?,
    };
    let mut text = String::with_capacity(reply.body.len());
    let mut last = 0;
    for answer in reply.text().lines() {
        let Answer { line, status } = serde_json::from_str(answer)
            .map_err(|cause| unknown(format!("this version of wasmill does not understand an answer: {cause}")))?;
        match answer.strip_prefix(&format!("{{\"line\":{line},")) {
            Some(rest) => text.push_str(&format!("{{\"line\":{},{rest}\n", before + line)),
            None => text.push_str(&format!("{answer}\n")),
        }
        last = line;
        counts.answered += 1;
        counts.refused += u64::from(status != 200);
    }
    output::text(&text)?;
    let wanted = (1..).zip(batch.split(|byte| *byte == b'\n')).filter(|(_, line)| !line.trim_ascii().is_empty()).last();
    match wanted {
        Some((wanted, _)) if last < wanted => {
            let next = before + last + 1;
            Err(CommandFailure::failed(format!(
                "the host answered only up to line {}: send line {next} and those after it again",
                before + last
            )))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An input of which a part arrives at a time.
    struct Arriving(Vec<&'static [u8]>);

    impl Read for Arriving {
        fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
            if self.0.is_empty() {
                return Ok(0);
            }
            let part = self.0.remove(0);
            to[..part.len()].copy_from_slice(part);
            Ok(part.len())
        }
    }

    #[test]
    fn a_batch_has_the_lines_that_have_arrived() {
        let mut input = BufReader::new(Arriving(vec![b"1\n2\n", b"3\n4", b"5\n\n6"]));
        let mut batches = Vec::new();
        loop {
            let (batch, lines) = batch(&mut input).unwrap();
            if lines == 0 {
                break;
            }
            batches.push((String::from_utf8(batch).unwrap(), lines));
        }
        let expected = [("1\n2\n", 2), ("3\n", 1), ("45\n\n", 2), ("6", 1)];
        assert_eq!(batches, expected.map(|(text, lines)| (text.to_owned(), lines)));
    }

    #[test]
    fn a_batch_is_not_too_large() {
        let text = "\n".repeat(2_500);
        let mut input = BufReader::with_capacity(BUFFER_BYTES, text.as_bytes());
        let sizes: Vec<u64> = (0..4).map(|_| batch(&mut input).unwrap().1).collect();
        assert_eq!(sizes, [1_000, 1_000, 500, 0]);
    }
}
