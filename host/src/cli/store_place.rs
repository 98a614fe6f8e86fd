//! The places of stores on the command line: a data folder, a store's file, the URL of a database, or a manifest.

use super::failure::CommandFailure;
use crate::manifest::Manifest;
use crate::names::shown;
use crate::store::Location;
use crate::store::postgres::Address;
use std::path::{Path, PathBuf};

/// The environment variable with the password of a database, as PostgreSQL's own programs take it.
const PASSWORD: &str = "PGPASSWORD";

/// Whether a store has to be at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Existing {
    Yes,
    /// There may be none, and not even its folder.
    No,
}

/// Reads the place of a store.
pub(super) fn location(place: &str, existing: Existing) -> Result<Location, CommandFailure> {
    if Address::is_meant(place) {
        return Ok(Location::Postgres(Box::new(address(place)?)));
    }
    if let Some((scheme, _)) = place.split_once("://") {
        // The rest may have a password.
        return Err(CommandFailure::usage(format!(
            "the place is a URL, so its scheme must be `postgres` or `postgresql`, found {}",
            shown(scheme)
        )));
    }
    let path = PathBuf::from(place);
    let has_ending = |ending: &str| path.extension().is_some_and(|found| found == ending);
    if has_ending("toml") {
        return crate::host::store_location(&Manifest::load(&path)?).map_err(CommandFailure::failed);
    }
    let is_new_folder = existing == Existing::No && !Path::new(&path).exists() && !has_ending("sqlite");
    Ok(if path.is_dir() || is_new_folder { Location::of_folder(&path) } else { Location::Sqlite(path) })
}

fn address(url: &str) -> Result<Address, CommandFailure> {
    let address: Address = url.parse().map_err(|cause| CommandFailure::usage(format!("the URL {cause}")))?;
    if address.has_password() {
        return Err(CommandFailure::usage(format!(
            "the URL has a password, which everybody on this machine can see in the list of processes: leave it out, and set \
             {PASSWORD}; or name a manifest whose `store.url` is in the environment or in a file"
        )));
    }
    Ok(match std::env::var(PASSWORD) {
        Ok(password) if !password.is_empty() => address.with_password(&password),
        _ => address,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_folder_a_file_a_url_or_a_manifest() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        let manifest = "data = \"d\"\n[plugins.p]\nfile = \"p.wasm\"\n[store]\nurl = \"postgres://u:hush@h/d\"\n";
        std::fs::write(path("wasmill.toml"), manifest).expect("write a manifest");
        let read = |name: &str, existing| location(&path(name).display().to_string(), existing).expect("it is a place");
        let file = |name: &str| Location::Sqlite(path(name));
        assert_eq!(read("", Existing::Yes), file("events.sqlite"));
        assert_eq!(read("new", Existing::No), file("new/events.sqlite"));
        assert_eq!(read("new", Existing::Yes), file("new"));
        assert_eq!(read("copy.sqlite", Existing::No), file("copy.sqlite"));
        assert_eq!(read("wasmill.toml", Existing::No).in_command(), "postgres://u@h/d");
        let url = location("postgres://u@h/d?schema=s", Existing::Yes).expect("it is a place");
        assert_eq!(url.in_command(), "postgres://u@h/d?schema=s");
    }

    #[test]
    fn a_url_of_something_else_is_no_folder() {
        for url in ["postgre://u:hush@h/d", "mysql://u@h/d", "file:///data"] {
            let refused = location(url, Existing::No).expect_err("it is refused").text();
            assert!(refused.contains("its scheme must be `postgres`") && !refused.contains("hush"), "{refused}");
        }
    }

    #[test]
    fn a_password_on_the_command_line_is_refused() {
        for url in ["postgres://u:hush@h/d", "postgres://u@h/d?password=hush"] {
            let refused = location(url, Existing::Yes).expect_err("it is refused").text();
            assert!(refused.contains("PGPASSWORD") && !refused.contains("hush"), "{refused}");
        }
    }
}
