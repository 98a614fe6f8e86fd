//! The roles of a plugin and the version of the contract that it was built for, read from the names of its exports before
//! anything is compiled.

use super::{Error, guest_text};
use crate::names::shown;
use std::fmt;
use wasmparser::{BinaryReaderError, Encoding, Parser, Payload};

/// The version of the contract that this host implements. It serves each version with the same first number up to this one.
pub const API_VERSION: &str = version_in(include_str!("../../../wit/types.wit"));

/// The package of the contract, whose interfaces are named by it.
const PACKAGE: &str = "wasmill:plugin/";

/// The most exports that an error shows.
const SHOWN_MAX: usize = 5;

/// The roles of a plugin, by its exports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Exports {
    /// The roles, at least one, in the order of [`RoleName`].
    pub(super) roles: Vec<RoleName>,
    /// The version of the contract that it was built for.
    pub(super) api_version: ApiVersion,
}

/// The name of a role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RoleName {
    /// It turns commands into events.
    Aggregate,
    /// It reacts to events and records.
    Subscriber,
    /// It runs a process over several aggregates.
    Saga,
    /// It folds events into a read model.
    Projection,
}

impl RoleName {
    const ALL: [Self; 4] = [Self::Aggregate, Self::Subscriber, Self::Saga, Self::Projection];

    /// Returns the name of the role, which is that of its interface.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Aggregate => "aggregate",
            Self::Subscriber => "subscriber",
            Self::Saga => "saga",
            Self::Projection => "projection",
        }
    }
}

impl fmt::Display for RoleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A version of the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ApiVersion {
    major: u64,
    minor: u64,
    patch: u64,
}

impl ApiVersion {
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('.').map(|part| part.parse().ok());
        let version = Self { major: parts.next()??, minor: parts.next()??, patch: parts.next()?? };
        parts.next().is_none().then_some(version)
    }

    /// Returns the version that this host implements.
    pub(super) fn of_host() -> Self {
        Self::parse(API_VERSION).expect("the version of the contract is one")
    }
}

