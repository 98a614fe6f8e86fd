//! The names of variants: as serde encodes them, and as constants.

use syn::{Attribute, Error, LitStr, Result, Variant};

/// What the attributes of serde say of an enum or of a variant.
#[derive(Default)]
pub(crate) struct Serde {
    rename: Option<String>,
    rename_all: Option<LitStr>,
    /// Whether the variant has no name of its own in the encoding: it is skipped, or stands for all others.
    pub(crate) is_nameless: bool,
    /// The attribute that makes the enum no plain one.
    pub(crate) not_plain: Option<(proc_macro2::Span, &'static str)>,
}

impl Serde {
    pub(crate) fn of(attributes: &[Attribute]) -> Result<Self> {
        let mut serde = Self::default();
        for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("serde")) {
            attribute.parse_nested_meta(|meta| {
                let is = |name: &str| meta.path.is_ident(name);
                if is("rename") || is("rename_all") {
                    let value = match meta.value() {
                        Ok(value) => Some(value.parse::<LitStr>()?),
                        // `rename(serialize = "…", deserialize = "…")`
                        Err(_) => {
                            let mut serialized = None;
                            meta.parse_nested_meta(|nested| {
                                let value: LitStr = nested.value()?.parse()?;
                                if nested.path.is_ident("serialize") {
                                    serialized = Some(value);
                                }
                                Ok(())
                            })?;
                            serialized
                        }
                    };
                    if is("rename") {
                        serde.rename = value.map(|value| value.value());
                    } else {
                        serde.rename_all = value;
                    }
                    return Ok(());
                }
                serde.is_nameless |= is("skip") || is("skip_serializing") || is("other");
                for name in ["tag", "content", "untagged"] {
                    if is(name) {
                        serde.not_plain.get_or_insert((meta.path.segments[0].ident.span(), name));
                    }
                }
                // What else serde understands has a value, a list, or nothing.
                if meta.input.peek(syn::Token![=]) {
                    let _: syn::Lit = meta.value()?.parse()?;
                } else if meta.input.peek(syn::token::Paren) {
                    meta.parse_nested_meta(|nested| {
                        if nested.input.peek(syn::Token![=]) {
                            let _: syn::Lit = nested.value()?.parse()?;
                        }
                        Ok(())
                    })?;
                }
                Ok(())
            })?;
        }
        Ok(serde)
    }

    /// Returns the name of a variant of this enum as serde encodes it.
    pub(crate) fn name_of(&self, variant: &Variant, of_variant: &Self) -> Result<String> {
        if let Some(name) = &of_variant.rename {
            return Ok(name.clone());
        }
        let ident = variant.ident.to_string();
        match &self.rename_all {
            None => Ok(ident),
            Some(rule) => renamed(&ident, &rule.value())
                .ok_or_else(|| Error::new(rule.span(), "`rename_all` has a rule that serde does not know")),
        }
    }
}

/// Renames a variant by a rule of serde's `rename_all`.
fn renamed(variant: &str, rule: &str) -> Option<String> {
    Some(match rule {
        "PascalCase" => variant.to_owned(),
        "lowercase" => variant.to_ascii_lowercase(),
        "UPPERCASE" => variant.to_ascii_uppercase(),
        "camelCase" => variant[..1].to_ascii_lowercase() + &variant[1..],
        "snake_case" => snake(variant),
        "SCREAMING_SNAKE_CASE" => snake(variant).to_ascii_uppercase(),
        "kebab-case" => snake(variant).replace('_', "-"),
        "SCREAMING-KEBAB-CASE" => snake(variant).to_ascii_uppercase().replace('_', "-"),
        _ => return None,
    })
}

/// Puts `_` before each capital letter but the first, as serde does.
fn snake(variant: &str) -> String {
    let mut snake = String::new();
    for (at, letter) in variant.char_indices() {
        if at > 0 && letter.is_uppercase() {
            snake.push('_');
        }
        snake.push(letter.to_ascii_lowercase());
    }
    snake
}

/// Returns the name of the constant for a variant: `OrderCreated` is `ORDER_CREATED`.
pub(crate) fn constant(variant: &str) -> String {
    snake(variant).to_ascii_uppercase()
}

#[cfg(test)]
mod tests {
    use super::*;
    use syn::{DeriveInput, parse_quote};

    fn names(input: &DeriveInput) -> Vec<String> {
        let serde = Serde::of(&input.attrs).unwrap();
        let syn::Data::Enum(data) = &input.data else { panic!("no enum") };
        let name = |variant: &Variant| serde.name_of(variant, &Serde::of(&variant.attrs).unwrap()).unwrap();
        data.variants.iter().map(name).collect()
    }

    #[test]
    fn a_variant_has_the_name_that_serde_gives_it() {
        for (rule, expected) in [
            ("PascalCase", "OrderCreated"),
            ("lowercase", "ordercreated"),
            ("UPPERCASE", "ORDERCREATED"),
            ("camelCase", "orderCreated"),
            ("snake_case", "order_created"),
            ("SCREAMING_SNAKE_CASE", "ORDER_CREATED"),
            ("kebab-case", "order-created"),
            ("SCREAMING-KEBAB-CASE", "ORDER-CREATED"),
        ] {
            let input: DeriveInput = parse_quote! {
                #[serde(deny_unknown_fields, rename_all = #rule, bound(serialize = "T: Clone"))]
                enum Event {
                    OrderCreated { id: u32 },
                    #[serde(alias = "old", rename = "closed.now")]
                    Closed,
                    #[serde(rename(serialize = "A", deserialize = "B"))]
                    Both,
                }
            };
            assert_eq!(names(&input), [expected, "closed.now", "A"], "{rule}");
        }
    }

    #[test]
    fn an_enum_with_a_tag_is_seen() {
        for (attribute, expected) in [
            (parse_quote!(#[serde(tag = "type")]), Some("tag")),
            (parse_quote!(#[serde(tag = "t", content = "c")]), Some("tag")),
            (parse_quote!(#[serde(untagged)]), Some("untagged")),
            (parse_quote!(#[serde(rename_all = "lowercase")]), None),
            (parse_quote!(#[doc = "tag"]), None),
        ] {
            let attribute: Attribute = attribute;
            assert_eq!(Serde::of(&[attribute]).unwrap().not_plain.map(|(_, name)| name), expected);
        }
    }

    #[test]
    fn a_constant_is_in_capitals() {
        assert_eq!(["Opened", "OrderCreated", "X9Y"].map(constant), ["OPENED", "ORDER_CREATED", "X9_Y"]);
    }
}
