//! Properties of librdkafka and of topics, whose names and values are not checked here, and the login by token.

use super::*;

const ENV: &str = "the name of an environment variable";
const FILE: &str = "the path of a file";
const TOKEN: &str = "one of { file = \"PATH\" }, { env = \"VARIABLE\" }, { command = [\"PROGRAM\", …] } and \
                     { unsecured = \"PRINCIPAL\" }";
const LIFETIME_MS: u64 = 300_000;

/// Reads properties of librdkafka. A bare `linger.ms = 5` means the same as `"linger.ms" = "5"`.
pub(super) fn properties(entry: &Entry<'_>) -> Properties {
    let mut found = Properties::default();
    if let Some(section) = entry.section() {
        collect("", &section, &mut found);
    }
    found
}

/// Reads the properties of a topic. They are no secrets, so their values must be in the manifest.
pub(super) fn texts(entry: &Entry<'_>) -> BTreeMap<String, String> {
    let found = properties(entry);
    let text = |(name, value): (&str, &Value)| match value {
        Value::Text(text) => Some((name.to_owned(), text.clone())),
        Value::Env(_) | Value::File(_) => {
            entry.note(&format!("takes `{name}` from elsewhere: write its value here"));
            None
        }
    };
    found.iter().filter_map(text).collect()
}

fn collect(prefix: &str, section: &Section<'_>, found: &mut Properties) {
    for (name, entry) in section.entries() {
        let name = format!("{prefix}{name}");
        let value = match entry.value.get_ref() {
            DeValue::Table(_) => match from_elsewhere(&entry) {
                Some(value) => value,
                None => {
                    entry.section().iter().for_each(|section| collect(&format!("{name}."), section, found));
                    None
                }
            },
            DeValue::String(text) if text.is_empty() => Some(Value::Text(String::new())),
            DeValue::String(_) => text(&entry, &name).map(Value::Text),
            DeValue::Integer(digits) if digits.radix() == 10 => Some(Value::Text(digits.to_string())),
            DeValue::Float(digits) => Some(Value::Text(digits.to_string())),
            DeValue::Boolean(value) => Some(Value::Text(value.to_string())),
            _ => {
                entry.expected("a string, a number or true or false");
                None
            }
        };
        if let Some(value) = value {
            found.set(name, value);
        }
    }
}

/// Reads `{ env = "VARIABLE" }` or `{ file = "PATH" }`. Returns `None` for any other table.
pub(super) fn from_elsewhere(entry: &Entry<'_>) -> Option<Option<Value>> {
    let section = entry.section()?;
    let mut entries = section.entries();
    let (Some((key, value)), None) = (entries.next(), entries.next()) else { return None };
    match key {
        "env" => Some(value.text(ENV).map(|variable| Value::Env(variable.to_owned()))),
        "file" => Some(value.text(FILE).map(|path| Value::File(folder(entry).join(path)))),
        _ => None,
    }
}

/// Returns the value of a property. Relative paths start from the manifest's folder, including those that librdkafka
/// opens. `probe` is not a path but a special value of librdkafka.
fn text(entry: &Entry<'_>, name: &str) -> Option<String> {
    if !name.ends_with(".location") {
        return entry.long_text("a string").map(str::to_owned);
    }
    let path = entry.text("the path of a file")?;
    Some(if path == "probe" { path.to_owned() } else { folder(entry).join(path).to_string_lossy().into_owned() })
}

fn folder<'a>(entry: &Entry<'a>) -> &'a Path {
    entry.document.path().parent().unwrap_or(Path::new(""))
}

pub(super) fn oauth(mut section: Section<'_>) -> Option<OAuth> {
    let token = section.need("token", TOKEN).and_then(|entry| token(&entry));
    let lifetime_ms = section.number("lifetime_ms", 1_000..=86_400_000, LIFETIME_MS);
    section.finish();
    Some(OAuth { token: token?, lifetime_ms })
}

fn token(entry: &Entry<'_>) -> Option<Token> {
    let DeValue::Table(_) = entry.value.get_ref() else {
        entry.expected(TOKEN);
        return None;
    };
    let mut section = entry.section()?;
    let (env, file) = (section.get("env"), section.get("file"));
    let (command, unsecured) = (section.get("command"), section.get("unsecured"));
    section.finish();
    match (env, file, command, unsecured) {
        (Some(env), None, None, None) => env.text(ENV).map(|variable| Token::Env(variable.to_owned())),
        (None, Some(file), None, None) => file.text(FILE).map(|path| Token::File(folder(entry).join(path))),
        (None, None, Some(command), None) => words(&command).map(Token::Command),
        (None, None, None, Some(principal)) => {
            principal.text("a principal's name").map(|principal| Token::Unsecured(principal.to_owned()))
        }
        _ => {
            entry.expected(TOKEN);
            None
        }
    }
}

fn words(entry: &Entry<'_>) -> Option<Vec<String>> {
    const WORDS: &str = "a list with a program and its arguments, such as [\"get-token\", \"--audience\", \"kafka\"]";
    let DeValue::Array(items) = entry.value.get_ref() else {
        entry.expected(WORDS);
        return None;
    };
    let word = |value| Entry { value, ..entry.clone() }.long_text(WORDS).map(str::to_owned);
    let words: Vec<String> = items.iter().map(word).collect::<Option<_>>()?;
    if words.is_empty() {
        entry.expected(WORDS);
        return None;
    }
    Some(words)
}
