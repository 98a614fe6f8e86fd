//! Words for what frameworks say about requests. Their texts are about their own types, so none of them reaches a client.
//!
//! A text that is known becomes a sentence about the request. Of any other text only the place is kept.

use super::answer::{HttpError, shown};
use crate::escape::escape;
use serde::de::DeserializeOwned;
use serde_json::error::Category;

/// Says what is wrong with a query string. `cause` is what its deserialiser says.
pub(super) fn query(cause: &str) -> String {
    // The name of a parameter that does not exist can be anything, so it can't be told from the text before its end.
    let (parameter, said) = match (cause.find("unknown field `"), cause.split_once(": ")) {
        (Some(at), _) => (None, &cause[at..]),
        (None, Some((name, said))) if is_name(name) => (Some(name), said),
        _ => (None, cause),
    };
    let value = |must: &str| match parameter {
        Some(parameter) => format!("{parameter}: {must}"),
        None => must.to_owned(),
    };
    let said = match said {
        _ if said.starts_with("unknown field") => listed(&said.replace("unknown field", "there is no parameter")),
        _ if said.starts_with("unknown variant") => value(&listed(&said.replace("unknown variant", "there is no"))),
        _ if said.starts_with("missing field") => said.replace("missing field", "the request needs the parameter"),
        _ if said.starts_with("duplicate field") => said.replace("duplicate field", "there must be only one"),
        "invalid digit found in string" | "cannot parse integer from empty string" => value("must be a whole number"),
        "number too large to fit in target type" => value("is too large a number"),
        "provided string was not `true` or `false`" => value("must be `true` or `false`"),
        _ => value("can't be read"),
    };
    format!("the query string is wrong: {}", escape(&said))
}

fn listed(said: &str) -> String {
    let said = said.replace(", expected one of", "; there are").replace(", there are no fields", "");
    match said.split_once(", expected ") {
        Some((what, two)) if two.contains("` or `") => {
            format!("{what}; there are {}", two.replace("` or `", "` and `"))
        }
        Some((what, one)) => format!("{what}; there is {one}"),
        None => said,
    }
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
}

/// Reads a body that is an object. `expected` completes a sentence that begins with "the body must be".
pub(super) fn body<T: DeserializeOwned>(body: &[u8], expected: &str) -> Result<T, HttpError> {
    let refused = |cause: String| HttpError::malformed(format!("the body must be {expected}{cause}"));
    let value: serde_json::Value = serde_json::from_slice(body).map_err(|cause| refused(no_json(&cause)))?;
    // A list would do for serde, which takes its items for the members in their order.
    if !value.is_object() {
        return Err(refused(String::new()));
    }
    // The text is read again, because a value has the last of two members with the same name.
    serde_json::from_slice(body).map_err(|cause| refused(no_such_body(&cause.to_string())))
}

/// Says where a text is no JSON, to complete a sentence about what it must be.
pub(super) fn no_json(cause: &serde_json::Error) -> String {
    match (cause.classify(), cause.line(), cause.column()) {
        (Category::Eof, ..) => "; it ends too early".to_owned(),
        (_, 1, character) => format!("; it is no JSON at byte {character}"),
        (_, line, character) => format!("; it is no JSON at byte {character} of line {line}"),
    }
}

/// Says which member of an object is wrong, to complete a sentence about what it must be. `cause` is what the deserialiser says.
pub(super) fn no_such_body(cause: &str) -> String {
    let name = cause.split('`').nth(1).map(shown).unwrap_or_default();
    match cause {
        _ if cause.starts_with("missing field") => format!("; it lacks `{name}`"),
        _ if cause.starts_with("unknown field") || cause.starts_with("unknown variant") => {
            format!("; it can't have `{name}`")
        }
        _ if cause.starts_with("duplicate field") => format!("; it has `{name}` twice"),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::extract::Query;
    use axum::http::Uri;
    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only the errors of reading it count")]
    struct Wanted {
        from: u64,
        #[serde(default)]
        follow: bool,
        shape: Option<crate::upcasts::Shape>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only the errors of reading it count")]
    struct Few {
        one: Option<u64>,
    }

    fn wrong<T: DeserializeOwned>(query: &str) -> String {
        let uri: Uri = format!("/v1/events?{query}").parse().unwrap();
        match Query::<T>::try_from_uri(&uri) {
            Err(rejection) => HttpError::from(rejection).detail,
            Ok(_) => panic!("{query} is right"),
        }
    }

    #[test]
    fn what_is_wrong_with_a_query_string_is_said_in_words_of_the_request() {
        for (query, said) in [
            ("", "the request needs the parameter `from`"),
            ("from=x", "from: must be a whole number"),
            ("from=", "from: must be a whole number"),
            ("from=-1", "from: must be a whole number"),
            ("from=99999999999999999999", "from: is too large a number"),
            ("from=1&from=2", "there must be only one `from`"),
            ("from=1&follow=2", "follow: must be `true` or `false`"),
            ("from=1&shape=old", "shape: there is no `old`; there are `recorded` and `newest`"),
            ("form=1", "there is no parameter `form`; there are `from`, `follow`, `shape`"),
            ("%1b=1", "there is no parameter `\\u{1b}`; there are `from`, `follow`, `shape`"),
        ] {
            assert_eq!(wrong::<Wanted>(query), format!("the query string is wrong: {said}"), "{query}");
        }
        assert_eq!(wrong::<Few>("two=2"), "the query string is wrong: there is no parameter `two`; there is `one`");
        assert_eq!(query("a: something new about a struct"), "the query string is wrong: a: can't be read");
        assert_eq!(query("invalid type: map, expected a tuple"), "the query string is wrong: can't be read");
    }

    #[test]
    fn what_is_wrong_with_a_body_is_said_in_words_of_the_request() {
        for (text, said) in [
            ("", "; it ends too early"),
            ("{\"from\":", "; it ends too early"),
            ("{from}", "; it is no JSON at byte 2"),
            ("{\n\"from\":1}}", "; it is no JSON at byte 10 of line 2"),
            ("[1]", ""),
            ("7", ""),
            ("{\"from\":\"1\"}", ""),
            ("{}", "; it lacks `from`"),
            ("{\"from\":1,\"form\":2}", "; it can't have `form`"),
            ("{\"from\":1,\"from\":2}", "; it has `from` twice"),
        ] {
            let refused = body::<Wanted>(text.as_bytes(), r#"{"from":N}"#).unwrap_err();
            assert_eq!(refused.detail, format!("the body must be {{\"from\":N}}{said}"), "{text}");
        }
    }
}
