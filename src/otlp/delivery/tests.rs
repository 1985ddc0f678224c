use std::{cell::RefCell, collections::VecDeque};

use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    trace::v1::{ResourceSpans, ScopeSpans, Span},
};
use prost::Message as _;

use super::*;

/// A receiver that responds as listed, and then takes everything.
struct Script {
    answers: VecDeque<fn(&Parcel) -> Answer>,
    asked: Vec<u64>,
}

impl Attempts for Script {
    fn attempt(&mut self, parcel: &Parcel) -> Answer {
        self.asked.push(parcel.items);
        match self.answers.pop_front() {
            Some(answer) => answer(parcel),
            None => taken(parcel),
        }
    }
}

fn taken(_: &Parcel) -> Answer {
    Answer::Taken { rejected: 0, words: String::new() }
}

fn failure(text: &str) -> Failure {
    Failure::new(&"".into(), Cause::Other(text.to_owned()))
}

fn again(_: &Parcel) -> Answer {
    Answer::Again(failure("again"), None)
}

fn too_large(_: &Parcel) -> Answer {
    Answer::TooLarge(failure("large"))
}

/// Records the waits, and has this much patience.
struct Queue {
    patience: RefCell<VecDeque<Patience>>,
    waits: RefCell<Vec<Duration>>,
    failed: RefCell<u32>,
    delivered: RefCell<u32>,
}

impl Queue {
    fn with(patience: impl IntoIterator<Item = Patience>) -> Self {
        let patience = RefCell::new(patience.into_iter().collect());
        Self {
            patience,
            waits: RefCell::default(),
            failed: RefCell::default(),
            delivered: RefCell::default(),
        }
    }
}

impl Waiting for Queue {
    fn failed(&self, _: &Failure) {
        *self.failed.borrow_mut() += 1;
    }

    fn delivered(&self) {
        *self.delivered.borrow_mut() += 1;
    }

    fn begins(&self) -> bool {
        true
    }

    fn wait(&self, delay: Duration, _: bool) -> Patience {
        self.waits.borrow_mut().push(delay);
        self.patience.borrow_mut().pop_front().unwrap_or(Patience::Again)
    }
}

fn parcel(spans: u64) -> Parcel {
    let span = |n: u64| Span { name: n.to_string(), ..Span::default() };
    let scope = ScopeSpans { spans: (0..spans).map(span).collect(), ..ScopeSpans::default() };
    let resource = ResourceSpans { scope_spans: vec![scope], ..ResourceSpans::default() };
    let request = ExportTraceServiceRequest { resource_spans: vec![resource] };
    Parcel { signal: Signal::Traces, body: request.encode_to_vec().into(), items: spans, encoding: None }
}

fn deliver(
    answers: impl IntoIterator<Item = fn(&Parcel) -> Answer>,
    queue: &Queue,
    parcel: Parcel,
) -> (Settled, Vec<u64>) {
    let mut delivery = Delivery::new(Script { answers: answers.into_iter().collect(), asked: Vec::new() });
    let settled = delivery.deliver(parcel, queue);
    (settled, delivery.attempts.asked)
}

#[test]
fn waits_grow_to_five_seconds_and_begin_again_after_a_success() {
    let queue = Queue::with([]);
    let answers = [again as fn(&Parcel) -> Answer; 10];
    let mut delivery = Delivery::new(Script { answers: answers.into_iter().collect(), asked: Vec::new() });
    assert_eq!(delivery.deliver(parcel(3), &queue).exported, 3);
    let waits = queue.waits.take();
    assert_eq!((waits.len(), *queue.failed.borrow()), (10, 10));
    for (attempt, wait) in waits.iter().enumerate() {
        let longest = Duration::from_millis(100 << attempt).min(Duration::from_secs(5));
        // Half of it is left to chance, and some time has passed since.
        assert!(*wait <= longest && *wait >= longest / 2 - Duration::from_millis(45), "{attempt}: {wait:?}");
    }
    delivery.attempts.answers.push_back(again);
    assert_eq!(delivery.deliver(parcel(3), &queue).exported, 3);
    assert!(queue.waits.borrow()[0] <= Duration::from_millis(100));
}

