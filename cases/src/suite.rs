//! Reading a file of cases.

use crate::{Error, aggregate, decoded, projection, saga, subscriber, text_of};
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::Value as Json;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

/// What the errors of a file of cases are about.
const CASES: &str = "cases";

/// A file of cases. As text it is what the cases are for, such as `aggregate door`.
#[derive(Clone, Debug, PartialEq)]
pub struct Suite {
    /// The path of the file.
    pub file: PathBuf,
    /// The name of what the cases are for: the type of an aggregate or a saga, the name of a projection, or the name of a
    /// subscriber's crate.
    pub name: String,
    /// The settings of its plugin.
    pub settings: serde_json::Map<String, Json>,
    /// The secrets of its plugin, which are no real ones. Only subscribers and sagas get them.
    pub secrets: BTreeMap<String, String>,
    /// The cases.
    pub cases: Cases,
}

/// The cases of a file, in their order. There is at least one, and their names are unique.
#[derive(Clone, Debug, PartialEq)]
pub enum Cases {
    /// Those of an aggregate.
    Aggregate(Vec<aggregate::Case>),
    /// Those of a subscriber.
    Subscriber(Vec<subscriber::Case>),
    /// Those of a saga.
    Saga(Vec<saga::Case>),
    /// Those of a projection.
    Projection(Vec<projection::Case>),
}

impl Suite {
    /// Reads a file. It is JSON if its name ends in `.json`, and TOML otherwise.
    pub fn read(file: impl AsRef<Path>) -> Result<Self, Error> {
        Self::parse(file.as_ref(), &text_of(CASES, file.as_ref())?)
    }

    /// Reads cases from text. The file's name says if the text is JSON or TOML, and errors show it.
    pub fn parse(file: impl AsRef<Path>, text: &str) -> Result<Self, Error> {
        let file = file.as_ref();
        match decoded(CASES, file, text, Head::role)? {
            Role::Aggregate => Self::of_role::<aggregate::OfFile>(file, text, Cases::Aggregate, false),
            Role::Subscriber => Self::of_role::<subscriber::OfFile>(file, text, Cases::Subscriber, true),
            Role::Saga => Self::of_role::<saga::OfFile>(file, text, Cases::Saga, true),
            Role::Projection => Self::of_role::<projection::OfFile>(file, text, Cases::Projection, false),
        }
    }

    fn of_role<C: CaseOfFile>(
        file: &Path,
        text: &str,
        cases: fn(Vec<C::Case>) -> Cases,
        gets_secrets: bool,
    ) -> Result<Self, Error>
    where
        Document<C>: DeserializeOwned,
    {
        let checked = |document: Document<C>| {
            if !document.secrets.is_empty() && !gets_secrets {
                return Err("only subscribers and sagas get secrets: remove `secrets`".to_owned());
            }
            let Document { aggregate, subscriber, saga, projection, settings, secrets, case } = document;
            let name = aggregate.or(subscriber).or(saga).or(projection).unwrap_or_default();
            let cases = cases(checked(case)?);
            Ok(Self { file: file.to_owned(), name, settings, secrets, cases })
        };
        decoded(CASES, file, text, checked)
    }

    /// Returns the error for a file that is not for what is to be tested.
    pub fn is_not_for(&self, tested: impl fmt::Display) -> String {
        format!("the cases in {} are for {self}, and not for {tested}", self.file.display())
    }
}

impl fmt::Display for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let role = match self.cases {
            Cases::Aggregate(_) => "aggregate",
            Cases::Subscriber(_) => "subscriber",
            Cases::Saga(_) => "saga",
            Cases::Projection(_) => "projection",
        };
        write!(f, "{role} {}", self.name)
    }
}

/// The keys of a file that say what its cases are for.
#[derive(Deserialize)]
struct Head {
    aggregate: Option<IgnoredAny>,
    subscriber: Option<IgnoredAny>,
    saga: Option<IgnoredAny>,
    projection: Option<IgnoredAny>,
    flow: Option<IgnoredAny>,
}

