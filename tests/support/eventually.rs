//! Waiting for what must come, with a bound.

use std::time::Duration;

/// Waits until `holds`, at most 20 s of the runtime's clock; then fails with `what`.
#[track_caller]
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) -> impl Future<Output = ()> {
    let caller = std::panic::Location::caller();
    async move {
        let end = tokio::time::Instant::now() + Duration::from_secs(20);
        while !holds() {
            assert!(tokio::time::Instant::now() < end, "{caller}: never came: {what}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// Lets everything else run until it is idle: exact in paused time, which moves only then.
pub(crate) async fn settle() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}