impl fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// Returns the version of the package that a WIT file begins.
const fn version_in(file: &'static str) -> &'static str {
    const BEFORE: &[u8] = b"\npackage wasmill:plugin@";
    let bytes = file.as_bytes();
    let mut at = 0;
    while !begins_with(bytes.split_at(at).1, BEFORE) {
        at += 1;
    }
    let from = at + BEFORE.len();
    let mut to = from;
    while bytes[to] != b';' {
        to += 1;
    }
    file.split_at(to).0.split_at(from).1
}

const fn begins_with(bytes: &[u8], prefix: &[u8]) -> bool {
    let mut at = 0;
    while at < prefix.len() {
        if bytes[at] != prefix[at] {
            return false;
        }
        at += 1;
    }
    true
}

/// Reads the roles of a core module or a component. `label` names the plugin in errors.
pub(super) fn read(label: &str, bytes: &[u8]) -> Result<Exports, Error> {
    let refused = |cause: String| Error::Plugin(format!("plugin {label} {cause}"));
    let names = exported(bytes).map_err(refused)?;
    let (mut roles, mut versions) = (Vec::new(), Vec::new());
    for (interface, version) in names.iter().filter_map(|name| interface(name)) {
        let version = version.ok_or_else(|| {
            let name = shown(&format!("{PACKAGE}{interface}"));
            refused(format!("exports {name} without a version of the contract: write `@{API_VERSION}` behind it"))
        })?;
        let Some(api_version) = ApiVersion::parse(version) else {
            return Err(refused(format!(
                "was built for version {} of the contract, and this host serves {}: {REBUILD}",
                shown(version),
                served()
            )));
        };
        versions.push(api_version);
        match RoleName::ALL.into_iter().find(|role| role.as_str() == interface) {
            Some(role) => roles.push(role),
            None if interface == "configuration" => {}
            // A later version of the contract may have it.
            None if api_version > ApiVersion::of_host() => {}
            None => {
                return Err(refused(format!(
                    "exports {}, and the contract has no such role: the roles are {}",
                    shown(&format!("{PACKAGE}{interface}@{version}")),
                    RoleName::ALL.map(RoleName::as_str).join(", ")
                )));
            }
        }
    }
    roles.sort();
    roles.dedup();
    versions.sort();
    versions.dedup();
    let api_version = match versions.as_slice() {
        [] => return Err(refused(no_role(&names))),
        [version] => *version,
        [first, .., last] => {
            return Err(refused(format!(
                "exports interfaces of versions {first} and {last} of the contract: build all of it for one version"
            )));
        }
    };
    check_version(api_version).map_err(refused)?;
    if roles.is_empty() {
        return Err(refused(no_role(&names)));
    }
    if roles.contains(&RoleName::Subscriber) && roles.contains(&RoleName::Saga) {
        return Err(refused(
            "exports a subscriber and a saga, and a plugin has one subscription: move one of them to another plugin"
                .into(),
        ));
    }
    Ok(Exports { roles, api_version })
}

/// The remedy for a plugin of a version that this host does not serve.
const REBUILD: &str =
    "build it again for this contract, with the SDK of this host's version or as docs/languages.md says";

/// Says which versions of the contract this host serves.
fn served() -> String {
    format!("{}.0.0 to {API_VERSION}", ApiVersion::of_host().major)
}

fn check_version(version: ApiVersion) -> Result<(), String> {
    let own = ApiVersion::of_host();
    if version.major == own.major && (version.minor, version.patch) <= (own.minor, own.patch) {
        return Ok(());
    }
    let remedy = if version > own {
        "use a host of a later version, or build the plugin for a version that this one serves"
    } else {
        REBUILD
    };
    Err(format!("was built for version {version} of the contract, and this host serves {}: {remedy}", served()))
}

/// Says that a file has no role, and what it has.
fn no_role(names: &[String]) -> String {
    let found = match names {
        [] => "it exports nothing".to_owned(),
        names => {
            let shown: Vec<String> = names.iter().take(SHOWN_MAX).map(|name| shown(name)).collect();
            let more = if names.len() > SHOWN_MAX { " and others" } else { "" };
            format!("it exports {}{more}", shown.join(", "))
        }
    };
    format!(
        "exports no role: {found}; probably one of the SDK's export macros is forgotten, such as \
         `export_aggregate!(MyAggregate);` at the end of its code; without the SDK, export {PACKAGE}aggregate@{API_VERSION} \
         or another role as docs/languages.md says"
    )
}

/// Returns the interface of the contract that an export belongs to, and its version. In a core module the function's name stands
/// behind it.
fn interface(export: &str) -> Option<(&str, Option<&str>)> {
    let name = export.strip_prefix(PACKAGE)?;
    let name = name.split_once('#').map_or(name, |(interface, _)| interface);
    Some(name.split_once('@').map_or((name, None), |(interface, version)| (interface, Some(version))))
}

/// Returns the names of the exports of a core module or a component, but not of what is inside of it.
fn exported(bytes: &[u8]) -> Result<Vec<String>, String> {
    if !bytes.starts_with(b"\0asm") {
        return Err(format!(
            "is not WebAssembly: it starts with {:02x?}; build it for wasm32-unknown-unknown, or as a component",
            &bytes[..bytes.len().min(4)]
        ));
    }
    let damaged = |error: BinaryReaderError| {
        let cause = guest_text::of_library(&error);
        format!("is damaged ({cause}): build it again, and replace the file in one step")
    };
    let (mut depth, mut names) = (0_u32, Vec::new());
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.map_err(damaged)? {
            Payload::Version { encoding: Encoding::Module | Encoding::Component, .. } => depth += 1,
            Payload::End(_) => depth -= 1,
            Payload::ExportSection(exports) if depth == 1 => {
                for export in exports {
                    names.push(export.map_err(damaged)?.name.to_owned());
                }
            }
            Payload::ComponentExportSection(exports) if depth == 1 => {
                for export in exports {
                    names.push(export.map_err(damaged)?.name.name.to_owned());
                }
            }
            _ => {}
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Makes a core module that exports an empty function under each of these names.
    fn module(names: &[&str]) -> Vec<u8> {
        let exports: String = names.iter().map(|name| format!("(export {name:?} (func 0))")).collect();
        wat::parse_str(format!("(module (func) {exports})")).unwrap()
    }

    /// Makes a component that exports an empty instance under each of these names.
    fn component(names: &[&str]) -> Vec<u8> {
        let exports: String = names.iter().map(|name| format!("(export {name:?} (instance 0))")).collect();
        wat::parse_str(format!("(component (instance) {exports})")).unwrap()
    }

    fn refusal(bytes: &[u8]) -> String {
        read("bad", bytes).unwrap_err().to_string()
    }

    #[test]
    fn the_version_stands_in_the_contract_alone() {
        assert_eq!(version_in("/// About.\npackage wasmill:plugin@12.0.3;\n"), "12.0.3");
        assert_eq!(ApiVersion::of_host().to_string(), API_VERSION);
        for file in std::fs::read_dir("../wit").unwrap() {
            let path = file.unwrap().path();
            let is_types = path.ends_with("types.wit");
            assert_eq!(
                std::fs::read_to_string(&path).unwrap().contains("package wasmill:plugin@"),
                is_types,
                "{path:?}"
            );
        }
    }

    #[test]
    fn modules_and_components_have_the_roles_that_they_export() {
        let names = ["projection", "configuration", "aggregate"].map(|name| format!("wasmill:plugin/{name}@1.0.0"));
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let roles = vec![RoleName::Aggregate, RoleName::Projection];
        let expected = Exports { roles, api_version: ApiVersion { major: 1, minor: 0, patch: 0 } };
        assert_eq!(read("good", &component(&names)).unwrap(), expected);
        let functions = [
            "memory-of-mine",
            "cabi_post_wasmill:plugin/projection@1.0.0#query",
            "wasmill:plugin/projection@1.0.0#query",
            "wasmill:plugin/projection@1.0.0#project",
            "wasmill:plugin/aggregate@1.0.0#[method]instance.handle",
        ];
        assert_eq!(read("good", &module(&functions)).unwrap(), expected);
    }

    #[test]
    fn what_is_inside_of_a_component_is_not_exported() {
        let inner = r#"(component (component (instance) (export "wasmill:plugin/aggregate@1.0.0" (instance 0))))"#;
        assert!(refusal(&wat::parse_str(inner).unwrap()).contains("exports no role: it exports nothing"));
    }

    #[test]
    fn each_version_up_to_that_of_the_host_is_served() {
        let of = |version: &str| read("p", &component(&[&format!("wasmill:plugin/saga@{version}")]));
        for served in ["1.0.0", "1.0.1", API_VERSION] {
            assert_eq!(of(served).unwrap().api_version.to_string(), served);
        }
        for (version, remedy) in [
            ("1.7.0", "use a host of a later version"),
            ("2.0.0", "use a host of a later version"),
            ("0.3.0", "build it again for this contract"),
            ("0.8.0", "build it again for this contract"),
            ("1.0.0-rc.1", "build it again for this contract"),
        ] {
            let said = of(version).unwrap_err().to_string();
            assert!(said.contains(&served()) && said.contains(version) && said.contains(remedy), "{said}");
        }
    }

    #[test]
    fn what_is_no_plugin_says_what_it_is() {
        for (bytes, said) in [
            (b"<html>".to_vec(), "is not WebAssembly: it starts with [3c, 68, 74, 6d]"),
            (Vec::new(), "is not WebAssembly: it starts with []"),
            (b"\0asm\x01\0\0\0\x07".to_vec(), "is damaged"),
            (module(&[]), "exports no role: it exports nothing; probably one of the SDK's export macros is forgotten"),
            (component(&["wasi:cli/run@0.2.6"]), r#"it exports "wasi:cli/run@0.2.6"; probably"#),
            (module(&["a", "b", "c", "d", "e", "f"]), r#"it exports "a", "b", "c", "d", "e" and others"#),
            (component(&["wasmill:plugin/configuration@1.0.0"]), "exports no role"),
            (component(&["wasmill:plugin/cron@1.0.0"]), "the roles are aggregate, subscriber, saga, projection"),
            (component(&["wasmill:plugin/cron@1.7.0"]), "use a host of a later version"),
            (component(&["wasmill:plugin/saga"]), "without a version of the contract"),
            (
                component(&["wasmill:plugin/saga@1.0.0", "wasmill:plugin/aggregate@1.1.0"]),
                "of versions 1.0.0 and 1.1.0 of the contract",
            ),
            (
                component(&["wasmill:plugin/saga@1.0.0", "wasmill:plugin/subscriber@1.0.0"]),
                "a plugin has one subscription",
            ),
        ] {
            let refusal = refusal(&bytes);
            assert!(refusal.starts_with("plugin bad ") && refusal.contains(said), "{refusal}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(rest in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(read("bad", &rest).is_err());
            let _ = read("bad", &[b"\0asm\x01\0\0\0".as_slice(), &rest].concat());
            let _ = read("bad", &[b"\0asm\x0d\0\x01\0".as_slice(), &rest].concat());
        }
    }
}
