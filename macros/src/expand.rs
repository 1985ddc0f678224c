//! The expansion of an instrumented function.
//!
//! All code from here has the macro's own span. So its locals and the user's do not see each other, and
//! lints know that the code is not the user's. Statics are not hygienic, so ours is in a block without
//! the user's code. The user's tokens keep their spans, so lints and errors in them read as usual.

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, quote_spanned};
use syn::ext::IdentExt as _;
use syn::spanned::Spanned as _;
use syn::token::Brace;
use syn::visit::{self, Visit};
use syn::visit_mut::{self, VisitMut};
use syn::{
    GenericArgument, Ident, Lifetime, LitStr, Path, PathArguments, ReturnType, Signature, Type, TypeGroup,
    TypeImplTrait, TypeMacro, TypeParen, TypeReference, parse_quote_spanned,
};

use crate::args::{Args, Choice, Errors};
use crate::valid::AsyncFn;

/// Expands the attribute. On an error the item comes back unchanged, so that the only errors are ours.
pub(crate) fn instrumented_task(options: TokenStream, item: TokenStream) -> TokenStream {
    let mut errors = Errors::default();
    let args = errors.take(syn::parse2::<Args>(options));
    let function = errors.take(AsyncFn::parse("instrumented_task", item.clone()));
    match (args, function) {
        (Some(args), Some(function)) => expand(args, function),
        _ => {
            let errors = errors.to_compile_error();
            quote_spanned!(Span::mixed_site()=> #item #errors)
        }
    }
}

fn expand(args: Args, function: AsyncFn) -> TokenStream {
    let site = Span::mixed_site();
    let AsyncFn { attrs, vis, sig, brace, body } = function;

    let krate = args.krate();
    let private = quote_spanned!(site=> #krate::__private);
    let name = args.name(&sig);
    let category =
        option(args.category.map(|choice| choice.path_in(&quote_spanned!(site=> #krate::TaskCategory))));
    let priority =
        option(args.priority.map(|choice| choice.path_in(&quote_spanned!(site=> #krate::TaskPriority))));
    let component = option(args.component);

    let never = matches!(&sig.output, ReturnType::Type(_, ty) if matches!(ungroup(ty), Type::Never(_)));
    let pin = pin(&sig.output);
    let allow =
        may_be_future(&sig.output).then(|| quote_spanned!(site=> #[allow(clippy::async_yields_async)]));
    let probe = quote::format_ident!(
        "{}",
        if error_may_borrow(&sig) { "BorrowingProbe" } else { "Probe" },
        span = site
    );

    // Where the user wrote them, but ours: braces of the user's would be `unused_braces` in the block around them.
    let brace = Brace(site.located_at(brace.span.join()));
    let mut user = TokenStream::new();
    brace.surround(&mut user, |tokens| body.to_tokens(tokens));

    // The closure's parameter is left to inference, which by then knows it from the pinned body: the type's name could
    // not be written there if it held `impl Trait`.
    let run = quote_spanned! {site=>
        #private::instrument(
            {
                static __TASK: #private::Instrumented =
                    #private::Instrumented::new(#name, #category, #priority, #component);
                &__TASK
            },
            __body,
            |__output, __rules| {
                use #private::via::{
                    ViaAny as _, ViaBox as _, ViaDisplay as _, ViaError as _, ViaOpaque as _, ViaReport as _,
                };
                (&&&&&&#private::#probe(__output)).task_exit(__rules)
            },
        )
        .await
    };
    let run = if never { quote_spanned!(site=> match #run {}) } else { run };

    quote_spanned! {site=>
        #(#attrs)*
        #vis #sig {
            #allow
            let __body = async move {
                #pin
                #user
            };
            #run
        }
    }
}

/// A `return` that never happens. It is the first statement in the async block and so decides the block's type. Without it, `?`,
/// `return` and a coercion of the last expression could not infer that type.
pub(crate) fn pin(output: &ReturnType) -> TokenStream {
    let mut site = Span::mixed_site();
    let ty = match output {
        ReturnType::Default => quote_spanned!(site=> ()),
        ReturnType::Type(_, ty) => {
            // Compiler messages point at what decided the type.
            site = site.located_at(ty.span());
            match ungroup(ty) {
                // The body's type is what decides here, in the plain function too.
                Type::ImplTrait(_) => return TokenStream::new(),
                // `!` is no type argument on stable Rust; this is as empty, and `!` coerces to it.
                Type::Never(_) => quote_spanned!(site=> ::core::convert::Infallible),
                ty => {
                    let mut ty = ty.clone();
                    ForgetImplTrait.visit_type_mut(&mut ty);
                    ty.into_token_stream()
                }
            }
        }
    };
    quote_spanned! {site=>
        if let ::core::option::Option::Some(__output) = ::core::option::Option::None::<#ty> {
            return __output;
        }
    }
}

/// Returns true if the type of the error may borrow, as far as the signature shows. The rules of a manager find an error without a borrow
/// by its type, which the compiler allows for such types alone.
fn error_may_borrow(sig: &Signature) -> bool {
    let ReturnType::Type(_, ty) = &sig.output else { return false };
    let mut borrows =
        Borrows { generics: sig.generics.type_params().map(|param| &param.ident).collect(), found: false };
    let ty = ungroup(ty);
    match result_arguments(ty) {
        // An alias such as `io::Result`, which has an error type of its own.
        Some((_, None)) => {}
        Some((_, Some(error))) => borrows.visit_type(error),
        None => borrows.visit_type(ty),
    }
    borrows.found
}

/// The types inside a `Result`.
fn result_arguments(ty: &Type) -> Option<(&Type, Option<&Type>)> {
    let Type::Path(path) = ty else { return None };
    let last = path.path.segments.last().filter(|last| last.ident == "Result")?;
    let PathArguments::AngleBracketed(arguments) = &last.arguments else { return None };
    let mut types = Vec::new();
    for argument in &arguments.args {
        match argument {
            GenericArgument::Type(ty) => types.push(ty),
            _ => return None,
        }
    }
    match types[..] {
        [value] => Some((value, None)),
        [value, error] => Some((value, Some(error))),
        _ => None,
    }
}

/// Searches a type for anything that may borrow: a lifetime, or a generic type of the function or of its `impl` block.
struct Borrows<'a> {
    generics: Vec<&'a Ident>,
    found: bool,
}

impl Visit<'_> for Borrows<'_> {
    fn visit_lifetime(&mut self, lifetime: &Lifetime) {
        self.found |= lifetime.ident != "static";
    }

    fn visit_type_reference(&mut self, reference: &TypeReference) {
        self.found |= reference.lifetime.is_none();
        visit::visit_type_reference(self, reference);
    }

    fn visit_type_impl_trait(&mut self, _: &TypeImplTrait) {
        self.found = true;
    }

    fn visit_type_macro(&mut self, _: &TypeMacro) {
        self.found = true;
    }

    fn visit_ident(&mut self, ident: &Ident) {
        let name = ident.to_string();
        self.found |= is_usual_parameter(&name) || name == "Self" || self.generics.contains(&ident);
    }
}

/// Returns true for the usual names of generic types of an `impl` block: `E`, `E1`, `Err`, `TError`. A function does not show its
/// block.
fn is_usual_parameter(name: &str) -> bool {
    let mut rest = name.chars();
    let first = rest.next();
    let is_short = || rest.as_str().chars().all(|c| c.is_ascii_digit());
    let is_prefixed = || {
        let rest = rest.as_str();
        first == Some('T') && rest.starts_with(char::is_uppercase) && rest.contains(char::is_lowercase)
    };
    name == "Err" || first.is_some_and(char::is_uppercase) && (is_short() || is_prefixed())
}

/// Returns true if clippy could warn that the async block yields a future. The warning is right for a block, but not for a
/// function with such a signature. For other types the lint stays on inside the body.
pub(crate) fn may_be_future(output: &ReturnType) -> bool {
    match output {
        ReturnType::Default => false,
        ReturnType::Type(_, ty) => match ungroup(ty) {
            Type::Never(_) | Type::Tuple(_) | Type::Array(_) => false,
            Type::Reference(reference) => reference.mutability.is_some(),
            Type::Path(path) => path.path.segments.last().is_none_or(|last| {
                let name = last.ident.to_string();
                !(name.ends_with("Result") || name == "Option")
            }),
            _ => true,
        },
    }
}

/// A type that came through a `macro_rules!` fragment arrives in an invisible group.
fn ungroup(mut ty: &Type) -> &Type {
    while let Type::Group(TypeGroup { elem, .. }) | Type::Paren(TypeParen { elem, .. }) = ty {
        ty = elem;
    }
    ty
}

/// Writes `_` for each `impl Trait`, which a function's body cannot name.
struct ForgetImplTrait;

impl VisitMut for ForgetImplTrait {
    fn visit_type_mut(&mut self, ty: &mut Type) {
        if let Type::ImplTrait(_) = ty {
            *ty = parse_quote_spanned!(Span::mixed_site()=> _);
        } else {
            visit_mut::visit_type_mut(self, ty);
        }
    }
}

impl Args {
    /// Returns the path of `otel_tasks`.
    pub(crate) fn krate(&self) -> Path {
        self.krate.clone().unwrap_or_else(|| parse_quote_spanned!(Span::mixed_site()=> ::otel_tasks))
    }

    /// The task's name: the function's own, unless one is given.
    pub(crate) fn name(&self, sig: &Signature) -> LitStr {
        let own = || LitStr::new(&sig.ident.unraw().to_string(), sig.ident.span());
        self.name.clone().unwrap_or_else(own)
    }
}

impl Choice {
    pub(crate) fn path_in(self, variants: &TokenStream) -> TokenStream {
        match self {
            Self::Variant(variant) => quote_spanned!(Span::mixed_site()=> #variants::#variant),
            Self::Path(path) => path.into_token_stream(),
        }
    }
}

fn option<T: ToTokens>(value: Option<T>) -> TokenStream {
    match value {
        Some(value) => quote_spanned!(Span::mixed_site()=> ::core::option::Option::Some(#value)),
        None => quote_spanned!(Span::mixed_site()=> ::core::option::Option::None),
    }
}

#[cfg(test)]
pub(crate) mod tests;
