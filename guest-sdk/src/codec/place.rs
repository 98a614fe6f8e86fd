//! The place of an error in a JSON document. serde_json gives line and column; people want `items[0].quantity`.

use std::fmt::Write;

enum Step {
    /// Inside an object: the member's name, and whether the next string is a name.
    Member(String, bool),
    /// Inside an array: the element's index.
    Element(usize),
}

/// Returns the path of the value that ends at this line and column. Both count from 1, as in serde_json.
pub(super) fn path(json: &[u8], line: usize, column: usize) -> String {
    let start =
        json.split_inclusive(|byte| *byte == b'\n').take(line.saturating_sub(1)).map(<[u8]>::len).sum::<usize>();
    render(&steps(&json[..json.len().min(start + column)]))
}

/// Returns the path of a value that a type does not have.
pub(super) fn of_ignored(path: &serde_ignored::Path<'_>) -> String {
    use serde_ignored::Path;
    let (mut steps, mut path) = (Vec::new(), path);
    loop {
        path = match path {
            Path::Root => break,
            Path::Seq { parent, index } => {
                steps.push(Step::Element(*index));
                parent
            }
            Path::Map { parent, key } => {
                steps.push(Step::Member(key.clone(), false));
                parent
            }
            Path::Some { parent } | Path::NewtypeStruct { parent } | Path::NewtypeVariant { parent } => parent,
        };
    }
    steps.reverse();
    render(&steps)
}

fn steps(json: &[u8]) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut at = 0;
    while at < json.len() {
        match json[at] {
            b'{' => steps.push(Step::Member(String::new(), true)),
            b'[' => steps.push(Step::Element(0)),
            b'}' | b']' => drop(steps.pop()),
            b',' => next(steps.last_mut()),
            b'"' => {
                let end = string_end(json, at);
                if let Some(Step::Member(name, awaited @ true)) = steps.last_mut() {
                    *name = String::from_utf8_lossy(&json[at + 1..end]).into_owned();
                    *awaited = false;
                }
                at = end;
            }
            _ => {}
        }
        at += 1;
    }
    steps
}

fn next(step: Option<&mut Step>) {
    match step {
        Some(Step::Element(index)) => *index += 1,
        Some(Step::Member(name, awaited)) => {
            name.clear();
            *awaited = true;
        }
        None => {}
    }
}

/// The index of the quote that closes the string opened at `start`, or the end of the document.
fn string_end(json: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while at < json.len() && json[at] != b'"' {
        at += if json[at] == b'\\' { 2 } else { 1 };
    }
    at.min(json.len())
}

fn render(steps: &[Step]) -> String {
    let mut path = String::new();
    for step in steps {
        match step {
            Step::Member(name, _) if name.is_empty() => {}
            Step::Member(name, _) if path.is_empty() => path.push_str(name),
            Step::Member(name, _) => path.extend([".", name]),
            Step::Element(index) => write!(path, "[{index}]").expect("a String takes everything"),
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::path;

    fn at_end_of(part: &str) -> String {
        path(part.as_bytes(), part.split('\n').count(), part.split('\n').next_back().unwrap().len())
    }

    #[test]
    fn a_path_names_members_and_elements() {
        assert_eq!(at_end_of(r#"{"items":[{"a":1},{"quantity":"x""#), "items[1].quantity");
        assert_eq!(at_end_of("{\n \"a\": {\"b\": [1,2,\n tru"), "a.b[2]");
    }

    #[test]
    fn a_missing_member_is_placed_at_its_object() {
        assert_eq!(at_end_of(r#"{"items":[{"a":1}"#), "items[0]");
    }

    #[test]
    fn quotes_and_brackets_in_strings_do_not_count() {
        assert_eq!(at_end_of(r#"{"a\"[{":"]}","b":1"#), "b");
    }
}
