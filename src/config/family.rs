//! Families: any number of tasks of one kind, each with its key.

use std::{
    collections::{HashMap, hash_map},
    fmt::{self, Display, Write as _},
    future::Future,
    sync::{Arc, Weak},
};

use crate::{
    cell,
    config::task::{CriticalTaskConfig, check_name},
    engine::{
        Changed, Family, MemberBody, Registration, Shared, Supervised, TaskContext, Wanted, until_gone,
        until_released,
    },
    error::{KeyProblem, MAX_KEY_LENGTH, RegisterError},
    policy::TaskOutput,
    read::TaskHealth,
};

/// A key that identifies a member of a family, such as an id. Implemented for every type with the required traits.
///
/// The text of the key is part of the member's name: at most [`MAX_KEY_LENGTH`] bytes, without slashes and control characters. Two keys with
/// the same text cannot both be members.
pub trait FamilyKey: Clone + Eq + Display + Send + Sync + 'static {}

impl<K: Clone + Eq + Display + Send + Sync + 'static> FamilyKey for K {}

/// Any number of tasks of one kind, one per key: a guild, a tenant, a connection. A member is named `family:key`.
///
/// A member is supervised as any registered task is. It is restarted by its policy, has a state and a health of its own, and may own work.
/// Its full name stops, pauses or unregisters it. Its default health role is [`Degrades`](crate::HealthRole::Degrades).
///
/// The members are metered under the family's name: metrics have one set of attributes for all members, without the key.
///
/// - Counters and histograms are the sums of all members, also of removed members.
/// - `task.status` is the number of members in each state.
/// - `task.next_run.time` and `task.next_retry.time` are the earliest, `task.interval` is the longest.
/// - `task.heartbeat.time` is the earliest of the running members.
///
/// Spans and log records carry the family as `task.name` and the member as `task.given_name`. Members that differ in category, priority or
/// component are metered apart from each other.
///
/// ```
/// use otel_tasks::{CriticalTaskConfig, Schedule, TaskFamily, TaskLoop, TaskPriority};
/// use std::time::Duration;
/// # async fn sweep(_guild: u64) {}
/// // A loop per guild, not all at once.
/// let guilds = TaskFamily::of("guild_sweep", |guild: &u64| {
///     let (guild, every) = (*guild, Schedule::every(Duration::from_secs(300)));
///     CriticalTaskConfig::from_loop("guild_sweep", TaskLoop::on(every, move |_| sweep(guild)))
/// })
/// .each(|config| config.priority(TaskPriority::Low))
/// .max_members(500);
/// # drop(guilds);
/// ```
#[must_use = "a family does nothing until it is registered"]
pub struct TaskFamily<K> {
    name: String,
    make: Make<K>,
    max_members: usize,
}

type Make<K> = Box<dyn Fn(&K) -> CriticalTaskConfig + Send + Sync>;

impl<K> fmt::Debug for TaskFamily<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskFamily")
            .field("name", &self.name)
            .field("max_members", &self.max_members)
            .finish_non_exhaustive()
    }
}

impl<K: FamilyKey> TaskFamily<K> {
    /// The largest number of members of a family: 10,000. Default of [`max_members`](Self::max_members).
    pub const DEFAULT_MAX_MEMBERS: usize = 10_000;

    /// Creates a family whose members run the future of `factory` with their key, as [`CriticalTaskConfig::new`] does.
    ///
    /// ```
    /// use otel_tasks::{TaskContext, TaskFamily};
    /// async fn sync(ctx: TaskContext, tenant: u64) {
    ///     # let _ = tenant;
    ///     ctx.cancelled().await;
    /// }
    /// let tenants = TaskFamily::new("tenant_sync", sync);
    /// # drop(tenants);
    /// ```
    pub fn new<F, Fut, Via>(name: impl Into<String>, factory: F) -> Self
    where
        F: Fn(TaskContext, K) -> Fut + Send + Sync + 'static,
        Fut: Future + Send + 'static,
        Fut::Output: TaskOutput<Via> + 'static,
    {
        let factory = Arc::new(factory);
        Self::of(name, move |key: &K| {
            let (factory, key) = (factory.clone(), key.clone());
            CriticalTaskConfig::new("", move |ctx| factory(ctx, key.clone()))
        })
    }

