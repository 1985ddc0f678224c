//! The check of the item: an async fn with a body, and nothing else.

use proc_macro2::TokenStream;
use syn::parse::{ParseStream, Parser as _};
use syn::{AttrStyle, Attribute, Error, Result, Signature, Token, Visibility, braced, token};

/// An async fn, free or in an `impl` or trait, taken apart as far as the expansion needs.
pub(crate) struct AsyncFn {
    pub(crate) attrs: Vec<Attribute>,
    pub(crate) vis: Visibility,
    pub(crate) sig: Signature,
    pub(crate) brace: token::Brace,
    /// Never parsed: syntax newer than our `syn` passes, and a half-typed body still reaches an editor's analysis.
    pub(crate) body: TokenStream,
}

impl AsyncFn {
    /// Parses the item that the attribute of that name is on.
    pub(crate) fn parse(attribute: &str, item: TokenStream) -> Result<Self> {
        let parse = |input: ParseStream<'_>| Self::parse_in(attribute, input);
        parse.parse2(item)
    }

    fn parse_in(attribute: &str, input: ParseStream<'_>) -> Result<Self> {
        let mut attrs = input.call(Attribute::parse_outer)?;
        let vis = input.parse()?;
        let start = input.span();
        let sig: Signature = input
            .parse()
            .map_err(|_| Error::new(start, format!("`#[{attribute}]` applies only to an async fn")))?;
        if sig.asyncness.is_none() {
            return Err(Error::new(
                sig.fn_token.span,
                format!(
                    "`#[{attribute}]` needs an async fn; write it above any attribute that takes the `async` away, \
                     such as `#[tokio::main]`"
                ),
            ));
        }
        if input.peek(Token![;]) {
            return Err(input.error(format!(
                "`#[{attribute}]` needs a body to instrument; put it on the implementations of this method"
            )));
        }
        let content;
        let brace = braced!(content in input);
        // `#![...]` may open a function's body but not an async block, and means the same above the function.
        attrs.extend(content.call(Attribute::parse_inner)?.into_iter().map(|mut attr| {
            attr.style = AttrStyle::Outer;
            attr
        }));
        Ok(Self { attrs, vis, sig, brace, body: content.parse()? })
    }
}
