//! How errors are seen by the policies: their text, their class and the name of their type.

use std::{
    any::{Any, TypeId, type_name},
    error::Error,
    fmt::Display,
    sync::Arc,
};

use super::{ErrorClass, Exit, Failure, OutputError, error_text};

/// A returned error.
#[derive(Clone, Copy)]
pub struct ErrorView<'a> {
    /// The error as it was returned; `None` if its type may borrow.
    returned: Option<&'a dyn Any>,
    type_name: &'static str,
    shown: Shown<'a>,
}

#[derive(Clone, Copy)]
enum Shown<'a> {
    Error(&'a (dyn Error + 'a)),
    /// The outermost error inside a report or a box.
    Inside(&'a (dyn Error + 'static)),
    Text(&'a (dyn Display + 'a)),
    /// It cannot be shown.
    Opaque,
}

/// An error among those that a rule may be for.
#[derive(Clone, Copy)]
pub enum Link<'a> {
    /// The error as it was returned.
    Returned(&'a dyn Any),
    /// The error inside a report, or one of the sources.
    Cause(&'a (dyn Error + 'static)),
}

impl<'a> ErrorView<'a> {
    pub(crate) fn of_error<E: Error + 'static>(error: &'a E) -> Self {
        Self { returned: Some(error), type_name: type_name::<E>(), shown: Shown::Error(error) }
    }

    /// An error whose type may borrow.
    pub(crate) fn of_borrowing<E: Error>(error: &'a E) -> Self {
        Self { returned: None, type_name: type_name::<E>(), shown: Shown::Error(error) }
    }

    /// What holds an error and is none itself: a report or a box.
    pub(crate) fn of_report<E: 'static>(report: &'a E, inside: &'a (dyn Error + 'static)) -> Self {
        Self { returned: Some(report), type_name: type_name::<E>(), shown: Shown::Inside(inside) }
    }

    /// What is inside a report whose type may borrow.
    pub(crate) fn inside<E>(inside: &'a (dyn Error + 'static)) -> Self {
        Self { returned: None, type_name: type_name::<E>(), shown: Shown::Inside(inside) }
    }

    pub(crate) fn of_text<E: Display + 'static>(text: &'a E) -> Self {
        Self { returned: Some(text), type_name: type_name::<E>(), shown: Shown::Text(text) }
    }

    /// A text whose type may borrow.
    pub(crate) fn of_borrowing_text<E: Display>(text: &'a E) -> Self {
        Self { returned: None, type_name: type_name::<E>(), shown: Shown::Text(text) }
    }

    pub(crate) fn opaque<E>() -> Self {
        Self { returned: None, type_name: type_name::<E>(), shown: Shown::Opaque }
    }

    /// The exit of a run that returned this error.
    pub(crate) fn exit(self, rules: Option<&ErrorRules>) -> Exit {
        let message = match self.shown {
            Shown::Error(error) => error_text::of_error(error),
            Shown::Inside(error) => error_text::of_error(error),
            Shown::Text(text) => error_text::of(text),
            Shown::Opaque => format!("an error of type {}", self.type_name),
        };
        let named = rules.and_then(|rules| rules.error_type(self));
        let class = rules.and_then(|rules| rules.class(self));
        Exit::Failure(Failure {
            error_type: named.unwrap_or(self.type_name),
            message,
            class: class.unwrap_or_default(),
        })
    }

    /// The error and its sources, the outermost first.
    fn links(self) -> impl Iterator<Item = Link<'a>> {
        let cause = match self.shown {
            Shown::Error(error) => error.source(),
            Shown::Inside(error) => Some(error),
            Shown::Text(_) | Shown::Opaque => None,
        };
        self.returned.map(Link::Returned).into_iter().chain(error_text::sources(cause).map(Link::Cause))
    }
}

