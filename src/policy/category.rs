//! What a task is, and the rules that tell it from a name.

use std::borrow::Cow;

use super::labels::labels;

labels! {
    /// What a task is. Shutdown stops the categories in the order of [`TaskCategory::SHUTDOWN_ORDER`].
    pub enum TaskCategory {
        /// Runs on a schedule: loops, and everything registered as critical.
        Scheduled = "scheduled",
        /// Holds a connection to the outside that the rest depends on.
        Gateway = "gateway",
        /// Belongs to the program's own machinery.
        System = "system",
        /// Answers one request or command.
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

/// Tells a task's category from its name, where none was given explicitly.
///
/// In this order: a registered critical task is [`Scheduled`](TaskCategory::Scheduled); a name starting with
/// `Task-` is [`System`](TaskCategory::System); then the prefix table; a name containing `command_`, in any case,
/// is [`Command`](TaskCategory::Command); anything else is [`Unknown`](TaskCategory::Unknown).
///
/// ```
/// use otel_tasks::{TaskCategory, policy::CategoryRules};
/// let rules = CategoryRules::default().prefix("kafka-", TaskCategory::Gateway);
/// assert_eq!(rules.categorize("kafka-consumer"), TaskCategory::Gateway);
/// assert_eq!(rules.categorize("Run_Command_ping"), TaskCategory::Command);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CategoryRules {
    prefixes: Vec<(Cow<'static, str>, TaskCategory)>,
}

/// The table that [`CategoryRules::default`] starts with.
pub(crate) const DEFAULT_PREFIXES: [(&str, TaskCategory); 5] = [
    ("discord-ext-tasks:", TaskCategory::Scheduled),
    ("discord.py:", TaskCategory::Gateway),
    ("discord-voice-", TaskCategory::Gateway),
    ("discord-gateway-", TaskCategory::Gateway),
    ("patch_asyncio", TaskCategory::System),
];

impl Default for CategoryRules {
    fn default() -> Self {
        Self { prefixes: DEFAULT_PREFIXES.map(|(prefix, category)| (Cow::Borrowed(prefix), category)).into() }
    }
}

impl CategoryRules {
    /// Rules with an empty prefix table.
    pub fn empty() -> Self {
        Self { prefixes: Vec::new() }
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
        let rules = CategoryRules::default();
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
    fn an_added_prefix_comes_after_the_defaults() {
        let rules = CategoryRules::default().prefix("discord", TaskCategory::System);
        assert_eq!(rules.categorize("discord.py: x"), TaskCategory::Gateway);
        assert_eq!(rules.categorize("discord"), TaskCategory::System);
    }

    #[test]
    fn without_prefixes_only_the_fixed_rules_are_left() {
        assert_eq!(CategoryRules::empty().categorize("discord.py: x"), TaskCategory::Unknown);
        assert_eq!(CategoryRules::empty().categorize("Task-1"), TaskCategory::System);
    }
}
