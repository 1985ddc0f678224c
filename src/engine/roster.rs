//! The registered tasks of a manager, by name, and the checks before a registration.

use std::{
    any::Any,
    cmp::Ordering,
    collections::{BTreeMap, HashMap},
    ops::{Deref, DerefMut},
    sync::{Arc, MutexGuard, Weak},
};

use crate::{
    cell::{Identity, Registry, by_name},
    emit::TaskAttributes,
    engine::{
        shutdown::topology,
        supervision::{
            links::{Links, Membership},
            supervised::{Body, ManagedSpec, Supervised},
        },
    },
    error::RegisterError,
    policy::ErrorRules,
    run::Task,
};

/// The list of the registered tasks grows by an eighth, and by at least 8.
const GROWTH: usize = 8;

/// The registered tasks, locked, with the registry that finds the entry of a name.
///
/// The entry of a registered task is always in the registry.
pub(crate) struct Roster<'a> {
    pub(super) registered: MutexGuard<'a, Registered>,
    pub(super) registry: &'a Registry<TaskAttributes>,
}

impl Deref for Roster<'_> {
    type Target = Registered;

    fn deref(&self) -> &Registered {
        &self.registered
    }
}

impl DerefMut for Roster<'_> {
    fn deref_mut(&mut self) -> &mut Registered {
        &mut self.registered
    }
}

/// Written under one lock: what is registered is one fact.
#[derive(Default)]
pub(crate) struct Registered {
    /// In the order of the registrations, until one leaves and the last takes its place. The entry of a task has its position.
    /// A reader keeps this list, and a change while one does is made in a copy.
    tasks: Arc<Vec<Arc<Supervised>>>,
    /// Those, by name; `None` since there is another.
    pub(super) listing: Option<Arc<[Arc<Supervised>]>>,
    /// The names whose tasks are being replaced. They are taken, and may be depended on, without a task for a moment.
    pub(super) reserved: Vec<Arc<str>>,
    /// The settings of each family, by name. Its name is taken.
    pub(super) families: BTreeMap<Arc<str>, Arc<dyn Any + Send + Sync>>,
    /// The tasks that depend on a name, also if no task of that name is registered.
    pub(super) dependents: BTreeMap<Arc<str>, Vec<Weak<Supervised>>>,
}

/// A task to be registered.
pub(crate) struct Registration {
    pub(crate) identity: Identity,
    pub(crate) spec: Arc<ManagedSpec>,
    pub(crate) body: Arc<dyn Body>,
    /// The rules that classify and name its errors; `None` without rules.
    pub(crate) rules: Option<Arc<ErrorRules>>,
    pub(crate) links: Links,
}

impl Registration {
    /// The identity that it is metered under: of a member, its family's.
    pub(crate) fn metered(&self) -> Identity {
        match self.body.member() {
            Some(member) => Identity { name: member.family().name.clone(), ..self.identity.clone() },
            None => self.identity.clone(),
        }
    }
}

/// Goes through a listing name by name, with the task that is registered under each. Both are in the order of the names.
pub(crate) fn each_name<'a>(
    listing: &'a [Arc<Task>],
    registered: &'a [Arc<Supervised>],
    mut visit: impl FnMut(&'a [Arc<Task>], Option<&'a Arc<Supervised>>),
) {
    let mut registered = registered.iter().peekable();
    for of_name in by_name(listing) {
        let name = &of_name[0].identity.name;
        // A task that came after the listing was made is not in it.
        while registered.next_if(|task| task.name() < name).is_some() {}
        visit(of_name, registered.next_if(|task| task.name() == name));
    }
}

impl Registered {
    /// Returns the task that is registered with this entry.
    pub(super) fn of(&self, entry: &Task) -> Option<&Arc<Supervised>> {
        entry.position().map(|position| &self.tasks[position])
    }

    /// Returns true if this task is registered, and not another one of its name.
    pub(crate) fn has(&self, task: &Supervised) -> bool {
        self.of(&task.task).is_some_and(|registered| std::ptr::eq(&**registered, task))
    }