/// Returns the error itself, or what is in a `Box` or `Arc` around it.
pub(super) fn find_error<'a, E: Error + 'static>(link: Link<'a>) -> Option<&'a E> {
    match link {
        Link::Returned(error) => error
            .downcast_ref::<E>()
            .or_else(|| error.downcast_ref::<Box<E>>().map(|error| &**error))
            .or_else(|| error.downcast_ref::<Arc<E>>().map(|error| &**error)),
        Link::Cause(error) => error
            .downcast_ref::<E>()
            .or_else(|| error.downcast_ref::<Box<E>>().map(|error| &**error))
            .or_else(|| error.downcast_ref::<Arc<E>>().map(|error| &**error)),
    }
}

/// The type of the error that a task may return.
#[derive(Debug, Clone, Copy)]
pub struct ReturnedError {
    id: TypeId,
    pub(crate) name: &'static str,
    /// Whether it holds an error of any type.
    is_report: bool,
}

impl ReturnedError {
    pub(super) fn of<E: 'static>(is_report: bool) -> Self {
        Self { id: TypeId::of::<E>(), name: type_name::<E>(), is_report }
    }
}

/// A type that a rule is for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RuleType {
    ids: [TypeId; 3],
    pub(crate) name: &'static str,
    is_error: bool,
}

impl RuleType {
    fn of<E: OutputError<Via>, Via>() -> Self {
        let ids = [TypeId::of::<E>(), TypeId::of::<Box<E>>(), TypeId::of::<Arc<E>>()];
        Self { ids, name: type_name::<E>(), is_error: E::IS_ERROR }
    }

    /// Whether a rule of a task that returns such errors may be for this type.
    pub(crate) fn fits(&self, returned: ReturnedError) -> bool {
        self.ids.contains(&returned.id) || self.is_error && returned.is_report
    }
}

#[derive(Clone)]
struct Rule<T> {
    of: RuleType,
    apply: Arc<dyn Fn(Link<'_>) -> Option<T> + Send + Sync>,
}

/// How errors are classed and named, by their type.
#[derive(Clone, Default)]
pub(crate) struct ErrorRules {
    class: Vec<Rule<ErrorClass>>,
    error_type: Vec<Rule<&'static str>>,
    /// The rules for errors that none of these is for.
    further: Option<Arc<ErrorRules>>,
}

impl ErrorRules {
    /// Adds a rule in place of an earlier one for the same type.
    pub(crate) fn classify<E: OutputError<Via>, Via>(
        &mut self,
        class: impl Fn(&E) -> ErrorClass + Send + Sync + 'static,
    ) {
        add(&mut self.class, class);
    }

    /// Adds a rule in place of an earlier one for the same type.
    pub(crate) fn name<E: OutputError<Via>, Via>(
        &mut self,
        name: impl Fn(&E) -> &'static str + Send + Sync + 'static,
    ) {
        add(&mut self.error_type, name);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.class.is_empty() && self.error_type.is_empty()
    }

    /// The types that rules are for.
    pub(crate) fn types(&self) -> impl Iterator<Item = RuleType> {
        self.class.iter().map(|rule| rule.of).chain(self.error_type.iter().map(|rule| rule.of))
    }

    /// These rules, and after them those others.
    pub(crate) fn before(self, further: Option<&Arc<Self>>) -> Option<Arc<Self>> {
        if self.is_empty() {
            return further.cloned();
        }
        Some(Arc::new(Self { further: further.cloned(), ..self }))
    }

    fn class(&self, error: ErrorView<'_>) -> Option<ErrorClass> {
        apply(&self.class, error).or_else(|| self.further.as_ref()?.class(error))
    }

    fn error_type(&self, error: ErrorView<'_>) -> Option<&'static str> {
        apply(&self.error_type, error).or_else(|| self.further.as_ref()?.error_type(error))
    }
}

fn add<T, E: OutputError<Via>, Via>(
    rules: &mut Vec<Rule<T>>,
    rule: impl Fn(&E) -> T + Send + Sync + 'static,
) {
    let of = RuleType::of::<E, Via>();
    rules.retain(|rule| rule.of.ids != of.ids);
    rules.push(Rule { of, apply: Arc::new(move |link| E::find(link).map(&rule)) });
}

/// What the first rule says that is for the error, or else for the outermost of its sources that any rule is for.
fn apply<T>(rules: &[Rule<T>], error: ErrorView<'_>) -> Option<T> {
    if rules.is_empty() {
        return None;
    }
    error.links().find_map(|link| rules.iter().find_map(|rule| (rule.apply)(link)))
}
