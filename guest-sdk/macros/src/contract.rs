//! The expansion of `#[derive(Contract)]`.

use super::names::{Serde, constant};
use proc_macro2::{Ident, TokenStream};
use quote::quote;
use syn::ext::IdentExt as _;
use syn::parse::{Parse, ParseStream};
use syn::{Data, DeriveInput, Error, LitStr, Path, Result, Token, Type};

/// What the attribute `contract` says: `Name, type = "…", command = …, upcasts = …`.
struct Options {
    name: Ident,
    aggregate_type: LitStr,
    command: Type,
    upcasts: Option<Path>,
}

impl Parse for Options {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let name: Ident = input.parse()?;
        let (mut aggregate_type, mut command, mut upcasts) = (None, None, None);
        while input.parse::<Option<Token![,]>>()?.is_some() && !input.is_empty() {
            let key = input.call(Ident::parse_any)?;
            input.parse::<Token![=]>()?;
            match key.to_string().as_str() {
                "type" => aggregate_type = Some(input.parse()?),
                "command" => command = Some(input.parse()?),
                "upcasts" => upcasts = Some(input.parse()?),
                _ => return Err(Error::new(key.span(), "expected `type`, `command` or `upcasts`")),
            }
        }
        let missing = |key: &str| Error::new(name.span(), format!("`{key}` is missing: {EXPECTED}"));
        Ok(Self {
            aggregate_type: aggregate_type.ok_or_else(|| missing("type"))?,
            command: command.ok_or_else(|| missing("command"))?,
            upcasts,
            name,
        })
    }
}

const EXPECTED: &str = "write `#[contract(Account, type = \"account\", command = AccountCommand)]`";

pub(crate) fn derive(input: &DeriveInput) -> Result<TokenStream> {
    let Data::Enum(data) = &input.data else {
        let text = "the events of an aggregate are an enum with a variant for each event";
        return Err(Error::new(input.ident.span(), text));
    };
    if let Some(parameter) = input.generics.params.first() {
        return Err(Error::new_spanned(parameter, "the events of a contract have no parameters"));
    }
    let attribute = input.attrs.iter().find(|attribute| attribute.path().is_ident("contract"));
    let attribute =
        attribute.ok_or_else(|| Error::new(input.ident.span(), format!("`contract` is missing: {EXPECTED}")))?;
    let Options { name, aggregate_type, command, upcasts } = attribute.parse_args()?;
    let serde = Serde::of(&input.attrs)?;
    if let Some((span, attribute)) = serde.not_plain {
        let text = format!("the events of an aggregate are a plain enum, without serde's `{attribute}`: remove it");
        return Err(Error::new(span, text));
    }
    let (event, visibility) = (&input.ident, &input.vis);
    let mut constants = TokenStream::new();
    for variant in &data.variants {
        let of_variant = Serde::of(&variant.attrs)?;
        if of_variant.is_nameless {
            continue;
        }
        let constant = Ident::new(&constant(&variant.ident.to_string()), variant.ident.span());
        let pattern = format!("{}.{}", aggregate_type.value(), serde.name_of(variant, &of_variant)?);
        let doc = format!("The event [`{event}::{}`], for `SUBSCRIPTIONS`.", variant.ident);
        constants.extend(quote! {
            #[doc = #doc]
            pub const #constant: &'static str = #pattern;
        });
    }
    let doc = format!("The contract of the aggregates `{}`: their commands and events.", aggregate_type.value());
    let every = format!("{}.*", aggregate_type.value());
    let upcasts = upcasts.map_or_else(|| quote!(&[]), |upcasts| quote!(#upcasts));
    Ok(quote! {
        #[doc = #doc]
        #[derive(Clone, Copy, Debug)]
        #visibility struct #name;

        impl ::wasmill_guest::contract::Contract for #name {
            const TYPE: &'static str = #aggregate_type;
            const UPCASTS: &'static [::wasmill_guest::upcast::Upcasts] = #upcasts;
            type Command = #command;
            type Event = #event;
        }

        #[allow(dead_code, reason = "a crate uses the names that it needs")]
        impl #name {
            /// The pattern of all events of the type, for `SUBSCRIPTIONS`.
            pub const ALL_EVENTS: &'static str = #every;
            #constants
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use syn::parse_quote;

    fn refused(input: &DeriveInput) -> String {
        derive(input).expect_err("it is refused").to_string()
    }

    #[test]
    fn what_is_no_contract_is_refused_with_what_to_write() {
        let missing = refused(&parse_quote! { enum Event { A } });
        assert!(missing.contains("#[contract(Account, type = \"account\", command = AccountCommand)]"), "{missing}");
        let of_struct = refused(&parse_quote! { #[contract(A, type = "a", command = C)] struct Event; });
        assert!(of_struct.contains("are an enum"), "{of_struct}");
        let generic = refused(&parse_quote! { #[contract(A, type = "a", command = C)] enum Event<T> { A(T) } });
        assert!(generic.contains("no parameters"), "{generic}");
        let tagged = refused(&parse_quote! {
            #[contract(A, type = "a", command = C)]
            #[serde(tag = "kind")]
            enum Event { A }
        });
        assert!(tagged.contains("serde's `tag`"), "{tagged}");
        for (attribute, part) in [
            (quote!(A, command = C), "`type` is missing"),
            (quote!(A, type = "a"), "`command` is missing"),
            (quote!(A, type = "a", command = C, kind = 1), "expected `type`, `command` or `upcasts`"),
        ] {
            let text = refused(&parse_quote! { #[contract(#attribute)] enum Event { A } });
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn the_names_are_those_that_are_recorded() {
        let expanded = derive(&parse_quote! {
            #[contract(Account, type = "account", command = Command)]
            #[serde(rename_all = "kebab-case")]
            pub enum Event {
                MoneyPaid { cents: u32 },
                #[serde(rename = "shut")]
                Closed,
                #[serde(other)]
                Other,
            }
        });
        let expanded = expanded.unwrap().to_string();
        for part in ["MONEY_PAID : & 'static str = \"account.money-paid\"", "CLOSED : & 'static str = \"account.shut\""]
        {
            assert!(expanded.contains(part), "{expanded}");
        }
        assert!(!expanded.contains("OTHER"), "{expanded}");
    }
}
