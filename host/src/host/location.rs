//! Where the store of a manifest is.

use crate::manifest::Manifest;
use crate::secret;
use crate::store::Location;
use crate::store::postgres::Address;

/// Returns the location of a manifest's store: its database, or the embedded store in the data folder. The error names the key,
/// and has nothing of the URL.
pub fn store_location(manifest: &Manifest) -> Result<Location, String> {
    let Some(url) = &manifest.store.url else { return Ok(Location::of_folder(&manifest.data)) };
    let url = secret::value(url).map_err(|cause| format!("`store.url` {cause}"))?;
    let address: Address = url.parse().map_err(|cause| format!("`store.url` {cause}"))?;
    Ok(Location::Postgres(Box::new(address)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn location(store: &str) -> Result<Location, String> {
        let text = format!("{store}\n[plugins.p]\nfile = \"p.wasm\"\n");
        let manifest = Manifest::parse(&text, Path::new("wasmill.toml")).map_err(|error| error.to_string())?;
        store_location(&manifest)
    }

    #[test]
    fn a_manifest_names_its_database_or_where_its_url_is() {
        assert!(matches!(location(""), Ok(Location::Sqlite(_))));
        let found = location("[store]\nurl = \"postgres://shop:hush@db.example/orders\"");
        assert_eq!(found.unwrap().to_string(), "postgres://shop@db.example:5432/orders");
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("url");
        std::fs::write(&file, "postgres://shop:hush@db.example/orders\n").unwrap();
        let found = location(&format!("[store]\nurl = {{ file = {:?} }}", file.display().to_string()));
        assert_eq!(found.unwrap().to_string(), "postgres://shop@db.example:5432/orders");
    }

    #[test]
    fn a_wrong_url_is_named_by_its_key_and_not_shown() {
        for (store, cause) in [
            ("url = \"mysql://shop:hush@db/orders\"", "must begin with `postgres://`"),
            ("url = \"hush\"", "must be a URL such as"),
            ("url = 7", "must be a URL such as"),
            ("url = { path = \"x\" }", "must be a URL such as"),
            ("url = { env = \"WASMILL_NO_SUCH_VARIABLE\" }", "is in the environment variable WASMILL_NO_SUCH_VARIABLE"),
            ("url = \"postgres://shop:hush@db\"", "names no database"),
            ("url = \"postgres://shop:hush@db/orders?sslmode=hush\"", "unknown sslmode"),
        ] {
            let error = location(&format!("[store]\n{store}")).unwrap_err();
            assert!(
                error.contains("store.url") && error.contains(cause) && !error.contains("hush"),
                "{store}: {error}"
            );
        }
    }
}
