//! The derive macro `Contract` of the crate `wasmill-guest`, which documents it.

mod contract;
mod names;

use proc_macro::TokenStream;
use syn::{DeriveInput, parse_macro_input};

/// See `wasmill_guest::contract`.
#[proc_macro_derive(Contract, attributes(contract))]
pub fn derive_contract(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    contract::derive(&input).unwrap_or_else(syn::Error::into_compile_error).into()
}
