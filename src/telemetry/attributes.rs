//! The attribute sets of one task name, built once.

use std::sync::Arc;

use opentelemetry::KeyValue;

use super::contract::key;
use crate::{cell::Identity, policy::ExitKind};

/// The attribute sets of one task name.
#[derive(Debug)]
pub(crate) struct TaskAttributes {
    base: Vec<KeyValue>,
    /// With the result of runs that carry no error type.
    plain_results: [Vec<KeyValue>; ExitKind::ALL.len()],
}

impl TaskAttributes {
    pub(crate) fn new(identity: &Identity, instance: &Option<Arc<str>>) -> Self {
        let mut base = vec![
            KeyValue::new(key::NAME, identity.name.clone()),
            KeyValue::new(key::CATEGORY, identity.category.as_str()),
            KeyValue::new(key::PRIORITY, identity.priority.as_str()),
        ];
        base.extend(identity.component.clone().map(|component| KeyValue::new(key::COMPONENT, component)));
        base.extend(instance.clone().map(|instance| KeyValue::new(key::MANAGER, instance)));
        let plain_results = ExitKind::ALL.map(|kind| with(&base, key::RESULT, kind.as_str()));
        Self { base, plain_results }
    }

    /// The attributes of [`super::contract::TASK_ATTRIBUTES`].
    pub(crate) fn base(&self) -> &[KeyValue] {
        &self.base
    }

    pub(crate) fn with(&self, key: &'static str, value: &'static str) -> Vec<KeyValue> {
        with(&self.base, key, value)
    }

    pub(crate) fn result(&self, kind: ExitKind) -> &[KeyValue] {
        &self.plain_results[kind as usize]
    }

    pub(crate) fn result_with_error(&self, kind: ExitKind, error_type: &'static str) -> Vec<KeyValue> {
        with(self.result(kind), key::ERROR_TYPE, error_type)
    }
}

fn with(base: &[KeyValue], key: &'static str, value: &'static str) -> Vec<KeyValue> {
    let mut attributes = Vec::with_capacity(base.len() + 1);
    attributes.extend_from_slice(base);
    attributes.push(KeyValue::new(key, value));
    attributes
}
