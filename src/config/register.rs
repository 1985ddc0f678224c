//! Registration: configs are checked first, then registered together.

use std::sync::Arc;

use crate::{
    config::task::CriticalTaskConfig,
    engine::{Group, Membership, Registration, Reserved, Shared},
    error::RegisterError,
};

/// Checks a config, and makes what is registered of it.
fn checked(config: CriticalTaskConfig, shared: &Arc<Shared>) -> Result<Registration, RegisterError> {
    let intensity = config.check()?;
    if shared.tracker.is_closed() {
        return Err(RegisterError::ShuttingDown);
    }
    Ok(config.registration(intensity, None, shared))
}

/// Checks a config that is to replace a task, and reserves its name.
pub(crate) fn check_replacement(
    config: CriticalTaskConfig,
    shared: &Arc<Shared>,
) -> Result<Reserved, RegisterError> {
    shared.reserve(checked(config, shared)?)
}

/// Registers a task.
#[track_caller]
pub(crate) fn register_one(config: CriticalTaskConfig, shared: &Arc<Shared>) -> Result<(), RegisterError> {
    shared.register(vec![checked(config, shared)?], None)
}

/// Registers tasks together: all, or none where one is refused.
#[track_caller]
pub(crate) fn register(
    configs: Vec<CriticalTaskConfig>,
    group: Option<&Arc<Group>>,
    shared: &Arc<Shared>,
) -> Result<(), RegisterError> {
    let mut intensities = Vec::with_capacity(configs.len());
    for config in &configs {
        intensities.push(config.check()?);
    }
    if shared.tracker.is_closed() {
        return Err(RegisterError::ShuttingDown);
    }
    let membership = |index| group.map(|group| Membership { group: group.clone(), index });
    // Not collected, which would shrink the memory of the configs instead of taking less.
    let mut registrations = Vec::with_capacity(configs.len());
    for (index, (config, intensity)) in configs.into_iter().zip(intensities).enumerate() {
        registrations.push(config.registration(intensity, membership(index), shared));
    }
    shared.register(registrations, group)
}