    /// Returns true if the task of this name is being replaced.
    pub(super) fn is_reserved(&self, name: &str) -> bool {
        self.reserved.iter().any(|reserved| **reserved == *name)
    }

    /// Every task, in no order that a caller may rely on.
    pub(super) fn tasks(&self) -> &Arc<Vec<Arc<Supervised>>> {
        &self.tasks
    }

    /// Every task, by name.
    pub(crate) fn all(&mut self) -> Arc<[Arc<Supervised>]> {
        if let Some(listing) = &self.listing {
            return listing.clone();
        }
        let tasks = topology::sort_by_name(
            self.tasks.iter().collect(),
            |task| task.name(),
            |_, _| Ordering::Equal,
            |_, task| Some(task),
        );
        let listing: Arc<[_]> = tasks.into_iter().cloned().collect();
        self.listing = Some(listing.clone());
        listing
    }

    /// Removes a task with its entries.
    pub(super) fn remove(&mut self, task: &Supervised) -> Option<Arc<Supervised>> {
        for dependency in task.links().dependencies() {
            if let Some(dependents) = self.dependents.get_mut(dependency) {
                dependents.retain(|held| held.strong_count() > 0 && !std::ptr::eq(held.as_ptr(), task));
                if dependents.is_empty() {
                    self.dependents.remove(dependency);
                }
            }
        }
        let position = task.task.position()?;
        task.task.set_position(None);
        let tasks = Arc::make_mut(&mut self.tasks);
        let removed = tasks.swap_remove(position);
        debug_assert!(std::ptr::eq(&*removed, task), "no other task has its entry");
        if let Some(moved) = tasks.get(position) {
            moved.task.set_position(Some(position));
        }
        Some(removed)
    }
}

impl Roster<'_> {
    /// Adds a task whose name is not taken, and whose entry is in the registry.
    pub(super) fn insert(&mut self, task: &Arc<Supervised>) {
        debug_assert!(self.of(&task.task).is_none(), "its name is not taken");
        let tasks = Arc::make_mut(&mut self.tasks);
        if tasks.len() == tasks.capacity() {
            // Not doubled, since each of many idle tasks would pay for the room of another.
            tasks.reserve_exact((tasks.len() / GROWTH).max(GROWTH));
        }
        tasks.push(task.clone());
        task.task.set_position(Some(tasks.len() - 1));
        debug_assert!(self.get(task.name()).is_some_and(|found| Arc::ptr_eq(found, task)));
    }

    /// Returns the task of this name.
    pub(crate) fn get(&self, name: &str) -> Option<&Arc<Supervised>> {
        self.registry.find_map(name, |entry| self.registered.of(entry))
    }

    /// Returns true if a task or a family has this name, or it is reserved.
    pub(super) fn is_taken(&self, name: &str) -> bool {
        self.get(name).is_some() || self.families.contains_key(name) || self.is_reserved(name)
    }

    /// Returns true if these can be registered together, beside what is; or with `without` in place of the task of that name.
    pub(super) fn check(&self, new: &[Registration], without: Option<&str>) -> Result<(), RegisterError> {
        let is_there =
            |name: &str| without != Some(name) && (self.get(name).is_some() || self.is_reserved(name));
        // Nobody can depend on a family, which is no task.
        let is_taken = |name: &str| is_there(name) || self.families.contains_key(name);
        if let [only] = new {
            // What most registrations are.
            let name = &only.identity.name;
            if is_taken(name) {
                return Err(RegisterError::Duplicate { name: name.to_string() });
            }
            // What depends on nothing closes no circle, and neither does a name that nobody depends on. The order inside a group
            // counts as dependencies.
            let dependencies = only.links.dependencies();
            let is_end = dependencies.is_empty()
                || !self.dependents.contains_key(name) && !dependencies.contains(name);
            if only.links.membership().is_none() && is_end {
                return match dependencies.iter().find(|dependency| !is_there(dependency)) {
                    None => Ok(()),
                    Some(unknown) => {
                        let path = vec![name.to_string(), unknown.to_string()];
                        Err(RegisterError::UnknownDependency { path })
                    }
                };
            }
        }
        let mut names: Vec<&Arc<str>> = Vec::with_capacity(new.len());
        let mut index = HashMap::new();
        for registration in new {
            let name = &registration.identity.name;
            if is_taken(name) || index.insert(name.clone(), names.len()).is_some() {
                return Err(RegisterError::Duplicate { name: name.to_string() });
            }
            names.push(name);
        }
        if new.iter().all(|registration| registration.links.is_empty()) {
            return Ok(());
        }
        for registration in new {
            let unknown = |name: &&Arc<str>| !index.contains_key(*name) && !is_there(name);
            if let Some(unknown) = registration.links.dependencies().iter().find(unknown) {
                let path = vec![registration.identity.name.to_string(), unknown.to_string()];
                return Err(RegisterError::UnknownDependency { path });
            }
        }
        let old: Vec<_> = self.tasks().iter().filter(|task| without != Some(&**task.name())).collect();
        for task in &old {
            index.insert(task.name().clone(), names.len());
            names.push(task.name());
        }
        let named = |links: &Links| -> Vec<usize> {
            links.dependencies().iter().filter_map(|name| index.get(name).copied()).collect()
        };
        let mut dependencies: Vec<_> = new.iter().map(|registration| named(&registration.links)).collect();
        for (member, registration) in new.iter().enumerate() {
            if registration.links.membership().is_some_and(|membership| membership.index > 0) {
                // The members of a group are registered together, in their order.
                dependencies[member].push(member - 1);
            }
        }
        for task in &old {
            let mut of_task = named(task.links());
            let before = task.links().membership().into_iter().flat_map(Membership::before);
            of_task.extend(before.filter_map(|before| index.get(before.name()).copied()));
            dependencies.push(of_task);
        }
        topology::cycle(&dependencies).map_or(Ok(()), |path| {
            let path = path.into_iter().map(|task| names[task].to_string()).collect();
            Err(RegisterError::DependencyCycle { path })
        })
    }
}