#[test]
fn a_pause_that_a_receiver_asks_for_is_kept_up_to_a_minute_and_across_batches() {
    let pause = |_: &Parcel| Answer::Again(failure("pause"), Some(Duration::from_secs(20)));
    let day = |_: &Parcel| Answer::Again(failure("pause"), Some(Duration::from_secs(86_400)));
    let queue = Queue::with([Patience::GiveUp, Patience::Again, Patience::Again]);
    let mut delivery =
        Delivery::new(Script { answers: [pause as fn(&Parcel) -> Answer, day].into(), asked: Vec::new() });
    let settled = delivery.deliver(parcel(3), &queue);
    assert_eq!((settled.failed, settled.exported), (3, 0), "the queue had no room");
    assert_eq!(settled.error.map(|error| error.to_string()).as_deref(), Some("pause"));
    assert_eq!(delivery.deliver(parcel(2), &queue).exported, 2);
    let waits: Vec<_> = queue.waits.take().iter().map(|wait| wait.as_secs_f64().round()).collect();
    assert_eq!(waits, [20.0, 20.0, 60.0], "before the next batch too, and never longer than a minute");
    assert_eq!(delivery.attempts.asked, [3, 2, 2]);
}

#[test]
fn a_batch_that_cannot_wait_for_a_pause_to_end_is_lost_without_an_attempt() {
    let pause = |_: &Parcel| Answer::Again(failure("pause"), Some(Duration::from_secs(20)));
    let queue = Queue::with([Patience::GiveUp, Patience::GiveUp, Patience::Again]);
    let mut delivery =
        Delivery::new(Script { answers: [pause as fn(&Parcel) -> Answer].into(), asked: Vec::new() });
    assert_eq!(delivery.deliver(parcel(3), &queue).failed, 3);
    let settled = delivery.deliver(parcel(2), &queue);
    assert_eq!(settled.error.map(|error| error.to_string()).as_deref(), Some("pause"));
    assert_eq!((settled.failed, &*delivery.attempts.asked), (2, &[3][..]), "the receiver asked for none");
    assert_eq!(delivery.deliver(parcel(1), &queue).exported, 1);
}

#[test]
fn abandoned_items_count_as_neither_exported_nor_failed() {
    let queue = Queue::with([Patience::Abandoned]);
    let (settled, asked) = deliver([again as fn(&Parcel) -> Answer], &queue, parcel(3));
    assert_eq!((settled.exported, settled.failed, asked), (0, 0, vec![3]));
    // The first half was taken, and stays so.
    let queue = Queue::with([Patience::Abandoned]);
    let (settled, asked) = deliver([too_large as fn(&Parcel) -> Answer, taken, again], &queue, parcel(4));
    assert_eq!((settled.exported, settled.failed, asked), (2, 0, vec![4, 2, 2]));
    let collection = Parcel { signal: Signal::Metrics, items: 1, ..parcel(4) };
    let (settled, _) =
        deliver([again as fn(&Parcel) -> Answer], &Queue::with([Patience::Abandoned]), collection);
    assert_eq!((settled.exported, settled.failed), (0, 0));
}

#[test]
fn halves_leave_in_order_and_a_single_item_that_does_not_fit_is_dropped() {
    fn at_most_one_and_not_the_third(parcel: &Parcel) -> Answer {
        let request = ExportTraceServiceRequest::decode(parcel.body.clone()).unwrap_or_default();
        let spans = &request.resource_spans[0].scope_spans[0].spans;
        if spans.len() > 1 || spans[0].name == "2" { too_large(parcel) } else { taken(parcel) }
    }
    let answers = [at_most_one_and_not_the_third as fn(&Parcel) -> Answer; 100];
    let (settled, asked) = deliver(answers, &Queue::with([]), parcel(5));
    assert_eq!((settled.exported, settled.too_large, settled.failed), (4, 1, 0));
    assert_eq!(asked, [5, 2, 1, 1, 3, 1, 2, 1, 1]);
    let error = settled.error.map(|error| error.to_string()).unwrap_or_default();
    assert!(error.contains("a single item of") && error.contains("is too large for the receiver"), "{error}");
}

