//! The custom section `wasmill:plugin`. It describes a module, and the host reads it before it compiles anything.
//!
//! It has one line of JSON for each exported role; the linker joins the lines of several roles. The lines are made at
//! compile time, so an invalid name is a compile error.

use crate::reading::Shape;
use wasmill_names::Rule;

/// The version of the WIT package that these bindings implement.
pub const API: &str = "0.8.0";

/// The content of one line.
pub struct Line {
    /// The plugin's name, which is its crate's name.
    pub plugin: &'static str,
    /// The plugin's version, which is its crate's version.
    pub version: &'static str,
    /// The role that it exports.
    pub role: Role,
}

/// The description of a role.
pub enum Role {
    /// An aggregate of this type.
    Aggregate(&'static str),
    /// A subscriber of these events in this shape, and the endpoints of its HTTP requests.
    Subscriber(&'static [&'static str], Shape, &'static [&'static str]),
    /// Sagas of this type, the events that start one, further events that are inputs, their shape, and the endpoints of its HTTP
    /// requests.
    Saga(&'static str, &'static [&'static str], &'static [&'static str], Shape, &'static [&'static str]),
    /// A projection of this name over these events in this shape.
    Projection(&'static str, &'static [&'static str], Shape),
}

impl Line {
    /// Returns the number of bytes of the line.
    pub const fn length(&self) -> usize {
        self.write::<0>().length
    }

    /// Returns the line itself. `N` must be its length.
    pub const fn bytes<const N: usize>(&self) -> [u8; N] {
        self.write::<N>().bytes
    }

    const fn write<const N: usize>(&self) -> Writer<N> {
        let mut line = Writer { bytes: [0; N], length: 0 };
        line.push("{\"api\":\"");
        line.push(API);
        line.push("\",\"plugin\":\"");
        line.push(checked(self.plugin, Rule::Crate));
        line.push("\",\"version\":\"");
        line.push(checked(self.version, Rule::Version));
        match self.role {
            Role::Aggregate(name) => {
                line.push("\",\"role\":\"aggregate\",\"type\":\"");
                line.push(checked(name, Rule::Part));
                line.push("\"");
            }
            Role::Subscriber(subscriptions, shape, endpoints) => {
                line.push("\",\"role\":\"subscriber\",\"subscriptions\":");
                line.push_list(subscriptions, Item::Subscription);
                line.push_shape(shape);
                line.push(",\"endpoints\":");
                line.push_list(endpoints, Item::Endpoint);
            }
            Role::Saga(name, starts, subscriptions, shape, endpoints) => {
                line.push("\",\"role\":\"saga\",\"type\":\"");
                line.push(checked(name, Rule::Part));
                line.push("\",\"starts\":");
                assert!(!starts.is_empty(), "STARTS must name an event: without one there is never a saga");
                line.push_list(starts, Item::Subscription);
                line.push(",\"subscriptions\":");
                line.push_list(subscriptions, Item::Subscription);
                line.push_shape(shape);
                line.push(",\"endpoints\":");
                line.push_list(endpoints, Item::Endpoint);
            }
            Role::Projection(name, subscriptions, shape) => {
                line.push("\",\"role\":\"projection\",\"name\":\"");
                line.push(checked(name, Rule::Part));
                line.push("\",\"subscriptions\":");
                line.push_list(subscriptions, Item::Subscription);
                line.push_shape(shape);
            }
        }
        line.push("}\n");
        line
    }
}

/// A writer that counts all bytes and keeps those that fit. With no room it measures the length.
struct Writer<const N: usize> {
    bytes: [u8; N],
    length: usize,
}

impl<const N: usize> Writer<N> {
    const fn push(&mut self, text: &str) {
        let text = text.as_bytes();
        let mut at = 0;
        while at < text.len() {
            if self.length < N {
                self.bytes[self.length] = text[at];
            }
            self.length += 1;
            at += 1;
        }
    }

    const fn push_shape(&mut self, shape: Shape) {
        self.push(match shape {
            Shape::Recorded => ",\"shape\":\"recorded\"",
            Shape::Newest => ",\"shape\":\"newest\"",
        });
    }

    const fn push_list(&mut self, texts: &[&str], of: Item) {
        self.push("[");
        let mut at = 0;
        while at < texts.len() {
            self.push(if at == 0 { "\"" } else { ",\"" });
            self.push(of.checked(texts[at]));
            self.push("\"");
            at += 1;
        }
        self.push("]");
    }
}

/// What a list has.
#[derive(Clone, Copy)]
enum Item {
    Subscription,
    Endpoint,
}

impl Item {
    /// Returns the text if it follows the rule of the list. Otherwise the plugin does not compile.
    const fn checked(self, text: &str) -> &str {
        match self {
            Item::Subscription => checked(text, Rule::Pattern),
            Item::Endpoint if Rule::Part.allows(text) => text,
            Item::Endpoint => panic!("an endpoint in ENDPOINTS must be 1 to 64 characters of a-z, 0-9 and -"),
        }
    }
}

/// Returns the text if it follows the rule. Otherwise the plugin does not compile.
const fn checked(text: &str, rule: Rule) -> &str {
    if !rule.allows(text) {
        match rule {
            Rule::Part => panic!("TYPE and NAME must be 1 to 64 characters of a-z, 0-9 and -"),
            Rule::Pattern => panic!(
                "a subscription must be `aggregate-type.EventName`: letters, digits, -, _, . and *, without empty parts"
            ),
            Rule::Crate => panic!("the crate's name must be 1 to 64 characters of a-z, A-Z, 0-9, _ and -"),
            Rule::Version => panic!("the crate's version must be 1 to 64 characters and begin with a digit"),
            Rule::Message => panic!("the name of a message must be 1 to 128 characters of a-z, A-Z, 0-9, _, - and ."),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{Line, Role, Shape};

    const LINE: Line = Line {
        plugin: "sales",
        version: "0.1.0",
        role: Role::Projection("sales", &["order.*", "household.Loyal"], Shape::Recorded),
    };

    const OF_SAGA: Line = Line {
        plugin: "p",
        version: "0.1.0",
        role: Role::Saga("transfer-process", &["transfer.Requested"], &[], Shape::Recorded, &["bank", "mail"]),
    };

    const OF_SUBSCRIBER: Line =
        Line { plugin: "p", version: "0.1.0", role: Role::Subscriber(&["order.*"], Shape::Newest, &[]) };

    #[test]
    fn the_line_of_a_subscriber_has_its_endpoints_even_if_there_are_none() {
        const BYTES: [u8; OF_SUBSCRIBER.length()] = OF_SUBSCRIBER.bytes();
        let expected = "{\"api\":\"0.8.0\",\"plugin\":\"p\",\"version\":\"0.1.0\",\"role\":\"subscriber\",\
                        \"subscriptions\":[\"order.*\"],\"shape\":\"newest\",\"endpoints\":[]}\n";
        assert_eq!(str::from_utf8(&BYTES), Ok(expected));
    }

    #[test]
    fn the_line_of_a_saga_has_the_events_that_start_one_and_its_endpoints() {
        const BYTES: [u8; OF_SAGA.length()] = OF_SAGA.bytes();
        let expected = "{\"api\":\"0.8.0\",\"plugin\":\"p\",\"version\":\"0.1.0\",\"role\":\"saga\",\
                        \"type\":\"transfer-process\",\"starts\":[\"transfer.Requested\"],\"subscriptions\":[],\
                        \"shape\":\"recorded\",\"endpoints\":[\"bank\",\"mail\"]}\n";
        assert_eq!(str::from_utf8(&BYTES), Ok(expected));
    }

    #[test]
    #[should_panic(expected = "an endpoint in ENDPOINTS must be 1 to 64 characters of a-z, 0-9 and -")]
    fn an_endpoint_that_the_manifest_can_not_name_is_refused() {
        let _ =
            Line { plugin: "p", version: "0.1.0", role: Role::Subscriber(&[], Shape::Recorded, &["mail", "Payments"]) }
                .length();
    }

    #[test]
    fn a_line_is_one_json_document() {
        const BYTES: [u8; LINE.length()] = LINE.bytes();
        let expected = "{\"api\":\"0.8.0\",\"plugin\":\"sales\",\"version\":\"0.1.0\",\"role\":\"projection\",\
                        \"name\":\"sales\",\"subscriptions\":[\"order.*\",\"household.Loyal\"],\"shape\":\"recorded\"}\n";
        assert_eq!(str::from_utf8(&BYTES), Ok(expected));
    }
}
