//! The rules that classify and name errors by their type.

use std::{
    any::{TypeId, type_name},
    sync::Arc,
};

use super::{
    ErrorClass, Exit, Failure,
    error_view::{ErrorView, Link, ReturnedError},
    output::{OutputError, TaskOutput},
};

/// Returns the exit of a run that returned this output.
pub(crate) fn exit_of<T: TaskOutput<Via>, Via>(output: &T, rules: Option<&ErrorRules>) -> Exit {
    output.error().map_or(Exit::Success, |error| failure(error, rules))
}

/// Returns the exit of a run that returned this error.
pub(crate) fn failure(error: ErrorView<'_>, rules: Option<&ErrorRules>) -> Exit {
    let message = error.text();
    let named = rules.and_then(|rules| rules.error_type(error));
    let class = rules.and_then(|rules| rules.class(error));
    Exit::Failure(Failure {
        error_type: named.unwrap_or(error.type_name),
        message,
        class: class.unwrap_or_default(),
    })
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

    /// Returns true if a rule of a task that returns such errors may be for this type.
    pub(crate) fn fits(&self, returned: ReturnedError) -> bool {
        self.ids.contains(&returned.id) || self.is_error && returned.is_report
    }
}

#[derive(Clone)]
struct Rule<T> {
    of: RuleType,
    apply: Arc<dyn Fn(Link<'_>) -> Option<T> + Send + Sync>,
}

/// The rules that classify and name errors, by their type.
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

/// Returns the result of the first rule for the error, or else for the outermost of its sources that has a rule.
fn apply<T>(rules: &[Rule<T>], error: ErrorView<'_>) -> Option<T> {
    if rules.is_empty() {
        return None;
    }
    error.links().find_map(|link| rules.iter().find_map(|rule| (rule.apply)(link)))
}
