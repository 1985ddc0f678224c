//! The category of a task, and the rules that derive it from a name.

use std::borrow::Cow;

use super::labels::labels;

labels! {
    /// The category of a task. A shutdown stops the categories in the order of [`TaskCategory::SHUTDOWN_ORDER`].
    pub enum TaskCategory {
        /// Runs on a schedule: loops, and everything registered as critical.
        Scheduled = "scheduled",
        /// Holds a connection to the outside that the rest depends on.
        Gateway = "gateway",
        /// Belongs to the program's own machinery.
        System = "system",
        /// Responds to one request or command.
        Command = "command",
        /// Nothing is known about it.
        Unknown = "unknown",
    }
}

impl TaskCategory {
    /// The order in which shutdown stops them: what nobody depends on first, the gateway last.
    pub const SHUTDOWN_ORDER: &'static [Self] =
        &[Self::Unknown, Self::Command, Self::System, Self::Scheduled, Self::Gateway];
}

/// Derives the category of a task from its name, if none was given.
///
/// The first of these decides:
///
/// 1. A registered critical task is [`Scheduled`](TaskCategory::Scheduled).
/// 2. A name that begins with `Task-` is [`System`](TaskCategory::System).
/// 3. The prefix table, which is empty by default.
/// 4. A name that contains `command_`, in any case, is [`Command`](TaskCategory::Command).
/// 5. Any other name is [`Unknown`](TaskCategory::Unknown).
///
/// A manager with a prefix table warns once of each name that stays Unknown: the table was to cover the names. Without prefixes,
/// Unknown is what a plain spawned task is, and nothing is logged.
///
/// ```
/// use otel_tasks::{TaskCategory, policy::CategoryRules};
/// let rules = CategoryRules::default().prefix("kafka-", TaskCategory::Gateway);
/// assert_eq!(rules.categorize("kafka-consumer"), TaskCategory::Gateway);
/// assert_eq!(rules.categorize("Run_Command_ping"), TaskCategory::Command);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CategoryRules {
    prefixes: Vec<(Cow<'static, str>, TaskCategory)>,
}

/// The table of [`CategoryRules::discord`].
const DISCORD_PREFIXES: [(&str, TaskCategory); 5] = [
    ("discord-ext-tasks:", TaskCategory::Scheduled),
    ("discord.py:", TaskCategory::Gateway),
    ("discord-voice-", TaskCategory::Gateway),
    ("discord-gateway-", TaskCategory::Gateway),
    ("patch_asyncio", TaskCategory::System),
];

impl CategoryRules {
    /// Rules for the tasks of a Discord bot, named as discord.py names them.
    ///
    /// | Prefix | Category |
    /// |---|---|
    /// | `discord-ext-tasks:` | Scheduled |
    /// | `discord.py:`, `discord-voice-`, `discord-gateway-` | Gateway |
    /// | `patch_asyncio` | System |
    ///
    /// ```
    /// use otel_tasks::{TaskCategory, policy::CategoryRules};
    /// let rules = CategoryRules::discord();
    /// assert_eq!(rules.categorize("discord-gateway-3"), TaskCategory::Gateway);
    /// assert_eq!(CategoryRules::default().categorize("discord-gateway-3"), TaskCategory::Unknown);
    /// ```
    pub fn discord() -> Self {
        Self { prefixes: DISCORD_PREFIXES.map(|(prefix, category)| (Cow::Borrowed(prefix), category)).into() }
    }

    /// Returns true if there are prefixes that names should begin with.
    pub(crate) fn has_prefixes(&self) -> bool {
        !self.prefixes.is_empty()
    }

    /// Adds a prefix. Of several that match, the one added first decides.
    #[must_use]
    pub fn prefix(mut self, prefix: impl Into<Cow<'static, str>>, category: TaskCategory) -> Self {
        self.prefixes.push((prefix.into(), category));
        self
    }

    /// The category of a name that is not a registered critical task.
    pub fn categorize(&self, name: &str) -> TaskCategory {
        if name.starts_with("Task-") {
            return TaskCategory::System;
        }
        if let Some((_, category)) =
            self.prefixes.iter().find(|(prefix, _)| name.starts_with(prefix.as_ref()))
        {
            return *category;
        }
        if contains_ignoring_case(name, "command_") { TaskCategory::Command } else { TaskCategory::Unknown }
    }
}

fn contains_ignoring_case(haystack: &str, needle: &str) -> bool {
    haystack.as_bytes().windows(needle.len()).any(|window| window.eq_ignore_ascii_case(needle.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rules_are_asked_in_their_order() {
        let rules = CategoryRules::discord();
        for (name, category) in [
            ("discord-ext-tasks: reminders", TaskCategory::Scheduled),
            ("discord.py: on_message", TaskCategory::Gateway),
            ("discord-voice-keepalive", TaskCategory::Gateway),
            ("discord-gateway-3", TaskCategory::Gateway),
            ("patch_asyncio_runner", TaskCategory::System),
            ("Task-12", TaskCategory::System),
            // `Task-` is asked before `command_`.
            ("Task-command_x", TaskCategory::System),
            ("Run_COMMAND_ping", TaskCategory::Command),
            ("command", TaskCategory::Unknown),
            ("", TaskCategory::Unknown),
        ] {
            assert_eq!(rules.categorize(name), category, "{name:?}");
        }
    }

    #[test]
    fn an_added_prefix_comes_after_those_of_the_preset() {
        let rules = CategoryRules::discord().prefix("discord", TaskCategory::System);
        assert_eq!(rules.categorize("discord.py: x"), TaskCategory::Gateway);
        assert_eq!(rules.categorize("discord"), TaskCategory::System);
    }

    #[test]
    fn without_prefixes_only_the_fixed_rules_are_left() {
        assert_eq!(CategoryRules::default().categorize("discord.py: x"), TaskCategory::Unknown);
        assert_eq!(CategoryRules::default().categorize("Task-1"), TaskCategory::System);
    }
}
