//! Components: providers of critical tasks, and their discovery.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{
    config::{register::register, task::CriticalTaskConfig},
    engine::{Shared, component_failed},
    error::RegisterError,
    policy::error_text,
    run::catch,
};

/// A component that provides critical tasks of its own.
///
/// Implemented for closures too. It is called once, when its component is discovered. A panic in it is caught and reported; the other
/// components are not affected.
#[diagnostic::on_unimplemented(note = "a closure `|| vec![CriticalTaskConfig::new(..)]` is a provider, too")]
pub trait CriticalTasksProvider: Send + Sync + 'static {
    /// Returns the tasks of this component.
    #[doc(alias = "get_critical_tasks")]
    fn critical_tasks(&self) -> Vec<CriticalTaskConfig>;
}

impl<F: Fn() -> Vec<CriticalTaskConfig> + Send + Sync + 'static> CriticalTasksProvider for F {
    fn critical_tasks(&self) -> Vec<CriticalTaskConfig> {
        self()
    }
}

/// The result of a discovery.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Discovery {
    /// The names of the tasks that the discovery registered.
    pub registered: Vec<String>,
    /// The components of refused tasks, each with the reason. A task that is registered already is not refused.
    pub refused: Vec<(String, RegisterError)>,
    /// The components whose provider panicked, each with the text of the panic.
    pub panicked: Vec<(String, String)>,
}

/// The components of a manager.
#[derive(Default)]
pub(crate) struct Components(Mutex<BTreeMap<Arc<str>, Component>>);

struct Component {
    provider: Arc<dyn CriticalTasksProvider>,
    /// True once the provider has been called.
    discovered: bool,
}

impl Components {
    fn all(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, Component>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `discovered`: true if the caller calls the provider.
    pub(crate) fn insert(&self, name: Arc<str>, provider: Arc<dyn CriticalTasksProvider>, discovered: bool) {
        // The one before is dropped when the lock is no longer held: its destructor is the user's code.
        let before = self.all().insert(name, Component { provider, discovered });
        drop(before);
    }

    /// Removes a component. Returns true if it was there.
    pub(crate) fn remove(&self, name: &str) -> bool {
        let removed = self.all().remove(name);
        removed.is_some()
    }

    pub(crate) fn contains(&self, name: &str) -> bool {
        self.all().contains_key(name)
    }

    /// Returns the providers to call, and marks them as called: of the components for whose name, and whether their provider was called,
    /// `which` returns true.
    pub(crate) fn to_ask(
        &self,
        which: impl Fn(&str, bool) -> bool,
    ) -> Vec<(Arc<str>, Arc<dyn CriticalTasksProvider>)> {
        let mut all = self.all();
        let ask = all.iter_mut().filter(|(name, component)| which(name, component.discovered));
        ask.map(|(name, component)| {
            component.discovered = true;
            (name.clone(), component.provider.clone())
        })
        .collect()
    }
}

/// Calls the providers of these components and registers their tasks.
#[track_caller]
pub(crate) fn discover(
    shared: &Arc<Shared>,
    components: impl IntoIterator<Item = (Arc<str>, Arc<dyn CriticalTasksProvider>)>,
) -> Discovery {
    let mut discovery = Discovery::default();
    let mut waiting = Vec::new();
    for (component, provider) in components {
        match catch(shared.recorder.options.silence_panics, || provider.critical_tasks()) {
            Ok(configs) => waiting.extend(configs.into_iter().map(|config| (component.clone(), config))),
            Err(caught) => report_failure(&mut discovery, &component, Refusal::Provider(caught.panic.text)),
        }
    }
    // Components may depend on each other's tasks in any order. If a pass registers nothing, the remaining tasks are refused.
    loop {
        let asked = waiting.len();
        for (component, config) in std::mem::take(&mut waiting) {
            if config.dependencies.iter().all(|name| shared.supervised(name).is_some()) {
                register_of(shared, &mut discovery, component, config);
            } else {
                waiting.push((component, config));
            }
        }
        if waiting.is_empty() {
            return discovery;
        }
        if waiting.len() == asked {
            break;
        }
    }
    for (component, config) in waiting {
        register_of(shared, &mut discovery, component, config);
    }
    discovery
}

#[track_caller]
fn register_of(
    shared: &Arc<Shared>,
    discovery: &mut Discovery,
    component: Arc<str>,
    config: CriticalTaskConfig,
) {
    let name = config.name.clone();
    match register(vec![config.component(component.clone())], None, shared) {
        Ok(()) => discovery.registered.push(name),
        // A second discovery finds the tasks of the first one.
        Err(RegisterError::Duplicate { .. }) if owns(shared, &component, &name) => {}
        Err(error) => report_failure(discovery, &component, Refusal::Task(error)),
    }
}

fn owns(shared: &Shared, component: &str, name: &str) -> bool {
    shared.supervised(name).is_some_and(|task| task.task.identity.component.as_deref() == Some(component))
}

enum Refusal {
    Task(RegisterError),
    Provider(String),
}

fn report_failure(discovery: &mut Discovery, component: &str, refusal: Refusal) {
    let text = match &refusal {
        Refusal::Task(error) => error_text::of_error(error),
        Refusal::Provider(text) => format!("its provider panicked: {text}"),
    };
    component_failed(component, &text);
    match refusal {
        Refusal::Task(error) => discovery.refused.push((component.to_owned(), error)),
        Refusal::Provider(text) => discovery.panicked.push((component.to_owned(), text)),
    }
}