#[derive(Clone, Copy)]
enum Role {
    Aggregate,
    Subscriber,
    Saga,
    Projection,
}

impl Head {
    fn role(self) -> Result<Role, String> {
        let roles = [
            self.aggregate.map(|_| Role::Aggregate),
            self.subscriber.map(|_| Role::Subscriber),
            self.saga.map(|_| Role::Saga),
            self.projection.map(|_| Role::Projection),
        ];
        let mut roles = roles.into_iter().flatten();
        match (roles.next(), roles.next()) {
            (Some(role), None) => Ok(role),
            (None, _) if self.flow.is_some() => {
                Err("they are flows: give `wasmill test` the manifest of the plugins, and not one plugin".to_owned())
            }
            (None, _) => Err("they do not say what they are for: add `aggregate = \"TYPE\"`, `saga = \"TYPE\"`, \
                              `projection = \"NAME\"`, or `subscriber = \"CRATE\"`"
                .to_owned()),
            (Some(_), Some(_)) => {
                Err("they are for one thing: remove all but one of `aggregate`, `subscriber`, `saga` and \
                                       `projection`"
                    .to_owned())
            }
        }
    }
}

/// A file whose role is known. It has one of the keys that name it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document<C> {
    aggregate: Option<String>,
    subscriber: Option<String>,
    saga: Option<String>,
    projection: Option<String>,
    #[serde(default)]
    settings: serde_json::Map<String, Json>,
    #[serde(default)]
    secrets: BTreeMap<String, String>,
    case: Vec<C>,
}

/// A case as a file has it.
pub(crate) trait CaseOfFile: Sized {
    type Case;

    fn name(&self) -> &str;

    /// Checks what the file says of it.
    fn checked(self) -> Result<Self::Case, String>;
}

fn checked<C: CaseOfFile>(cases: Vec<C>) -> Result<Vec<C::Case>, String> {
    if cases.is_empty() {
        return Err("there is no case: add a `[[case]]`".to_owned());
    }
    let is_twice = |(number, case): &(usize, &C)| cases[..*number].iter().any(|other| other.name() == case.name());
    if let Some((_, case)) = cases.iter().enumerate().find(is_twice) {
        return Err(format!("two cases are named `{}`: give each case its own name", case.name()));
    }
    let named = |case: C| {
        let name = case.name().to_owned();
        case.checked().map_err(|cause| format!("case `{name}`: {cause}"))
    };
    cases.into_iter().map(named).collect()
}

/// A table of a file.
pub(crate) type Table = serde_json::Map<String, Json>;

/// A kind of table, which one of its keys says.
pub(crate) struct Kind<T> {
    pub(crate) key: &'static str,
    pub(crate) what: &'static str,
    pub(crate) read: fn(Table) -> Result<T, String>,
}

/// Reads a table of the kind that its keys say.
pub(crate) fn by_key<T>(kinds: &[Kind<T>], from: Table) -> Result<T, String> {
    let mut found = kinds.iter().filter(|kind| from.contains_key(kind.key));
    match (found.next(), found.next()) {
        (Some(Kind { key, what, read }), None) => read(from).map_err(|cause| format!("{what} (`{key}`): {cause}")),
        (Some(one), Some(other)) => Err(format!(
            "`{}` is for {}, and `{}` for {}: remove one of them",
            one.key, one.what, other.key, other.what
        )),
        (None, _) => {
            let keys: Vec<String> = kinds.iter().map(|Kind { key, what, .. }| format!("`{key}` for {what}")).collect();
            Err(format!("it must have one of these keys: {}", keys.join(", ")))
        }
    }
}

/// Reads a table whose kind is known.
pub(crate) fn table<D: DeserializeOwned>(from: Table) -> Result<D, String> {
    serde_json::from_value(Json::Object(from)).map_err(|cause| cause.to_string())
}
