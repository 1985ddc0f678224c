//! The connected clients: bounds of all clients and of one address, and a reserve for probes.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::guesses::client;

/// The bounds of connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    /// At once.
    pub(super) connections: usize,
    /// Of them, with one address.
    pub(super) of_one_address: usize,
    /// Beside them, for the time that the head of one request takes.
    pub(super) reserve: usize,
}

impl Limits {
    const RESERVE: usize = 64;

    /// `wanted` connections, but at most a quarter of the descriptors that the process may have: the others are the service's.
    pub(super) fn new(wanted: usize, descriptors: Option<u64>) -> Self {
        let quarter = descriptors.map_or(usize::MAX, |all| usize::try_from(all / 4).unwrap_or(usize::MAX));
        let reserve = Self::RESERVE.min(quarter / 4).max(1);
        let connections = wanted.min(quarter.saturating_sub(reserve)).max(1);
        Self { connections, of_one_address: connections.div_ceil(2), reserve }
    }
}

/// The descriptors that the process may have; `None` if there is no limit or none is known.
pub(super) fn descriptors() -> Option<u64> {
    #[cfg(unix)]
    return rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    #[cfg(not(unix))]
    None
}

/// The places of all connections.
pub(super) struct Places {
    limits: Limits,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    all: usize,
    of: HashMap<IpAddr, usize>,
}

impl Places {
    pub(super) fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self { limits, held: Mutex::default() })
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a client at that address; `None` if there is none left.
    pub(super) fn take(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let address = client(address);
        let mut held = self.held();
        if held.all >= self.limits.connections {
            return None;
        }
        let of_address = held.of.entry(address).or_default();
        if *of_address >= self.limits.of_one_address {
            return None;
        }
        *of_address += 1;
        held.all += 1;
        Some(Place { places: self.clone(), address })
    }
}

/// The place of one connection, until it is dropped.
pub(super) struct Place {
    places: Arc<Places>,
    address: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = self.places.held();
        held.all -= 1;
        if let Some(of_address) = held.of.get_mut(&self.address) {
            *of_address -= 1;
            if *of_address == 0 {
                held.of.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_of_the_descriptors_is_the_most() {
        let limits = |wanted, descriptors| {
            let Limits { connections, of_one_address, reserve } = Limits::new(wanted, descriptors);
            (connections, of_one_address, reserve)
        };
        assert_eq!(limits(64, Some(1_024)), (64, 32, 64));
        assert_eq!(limits(64, None), (64, 32, 64));
        assert_eq!(limits(5_000, Some(1_024)), (192, 96, 64));
        assert_eq!(limits(64, Some(64)), (12, 6, 4));
        // It responds, however few there are.
        assert_eq!(limits(64, Some(0)), (1, 1, 1));
        assert_eq!(limits(0, None), (1, 1, 64));
        for descriptors in 8..5_000 {
            let Limits { connections, reserve, .. } = Limits::new(usize::MAX, Some(descriptors));
            assert!(connections + reserve <= (descriptors / 4).max(2) as usize, "{descriptors}");
        }
    }

    #[test]
    fn a_place_is_of_an_address_and_comes_back() {
        let places = Places::new(Limits { connections: 4, of_one_address: 2, reserve: 1 });
        let at = |address: &str| places.take(address.parse().expect("an address"));
        let first = at("10.0.0.1").expect("a place");
        let _second = at("::ffff:10.0.0.1").expect("a place");
        assert!(at("10.0.0.1").is_none(), "it has its two");
        let _third = at("2001:db8::1").expect("a place");
        let _fourth = at("2001:db8::2").expect("a place");
        assert!(at("10.0.0.2").is_none(), "all are taken");
        drop(first);
        assert!(at("2001:db8::3").is_none(), "its network has its two");
        let _fifth = at("10.0.0.1").expect("the place that came back");
        assert!(at("10.0.0.2").is_none());
        assert_eq!(places.held().of.len(), 2);
    }
}
