//! The service `consumer`, against a broker that redelivers, over real sockets and signals.
#![cfg(unix)]

#[path = "../broker/broker.rs"]
mod broker;

use std::{
    collections::HashMap,
    io::Read,
    net::SocketAddr,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use axum::{Router, body::Bytes, extract::DefaultBodyLimit, routing::post};
use broker::{Broker, Message};
use opentelemetry_proto::tonic::{collector::trace::v1::ExportTraceServiceRequest, trace::v1::Span};
use prost::Message as _;

/// Much longer than anything takes here.
const PATIENCE: Duration = Duration::from_secs(60);
/// The limit of the service.
const AT_ONCE: usize = 16;

/// Receives spans over OTLP on a thread of its own; it ends with the process.
#[derive(Clone)]
struct Receiver {
    address: SocketAddr,
    spans: Arc<Mutex<Vec<Span>>>,
}

impl Receiver {
    fn start() -> Self {
        let spans = Arc::<Mutex<Vec<Span>>>::default();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.set_nonblocking(true).expect("a socket");
        let address = listener.local_addr().expect("bound");
        let received = spans.clone();
        let traces = async move |body: Bytes| {
            let request = ExportTraceServiceRequest::decode(body).expect("a request");
            let of_scopes = request.resource_spans.into_iter().flat_map(|spans| spans.scope_spans);
            received.lock().unwrap().extend(of_scopes.flat_map(|spans| spans.spans));
        };
        let router = Router::new()
            .route("/v1/traces", post(traces))
            .fallback(async || ())
            .layer(DefaultBodyLimit::disable());
        std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).expect("a runtime with io");
                axum::serve(listener, router).await
            })
        });
        Self { address, spans }
    }

    /// The runs that handle orders, by their trace.
    fn runs(&self) -> HashMap<String, Vec<Span>> {
        let mut runs: HashMap<_, Vec<_>> = HashMap::new();
        let is_run = |span: &&Span| {
            span.name == "task.run"
                && span.attributes.iter().any(|held| {
                    held.key == "task.name" && format!("{:?}", held.value).contains("handle_order")
                })
        };
        for run in self.spans.lock().unwrap().iter().filter(is_run) {
            runs.entry(hex(&run.trace_id)).or_default().push(run.clone());
        }
        runs
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The trace of an order's producer, and its span.
fn producer(order: usize) -> (String, String) {
    (format!("{:032x}", order + 0xabc000), format!("{:016x}", order + 0xdef000))
}

/// A broker with a producer that sends orders as long as few wait.
struct Shop {
    broker: Broker,
    handled: PathBuf,
    receiver: Receiver,
    stop: Arc<AtomicBool>,
    producer: Option<JoinHandle<()>>,
}

impl Shop {
    fn of(test: &str) -> Self {
        let broker = Broker::start("127.0.0.1:0").expect("a port");
        let handled = std::env::temp_dir().join(format!("consumer-{test}-{}", std::process::id()));
        let _ = std::fs::remove_file(&handled);
        let stop = Arc::new(AtomicBool::new(false));
        let (queue, stopped) = (broker.clone(), stop.clone());
        let produces = std::thread::spawn(move || {
            let mut orders = 0..;
            while !stopped.load(SeqCst) {
                if queue.messages().1.len() < 50 {
                    let order = orders.next().expect("more");
                    let (trace, span) = producer(order);
                    queue.publish(format!("00-{trace}-{span}-01"), format!("order {order}"));
                } else {
                    std::thread::sleep(Duration::from_millis(2));
                }
            }
        });
        Self { broker, handled, receiver: Receiver::start(), stop, producer: Some(produces) }
    }

    fn start(&self, settings: &[(&str, &str)]) -> Service {
        let mut command = Command::new(env!("CARGO_BIN_EXE_consumer"));
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy().into_owned();
            if ["OTEL_", "QUEUE_", "RUST_LOG", "TRACE"].iter().any(|prefix| name.starts_with(prefix)) {
                command.env_remove(name);
            }
        }
        command
            .env("QUEUE_BROKER", self.broker.address.to_string())
            .env("QUEUE_HANDLED", &self.handled)
            .env("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{}", self.receiver.address))
            // The runs' own spans are hidden from the log, and still exported.
            .env("RUST_LOG", "warn")
            .envs(settings.iter().copied());
        Service(command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("the service"))
    }

    fn acknowledged(&self) -> usize {
        self.broker.messages().0.iter().filter(|message| message.acknowledged > 0).count()
    }

    fn wait_for_another(&self, orders: usize) {
        let before = self.acknowledged();
        wait_for("orders", || self.acknowledged() >= before + orders);
    }

    /// Returns the number of times that each order was handled, as the service wrote it.
    fn handled(&self) -> HashMap<String, usize> {
        let mut handled = HashMap::new();
        for line in std::fs::read_to_string(&self.handled).expect("a file").lines() {
            *handled.entry(line.to_owned()).or_default() += 1;
        }
        handled
    }

    fn stop_producing(&mut self) {
        self.stop.store(true, SeqCst);
        if let Some(producer) = self.producer.take() {
            producer.join().expect("no panic");
        }
    }

    /// Nothing is in flight any more. Returns all messages, and whether each waits in the queue.
    fn at_rest(&self) -> Vec<(Message, bool)> {
        wait_for("closed connections", || self.broker.in_flight().0 == 0);
        let (messages, queued) = self.broker.messages();
        let waits = |at: usize| queued.contains(&at);
        messages.into_iter().enumerate().map(|(at, message)| (message, waits(at))).collect()
    }

    /// A service handles all that is left, and ends.
    fn drain(&mut self) {
        self.stop_producing();
        let service = self.start(&[("QUEUE_HANDLING_TAKES", "0.01")]);
        wait_for("an empty queue", || {
            self.broker.messages().0.iter().all(|message| message.acknowledged == 1)
        });
        service.signal("TERM");
        let (status, output) = service.end();
        assert_eq!(status.code(), Some(0), "{output}");
    }

    /// Each order that was handled in full has a run in its producer's trace, and below its span.
    #[track_caller]
    fn traces_go_on(&self, orders: impl Iterator<Item = usize>) {
        let runs = self.receiver.runs();
        let mut number = 0;
        for order in orders {
            let (trace, span) = producer(order);
            let of_order =
                runs.get(&trace).unwrap_or_else(|| panic!("order {order} has no run in its trace"));
            assert!(
                of_order.iter().all(|run| hex(&run.parent_span_id) == span),
                "order {order}: {of_order:#?}"
            );
            number += 1;
        }
        assert!(number > 0);
        assert!(runs.values().flatten().all(|run| !run.parent_span_id.is_empty()), "a run is a root");
    }
}