    /// Creates a family as [`new`](Self::new) does, and gives each run of a member a clone of `state`.
    ///
    /// ```
    /// # use otel_tasks::{TaskContext, TaskFamily};
    /// use std::sync::Arc;
    /// # struct Pool;
    /// async fn sync(ctx: TaskContext, tenant: u64, pool: Arc<Pool>) -> std::io::Result<()> {
    ///     # let _ = (tenant, pool);
    ///     ctx.cancelled().await;
    ///     Ok(())
    /// }
    /// let tenants = TaskFamily::with("tenant_sync", Arc::new(Pool), sync);
    /// # drop(tenants);
    /// ```
    pub fn with<S, F, Fut, Via>(name: impl Into<String>, state: S, factory: F) -> Self
    where
        S: Clone + Send + Sync + 'static,
        F: Fn(TaskContext, K, S) -> Fut + Send + Sync + 'static,
        Fut: Future + Send + 'static,
        Fut::Output: TaskOutput<Via> + 'static,
    {
        Self::new(name, move |ctx, key| factory(ctx, key, state.clone()))
    }

    /// Creates a family whose members are loops, or have settings that depend on the key. The family replaces the name in the config.
    ///
    /// `make` is called with the key of each member that is to be registered, in the call that registers it.
    ///
    /// ```
    /// use otel_tasks::{CriticalTaskConfig, Schedule, TaskFamily, TaskLoop};
    /// use std::time::Duration;
    /// # async fn sweep(_guild: u64) {}
    /// let guilds = TaskFamily::of("guild_sweep", |guild: &u64| {
    ///     let guild = *guild;
    ///     let every = Schedule::every(Duration::from_secs(300)).spread(&guild.to_string());
    ///     CriticalTaskConfig::from_loop("", TaskLoop::on(every, move |_| sweep(guild)))
    /// });
    /// # drop(guilds);
    /// ```
    pub fn of(
        name: impl Into<String>,
        make: impl Fn(&K) -> CriticalTaskConfig + Send + Sync + 'static,
    ) -> Self {
        Self { name: name.into(), make: Box::new(make), max_members: Self::DEFAULT_MAX_MEMBERS }
    }

    /// Adds settings to the config of every member. Further calls add to the earlier settings.
    ///
    /// ```
    /// use otel_tasks::{TaskContext, TaskFamily, TaskPriority};
    /// # async fn sync(ctx: TaskContext, _: u64) { ctx.cancelled().await }
    /// let tenants = TaskFamily::new("tenant_sync", sync)
    ///     .each(|config| config.priority(TaskPriority::Low).unlimited_restarts());
    /// # drop(tenants);
    /// ```
    pub fn each(
        mut self,
        configure: impl Fn(CriticalTaskConfig) -> CriticalTaskConfig + Send + Sync + 'static,
    ) -> Self {
        let make = self.make;
        self.make = Box::new(move |key| configure(make(key)));
        self
    }

    /// Sets the largest number of members. Default: [`DEFAULT_MAX_MEMBERS`](Self::DEFAULT_MAX_MEMBERS), 10,000. Members that were requested to
    /// leave do not count, also while they still stop.
    ///
    /// ```
    /// use otel_tasks::{TaskContext, TaskFamily, TaskManager, task::RegisterError};
    /// # async fn sync(ctx: TaskContext, _: u64) { ctx.cancelled().await }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), RegisterError> {
    /// let tasks = TaskManager::new();
    /// let tenants = tasks.register_family(TaskFamily::new("tenant_sync", sync).max_members(1))?;
    /// tenants.ensure(7)?;
    /// assert!(matches!(tenants.ensure(8), Err(RegisterError::FamilyFull { .. })));
    /// # Ok(()) }
    /// ```
    pub fn max_members(mut self, members: usize) -> Self {
        self.max_members = members;
        self
    }

    pub(crate) fn register(self, shared: &Arc<Shared>) -> Result<FamilyHandle<K>, RegisterError> {
        // A colon and the shortest key.
        check_name(&self.name, 2)?;
        if let Some(character) = self.name.chars().find(|c| matches!(c, '/' | '\\') || c.is_control()) {
            return Err(RegisterError::FamilyName { family: self.name, character });
        }
        let name: Arc<str> = self.name.into();
        let family = Family::new(name.clone(), self.max_members);
        if self.max_members == 0 {
            return Err(RegisterError::FamilyFull { family: name.to_string(), max_members: 0 });
        }
        let said = Arc::new(Said { family, make: self.make });
        shared.register_family(&name, said.clone())?;
        Ok(FamilyHandle { name, said: Arc::downgrade(&said), manager: Arc::downgrade(shared) })
    }
}

/// The settings of a registered family. Only the manager holds them.
struct Said<K> {
    family: Arc<Family>,
    make: Make<K>,
}

