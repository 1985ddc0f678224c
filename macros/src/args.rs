//! The options of the attribute. [`valid`](crate::valid) checks if the item can be a task.

use proc_macro2::{Ident, Span};
use syn::ext::IdentExt as _;
use syn::parse::{Parse, ParseStream};
use syn::spanned::Spanned as _;
use syn::{Error, Expr, ExprLit, Lit, LitStr, Path, Result, Token};

/// The variants of `otel_tasks::TaskCategory`.
const CATEGORIES: Variants =
    Variants { what: "category", known: &["Scheduled", "Gateway", "System", "Command", "Unknown"] };

/// The variants of `otel_tasks::TaskPriority`.
const PRIORITIES: Variants = Variants { what: "priority", known: &["Critical", "High", "Normal", "Low"] };

const OPTIONS: &[&str] = &["name", "category", "priority", "component", "crate"];

/// The options that every task has, as written, each checked by itself.
#[derive(Default)]
pub(crate) struct Args {
    pub(crate) name: Option<LitStr>,
    pub(crate) category: Option<Choice>,
    pub(crate) priority: Option<Choice>,
    pub(crate) component: Option<LitStr>,
    pub(crate) krate: Option<Path>,
}

/// A category or a priority.
pub(crate) enum Choice {
    /// The variant alone, by word or by string.
    Variant(Ident),
    /// A path ending in the variant, kept as written so that the import it relies on counts as used.
    Path(Path),
}

impl Parse for Args {
    /// Reports every bad option, not only the first.
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let mut args = Self::default();
        each_option(input, OPTIONS, |key, value| args.set(key, value))?;
        Ok(args)
    }
}

/// Hands over each option, once. Reports every bad one, not only the first; `set` says whether there is such an option.
pub(crate) fn each_option(
    input: ParseStream<'_>,
    options: &[&str],
    mut set: impl FnMut(&Ident, Expr) -> Result<bool>,
) -> Result<()> {
    let mut seen: Vec<Ident> = Vec::new();
    let mut errors = Errors::default();
    while !input.is_empty() {
        let (key, value) = key_and_value(input, options)?;
        if seen.contains(&key) {
            errors.push(Error::new(key.span(), format!("option `{key}` is given twice")));
        } else {
            if errors.take(set(&key, value)) == Some(false) {
                errors.push(unknown_option(&key, options));
            }
            seen.push(key);
        }
        if !input.is_empty() {
            input.parse::<Token![,]>()?;
        }
    }
    errors.into_result(())
}

impl Args {
    pub(crate) fn set(&mut self, key: &Ident, value: Expr) -> Result<bool> {
        match key.to_string().as_str() {
            "name" => self.name = Some(text(key, value)?),
            "category" => self.category = Some(CATEGORIES.choose(value)?),
            "priority" => self.priority = Some(PRIORITIES.choose(value)?),
            "component" => self.component = Some(text(key, value)?),
            "crate" => self.krate = Some(crate_path(value)?),
            _ => return Ok(false),
        }
        Ok(true)
    }
}

/// Parses `key = value`. After an error there is no place to continue from, so it ends the parse.
fn key_and_value(input: ParseStream<'_>, options: &[&str]) -> Result<(Ident, Expr)> {
    if !input.peek(syn::Ident::peek_any) {
        return Err(
            input.error(format!("an option is written `option = value`, with one of {}", list(options)))
        );
    }
    let key = Ident::parse_any(input)?;
    let equals: Option<Token![=]> = input.parse()?;
    if equals.is_none() || input.is_empty() || input.peek(Token![,]) {
        let known = options.iter().any(|option| key == option);
        return Err(if known { needs_a_value(&key) } else { unknown_option(&key, options) });
    }
    Ok((key, input.parse()?))
}

fn needs_a_value(key: &Ident) -> Error {
    Error::new(key.span(), format!("option `{key}` needs a value: `{key} = ...`"))
}

fn unknown_option(key: &Ident, options: &[&str]) -> Error {
    Error::new(key.span(), format!("unknown option `{key}`, expected one of {}", list(options)))
}

/// The words in code quotes, with commas between.
pub(crate) fn list(words: &[&str]) -> String {
    let quoted: Vec<_> = words.iter().map(|word| format!("`{word}`")).collect();
    quoted.join(", ")
}

pub(crate) fn text(key: &Ident, value: Expr) -> Result<LitStr> {
    match ungroup(value) {
        Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) if text.value().trim().is_empty() => {
            Err(Error::new(text.span(), format!("`{key}` must not be empty")))
        }
        Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) => Ok(text),
        other => Err(Error::new(other.span(), format!("`{key}` must be a string literal"))),
    }
}

fn crate_path(value: Expr) -> Result<Path> {
    match ungroup(value) {
        Expr::Path(path) if path.qself.is_none() => Ok(path.path),
        other => Err(Error::new(other.span(), "`crate` must be a path, such as `my_crate::otel_tasks`")),
    }
}

/// A value that came through a `macro_rules!` fragment arrives in an invisible group.
pub(crate) fn ungroup(mut value: Expr) -> Expr {
    while let Expr::Group(group) = value {
        value = *group.expr;
    }
    value
}

struct Variants {
    what: &'static str,
    known: &'static [&'static str],
}

impl Variants {
    fn choose(&self, value: Expr) -> Result<Choice> {
        match ungroup(value) {
            Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) => {
                let written = text.value();
                match self.known.iter().find(|known| known.eq_ignore_ascii_case(&written)) {
                    Some(known) => Ok(Choice::Variant(Ident::new(known, text.span()))),
                    None => Err(self.unknown(&written, text.span())),
                }
            }
            Expr::Path(path) if path.qself.is_none() => self.choose_path(path.path),
            other => {
                Err(Error::new(other.span(), format!("`{}` must be one of {}", self.what, list(self.known))))
            }
        }
    }

    fn choose_path(&self, path: Path) -> Result<Choice> {
        let last = path.segments.last().map(|segment| segment.ident.clone());
        match (last, path.get_ident().cloned()) {
            (Some(last), _) if !self.known.iter().any(|known| last == known) => {
                Err(self.unknown(&last.to_string(), last.span()))
            }
            (_, Some(variant)) => Ok(Choice::Variant(variant)),
            (_, None) => Ok(Choice::Path(path)),
        }
    }

    fn unknown(&self, written: &str, span: Span) -> Error {
        Error::new(span, format!("unknown {} `{written}`, expected one of {}", self.what, list(self.known)))
    }
}

/// Several errors in the single error that `syn` returns.
#[derive(Default)]
pub(crate) struct Errors(Option<Error>);

impl Errors {
    pub(crate) fn push(&mut self, error: Error) {
        match &mut self.0 {
            Some(first) => first.combine(error),
            None => self.0 = Some(error),
        }
    }

    /// Keeps the error, hands back the value.
    pub(crate) fn take<T>(&mut self, result: Result<T>) -> Option<T> {
        result.map_err(|error| self.push(error)).ok()
    }

    pub(crate) fn into_result<T>(self, value: T) -> Result<T> {
        self.0.map_or(Ok(value), Err)
    }

    /// The errors as `compile_error!` calls.
    pub(crate) fn to_compile_error(&self) -> proc_macro2::TokenStream {
        self.0.as_ref().map(Error::to_compile_error).unwrap_or_default()
    }
}
