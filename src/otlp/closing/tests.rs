use super::*;
use crate::otlp::{batch::Persistence, settings::BatchSettings, sinks::MetricSink, transport::Cause};

const LONG: Duration = Duration::from_secs(3600);

/// A queue of collections, none of which is taken.
fn failing() -> Batcher<Collection> {
    let mut sink = MetricSink(None);
    Batcher::start(
        "collections",
        BatchSettings::COLLECTIONS,
        Persistence::UntilTheNext,
        move |batch, waiting| sink.export(batch, waiting),
    )
    .unwrap_or_else(|error| panic!("{error}"))
}

fn lose(collections: &Batcher<Collection>, why: &str) {
    collections.push(Collection(Err(Cause::Console(why.to_owned()))));
    while collections.read().pending > 0 {
        std::thread::yield_now();
    }
}

fn begin(collections: &Batcher<Collection>, provider: SdkMeterProvider) -> Closing {
    let closers = Closers { metrics: Some(collections.clone()), ..Closers::default() };
    let balance = Balance { metrics: Some(Arc::new(collections.clone())), ..Balance::default() };
    Closing::begin(closers, provider, Vec::new(), balance, LONG)
}

/// The export continues while the work of the shutdown waits for its thread.
#[test]
fn report_has_the_loss_of_a_collection_that_was_on_its_way_when_the_shutdown_began() {
    let collections = failing();
    let closing = begin(&collections, SdkMeterProvider::default());
    lose(&collections, "on its way");
    let metrics = closing.run().metrics;
    assert!(
        matches!(&metrics.outcome, SignalOutcome::Failed(why) if why.contains("on its way")),
        "{metrics}"
    );

    let collections = failing();
    lose(&collections, "earlier");
    let metrics = begin(&collections, SdkMeterProvider::default()).run().metrics;
    assert_eq!((&metrics.outcome, metrics.export_failed), (&SignalOutcome::Delivered, 1));
}
