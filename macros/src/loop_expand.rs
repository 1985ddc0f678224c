//! The expansion of a function with `#[task_loop]`: a function that makes the loop's configuration.

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, quote_spanned};
use syn::spanned::Spanned as _;
use syn::token::Brace;
use syn::{Error, FnArg, LitStr, Pat, PatIdent, PatType, Result, Signature, Type, parse_quote_spanned};

use crate::args::{Choice, Errors};
use crate::expand::{may_be_future, pin};
use crate::loop_args::{Backoff, Length, LoopArgs, Options, Policy, Rhythm};
use crate::valid::AsyncFn;

/// Expands the attribute. On an error the item comes back unchanged, so that the only errors are ours.
pub(crate) fn task_loop(options: TokenStream, item: TokenStream) -> TokenStream {
    let mut errors = Errors::default();
    let args = errors.take(syn::parse2::<LoopArgs>(options));
    let function = errors.take(AsyncFn::parse("task_loop", item.clone()).and_then(|function| {
        let arguments = Arguments::of(&function.sig)?;
        Ok((function, arguments))
    }));
    match (args, function) {
        (Some(args), Some((function, arguments))) => expand(args, function, arguments),
        _ => {
            let errors = errors.to_compile_error();
            quote_spanned!(Span::mixed_site()=> #item #errors)
        }
    }
}

/// The function's arguments: the iteration's context, where it takes one, and what each iteration gets a clone of.
struct Arguments {
    context: Option<PatType>,
    kept: Vec<(PatIdent, PatType)>,
}

impl Arguments {
    fn of(sig: &Signature) -> Result<Self> {
        let mut arguments = Self { context: None, kept: Vec::new() };
        for (index, argument) in sig.inputs.iter().enumerate() {
            match argument {
                FnArg::Receiver(receiver) => {
                    let message = "`#[task_loop]` takes no `self`: a loop outlives the call, so give it what it needs as \
                                   arguments, such as an `Arc`";
                    return Err(Error::new(receiver.self_token.span, message));
                }
                FnArg::Typed(argument) if index == 0 && is_context(&argument.ty) => {
                    arguments.context = Some(argument.clone());
                }
                FnArg::Typed(argument) => match &*argument.pat {
                    Pat::Ident(name) if name.subpat.is_none() && name.by_ref.is_none() => {
                        arguments.kept.push((name.clone(), argument.clone()));
                    }
                    other => {
                        let message = "`#[task_loop]` needs a name for each argument, which is cloned for each iteration";
                        return Err(Error::new(other.span(), message));
                    }
                },
            }
        }
        Ok(arguments)
    }
}

fn is_context(ty: &Type) -> bool {
    matches!(ty, Type::Path(path) if path.path.segments.last().is_some_and(|last| last.ident == "TaskContext"))
}

fn expand(args: LoopArgs, function: AsyncFn, arguments: Arguments) -> TokenStream {
    let site = Span::mixed_site();
    let AsyncFn { attrs, vis, sig, brace, body } = function;
    let LoopArgs { rhythm, options } = args;
    let krate = options.task.krate();
    let name = options.task.name(&sig);

    let context = match &arguments.context {
        Some(PatType { pat, ty, .. }) => quote_spanned!(site=> #pat: #ty),
        None => quote_spanned!(site=> _: #krate::TaskContext),
    };
    let clone = |(name, _): &(PatIdent, PatType)| {
        let PatIdent { ident, mutability, .. } = name;
        quote_spanned!(site=> let #mutability #ident = ::core::clone::Clone::clone(&#ident);)
    };
    let clones: Vec<_> = arguments.kept.iter().map(clone).collect();
    let pin = pin(&sig.output);
    let allow =
        may_be_future(&sig.output).then(|| quote_spanned!(site=> #[allow(clippy::async_yields_async)]));
    let brace = Brace(site.located_at(brace.span.join()));
    let mut user = TokenStream::new();
    brace.surround(&mut user, |tokens| body.to_tokens(tokens));

    let schedule = schedule(&rhythm, &options, &krate.to_token_stream());
    let policies = policies(&options, &krate.to_token_stream());
    let settings = settings(options, &krate.to_token_stream());

    let mut outer = sig;
    outer.asyncness = None;
    outer.inputs = arguments
        .kept
        .into_iter()
        .map(|(mut name, argument)| {
            name.mutability = None;
            FnArg::Typed(PatType { pat: Box::new(Pat::Ident(name)), ..argument })
        })
        .collect();
    outer.output = parse_quote_spanned!(site=> -> #krate::CriticalTaskConfig);

    quote_spanned! {site=>
        #(#attrs)*
        #vis #outer {
            let __loop = #krate::TaskLoop::on(#schedule, move |#context| {
                #(#clones)*
                #allow
                let __body = async move {
                    #pin
                    #user
                };
                __body
            })
            #policies;
            #krate::CriticalTaskConfig::from_loop(#name, __loop) #settings
        }
    }
}

fn schedule(rhythm: &Rhythm, options: &Options, krate: &TokenStream) -> TokenStream {
    let site = Span::mixed_site();
    let schedule = quote_spanned!(site=> #krate::Schedule);
    let zone = options.zone.as_ref().map_or_else(|| LitStr::new("UTC", site), |(_, zone)| zone.clone());
    let mut tokens = match rhythm {
        Rhythm::Every(every) => {
            let every = every.tokens();
            quote_spanned!(site=> #schedule::every(#every))
        }
        Rhythm::Delay(delay) => {
            let delay = delay.tokens();
            quote_spanned!(site=> #schedule::delay(#delay))
        }
        Rhythm::Daily(times) => quote_spanned!(site=> #schedule::daily([#(#times),*], #zone)),
        Rhythm::Cron(cron) => quote_spanned!(site=> #schedule::cron(#cron, #zone)),
    };
    if let Some(immediate) = &options.immediate {
        tokens.extend(quote_spanned!(site=> .immediate(#immediate)));
    }
    if let Some(count) = &options.count {
        tokens.extend(quote_spanned!(site=> .count(#count)));
    }
    if let Some(jitter) = options.jitter.as_ref().map(Length::tokens) {
        tokens.extend(quote_spanned!(site=> .jitter(#jitter)));
    }
    tokens
}

fn policies(options: &Options, krate: &TokenStream) -> TokenStream {
    let site = Span::mixed_site();
    let mut tokens = TokenStream::new();
    if let Some(missed) = options.missed.as_ref().map(Policy::tokens) {
        tokens.extend(quote_spanned!(site=> .missed(#krate::schedule::MissedPolicy::#missed)));
    }
    if let Some(overlap) = options.overlap.as_ref().map(Policy::tokens) {
        tokens.extend(quote_spanned!(site=> .overlap(#krate::schedule::OverlapPolicy::#overlap)));
    }
    if let Some(retry) = &options.retry {
        let backoff = match &options.backoff {
            None => quote_spanned!(site=> ::core::default::Default::default()),
            Some((_, Backoff::Constant(length))) => {
                let length = length.tokens();
                quote_spanned!(site=> #krate::Backoff::constant(#length))
            }
            Some((_, Backoff::Growing(from, to))) => {
                let (from, to) = (from.tokens(), to.tokens());
                quote_spanned!(site=> #krate::__private::growing(#from, #to))
            }
        };
        tokens.extend(quote_spanned!(site=> .retry(#retry, #backoff)));
    }
    tokens
}

fn settings(options: Options, krate: &TokenStream) -> TokenStream {
    let site = Span::mixed_site();
    let mut tokens = TokenStream::new();
    let choice = |choice: Choice, of: &str| {
        let of = syn::Ident::new(of, site);
        choice.path_in(&quote_spanned!(site=> #krate::#of))
    };
    if let Some(category) = options.task.category.map(|category| choice(category, "TaskCategory")) {
        tokens.extend(quote_spanned!(site=> .category(#category)));
    }
    if let Some(priority) = options.task.priority.map(|priority| choice(priority, "TaskPriority")) {
        tokens.extend(quote_spanned!(site=> .priority(#priority)));
    }
    if let Some(component) = options.task.component {
        tokens.extend(quote_spanned!(site=> .component(#component)));
    }
    if let Some(timeout) = options.timeout.as_ref().map(Length::tokens) {
        tokens.extend(quote_spanned!(site=> .run_timeout(#timeout)));
    }
    tokens
}

impl Policy {
    fn tokens(&self) -> TokenStream {
        match self {
            Self::Plain(word) => word.to_token_stream(),
            Self::Counted(word, limit) => quote_spanned!(Span::mixed_site()=> #word(#limit)),
        }
    }
}

#[cfg(test)]
mod tests {
    //! As in [`expand`](crate::expand): `UPDATE_EXPANSIONS=1` writes the files again.

    use quote::quote;

    use crate::expand::tests::assert_becomes;

    #[test]
    fn a_plain_loop_is_named_after_its_function() {
        let expansion = super::task_loop(
            quote!(every = "5s"),
            quote!(
                async fn sweep() {
                    work().await;
                }
            ),
        );
        assert_becomes("loop_plain.rs", expansion);
    }

    #[test]
    fn every_option_reaches_the_loop() {
        let options = quote!(
            daily = ["09:00", "21:30:15"],
            zone = "Europe/Berlin",
            immediate = true,
            count = 3,
            jitter = "10s",
            missed = CatchUp(2),
            overlap = Allow(4),
            retry = 3,
            backoff = "1s..1m",
            timeout = LIMIT,
            name = "digest",
            category = System,
            priority = TaskPriority::Low,
            component = "mail",
            crate = crate::reexport::tasks,
        );
        let item = quote! {
            /// Sends the digest.
            #[cfg(unix)]
            pub(crate) async fn r#send(ctx: TaskContext, mut mailer: Arc<Mailer>, to: impl AsRef<str> + Clone) -> io::Result<()>
            where
                Mailer: Send,
            {
                mailer.send(ctx.name(), to.as_ref()).await?;
                Ok(())
            }
        };
        assert_becomes("loop_options.rs", super::task_loop(options, item));
    }

    #[test]
    fn on_an_error_the_item_comes_back_as_it_was() {
        let expansion = super::task_loop(
            quote!(every = "5 parsecs"),
            quote!(
                async fn sweep(&self) {}
            ),
        );
        assert_becomes("loop_error.rs", expansion);
    }
}