#[test]
fn a_receiver_to_which_every_item_is_too_large_is_soon_given_up() {
    let answers = [too_large as fn(&Parcel) -> Answer; 2_000];
    let (settled, asked) = deliver(answers, &Queue::with([]), parcel(512));
    assert_eq!((settled.exported, settled.too_large + settled.failed), (0, 512));
    assert!(asked.len() < 50, "{}", asked.len());
    assert!(settled.too_large >= u64::from(TOO_LARGE_IN_A_ROW), "{settled:?}");
}

#[test]
fn rejected_items_are_never_more_than_were_sent() {
    let rejects = |_: &Parcel| Answer::Taken { rejected: 7, words: "no".to_owned() };
    let (settled, _) = deliver([rejects as fn(&Parcel) -> Answer], &Queue::with([]), parcel(10));
    assert_eq!((settled.exported, settled.rejected, settled.words.as_str()), (3, 7, "no"));
    let (settled, _) = deliver([rejects as fn(&Parcel) -> Answer], &Queue::with([]), parcel(5));
    assert_eq!((settled.exported, settled.rejected), (0, 5));
    let collection = Parcel { signal: Signal::Metrics, items: 1, ..parcel(1) };
    let (settled, _) = deliver([rejects as fn(&Parcel) -> Answer], &Queue::with([]), collection);
    assert_eq!((settled.exported, settled.rejected, settled.rejected_points), (1, 0, 7));
}

#[test]
fn a_refusal_is_not_tried_again() {
    let refused = |_: &Parcel| Answer::Refused(failure("no"));
    let queue = Queue::with([]);
    let (settled, asked) = deliver([refused as fn(&Parcel) -> Answer], &queue, parcel(3));
    assert_eq!((settled.failed, asked.len(), *queue.failed.borrow()), (3, 1, 1));
    assert!(queue.waits.borrow().is_empty());
}

#[test]
fn each_batch_has_an_attempt_though_there_is_no_time_left_and_the_cause_stays() {
    let queue = Queue::with([Patience::GiveUp; 3]);
    let answers = [again as fn(&Parcel) -> Answer; 2];
    let mut delivery = Delivery::new(Script { answers: answers.into_iter().collect(), asked: Vec::new() });
    for items in [3, 2] {
        let settled = delivery.deliver(parcel(items), &queue);
        assert_eq!(settled.failed, items);
        assert_eq!(settled.error.map(|error| error.to_string()).as_deref(), Some("again"));
    }
    assert_eq!(delivery.attempts.asked, [3, 2]);
}

/// "works again" would not be true of a receiver that takes requests and nothing in them.
#[test]
fn a_request_of_which_all_is_rejected_is_no_success() {
    let rejects = |_: &Parcel| Answer::Taken { rejected: 3, words: "no".to_owned() };
    let queue = Queue::with([]);
    let (settled, _) = deliver([rejects as fn(&Parcel) -> Answer], &queue, parcel(3));
    assert_eq!((settled.exported, settled.rejected, *queue.delivered.borrow()), (0, 3, 0));
    let (settled, _) = deliver([rejects as fn(&Parcel) -> Answer], &queue, parcel(4));
    assert_eq!((settled.exported, settled.rejected, *queue.delivered.borrow()), (1, 3, 1));
    let collection = |points| {
        use opentelemetry_proto::tonic::{
            collector::metrics::v1::ExportMetricsServiceRequest, metrics::v1::*,
        };
        let data_points = vec![NumberDataPoint::default(); points];
        let data = metric::Data::Gauge(Gauge { data_points });
        let metrics = vec![Metric { data: Some(data), ..Metric::default() }];
        let scope_metrics = vec![ScopeMetrics { metrics, ..ScopeMetrics::default() }];
        let resource_metrics = vec![ResourceMetrics { scope_metrics, ..ResourceMetrics::default() }];
        let body = ExportMetricsServiceRequest { resource_metrics }.encode_to_vec().into();
        Parcel { signal: Signal::Metrics, body, items: 1, encoding: None }
    };
    let (settled, _) = deliver([rejects as fn(&Parcel) -> Answer], &queue, collection(3));
    assert_eq!((settled.exported, settled.rejected_points, *queue.delivered.borrow()), (0, 3, 1));
    let (settled, _) = deliver([rejects as fn(&Parcel) -> Answer], &queue, collection(4));
    assert_eq!((settled.exported, settled.rejected_points, *queue.delivered.borrow()), (1, 3, 2));
}
