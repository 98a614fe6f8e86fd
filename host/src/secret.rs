//! Values that are not in the manifest, but are read from the environment or a file when they are needed.
//!
//! Such a value may be a secret, so no error contains it.

use crate::manifest::Value;
use std::io::Read as _;
use std::path::Path;

/// The maximum size of a file with a secret, which is a line, or the text of a certificate or key.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Returns the value of a property. The error completes a sentence about the property.
pub(crate) fn value(value: &Value) -> Result<String, String> {
    match value {
        Value::Text(text) => Ok(text.clone()),
        Value::Env(variable) => from_env(variable),
        Value::File(path) => from_file(path),
    }
}

/// Returns the value of an environment variable.
pub(crate) fn from_env(variable: &str) -> Result<String, String> {
    use std::env::VarError;
    match std::env::var(variable) {
        Ok(value) if !value.is_empty() => Ok(value),
        Ok(_) => Err(format!("is in the environment variable {variable}, which is empty: set it and start again")),
        Err(VarError::NotPresent) => {
            Err(format!("is in the environment variable {variable}, which is not set: set it and start again"))
        }
        Err(VarError::NotUnicode(_)) => {
            Err(format!("is in the environment variable {variable}, which is not UTF-8: set it to text"))
        }
    }
}

/// Returns the content of a file, without the line break at its end.
pub(crate) fn from_file(path: &Path) -> Result<String, String> {
    let place = path.display();
    let unreadable = |cause: std::io::Error| {
        format!("is in the file {place}, which can't be read: {cause}; check the path and who may read it")
    };
    // Another kind of file may never end, or have no content until somebody writes it.
    if !std::fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err(format!("is in {place}, which is no regular file: write it to one"));
    }
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(unreadable)?;
    file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(unreadable)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(format!("is in the file {place}, which is too large for that: check the path"));
    }
    text.truncate(text.trim_end_matches(['\n', '\r']).len());
    if text.is_empty() { Err(format!("is in the file {place}, which is empty: write it there")) } else { Ok(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_may_end_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("password");
        for content in ["hush", "hush\n", "hush\r\n"] {
            std::fs::write(&file, content).unwrap();
            assert_eq!(value(&Value::File(file.clone())).unwrap(), "hush");
        }
        std::fs::write(&file, "\n").unwrap();
        assert!(value(&Value::File(file)).unwrap_err().ends_with("which is empty: write it there"));
        let absent = value(&Value::File(folder.path().join("absent"))).unwrap_err();
        assert!(absent.contains("which can't be read"), "{absent}");
        for endless in [folder.path(), Path::new("/dev/zero")] {
            let error = value(&Value::File(endless.to_owned())).unwrap_err();
            assert!(error.contains("which is no regular file"), "{error}");
        }
    }

    #[test]
    fn a_variable_that_is_not_set_is_named() {
        let error = value(&Value::Env("WASMILL_NO_SUCH_VARIABLE".to_owned())).unwrap_err();
        assert_eq!(
            error,
            "is in the environment variable WASMILL_NO_SUCH_VARIABLE, which is not set: set it and start again"
        );
        assert!(value(&Value::Env("PATH".to_owned())).is_ok());
    }
}
