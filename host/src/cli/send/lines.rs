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

/// The problems of a line with which the host ends a batch. Neither this line nor those after it were taken.
const ENDS: [&str; 2] = ["urn:problem-type:wasmill:host-stopping", "urn:problem-type:wasmill:body-too-slow"];

/// What every answer to a line has.
#[derive(serde::Deserialize)]
struct Answer {
    /// The number of the line in its batch.
    line: u64,
    status: u16,
    /// The kind of problem, if it is one.
    #[serde(rename = "type")]
    problem: Option<String>,
    /// A summary of the problem.
    title: Option<String>,
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
    let next = before + 1;
    let reply = match client.post("/v1/commands", &[], batch) {
        Ok(reply) => reply,
        Err(failure) if failure.is_unsent() => {
            return Err(if before == 0 { failure } else { not_taken(&failure.text(), next) });
        }
        Err(failure) => return Err(unknown(&failure.text(), next)),
    };
    let reply = match reply.successful() {
        // The batch was refused as a whole.
        Err(failure) if before > 0 => return Err(not_taken(&failure.text(), next)),
        reply => reply?,
    };
    let answers = Answers::of(&reply.text(), before, counts);
    output::text(&answers.text)?;
    answers.of_all(batch, before)
}

fn unknown(text: &str, line: u64) -> CommandFailure {
    CommandFailure::failed(format!("{text}; what became of line {line} and those after it is not known"))
}

fn not_taken(text: &str, line: u64) -> CommandFailure {
    CommandFailure::failed(format!("{text}; line {line} and those after it were not taken: send them again"))
}

/// The answers to the lines of a batch.
struct Answers {
    /// The answers, with the numbers of the lines in the whole input.
    text: String,
    /// The number of the last line of the batch that was answered, or 0.
    last: u64,
    /// Why there are no more answers, if the host or the client knows.
    end: Option<End>,
}

enum End {
    /// The host took no more lines. It has the title of the problem.
    Cut(String),
    /// The client does not understand an answer.
    Unknown(String),
}

impl Answers {
    /// Reads the answers, and counts them. `before` is the number of lines before the batch.
    fn of(reply: &str, before: u64, counts: &mut Counts) -> Self {
        let mut answers = Self { text: String::with_capacity(reply.len()), last: 0, end: None };
        for answer in reply.lines() {
            let Answer { line, status, problem, title } = match serde_json::from_str(answer) {
                Ok(answer) => answer,
                Err(cause) => {
                    let text = format!("this version of wasmill does not understand an answer: {cause}");
                    answers.end = Some(End::Unknown(text));
                    break;
                }
            };
            if problem.is_some_and(|problem| ENDS.contains(&problem.as_str())) {
                answers.end = Some(End::Cut(title.unwrap_or_default()));
                break;
            }
            match answer.strip_prefix(&format!("{{\"line\":{line},")) {
                Some(rest) => answers.text.push_str(&format!("{{\"line\":{},{rest}\n", before + line)),
                None => answers.text.push_str(&format!("{answer}\n")),
            }
            answers.last = line;
            counts.answered += 1;
            counts.refused += u64::from(status != 200);
        }
        answers
    }

    /// Checks that every line of the batch was answered.
    fn of_all(self, batch: &[u8], before: u64) -> Result<(), CommandFailure> {
        let next = before + self.last + 1;
        let why = match self.end {
            Some(End::Unknown(text)) => return Err(unknown(&text, next)),
            Some(End::Cut(title)) => format!(" ({title})"),
            None => String::new(),
        };
        let lines = (1..).zip(batch.split(|byte| *byte == b'\n'));
        match lines.filter(|(_, line)| !line.trim_ascii().is_empty()).last() {
            Some((wanted, _)) if self.last < wanted => Err(CommandFailure::failed(format!(
                "the host answered only up to line {}: send line {next} and those after it again{why}",
                before + self.last
            ))),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;
    use std::net::TcpListener;
    use std::thread;

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

    #[test]
    fn a_line_that_the_host_did_not_take_is_not_answered() {
        let accepted = "{\"line\":1,\"status\":200,\"command_id\":\"a\"}\n";
        for (end, why) in ENDS.into_iter().zip(["The host is stopping", "The body did not arrive in time"]) {
            let cut =
                format!("{{\"line\":3,\"type\":\"{end}\",\"title\":\"{why}\",\"status\":503,\"detail\":\"d\"}}\n");
            let mut counts = Counts::default();
            let answers = Answers::of(&format!("{accepted}{cut}"), 10, &mut counts);
            assert_eq!(answers.text, accepted.replace(":1,", ":11,"));
            assert_eq!((counts.answered, counts.refused), (1, 0));
            let told = answers.of_all(b"a\n\nb\nc\n", 10).unwrap_err().text();
            let expected =
                format!("the host answered only up to line 11: send line 12 and those after it again ({why})");
            assert_eq!(told, expected);
        }
        // A command that is refused is answered.
        let mut counts = Counts::default();
        let refused = "{\"line\":2,\"type\":\"urn:problem-type:wasmill:busy\",\"status\":503,\"detail\":\"d\"}\n";
        let answers = Answers::of(&format!("{accepted}{refused}"), 0, &mut counts);
        assert_eq!((answers.last, counts.answered, counts.refused), (2, 2, 1));
        assert!(answers.of_all(b"a\nb\n", 0).is_ok());
        let told = Answers::of(accepted, 0, &mut counts).of_all(b"a\nb\n", 0).unwrap_err().text();
        assert_eq!(told, "the host answered only up to line 1: send line 2 and those after it again");
        let told = Answers::of(&format!("{accepted}no JSON"), 0, &mut counts).of_all(b"a\nb\n", 0).unwrap_err().text();
        assert!(told.ends_with("; what became of line 2 and those after it is not known"), "{told}");
    }

    #[test]
    fn what_became_of_a_batch_is_not_known_unless_nothing_was_sent() {
        #[derive(clap::Parser)]
        struct Arguments {
            #[command(flatten)]
            target: Target,
        }
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let target = Arguments::parse_from(["send", "--url", &url]).target;
        let client = Client::new(&target).unwrap();
        let send = |before| send_batch(&client, b"{}\n", before, &mut Counts::default()).unwrap_err().text();
        let breaking = thread::spawn(move || {
            for _ in 0..2 {
                // It reads something of the request, and closes the connection without an answer.
                let (mut stream, _) = listener.accept().unwrap();
                assert!(stream.read(&mut [0; 4_096]).unwrap() > 0);
            }
        });
        for (before, line) in [(0, 1), (10, 11)] {
            let told = send(before);
            assert!(told.ends_with(&format!("; what became of line {line} and those after it is not known")), "{told}");
        }
        breaking.join().unwrap();
        let told = send(0);
        assert!(told.starts_with("no host answers at") && !told.contains("not known"), "{told}");
        let told = send(10);
        assert!(told.ends_with("; line 11 and those after it were not taken: send them again"), "{told}");
    }
}
