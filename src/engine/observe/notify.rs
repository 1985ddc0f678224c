//! The messages to the service manager: at each tick of the watchdog's thread, and when a shutdown begins.

use std::time::Instant as StdInstant;

use crate::{
    engine::{
        Shared, announce,
        observe::{on_tick::TICK, service::Service},
    },
    watchdog,
};

impl Shared {
    /// Sends the service manager what is news. Called on the watchdog's thread at each tick.
    pub(super) fn notify_service_manager(&self, now: StdInstant) {
        let Some(service) = &self.settings.service else { return };
        if service.check_is_due(now) {
            let health = self.health();
            service.checked(&health, self.is_started(), now, now.elapsed());
        }
        if let Some(every) = service.ping_every().filter(|every| *every < TICK) {
            watchdog::tick_at(self.watch.number, now + every);
        }
        self.report_stopping(service);
        self.send_reports(service, now);
    }

    /// Reports that the service stops: the drain or the ordered shutdown has begun. Later calls change nothing.
    pub(crate) fn stopping(&self) {
        let Some(service) = &self.settings.service else { return };
        let now = StdInstant::now();
        if !service.begin_stopping(now) {
            return;
        }
        self.report_stopping(service);
        self.send_reports(service, now);
        self.watch_closely();
    }

    fn report_stopping(&self, service: &Service) {
        if !service.is_stopping() {
            return;
        }
        let report = self.sequence.get().and_then(|sequence| sequence.report());
        service.progress(self.tracker.alive(), report.map(|report| report.duration));
    }

    fn send_reports(&self, service: &Service, now: StdInstant) {
        // Announced without the lock: a subscriber is the user's code.
        if let Some(error) = service.send(self.settings.shutdown_deadline, now) {
            announce::service_manager_failed(&error);
        }
    }
}
