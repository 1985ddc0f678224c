//! The options of `#[task_loop]`.

use proc_macro2::{Ident, Span, TokenStream};
use quote::quote_spanned;
use syn::parse::{Parse, ParseStream};
use syn::spanned::Spanned as _;
use syn::{Error, Expr, ExprCall, ExprLit, Lit, LitBool, LitInt, LitStr, Result};

use crate::args::{Args, each_option, list, text, ungroup};
use crate::duration::{Nanos, nanos, range};

const OPTIONS: &[&str] = &[
    "every",
    "delay",
    "daily",
    "cron",
    "zone",
    "immediate",
    "count",
    "jitter",
    "missed",
    "overlap",
    "retry",
    "backoff",
    "timeout",
    "name",
    "category",
    "priority",
    "component",
    "crate",
];

const MISSED: Policies = Policies { what: "missed", plain: &["Skip", "RunOnce"], counted: "CatchUp" };
const OVERLAP: Policies =
    Policies { what: "overlap", plain: &["Skip", "Queue", "CancelRunning"], counted: "Allow" };

/// The options as written, each checked by itself and against the others.
pub(crate) struct LoopArgs {
    pub(crate) rhythm: Rhythm,
    pub(crate) options: Options,
}

/// All options but the schedule, with their names for errors about an option in the wrong place.
#[derive(Default)]
pub(crate) struct Options {
    pub(crate) zone: Option<(Ident, LitStr)>,
    pub(crate) immediate: Option<LitBool>,
    pub(crate) count: Option<LitInt>,
    pub(crate) jitter: Option<Length>,
    pub(crate) missed: Option<Policy>,
    pub(crate) overlap: Option<Policy>,
    pub(crate) retry: Option<LitInt>,
    pub(crate) backoff: Option<(Ident, Backoff)>,
    pub(crate) timeout: Option<Length>,
    pub(crate) task: Args,
}

pub(crate) enum Rhythm {
    Every(Length),
    Delay(Length),
    Daily(Vec<LitStr>),
    Cron(LitStr),
}

/// A duration.
pub(crate) enum Length {
    /// Written as `"5s"`.
    Literal(Nanos, Span),
    /// Whatever has the type `Duration`.
    Expression(Box<Expr>),
}

/// The delays between the tries of an iteration.
pub(crate) enum Backoff {
    Constant(Length),
    /// From the one up to the other.
    Growing(Nanos, Nanos),
}

/// The policy for missed or overlapping iterations.
pub(crate) enum Policy {
    Plain(Ident),
    Counted(Ident, LitInt),
}

#[derive(Default)]
struct Given {
    rhythm: Option<(Ident, Rhythm)>,
    options: Options,
}

impl Parse for LoopArgs {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let mut given = Given::default();
        each_option(input, OPTIONS, |key, value| given.set(key, value))?;
        given.check()
    }
}

impl Given {
    fn set(&mut self, key: &Ident, value: Expr) -> Result<bool> {
        let options = &mut self.options;
        match key.to_string().as_str() {
            "every" => self.rhythm(key, Rhythm::Every(length(key, value)?))?,
            "delay" => self.rhythm(key, Rhythm::Delay(length(key, value)?))?,
            "daily" => self.rhythm(key, Rhythm::Daily(times(value)?))?,
            "cron" => self.rhythm(key, Rhythm::Cron(cron(text(key, value)?)?))?,
            "zone" => options.zone = Some((key.clone(), text(key, value)?)),
            "immediate" => options.immediate = Some(boolean(key, value)?),
            "count" => options.count = Some(number(key, value)?),
            "jitter" => options.jitter = Some(length(key, value)?),
            "missed" => options.missed = Some(MISSED.choose(value)?),
            "overlap" => options.overlap = Some(OVERLAP.choose(value)?),
            "retry" => options.retry = Some(number(key, value)?),
            "backoff" => options.backoff = Some((key.clone(), backoff(key, value)?)),
            "timeout" => options.timeout = Some(length(key, value)?),
            _ => return options.task.set(key, value),
        }
        Ok(true)
    }

    fn rhythm(&mut self, key: &Ident, rhythm: Rhythm) -> Result<()> {
        match &self.rhythm {
            Some((first, _)) => {
                Err(Error::new(key.span(), format!("a loop has one schedule, and `{first}` says it already")))
            }
            None => {
                self.rhythm = Some((key.clone(), rhythm));
                Ok(())
            }
        }
    }

    fn check(self) -> Result<LoopArgs> {
        let Self { rhythm, options } = self;
        let Some((key, rhythm)) = rhythm else {
            let message = "a loop needs a schedule: one of `every`, `delay`, `daily`, `cron`";
            return Err(Error::new(Span::call_site(), message));
        };
        if let (Some((zone, _)), Rhythm::Every(_) | Rhythm::Delay(_)) = (&options.zone, &rhythm) {
            return Err(Error::new(zone.span(), format!("`zone` has no meaning beside `{key}`")));
        }
        if let (Rhythm::Every(Length::Literal(every, _)), Some(Length::Literal(jitter, span))) =
            (&rhythm, &options.jitter)
        {
            if jitter > every {
                return Err(Error::new(*span, "`jitter` must not be longer than `every`"));
            }
        }
        if let (Some((backoff, _)), None) = (&options.backoff, &options.retry) {
            return Err(Error::new(backoff.span(), "`backoff` has no meaning without `retry`"));
        }
        Ok(LoopArgs { rhythm, options })
    }
}

