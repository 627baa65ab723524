//! `#[async_test]` as the tests of redis-rs use it: an async function becomes tests that run it on tokio. One that wants a connection runs with a
//! multiplexed one and with a connection manager, one that wants a `bool` with both. redis-rs has it in a crate that is not published.

use proc_macro::TokenStream;
use quote::{format_ident, quote};
use syn::{FnArg, ItemFn, Type, parse_macro_input};

/// The tests of one async function.
#[proc_macro_attribute]
pub fn async_test(_options: TokenStream, item: TokenStream) -> TokenStream {
    let mut function = parse_macro_input!(item as ItemFn);
    let attributes = std::mem::take(&mut function.attrs);
    let name = function.sig.ident.clone();
    let ways = match function.sig.inputs.first() {
        None => vec![("tokio", quote! {}, quote! {})],
        Some(FnArg::Typed(argument)) if matches!(&*argument.ty, Type::Path(path) if path.path.is_ident("bool")) => {
            vec![("yes", quote! {}, quote! { true }), ("no", quote! {}, quote! { false })]
        }
        Some(_connection) => vec![
            ("multiplexed", quote! { let context = TestContext::new(); }, quote! { context.async_connection().await.unwrap() }),
            ("manager", quote! { let context = TestContext::new(); }, quote! { context.client.get_connection_manager().await.unwrap() }),
        ],
    };
    let tests = ways.into_iter().map(|(way, before, argument)| {
        let test = format_ident!("{name}_{way}");
        quote! {
            #(#attributes)*
            #[test]
            fn #test() {
                block_on_all(async move { #before #name(#argument).await }, RuntimeType::Tokio)
            }
        }
    });
    quote! { #function #(#tests)* }.into()
}
