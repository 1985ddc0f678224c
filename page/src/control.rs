//! Restart, pause, resume and stop from the page: with the token, and written down.

use opentelemetry::KeyValue;
use subtle::ConstantTimeEq;

use crate::{
    RestartError, TaskManager,
    contract::{SCOPE, attribute, key, record},
    emit::{SpanParent, with_trace},
    engine::manager_span,
};

/// What may be asked of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    Restart,
    Pause,
    Resume,
    Stop,
}

impl Action {
    pub(super) const ALL: [Self; 4] = [Self::Restart, Self::Pause, Self::Resume, Self::Stop];

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Restart => "restart",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Stop => "stop",
        }
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|action| action.as_str() == text)
    }
}

/// Why nothing was done.
#[derive(Debug)]
pub(super) enum Refused {
    /// No token was configured.
    Off,
    Token,
    Unknown(String),
    Conflict(String),
}

impl Refused {
    fn as_str(&self) -> &'static str {
        match self {
            Self::Off => "control is off",
            Self::Token => "no valid token",
            Self::Unknown(_) => "unknown task",
            Self::Conflict(_) => "conflict",
        }
    }
}

/// Does what is asked, where the token is right. Each attempt is a span and a record.
pub(super) fn control(
    manager: &TaskManager,
    configured: Option<&str>,
    given: Option<&str>,
    name: &str,
    action: Action,
) -> Result<(), Refused> {
    let span = manager_span(manager.for_page(), "control_task", SpanParent::Root);
    span.set_attribute(KeyValue::new(key::NAME, name.to_owned()));
    span.set_attribute(KeyValue::new(attribute::CONTROL_ACTION, action.as_str()));
    let done = permit(configured, given).and_then(|()| act(manager, name, action));
    let outcome = done.as_ref().map_or_else(Refused::as_str, |()| "accepted");
    span.set_attribute(KeyValue::new(attribute::CONTROL_OUTCOME, outcome));
    if done.is_err() {
        span.fail(outcome);
    }
    with_trace(span.otel_context(), || {
        tracing::event!(
            name: record::CONTROLLED, target: SCOPE, parent: None, tracing::Level::WARN,
            { key::NAME } = name, { attribute::CONTROL_ACTION } = action.as_str(), { attribute::CONTROL_OUTCOME } = outcome,
            "the page was asked to {} task {name:?}: {outcome}", action.as_str(),
        );
    });
    span.end();
    done
}

fn permit(configured: Option<&str>, given: Option<&str>) -> Result<(), Refused> {
    let configured = configured.ok_or(Refused::Off)?;
    let is_right = configured.as_bytes().ct_eq(given.unwrap_or_default().as_bytes());
    if bool::from(is_right) { Ok(()) } else { Err(Refused::Token) }
}

fn act(manager: &TaskManager, name: &str, action: Action) -> Result<(), Refused> {
    let unknown = |error: crate::task::UnknownTask| Refused::Unknown(error.to_string());
    match action {
        Action::Restart => manager.restart(name).map(drop).map_err(|error| match error {
            RestartError::Unknown(error) => unknown(error),
            error => Refused::Conflict(error.to_string()),
        }),
        Action::Pause => manager.pause(name).map_err(unknown),
        Action::Resume => manager.resume(name).map_err(unknown),
        Action::Stop => manager.stop(name).map_err(unknown),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing::{Subscriber, span};
    use tracing_subscriber::{Layer, layer, layer::SubscriberExt as _};

    use super::*;

    struct Names(Arc<Mutex<Vec<&'static str>>>);

    impl<S: Subscriber> Layer<S> for Names {
        fn on_new_span(&self, attributes: &span::Attributes<'_>, _: &span::Id, _: layer::Context<'_, S>) {
            self.0.lock().expect("no panic").push(attributes.metadata().name());
        }
    }

    /// Seen to fail where `manager_span` does not know the name: it shows as the shutdown's.
    #[test]
    fn an_attempt_is_a_span_for_tracing_too() {
        let names = Arc::new(Mutex::new(Vec::new()));
        let subscriber = tracing_subscriber::registry().with(Names(names.clone()));
        tracing::subscriber::with_default(subscriber, || {
            let manager = TaskManager::new();
            assert!(matches!(control(&manager, None, None, "a", Action::Stop), Err(Refused::Off)));
        });
        assert_eq!(*names.lock().expect("no panic"), ["bot.control_task"]);
    }
}