impl<K: FamilyKey> Said<K> {
    /// Returns the registration of a member.
    fn registration(&self, key: &K, name: &str, shared: &Arc<Shared>) -> Result<Registration, RegisterError> {
        let config = (self.make)(key).of_family(name);
        let intensity = config.check()?;
        let registration = config.registration(intensity, None, shared);
        let body = MemberBody::new(registration.body, self.family.clone(), Box::new(key.clone()));
        Ok(Registration { body: Arc::new(body), ..registration })
    }

    /// Returns true if a task is the member with this key. A task of another kind may have the same name.
    fn is_member(&self, task: &Supervised, key: &K) -> bool {
        self.key_of(task).is_some_and(|held| held == key)
    }

    /// Returns the key of a member of this family.
    fn key_of<'a>(&self, task: &'a Supervised) -> Option<&'a K> {
        let member = task.body.member().filter(|member| member.is_of(&self.family))?;
        member.key().downcast_ref()
    }
}

/// Adds, removes and lists the members of a family. Clones are handles of the same family.
///
/// It keeps neither the manager nor a task alive, so tasks may hold it. If the manager is gone there are no members,
/// and [`ensure`](Self::ensure) returns [`RegisterError::ShuttingDown`].
pub struct FamilyHandle<K> {
    name: Arc<str>,
    said: Weak<Said<K>>,
    manager: Weak<Shared>,
}

impl<K> Clone for FamilyHandle<K> {
    fn clone(&self) -> Self {
        Self { name: self.name.clone(), said: self.said.clone(), manager: self.manager.clone() }
    }
}

impl<K> fmt::Debug for FamilyHandle<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FamilyHandle").field("name", &self.name).finish_non_exhaustive()
    }
}

impl<K: FamilyKey> FamilyHandle<K> {
    fn there(&self) -> Option<(Arc<Shared>, Arc<Said<K>>)> {
        Some((self.manager.upgrade()?, self.said.upgrade()?))
    }

    /// Returns the name of a member, or the problem of its key.
    fn checked_name(&self, key: &K) -> Result<Arc<str>, RegisterError> {
        let name = self.task_name(key);
        let text = &name[self.name.len() + 1..];
        let is_bad = |character: &char| matches!(character, '/' | '\\') || character.is_control();
        let problem = if text.is_empty() {
            Some(KeyProblem::Empty)
        } else if text.len() > MAX_KEY_LENGTH {
            Some(KeyProblem::TooLong)
        } else {
            text.chars().find(is_bad).map(KeyProblem::Character)
        };
        match problem {
            None => Ok(name.into()),
            Some(problem) => {
                let end = (0..=MAX_KEY_LENGTH.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
                let key = text[..end.unwrap_or(0)].to_owned();
                Err(RegisterError::Key { family: self.name.to_string(), key, problem })
            }
        }
    }

    /// Registers the member with this key if it is missing. Returns true if it was registered now.
    ///
    /// It begins as a registered task does: at once if the manager has [started](crate::TaskManager::start). A member that was stopped, has
    /// finished or has failed is not missing. A member that was requested to leave, and still stops, comes back after its end.
    ///
    /// # Errors
    /// [`RegisterError`] names the problem, and nothing was changed:
    /// - [`Key`](RegisterError::Key): the key's text cannot be part of a name.
    /// - [`Duplicate`](RegisterError::Duplicate): another key with the same text is a member, or another task has that name.
    /// - [`FamilyFull`](RegisterError::FamilyFull), [`ShuttingDown`](RegisterError::ShuttingDown).
    /// - The problems of the member's config, as in [`register`](crate::TaskManager::register).
    #[track_caller]
    pub fn ensure(&self, key: K) -> Result<bool, RegisterError> {
        let name = self.checked_name(&key)?;
        let (shared, said) = self.there().ok_or(RegisterError::ShuttingDown)?;
        loop {
            let held = shared.supervised(&name);
            if let Some(held) = &held {
                if !said.is_member(held, &key) {
                    return Err(RegisterError::Duplicate { name: name.to_string() });
                }
                if held.body.member().is_some_and(MemberBody::is_to_stay) {
                    return Ok(false);
                }
            }
            let member = said.registration(&key, &name, &shared)?;
            match shared.ensure_member(&said.family, member, held.as_ref()) {
                Ok(()) => return Ok(true),
                Err(Changed::Refused(error)) => return Err(error),
                Err(Changed::Meanwhile) => {}
            }
        }
    }

    /// Stops the member with this key, removes it, and waits until it has ended. Returns true if it was a member.
    ///
    /// A member that removes itself does not wait: the call returns once it is requested to stop.
    ///
    /// # Cancel safety
    /// Dropping the future after its first poll stops the wait, not the stop.
    pub async fn remove(&self, key: &K) -> bool {
        let Some((shared, said)) = self.there() else { return false };
        let name = self.task_name(key);
        loop {
            let held = shared.supervised(&name).filter(|held| said.is_member(held, key));
            let Some(held) = held else { return false };
            let Ok(stayed) = shared.mark_leaving(&held) else { continue };
            if stayed {
                shared.leave(&held);
            }
            until_gone(&shared, &held).await;
            until_released(&shared, std::slice::from_ref(&held)).await;
            return stayed;
        }
    }

    /// Sets the members of the family: adds the missing ones, removes the others, and waits until those have ended. Members that stay are not
    /// touched. A key may be repeated.
    ///
    /// # Errors
    /// As [`ensure`](Self::ensure): everything is checked first, and nothing was changed.
    ///
    /// # Cancel safety
    /// Nothing happens before the first poll. That poll makes all changes; dropping the future later stops only the wait.
    pub fn set<I: IntoIterator<Item = K>>(
        &self,
        keys: I,
    ) -> impl Future<Output = Result<(), RegisterError>> + Send + use<'_, K, I> {
        let keys: Vec<K> = keys.into_iter().collect();
        async move {
            let (shared, leaving) = self.set_now(keys)?;
            for task in &leaving {
                until_gone(&shared, task).await;
            }
            until_released(&shared, &leaving).await;
            Ok(())
        }
    }

