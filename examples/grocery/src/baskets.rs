//! The input: one basket per line, as text or gzip. Lines are passed on unchanged, including those that are not
//! baskets.

use anyhow::{Context, Result};
use flate2::read::MultiGzDecoder;
use serde::Deserialize;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;

/// A line of the input as a Kafka record.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// The basket's id, if the line has one.
    pub(crate) key: Option<String>,
    /// The line.
    pub(crate) value: Vec<u8>,
}

/// Reads a file's records. Empty lines are skipped.
pub(crate) fn read(input: &Path) -> Result<impl Iterator<Item = io::Result<Record>>> {
    let file = BufReader::new(File::open(input).with_context(|| format!("open the input {}", input.display()))?);
    Ok(records(decompressed(file).with_context(|| format!("read the input {}", input.display()))?))
}

/// Counts the records of a file.
pub(crate) fn count(input: &Path) -> Result<u64> {
    read(input)?
        .try_fold(0, |count, record| record.map(|_| count + 1))
        .with_context(|| format!("read {}", input.display()))
}

fn decompressed(mut file: BufReader<File>) -> io::Result<Box<dyn BufRead>> {
    let gzip = file.fill_buf()?.starts_with(&[0x1f, 0x8b]);
    Ok(if gzip { Box::new(BufReader::new(MultiGzDecoder::new(file))) } else { Box::new(file) })
}

fn records(lines: impl BufRead) -> impl Iterator<Item = io::Result<Record>> {
    let lines = lines.split(b'\n').map(|line| {
        line.map(|mut line| {
            line.truncate(line.trim_ascii_end().len());
            line
        })
    });
    let lines = lines.filter(|line| !line.as_ref().is_ok_and(Vec::is_empty));
    lines.map(|line| line.map(|value| Record { key: key(&value), value }))
}

fn key(line: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Basket {
        basket_id: String,
    }
    serde_json::from_slice(line).ok().map(|basket: Basket| basket.basket_id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_a_record_and_only_baskets_have_keys() {
        let text = "{\"basket_id\":\"7\"}\r\n\nnot json\n{\"basket_id\":7}";
        let found: Vec<_> = records(text.as_bytes()).map(|record| record.unwrap().key).collect();
        assert_eq!(found, [Some("7".to_owned()), None, None]);
    }

    #[test]
    fn the_example_has_two_thousand_baskets() {
        let input = crate::folder().join("data/baskets.jsonl.gz");
        assert_eq!(count(&input).unwrap(), 2_000);
        assert!(read(&input).unwrap().all(|record| record.unwrap().key.is_some()));
    }
}
