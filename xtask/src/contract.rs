//! The page of the contract, `docs/contract.md`: prose that people write, and behind it the text of `wit/`.

use anyhow::{Context, Result, bail};
use std::fs;
use std::path::Path;

/// The page.
const PAGE: &str = "docs/contract.md";

/// The heading behind which the page is generated.
const MARK: &str = "\n## The text\n";

/// The files of the contract, in the order in which the page has them.
const FILES: [&str; 10] = [
    "worlds.wit",
    "types.wit",
    "aggregate.wit",
    "subscriber.wit",
    "saga.wit",
    "projection.wit",
    "configuration.wit",
    "bus.wit",
    "sql.wit",
    "log.wit",
];

/// Writes the page anew.
pub(crate) fn write(root: &Path) -> Result<()> {
    let page = page(root)?;
    fs::write(root.join(PAGE), page).with_context(|| format!("write {PAGE}"))
}

/// Returns the page as it should be.
fn page(root: &Path) -> Result<String> {
    let now = fs::read_to_string(root.join(PAGE)).with_context(|| format!("read {PAGE}"))?;
    let Some(end) = now.find(MARK) else { bail!("{PAGE} has no heading `{}`", MARK.trim()) };
    let mut page = now[..end + MARK.len()].to_owned();
    page += "\n`cargo xtask contract` copies it from `wit/`.\n";
    for file in FILES {
        let text = fs::read_to_string(root.join("wit").join(file)).with_context(|| format!("read wit/{file}"))?;
        page += &format!("\n### {file}\n\n```wit\n{}\n```\n", text.trim_end());
    }
    Ok(page)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_of_the_contract_has_its_text() {
        let root = crate::root();
        let page = page(&root).unwrap();
        assert!(fs::read_to_string(root.join(PAGE)).unwrap() == page, "{PAGE} differs: run `cargo xtask contract`");
        let files = fs::read_dir(root.join("wit")).unwrap().map(|file| file.unwrap().file_name());
        for file in files.map(|name| name.to_string_lossy().into_owned()) {
            assert!(page.contains(&format!("\n### {file}\n")), "wit/{file} is not on the page");
        }
    }
}
