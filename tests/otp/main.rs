//! OTP's `supervisor_SUITE`, case by case and by its own names: what those who have supervised for thirty years hold of a
//! supervisor, held of ours. Read from the suite of OTP 29; its words for ours:
//!
//! | OTP | here |
//! |---|---|
//! | permanent, transient, temporary | `RestartPolicy::Always`, `OnFailure`, `Never` |
//! | a start function that has answered | a run that has said that it is ready |
//! | `ignore` | a run that ends well before it is ready |
//! | a start that fails | a run that fails before it is ready |
//! | intensity and period | `TaskGroup::max_restarts`, with `Backoff::constant(Duration::ZERO)`: OTP does not wait |
//! | `terminate_child`, `restart_child`, `delete_child` | `stop_`, `restart_`, `unregister` |
//! | `count_children`: specs, active | registered; of them running and ready |
//! | a child of `simple_one_for_one` | a spawned run, or one of several tasks of one kind |
//!
//! # Where ours differs on purpose
//!
//! - The restart by hand of a member that *runs* takes along the others, as its strategy says; OTP answers `running`. One
//!   that was down begins alone, as in OTP. A task that runs is also unregistered, where OTP refuses.
//! - A member that was stopped by hand stays so when its group is restarted, and those after it do not wait for it; OTP
//!   starts it again, and leaves those after it down. One that finished by itself begins anew, as in OTP.
//! - A start that fails is tried again after the task's backoff, and counted like any failure; OTP tries again at once.
//!   Also the first: OTP's supervisor would not start at all.
//! - An end before it is ready of one that is always restarted is a restart like any other; OTP leaves a permanent child
//!   that declines as it is.
//! - Limits are per task by default. That of a group counts as OTP's does; a restart one period old no longer counts
//!   (in OTP it still does). Giving up leaves the member failed, and the rest as the strategy and the `Escalation` say;
//!   an OTP supervisor ends, with all that it has.
//! - An error of the class *permanent* is final under every policy. OTP knows no such thing.
//! - A temporary child that has ended stays registered, and its name is taken; OTP forgets it.
//!
//! # What does not apply
//!
//! - There is no callback that may decline, fail or answer nonsense: `sup_start_ignore_init`, `sup_start_error_return`.
//! - No specification per instance, no pids, no other types of children than tasks: `sup_start_map_simple`,
//!   `simple_one_for_one_extra` (the term that a start function may add), `count_children_supervisor`,
//!   `which_children_simple_one_for_one`.
//! - No child whose end alone ends the group (`auto_shutdown`): `significant_temporary`, `significant_transient`,
//!   `significant_simple`.
//! - No code is upgraded while it runs: `significant_upgrade_never_any`, `significant_upgrade_any_never`,
//!   `significant_upgrade_never_all`, `significant_upgrade_all_never`, `significant_upgrade_any_all`,
//!   `significant_upgrade_all_any`, `significant_upgrade_child`, `code_change`, `code_change_map`, `code_change_simple`,
//!   `code_change_simple_map`, `get_callback_module`.
//! - Of the virtual machine or its logger: `auto_hibernate`, `format_log_1`, `format_log_2`.
//!
//! Everything is in virtual time, except for what is measured (`scale`) and what is a race.

#[path = "../support/mod.rs"]
mod support;

mod admin;
mod policies;
mod probe;
mod scale;
mod start;
mod stop;
mod strategies;