impl Drop for Shop {
    fn drop(&mut self) {
        self.stop_producing();
        let _ = std::fs::remove_file(&self.handled);
    }
}

/// The service in a process of its own.
struct Service(Child);

impl Service {
    fn signal(&self, signal: &str) {
        let pid = self.0.id().to_string();
        let sent = Command::new("sh").args(["-c", "kill -s \"$0\" \"$1\"", signal, &pid]).status();
        assert!(sent.expect("a shell").success());
    }

    /// Waits for the end: how it ended, and what the service printed.
    fn end(mut self) -> (ExitStatus, String) {
        let mut status = None;
        wait_for("the end of the service", || {
            status = self.0.try_wait().expect("a child");
            status.is_some()
        });
        let mut output = String::new();
        self.0.stdout.take().expect("its output").read_to_string(&mut output).expect("text");
        (status.expect("it has ended"), output)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[track_caller]
fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < PATIENCE, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Seen to fail if the message is taken before the room. Also seen to fail without `.parent(..)`, and with runs that `consumer` does not
/// own if it is no intake task.
#[test]
fn after_sigterm_under_load_each_order_was_handled_once_or_waits_in_the_queue() {
    let mut shop = Shop::of("load");
    let service = shop.start(&[("QUEUE_HANDLING_TAKES", "0.1")]);
    shop.wait_for_another(200);
    service.signal("TERM");
    let (status, output) = service.end();
    assert_eq!(status.code(), Some(0), "{output}");
    assert_eq!(shop.broker.in_flight().1, AT_ONCE, "the most that were in hand");
    let lines = output.lines().filter(|line| line.contains("handle_order")).collect::<Vec<_>>();
    assert!(!lines.is_empty() && lines.iter().all(|line| line.trim_start().starts_with("clean")), "{output}");

    let handled = shop.handled();
    let mut redelivered = 0;
    for (message, waits) in shop.at_rest() {
        let of_it = handled.get(&message.body).copied().unwrap_or(0);
        assert_eq!((of_it, message.acknowledged), if waits { (0, 0) } else { (1, 1) }, "{message:?}");
        assert_eq!(message.handed_back, 0, "it was refused: {message:?}");
        redelivered += usize::from(message.deliveries > 1 || message.deliveries == 1 && waits);
    }
    assert!(redelivered <= 1, "a message that arrived with the signal may go back unread: {redelivered}");
    shop.traces_go_on(handled.keys().map(|order| order["order ".len()..].parse().expect("a number")));
    let before = handled.len();

    shop.drain();
    assert!(shop.handled().len() > before);
    assert!(shop.handled().values().all(|times| *times == 1));
}

#[test]
fn a_second_sigterm_hands_back_at_once_what_is_in_hand() {
    let mut shop = Shop::of("twice");
    let service = shop.start(&[("QUEUE_HANDLING_TAKES", "1000")]);
    wait_for("orders in hand", || shop.broker.in_flight().0 == AT_ONCE);
    service.signal("TERM");
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(shop.broker.in_flight().0, AT_ONCE, "after the first they are still handled");
    let asked = Instant::now();
    service.signal("TERM");
    let (status, output) = service.end();
    assert!(asked.elapsed() < Duration::from_secs(7), "{output}");
    assert_eq!(status.code(), Some(1), "{output}");

    let messages = shop.at_rest();
    let handed_back: usize = messages.iter().map(|(message, _)| message.handed_back).sum();
    let delivered = messages.iter().filter(|(message, _)| message.deliveries == 1);
    assert_eq!((handed_back, delivered.count()), (AT_ONCE, AT_ONCE));
    assert!(messages.iter().all(|(message, waits)| *waits && message.acknowledged == 0));
    assert_eq!(shop.handled(), HashMap::new());
    // Their runs were exported as they ended: cancelled, in their producers' traces.
    shop.traces_go_on(0..AT_ONCE);

    shop.drain();
    assert!(shop.handled().values().all(|times| *times == 1));
    assert_eq!(shop.handled().len(), shop.broker.messages().0.len());
}

#[test]
fn after_kill_9_what_was_in_hand_is_delivered_again() {
    let mut shop = Shop::of("killed");
    let service = shop.start(&[("QUEUE_HANDLING_TAKES", "0.1")]);
    shop.wait_for_another(100);
    service.signal("KILL");
    assert_eq!(service.end().0.code(), None);
    let handled = shop.handled();
    let messages = shop.at_rest();
    let delivered = messages.iter().filter(|(message, _)| message.deliveries > 0);
    let in_hand: Vec<_> =
        delivered.filter(|(_, waits)| *waits).map(|(message, _)| message.body.clone()).collect();
    assert!((1..=AT_ONCE).contains(&in_hand.len()), "{in_hand:?}");
    for (message, waits) in &messages {
        // Those in hand may have been handled and not acknowledged; no other was handled without that.
        let of_it = handled.get(&message.body).copied().unwrap_or(0);
        let may_be =
            if in_hand.contains(&message.body) { 0..=1 } else { message.acknowledged..=message.acknowledged };
        assert!(may_be.contains(&of_it) && message.acknowledged == usize::from(!waits), "{message:?}");
    }

    shop.drain();
    let (handled, messages) = (shop.handled(), shop.broker.messages().0);
    assert_eq!(handled.len(), messages.len(), "each was handled");
    for (order, times) in handled {
        assert!(times == 1 || times == 2 && in_hand.contains(&order), "{order} was handled {times} times");
    }
    let number = |order: &String| order["order ".len()..].parse().expect("a number");
    shop.traces_go_on(in_hand.iter().map(number));
}
