//! A returned error as the policies see it: its text, its type, and the errors in it that a rule may be for.

use std::{
    any::{Any, TypeId, type_name},
    error::Error,
    fmt::Display,
    sync::Arc,
};

use super::error_text;

/// A returned error.
#[derive(Clone, Copy)]
pub struct ErrorView<'a> {
    /// The returned error; `None` if its type may borrow.
    returned: Option<&'a dyn Any>,
    pub(super) type_name: &'static str,
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

/// An error for which there may be a rule.
#[derive(Clone, Copy)]
pub enum Link<'a> {
    /// The returned error.
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

    /// Returns the view of a report or a box, which holds an error without being an error.
    pub(crate) fn of_report<E: 'static>(report: &'a E, inside: &'a (dyn Error + 'static)) -> Self {
        Self { returned: Some(report), type_name: type_name::<E>(), shown: Shown::Inside(inside) }
    }

    /// Returns the view of the error inside a report whose type may borrow.
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

    /// Its text and those of its causes.
    pub(super) fn text(self) -> String {
        match self.shown {
            Shown::Error(error) => error_text::of_error(error),
            Shown::Inside(error) => error_text::of_error(error),
            Shown::Text(text) => error_text::of(text),
            Shown::Opaque => format!("an error of type {}", self.type_name),
        }
    }

    /// The error and its sources, the outermost first.
    pub(super) fn links(self) -> impl Iterator<Item = Link<'a>> {
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
    pub(super) id: TypeId,
    pub(crate) name: &'static str,
    /// True if it holds an error of any type.
    pub(super) is_report: bool,
}

impl ReturnedError {
    pub(super) fn of<E: 'static>(is_report: bool) -> Self {
        Self { id: TypeId::of::<E>(), name: type_name::<E>(), is_report }
    }
}