fn length(key: &Ident, value: Expr) -> Result<Length> {
    match ungroup(value) {
        Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) => {
            let nanos = nanos(&text.value())
                .map_err(|reason| Error::new(text.span(), format!("`{key}`: {reason}")))?;
            Ok(Length::Literal(nanos, text.span()))
        }
        Expr::Lit(other) => {
            let message = format!(
                "`{key}` must be a duration with its unit, such as \"5s\", or an expression of type `Duration`"
            );
            Err(Error::new(other.span(), message))
        }
        other => Ok(Length::Expression(Box::new(other))),
    }
}

fn backoff(key: &Ident, value: Expr) -> Result<Backoff> {
    match ungroup(value) {
        Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) if text.value().contains("..") => {
            let (from, to) = range(&text.value())
                .map_err(|reason| Error::new(text.span(), format!("`{key}`: {reason}")))?;
            Ok(Backoff::Growing(from, to))
        }
        other => length(key, other).map(Backoff::Constant),
    }
}

fn boolean(key: &Ident, value: Expr) -> Result<LitBool> {
    match ungroup(value) {
        Expr::Lit(ExprLit { lit: Lit::Bool(boolean), .. }) => Ok(boolean),
        other => Err(Error::new(other.span(), format!("`{key}` must be `true` or `false`"))),
    }
}

fn number(key: &Ident, value: Expr) -> Result<LitInt> {
    match ungroup(value) {
        Expr::Lit(ExprLit { lit: Lit::Int(number), .. }) => match number.base10_parse::<u32>() {
            Ok(0) => Err(Error::new(number.span(), format!("`{key}` must be at least 1"))),
            Ok(_) if number.suffix().is_empty() => Ok(number),
            _ => Err(Error::new(number.span(), format!("`{key}` must be a plain number below 4294967296"))),
        },
        other => Err(Error::new(other.span(), format!("`{key}` must be a number"))),
    }
}

/// `"09:00"`, or several in brackets.
fn times(value: Expr) -> Result<Vec<LitStr>> {
    match ungroup(value) {
        Expr::Array(times) if times.elems.is_empty() => {
            Err(Error::new(times.span(), "`daily` needs at least one time of day"))
        }
        Expr::Array(times) => times.elems.into_iter().map(time).collect(),
        other => Ok(vec![time(other)?]),
    }
}

fn time(value: Expr) -> Result<LitStr> {
    let expected = "a time of day is written `\"HH:MM\"` or `\"HH:MM:SS\"`";
    let Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) = ungroup(value.clone()) else {
        return Err(Error::new(value.span(), expected));
    };
    let written = text.value();
    let parts: Vec<_> = written.split(':').collect();
    let is_part = |(part, limit): (&&str, u32)| {
        part.len() == 2
            && part.bytes().all(|digit| digit.is_ascii_digit())
            && part.parse::<u32>().is_ok_and(|part| part < limit)
    };
    if (2..=3).contains(&parts.len()) && parts.iter().zip([24, 60, 60]).all(is_part) {
        Ok(text)
    } else {
        Err(Error::new(text.span(), expected))
    }
}

/// Checks the number of fields. The library checks the rest before the loop begins.
fn cron(text: LitStr) -> Result<LitStr> {
    let written = text.value();
    let fields = written.split_whitespace().count();
    if written.trim().starts_with('@') && fields == 1 || (5..=7).contains(&fields) {
        return Ok(text);
    }
    let message = format!(
        "a cron expression has five fields (minute, hour, day, month, weekday), six with seconds in front, or seven with \
         years at the end; this one has {fields}"
    );
    Err(Error::new(text.span(), message))
}

struct Policies {
    what: &'static str,
    plain: &'static [&'static str],
    /// The policy that takes a number.
    counted: &'static str,
}

impl Policies {
    fn choose(&self, value: Expr) -> Result<Policy> {
        match ungroup(value) {
            Expr::Path(path) if path.qself.is_none() => match path.path.get_ident() {
                Some(word) if self.plain.iter().any(|plain| word == plain) => Ok(Policy::Plain(word.clone())),
                Some(word) if word == self.counted => {
                    Err(Error::new(word.span(), format!("`{word}` needs a number: `{word}(2)`")))
                }
                _ => Err(self.unknown(path.span())),
            },
            Expr::Call(ExprCall { func, args, .. }) => {
                let word = match &*func {
                    Expr::Path(path) => path.path.get_ident().filter(|word| *word == self.counted).cloned(),
                    _ => None,
                };
                let word = word.ok_or_else(|| self.unknown(func.span()))?;
                match args.into_iter().collect::<Vec<_>>().as_slice() {
                    [limit] => Ok(Policy::Counted(word.clone(), number(&word, limit.clone())?)),
                    _ => Err(Error::new(word.span(), format!("`{word}` needs one number: `{word}(2)`"))),
                }
            }
            other => Err(self.unknown(other.span())),
        }
    }

    fn unknown(&self, span: Span) -> Error {
        let counted = format!("{}(2)", self.counted);
        let mut known: Vec<&str> = self.plain.to_vec();
        known.push(&counted);
        Error::new(span, format!("`{}` must be one of {}", self.what, list(&known)))
    }
}

impl Length {
    pub(crate) fn tokens(&self) -> TokenStream {
        match self {
            Self::Literal(nanos, _) => nanos.tokens(),
            // Typed here, so that the compiler points at a wrong expression.
            Self::Expression(expression) => {
                quote_spanned!(Span::mixed_site()=> { let __length: ::core::time::Duration = #expression; __length })
            }
        }
    }
}
