//! Tasks: how they are registered, supervised, ordered about and shown, one subject a module.

#[path = "../support/mod.rs"]
mod support;

mod blocking;
mod busy_polls;
mod causes;
mod changes;
mod components;
mod decisions;
mod dependents;
mod destructors;
mod errors;
mod events;
mod families;
mod figures;
mod gate;
mod groups;
mod handles;
mod health;
mod health_roles;
#[cfg(feature = "macros")]
mod instrumented;
mod limits;
mod names;
mod one_shots;
mod orders;
mod outages;
mod outputs;
#[cfg(unix)]
mod overruns;
mod overtaking;
mod panics;
mod pause;
mod plain;
mod polls;
mod reentrancy;
mod replace;
mod seed_map;
mod series;
mod silence;
mod state;
mod supervision;
