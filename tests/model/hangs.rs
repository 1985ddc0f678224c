//! A case that never ends cannot be shrunk; it is at least named.

use std::{
    fmt::Debug,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant},
};

/// Milliseconds are what a case takes.
const LIMIT: Duration = Duration::from_secs(60);

pub(crate) struct Watched(Arc<AtomicBool>);

impl Drop for Watched {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

/// Ends the process where the case is not over in time.
pub(crate) fn watch(case: &(impl Debug + ?Sized)) -> Watched {
    use std::sync::{LazyLock, Mutex};
    type Case = (Instant, Arc<AtomicBool>, String);
    static CASES: LazyLock<Mutex<Vec<Case>>> = LazyLock::new(|| {
        thread::spawn(|| {
            loop {
                thread::sleep(Duration::from_secs(1));
                let mut cases = CASES.lock().unwrap();
                cases.retain(|(_, over, _)| !over.load(SeqCst));
                if let Some((_, _, case)) = cases.iter().find(|(began, ..)| began.elapsed() > LIMIT) {
                    // Not to the harness, which keeps the output of tests that are not over.
                    let _ = std::io::Write::write_all(
                        &mut std::io::stderr(),
                        format!("hangs: {case}\n").as_bytes(),
                    );
                    std::process::abort();
                }
            }
        });
        Mutex::default()
    });
    let over = Arc::new(AtomicBool::new(false));
    CASES.lock().unwrap().push((Instant::now(), over.clone(), format!("{case:#?}")));
    Watched(over)
}
