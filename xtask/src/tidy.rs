//! What a machine can check of the rules in `CONTRIBUTING.md`: how a file begins, how long it is, and which words are
//! retired. The words that replaced them are in `docs/glossary.md`.

use std::fs;
use std::path::{Path, PathBuf};

/// Largest number of lines of a source file.
const LINES_MAX: usize = 700;

/// Words that the project no longer uses, each with the word that it uses instead.
const RETIRED: [(&str, &str); 13] = [
    ("parked", "dead-lettered"),
    ("parks", "dead-letters"),
    ("parking", "dead-lettering"),
    ("put aside", "dead-lettered"),
    ("puts aside", "dead-letters"),
    ("scout", "partition discovery"),
    ("lane", "partition state, or key queue"),
    ("lanes", "partition states, or key queues"),
    ("owed", "pending redelivery"),
    ("upkeep", "maintenance"),
    ("outlet", "destination"),
    ("Done<", "Ack"),
    ("SUBSCRIPTION_LEDGER", "LedgerName"),
];

/// Files that name retired words for a reason: this one, and the history of the project.
const EXEMPT: [&str; 2] = ["xtask/src/tidy.rs", "CHANGELOG.md"];

/// Returns the project's files with one of these extensions: each path from the root, and its text.
fn files(extensions: &[&str]) -> Vec<(String, String)> {
    let root = crate::root();
    let mut found = Vec::new();
    walk(&root, &mut |path| {
        if path.extension().is_some_and(|extension| extensions.iter().any(|one| extension == *one)) {
            let text = fs::read_to_string(path).expect("a file of the project is text");
            found.push((path.strip_prefix(&root).expect("it was found there").display().to_string(), text));
        }
    });
    found
}

/// Visits the files of a folder, except those that cargo builds and those that are hidden.
fn walk(folder: &Path, look: &mut impl FnMut(&Path)) {
    let entries = fs::read_dir(folder).expect("list a folder of the project");
    let paths: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry of it").path()).collect();
    for path in paths {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            walk(&path, look);
        } else if path.is_file() {
            look(&path);
        }
    }
}

/// Returns whether a text has a word that is not part of a longer one. An underscore counts as a space.
fn has_word(text: &str, word: &str) -> bool {
    let [text, word] = [text, word].map(|text| text.replace('_', " "));
    let is_part = |found: Option<char>| found.is_some_and(char::is_alphanumeric);
    text.match_indices(&word).any(|(at, _)| {
        let (before, after) = (text[..at].chars().next_back(), text[at + word.len()..].chars().next());
        let ends_inside = word.ends_with(char::is_alphanumeric) && is_part(after);
        !is_part(before) && !ends_inside
    })
}

#[test]
fn every_file_says_first_what_lives_in_it() {
    let without: Vec<_> = files(&["rs"]).into_iter().filter(|(_, text)| !text.starts_with("//!")).collect();
    let without: Vec<_> = without.into_iter().map(|(path, _)| path).collect();
    assert!(without.is_empty(), "begin these files with `//!`: {without:#?}");
}

#[test]
fn no_file_is_too_long() {
    let long: Vec<_> = files(&["rs"]).into_iter().filter(|(_, text)| text.lines().count() > LINES_MAX).collect();
    let long: Vec<_> = long.into_iter().map(|(path, _)| path).collect();
    assert!(long.is_empty(), "split these files, which have more than {LINES_MAX} lines: {long:#?}");
}

#[test]
fn retired_words_do_not_come_back() {
    let all = files(&["rs", "md", "wit", "toml", "sql", "snap"]);
    assert!(all.len() > 300, "the project's files are found: {}", all.len());
    let mut found = Vec::new();
    for (path, text) in all.iter().filter(|(path, _)| !EXEMPT.contains(&path.as_str())) {
        for (number, line) in (1..).zip(text.lines()) {
            let known = RETIRED.iter().filter(|(word, _)| has_word(line, word));
            found.extend(known.map(|(word, now)| format!("{path}:{number} says {word:?}: say {now:?}")));
        }
    }
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn a_word_is_found_by_itself_alone() {
    assert!(has_word("it_was_put_aside", "put aside") && has_word("it_is_parked()", "parked"));
    assert!(has_word("a parked record", "parked") && has_word("Done<T>", "Done<") && has_word("`lane`", "lane"));
    assert!(!has_word("unparked", "parked") && !has_word("plane, lanes", "lane") && !has_word("AllDone<T>", "Done<"));
}