#[cfg(all(test, not(otel_tasks_loom)))]
mod tests {
    use crate::{CriticalTaskConfig, TaskContext, TaskManager};

    /// Fails if its entry stays: each change of any task would search for dependents.
    #[tokio::test]
    async fn a_task_that_is_not_registered_any_more_depends_on_nothing() {
        let tasks = TaskManager::new();
        let idle = |name: &str| {
            CriticalTaskConfig::new(name, |ctx: TaskContext| async move { ctx.cancelled().await })
        };
        let dependents = ["b", "c"].map(|name| idle(name).depends_on("a"));
        tasks.register(idle("a")).expect("a sound config");
        tasks.register_all(dependents).expect("sound configs");
        tasks.start();
        tasks.unregister("b").await.expect("it is registered");
        assert!(tasks.shared().has_dependents(), "one is left");
        tasks.detach("c").expect("it is registered");
        assert!(!tasks.shared().has_dependents());
    }

    /// Fails if the task that takes the place of another keeps its position, or if a change is made in the list of a reader.
    #[tokio::test]
    async fn each_other_task_is_found_after_one_has_left() {
        let tasks = TaskManager::new();
        let idle = |name: &str| {
            CriticalTaskConfig::new(name, |ctx: TaskContext| async move { ctx.cancelled().await })
        };
        let names = ["a", "b", "c", "d"];
        tasks.register_all(names.map(idle)).expect("sound configs");
        tasks.start();
        let before = tasks.shared().registered_tasks();
        for (left, name) in [(0, "b"), (1, "d"), (2, "a")] {
            tasks.unregister(name).await.expect("it is registered");
            assert!(tasks.unregister(name).await.is_err(), "{name} has left");
            let mut others = Vec::new();
            for other in names {
                if let Some(found) = tasks.shared().supervised(other) {
                    assert_eq!(&**found.name(), other);
                    others.push(other);
                }
            }
            assert_eq!(others.len(), 3 - left, "{others:?} without {name}");
            assert_eq!(tasks.task_names(), others);
        }
        tasks.register(idle("b")).expect("its name is free");
        assert_eq!(tasks.task_names(), ["b", "c"]);
        let kept: Vec<_> = before.iter().map(|task| &**task.name()).collect();
        assert_eq!(kept, names);
    }
}