    fn set_now(&self, keys: Vec<K>) -> Result<(Arc<Shared>, Vec<Arc<Supervised>>), RegisterError> {
        let duplicate = |name: &str| RegisterError::Duplicate { name: name.to_owned() };
        let mut by_name = HashMap::with_capacity(keys.len());
        for key in keys {
            let name = self.checked_name(&key)?;
            match by_name.entry(name) {
                hash_map::Entry::Vacant(place) => _ = place.insert(key),
                hash_map::Entry::Occupied(held) if *held.get() == key => {}
                hash_map::Entry::Occupied(held) => return Err(duplicate(held.key())),
            }
        }
        let (shared, said) = self.there().ok_or(RegisterError::ShuttingDown)?;
        let max_members = said.family.max_members;
        if by_name.len() > max_members {
            return Err(RegisterError::FamilyFull { family: self.name.to_string(), max_members });
        }
        loop {
            let there = shared.members_of(&said.family);
            let there: HashMap<_, _> = there.iter().map(|task| (task.name(), task)).collect();
            let mut wanted = Wanted::with_capacity(by_name.len());
            for (name, key) in &by_name {
                let held = there.get(name);
                if held.is_some_and(|held| !said.is_member(held, key)) {
                    return Err(duplicate(name));
                }
                let stays = held.is_some_and(|held| held.body.member().is_some_and(MemberBody::is_to_stay));
                let member = if stays { None } else { Some(said.registration(key, name, &shared)?) };
                wanted.insert(name.clone(), member);
            }
            match shared.set_members(&said.family, wanted) {
                Ok(leaving) => return Ok((shared, leaving)),
                Err(Changed::Refused(error)) => return Err(error),
                Err(Changed::Meanwhile) => {}
            }
        }
    }

    /// Returns the keys of the members, sorted by their texts, without the members that were requested to leave.
    pub fn keys(&self) -> Vec<K> {
        let Some((shared, said)) = self.there() else { return Vec::new() };
        let members = shared.members_of(&said.family);
        let members = members.iter().filter(|task| task.body.member().is_some_and(MemberBody::is_to_stay));
        members.filter_map(|task| said.key_of(task).cloned()).collect()
    }

    /// Returns the health of the member with this key; `None` if there is no such member.
    pub fn health(&self, key: &K) -> Option<TaskHealth> {
        let (shared, said) = self.there()?;
        let task = shared.supervised(&self.task_name(key)).filter(|task| said.is_member(task, key))?;
        let vitals = cell::vitals(std::slice::from_ref(&task.task), shared.recorder.now());
        Some(shared.health_of(Some(&task), &vitals))
    }

    /// Returns the name of a member, `family:key`, for the methods of the manager.
    pub fn task_name(&self, key: &K) -> String {
        let mut name = String::with_capacity(self.name.len() + 24);
        name.push_str(&self.name);
        // A text is written to a string: only the key's `Display` may fail, and what it wrote is the name then.
        let _ = write!(name, ":{key}");
        name
    }
}
