//! Each file in `tests/expansion` is the expected expansion of one test. To write the files again, run the tests
//! with `UPDATE_EXPANSIONS=1`; then read the difference.

use std::path::Path;

use proc_macro2::TokenStream;
use quote::quote;
use syn::parse_quote;

fn assert_expansion(file: &str, options: TokenStream, item: TokenStream) {
    assert_becomes(file, super::instrumented_task(options, item));
}

pub(crate) fn assert_becomes(file: &str, expansion: TokenStream) {
    let expansion = prettyplease::unparse(&parse_quote!(#expansion));
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/expansion").join(file);
    if std::env::var_os("UPDATE_EXPANSIONS").is_some() {
        std::fs::write(&path, &expansion).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap();
    assert!(expansion == expected, "{file} is\n{expected}\nbut the function becomes\n{expansion}");
}

#[test]
fn a_plain_function_is_named_after_itself() {
    assert_expansion(
        "plain.rs",
        quote!(),
        quote!(
            async fn tidy() {
                work().await;
            }
        ),
    );
}

#[test]
fn every_option_reaches_the_static() {
    assert_expansion(
        "options.rs",
        quote!(
            priority = "HIGH",
            crate = crate::reexport::tasks,
            component = "gateway",
            category = TaskCategory::Gateway,
            name = "gateway.ping",
        ),
        quote! {
            async fn ping<'a>(connection: &'a mut Connection, n: u32) -> io::Result<u32> {
                connection.ping(n).await?;
                Ok(n)
            }
        },
    );
}

#[test]
fn attributes_docs_visibility_generics_and_bounds_stay() {
    assert_expansion(
        "signature.rs",
        quote!(),
        quote! {
            /// Keeps `value`.
            #[must_use]
            #[cfg(unix)]
            pub(crate) async unsafe fn keep<'a, T, const N: usize>(mut value: [T; N], other: &'a impl Other) -> &'a T
            where
                T: Clone + 'a,
            {
                #![expect(unused_mut)]
                other.keep(value)
            }
        },
    );
}

#[test]
fn impl_trait_in_the_return_type_is_left_to_inference() {
    assert_expansion(
        "impl_trait_inside.rs",
        quote!(),
        quote! {
            async fn lines(path: &Path) -> Result<impl Iterator<Item = impl Display>, Error> {
                Ok(open(path)?.lines())
            }
        },
    );
    assert_expansion(
        "impl_trait.rs",
        quote!(),
        quote!(
            async fn lines() -> impl Iterator<Item = String> {
                [].into_iter()
            }
        ),
    );
}

#[test]
fn a_function_that_never_returns_matches_on_nothing() {
    assert_expansion(
        "never.rs",
        quote!(),
        quote!(
            async fn serve() -> ! {
                loop {
                    accept().await
                }
            }
        ),
    );
}

#[test]
fn a_raw_identifier_loses_its_prefix_in_the_name() {
    assert_expansion(
        "raw_identifier.rs",
        quote!(),
        quote!(
            async fn r#match() {}
        ),
    );
}

#[test]
fn on_an_error_the_item_comes_back_as_it_was() {
    assert_expansion(
        "error.rs",
        quote!(name = "", retries = 3),
        quote!(
            #[inline]
            pub fn not_async() -> u32 {
                1
            }
        ),
    );
}
