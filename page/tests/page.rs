//! The page over real sockets: what each path answers, who is refused, and that it costs nothing while nobody looks.

mod support;

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use opentelemetry::{
    Context,
    metrics::MeterProvider,
    trace::{TraceContextExt, TracerProvider},
};
use opentelemetry_sdk::{metrics::SdkMeterProvider, trace::SdkTracerProvider};
use otel_tasks::{
    Backoff, CriticalTaskConfig, RestartPolicy, TaskManager,
    gate::{BootInstant, BoxFuture, Gate, Grant},
    policy::{Escalation, StallAction},
};
use otel_tasks_page::{Feed, Page, PageServer};
use serde_json::{Value, json};
use support::{ANY, TOKEN, ask, eventually, get, open_metrics, secs, waits};

/// A page's stream of events, read on a thread of its own.
fn stream(page: &PageServer) -> mpsc::Receiver<(String, Value)> {
    let (tell, told) = mpsc::channel();
    let mut stream = open_stream(page.address());
    std::thread::spawn(move || {
        let (mut text, mut buffer) = (String::new(), [0; 65_536]);
        while let Ok(read @ 1..) = stream.read(&mut buffer) {
            text.push_str(&String::from_utf8_lossy(&buffer[..read]));
            while let Some(end) = text.find("\n\n") {
                let message: String = text.drain(..end + 2).collect();
                let line = |name: &str| {
                    message.lines().find_map(|line| line.split_once(name).map(|(_, rest)| rest.to_owned()))
                };
                if let (Some(event), Some(data)) = (line("event: "), line("data: ")) {
                    // A chunk's size may stand between; what is no JSON is not told.
                    let Ok(data) = serde_json::from_str(&data) else { continue };
                    if tell.send((event, data)).is_err() {
                        return;
                    }
                }
            }
        }
    });
    told
}

fn open_stream(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("it listens");
    // HTTP/1.0, so that the answer is not chunked.
    let request = format!("GET /events HTTP/1.0\r\nHost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("sent");
    stream
}

fn next(told: &mpsc::Receiver<(String, Value)>) -> (String, Value) {
    told.recv_timeout(secs(20)).expect("it is told")
}

fn finishes(name: &str) -> CriticalTaskConfig {
    CriticalTaskConfig::new(name, |_| async {}).restart_policy(RestartPolicy::OnFailure)
}

fn gives_up(name: &str) -> CriticalTaskConfig {
    CriticalTaskConfig::new(name, |_| async { Err::<(), _>("out of order") })
        .restart_policy(RestartPolicy::Never)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readiness_names_the_drain_for_which_it_fails() {
    let tasks = TaskManager::new();
    tasks.register(waits("gateway")).expect("registered");
    tasks.start();
    let page = Page::new(&tasks).serve(ANY).expect("served");
    eventually("it is ready", || get(&page, "/health/ready").status == 200).await;
    let draining = tokio::spawn({
        let tasks = tasks.clone();
        async move { tasks.shutdown_after(secs(20)).await }
    });
    eventually("it drains", || get(&page, "/health/ready").status == 503).await;
    assert_eq!(get(&page, "/health/ready").json()["reasons"], json!(["draining"]));
    let live = get(&page, "/health/live");
    assert_eq!((live.status, &live.json()["reasons"]), (200, &json!([])));
    let failing = &get(&page, "/tasks").json()["summary"]["failing"];
    assert_eq!((&failing[0]["probe"], &failing[0]["reasons"]), (&"readiness".into(), &json!(["draining"])));
    tasks.shutdown_now().await;
    draining.await.expect("no panic");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probes_follow_kubernetes() {
    let tasks = TaskManager::new();
    tasks.register(waits("gateway")).expect("registered");
    let page = Page::new(&tasks).serve(ANY).expect("served");
    assert_eq!(get(&page, "/health/live").status, 200);
    let startup = get(&page, "/health/startup");
    assert_eq!(startup.status, 503, "{}", startup.body);
    assert_eq!(startup.json()["tasks"][0]["name"], "gateway");
    tasks.start();
    eventually("it shows", || get(&page, "/health/startup").status == 200).await;
    let ready = get(&page, "/health/ready");
    assert_eq!((ready.status, &ready.json()["status"]), (200, &Value::from("pass")));

    tasks.register(gives_up("broken")).expect("registered");
    eventually("it shows", || get(&page, "/health/live").status == 503).await;
    let live = get(&page, "/health/live").json();
    assert_eq!(live["tasks"][0]["name"], "broken");
    assert_eq!(live["tasks"][0]["reasons"][0], "failed");
    assert_eq!(live["tasks"].as_array().map(Vec::len), Some(1), "the others are well");

    tasks.register(finishes("migration")).expect("registered");
    eventually("it shows", || get(&page, "/tasks/migration").json()["state"] == "finished").await;
    let ready = get(&page, "/health/ready");
    let expected = json!({
        "status": "fail", "reasons": [], "runtime_stalled": false, "blocked": [],
        "tasks": [{ "name": "broken", "state": "failed", "reasons": ["failed"] }],
    });
    assert_eq!((ready.status, ready.json()), (503, expected), "what is well finished is ready");
    let summary = &get(&page, "/tasks").json()["summary"];
    assert_eq!((&summary["registered"], &summary["unhealthy"]), (&3.into(), &1.into()));
    tasks.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_is_shown_with_its_history_events_settings_and_traces() {
    let feed = Feed::default();
    let traces = SdkTracerProvider::builder().with_span_processor(feed.span_processor()).build();
    let tasks = TaskManager::builder().tracer(traces.tracer("test")).build().unwrap();
    let page = Page::new(&tasks).feed(&feed).serve(ANY).expect("served");
    tasks.register(waits("gateway")).expect("registered");
    tasks.start();
    eventually("it is ready", || get(&page, "/health/ready").status == 200).await;
    let broken = gives_up("broken")
        .component("demo")
        .depends_on("gateway")
        .max_restarts(7, secs(600))
        .backoff(Backoff::new(Duration::from_millis(1_500), 2.0, secs(5)).expect("valid"))
        .health_check_interval(secs(11))
        .heartbeat_timeout(secs(12))
        .run_timeout(secs(13))
        .poll_timeout(secs(15))
        .on_stall(StallAction::Escalate)
        .escalation(Escalation::Group)
        .shutdown_grace(secs(16));
    tasks.register(broken).expect("registered");
    eventually("it shows", || get(&page, "/tasks/broken").json()["state"] == "failed").await;

    let broken = get(&page, "/tasks/broken").json();
    assert_eq!((&broken["runs"], &broken["errors"]), (&1.into(), &1.into()));
    assert_eq!(broken["component"], "demo");
    assert_eq!(broken["last_error"], "out of order");
    assert_eq!(broken["history"][0]["result"], "failure");
    assert_eq!(broken["depends_on"], json!(["gateway"]));
    let settings = json!({
        "restart": "Never", "max_restarts": 7, "restart_window_seconds": 600.0,
        "restart_delay_seconds": 1.5, "restart_delay_cap_seconds": 5.0,
        "health_check_interval_seconds": 11.0, "heartbeat_timeout_seconds": 12.0,
        "run_timeout_seconds": 13.0, "start_timeout_seconds": null, "poll_timeout_seconds": 15.0,
        "on_stall": "Escalate", "escalation": "Group", "shutdown_grace_seconds": 16.0,
    });
    assert_eq!(broken["settings"], settings);
    let kinds: Vec<_> =
        broken["events"].as_array().expect("events").iter().map(|event| event["kind"].clone()).collect();
    assert_eq!(kinds, ["registered", "started", "ready", "exited", "gave_up"]);
    let trace = &broken["traces"][0];
    assert_eq!(trace["trace_id"], broken["last_error_trace"]);
    assert_eq!((&trace["is_error"], &trace["spans"][0]["name"]), (&true.into(), &"task.run".into()));
    let runs: u64 = broken["durations"]
        .as_array()
        .expect("buckets")
        .iter()
        .filter_map(|bucket| bucket["runs"].as_u64())
        .sum();
    assert_eq!(runs, 1);

    let gateway = get(&page, "/tasks/gateway").json();
    assert_eq!(gateway["traces"][0]["seconds"], Value::Null, "it runs");
    assert_eq!(get(&page, "/tasks/nobody").status, 404);
    tasks.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_client_receives_everything_and_then_the_changes() {
    let tasks = TaskManager::new();
    tasks.register(waits("gateway")).expect("registered");
    tasks.start();
    let page = Page::new(&tasks).serve(ANY).expect("served");
    let told = stream(&page);
    let (event, all) = next(&told);
    assert_eq!((&*event, all["rows"].as_array().map(Vec::len)), ("all", Some(1)));
    tasks.spawn("command", async {}).await.expect("it runs");
    let (event, delta) = next(&told);
    assert_eq!(event, "delta");
    let names: Vec<_> =
        delta["rows"].as_array().expect("rows").iter().map(|row| row["name"].clone()).collect();
    assert_eq!(names, ["command"], "only what has changed");
    tasks.stop("gateway").expect("registered");
    // Whoever asks for the task meanwhile takes no event from those that are told.
    eventually("it has stopped", || get(&page, "/tasks/gateway").json()["state"] == "stopped").await;
    let mut kinds = Vec::new();
    loop {
        let (_, delta) = next(&told);
        let events = delta["events"].as_array().cloned().unwrap_or_default();
        kinds.extend(events.into_iter().map(|event| event["kind"].clone()));
        let rows = delta["rows"].as_array().cloned().unwrap_or_default();
        if rows.iter().any(|row| row["state"] == "stopped") {
            break;
        }
    }
    assert_eq!(kinds, ["exited", "stopped"], "each once");
    let report = tasks.shutdown().await;
    let line = report.to_string().lines().next().expect("a line").to_owned();
    loop {
        let (_, delta) = next(&told);
        if delta["summary"]["report"][0] == line {
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn first_message_matches_the_json_paths() {
    let tasks = TaskManager::new();
    let page = Page::new(&tasks).serve(ANY).expect("served");
    tasks.register_all([finishes("migration"), waits("gateway")]).expect("registered");
    tasks.start();
    eventually("they are ready", || get(&page, "/health/ready").status == 200).await;
    let told = || get(&page, "/events/recent").json()["events"].as_array().map(Vec::len);
    eventually("it is told", || told() == Some(8)).await;
    let (event, all) = next(&stream(&page));
    let listed = get(&page, "/tasks").json();
    assert_eq!((&*event, &all["summary"], &all["rows"]), ("all", &listed["summary"], &listed["tasks"]));
    let recent = get(&page, "/events/recent").json();
    assert_eq!(recent, json!({ "events": all["events"], "missed": 0 }));
    let of = |name: &str| -> Vec<_> {
        let events = recent["events"].as_array().expect("events").iter();
        events.filter(|event| event["task"] == name).map(|event| event["kind"].clone()).collect()
    };
    assert_eq!(of("migration"), ["registered", "started", "ready", "exited", "finished"]);
    assert_eq!(of("gateway"), ["registered", "started", "ready"]);
    tasks.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_are_limited_and_given_back() {
    let tasks = TaskManager::new();
    let page = Page::new(&tasks).streams(2).serve(ANY).expect("served");
    let held: Vec<_> = (0..2).map(|_| stream(&page)).collect();
    held.iter().for_each(|told| assert_eq!(next(told).0, "all"));
    let refused = get(&page, "/events");
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("10")));
    drop(open_stream(page.address()));
    assert_eq!(get(&page, "/health/live").status, 200, "the rest answers");
    drop(held);
    // Its reader ends with the next delta, and the connection with it.
    eventually("a stream is given back", || {
        drop(tasks.spawn("command", async {}));
        let mut again = open_stream(page.address());
        let mut head = [0; 12];
        again.read_exact(&mut head).expect("an answer");
        head.ends_with(b"200")
    })
    .await;
}

#[test]
fn page_names_the_blocker_while_every_worker_is_blocked() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let (tasks, page) = runtime.block_on(async {
        let tasks = TaskManager::builder().runtime_stall(Duration::from_millis(500)).build().unwrap();
        let page = Page::new(&tasks).serve(ANY).expect("served");
        (tasks, page)
    });
    let told = stream(&page);
    assert_eq!(next(&told).0, "all");
    let _inside = runtime.enter();
    for _ in 0..2 {
        drop(tasks.spawn("blocker", async { std::thread::sleep(secs(4)) }));
    }
    let deadline = Instant::now() + secs(4);
    let mut slowest = Duration::ZERO;
    let mut named = false;
    while Instant::now() < deadline && !named {
        let asked = Instant::now();
        let live = get(&page, "/health/live");
        slowest = slowest.max(asked.elapsed());
        let live_json = live.json();
        named = live.status == 503
            && live_json["runtime_stalled"] == true
            && live_json["blocked"][0]["task"] == "blocker";
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(named, "the blocker is named while it blocks");
    assert!(slowest < secs(1), "100 ms are promised: {slowest:?}");
    loop {
        let (_, delta) = next(&told);
        if delta["summary"]["blocked"][0]["task"] == "blocker" {
            break;
        }
    }
    let events = get(&page, "/events/recent").json()["events"].clone();
    let detail_of = |kind: &str| {
        let event = events.as_array().expect("events").iter().find(|event| event["kind"] == kind);
        event.and_then(|event| event["detail"].as_str()).unwrap_or_default().to_owned()
    };
    assert!(detail_of("runtime_stalled").ends_with("ms, by blocker"), "{events}");
    assert!(detail_of("slow_poll").contains(", for "), "{events}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_hosts_are_refused_and_a_browser_may_do_little() {
    let tasks = TaskManager::new();
    let page = Page::new(&tasks).allow_host("tasks.example.com").serve(ANY).expect("served");
    for (host, status) in [
        ("evil.example", 403),
        ("tasks.example.com", 200),
        ("localhost:1", 200),
        ("[::1]", 200),
        ("127.0.0.1.evil.example", 403),
    ] {
        for path in ["/", "/tasks", "/events/recent", "/health/live", "/health/other", "/metrics", "/nothing"]
        {
            let answer = ask(page.address(), "GET", path, &[("Host", host)]);
            let expected = match path {
                "/health/live" => 200,
                // The page has no feed: there is nothing to read, for nobody.
                "/metrics" => 404,
                "/nothing" | "/health/other" if status == 200 => 404,
                _ => status,
            };
            assert_eq!(answer.status, expected, "{host} {path}");
            let policy = answer.header("content-security-policy").expect("a policy");
            assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
            assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        }
    }
    let html = get(&page, "/").body;
    assert!(
        !html.contains("<style") && !html.contains(" style=") && !html.contains(" onclick"),
        "no inline code"
    );
    assert!(!html.contains("http://") && !html.contains("https://"), "no external resource");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn page_can_be_nested_in_a_service() {
    let tasks = TaskManager::new();
    #[derive(Clone)]
    struct Service;
    let service = axum::Router::new().merge(Page::new(&tasks).nested("/admin/tasks")).with_state(Service);
    let listener = tokio::net::TcpListener::bind(ANY).await.expect("bound");
    let address = listener.local_addr().expect("an address");
    let served = tokio::spawn(async move {
        let http = hyper_util::server::conn::auto::Builder::new(hyper_util::rt::TokioExecutor::new());
        for _ in 0..3 {
            let (stream, _) = listener.accept().await.expect("a client");
            let service = hyper_util::service::TowerToHyperService::new(service.clone());
            let _ = http.serve_connection(hyper_util::rt::TokioIo::new(stream), service).await;
        }
    });
    let ask = |path| tokio::task::spawn_blocking(move || ask(address, "GET", path, &[]));
    let page = ask("/admin/tasks").await.expect("asked");
    assert!(
        page.body.contains("src=\"./tasks/assets/app.js\""),
        "relative to the folder above: {}",
        page.body
    );
    let slash = ask("/admin/tasks/").await.expect("asked");
    assert!(
        slash.status == 200 && slash.body.contains("src=\"./assets/app.js\""),
        "{}: {}",
        slash.status,
        slash.body
    );
    let script = ask("/admin/tasks/assets/app.js").await.expect("asked");
    assert_eq!((script.status, script.header("content-type")), (200, Some("text/javascript; charset=utf-8")));
    served.await.expect("served");
}

/// Fails if the streams of a nested page end with the manager only: then the server waits for them, and the task for its grace.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_of_a_nested_page_do_not_hold_up_a_server_that_is_an_intake_task() {
    let tasks = TaskManager::new();
    let listener = std::net::TcpListener::bind(ANY).expect("bound");
    listener.set_nonblocking(true).expect("a socket");
    let address = listener.local_addr().expect("an address");
    let router = Page::new(&tasks).router();
    let server = CriticalTaskConfig::new("http", move |ctx| {
        let (listener, router) = (listener.try_clone(), axum::Router::new().nest("/ops", router.clone()));
        async move {
            let http = hyper_util::server::conn::auto::Builder::new(hyper_util::rt::TokioExecutor::new());
            let listener = tokio::net::TcpListener::from_std(listener?)?;
            let (stream, _) = listener.accept().await?;
            let service = hyper_util::service::TowerToHyperService::new(router);
            let connection = http.serve_connection(hyper_util::rt::TokioIo::new(stream), service);
            tokio::pin!(connection);
            tokio::select! {
                _ = &mut connection => {}
                () = ctx.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    let _ = connection.await;
                }
            }
            std::io::Result::Ok(())
        }
    });
    tasks.register(server.intake().shutdown_grace(Duration::from_secs(20))).expect("registered");
    tasks.start();
    let mut client = std::net::TcpStream::connect(address).expect("connected");
    client.write_all(b"GET /ops/events HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("sent");
    let mut answer = [0; 64];
    let answered = tokio::task::spawn_blocking(move || client.read(&mut answer).map(|_| client)).await;
    let client = answered.expect("asked").expect("a stream");
    let report = tasks.shutdown().await;
    assert!(report.is_clean() && report.duration < Duration::from_secs(10), "{report}");
    drop(client);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_metric_formats_show_the_measured_values() {
    let feed = Feed::default();
    let meters = feed.read_metrics(SdkMeterProvider::builder()).build();
    let tasks = TaskManager::builder().meter(meters.meter("test")).build().unwrap();
    let page = Page::new(&tasks).feed(&feed).serve(ANY).expect("served");
    for run in 0..7 {
        let _ = tasks.spawn("command", async move { if run == 0 { Err("bad") } else { Ok(()) } }).await;
    }
    let plain = get(&page, "/metrics");
    assert_eq!(plain.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    let open =
        ask(page.address(), "GET", "/metrics", &[("Accept", "application/openmetrics-text; version=1.0.0")]);
    assert!(
        open.header("content-type")
            .is_some_and(|kind| kind.starts_with("application/openmetrics-text; version=1.0.0"))
    );
    assert!(open.body.ends_with("# EOF\n"));
    for text in [&plain.body, &open.body] {
        let value = |start: &str, label: &str| -> Vec<f64> {
            let lines = text.lines().filter(|line| line.starts_with(start) && line.contains(label));
            lines.map(|line| line.rsplit_once(' ').expect("a value").1.parse().expect("a number")).collect()
        };
        assert_eq!(value("task_runs_total{", "task_run_result=\"success\""), [6.0], "{text}");
        assert_eq!(value("task_runs_total{", "task_run_result=\"failure\""), [1.0], "{text}");
        assert_eq!(
            value("task_run_duration_seconds_bucket{", "le=\"+Inf\"").iter().sum::<f64>(),
            7.0,
            "{text}"
        );
        assert_eq!(value("task_run_duration_seconds_count{", "").iter().sum::<f64>(), 7.0, "{text}");
    }
    let families = open_metrics::parse(&open.body).expect("valid OpenMetrics");
    assert!(families.values().flat_map(|family| &family.samples).all(|sample| sample.exemplar.is_none()));
    let without = Page::new(&tasks).serve(ANY).expect("served");
    assert_eq!(get(&without, "/metrics").status, 404);
}

/// How long `/metrics` is one answer for all, and a little.
const SHARED: Duration = Duration::from_millis(1_050);

/// The trace ids of the exemplars, by the result of their runs, after each of them was found in the bucket of its value.
fn exemplars(page: &PageServer) -> BTreeMap<String, Vec<String>> {
    let accept = [("Accept", "application/openmetrics-text")];
    let text = ask(page.address(), "GET", "/metrics", &accept).body;
    let families = open_metrics::parse(&text).unwrap_or_else(|why| panic!("{why}"));
    let mut found = BTreeMap::<_, Vec<_>>::new();
    for (name, family) in &families {
        for sample in &family.samples {
            let Some(exemplar) = &sample.exemplar else { continue };
            assert_eq!((&**name, &*sample.suffix), ("task_run_duration_seconds", "_bucket"));
            assert!(exemplar.at.is_some_and(|at| at > 1e9) && exemplar.labels["span_id"].len() == 16);
            let result = sample.labels["task_run_result"].clone();
            found.entry(result).or_default().push(exemplar.labels["trace_id"].clone());
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn open_metrics_has_the_traces_of_the_last_failed_and_the_slowest_run() {
    let feed = Feed::default();
    let meters = feed.read_metrics(SdkMeterProvider::builder()).build();
    let traces = SdkTracerProvider::builder().with_span_processor(feed.span_processor()).build();
    let tasks = TaskManager::builder().meter(meters.meter("test")).tracer(traces.tracer("test"));
    let tasks = tasks.build().expect("valid");
    let page = Page::new(&tasks).feed(&feed).serve(ANY).expect("served");
    let run = async |fails: bool, millis: u64| {
        let work = async move {
            let trace = Context::current().span().span_context().trace_id().to_string();
            tokio::time::sleep(Duration::from_millis(millis)).await;
            if fails { Err(trace) } else { Ok(trace) }
        };
        match tasks.spawn("command", work).await.expect("it ran") {
            Ok(trace) | Err(trace) => trace,
        }
    };
    run(false, 1).await;
    assert_eq!(exemplars(&page), BTreeMap::new(), "nobody has asked before");
    // In the bucket from 0.1 s to 0.25 s, however slow the machine is.
    let slowest = run(false, 150).await;
    run(false, 110).await;
    run(true, 110).await;
    let last = run(true, 110).await;
    let expected = [("failure", vec![last]), ("success", vec![slowest])];
    tokio::time::sleep(SHARED).await;
    assert_eq!(exemplars(&page), expected.map(|(result, traces)| (result.to_owned(), traces)).into());
    assert!(!get(&page, "/metrics").body.contains(" # "), "plain text has no exemplars");
    let again = run(true, 1).await;
    assert!(!exemplars(&page)["failure"].contains(&again), "what was encoded is shared for a second");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_feed_reads_the_newest_meter_provider() {
    let feed = Feed::default();
    let tasks = TaskManager::new();
    let page = Page::new(&tasks).feed(&feed).serve(ANY).expect("served");
    let early = get(&page, "/metrics");
    assert_eq!(early.status, 404, "no provider yet: {}", early.body);
    assert_eq!(get(&page, "/tasks").json()["summary"]["traces"], false, "nor a tracer");
    let providers = ["old", "new"].map(|name| {
        let provider = feed.read_metrics(SdkMeterProvider::builder()).build();
        provider.meter("test").u64_counter(name).build().add(1, &[]);
        provider
    });
    let metrics = get(&page, "/metrics").body;
    assert!(metrics.contains("new_total{") && !metrics.contains("old_total{"), "{metrics}");
    drop(providers);
}

#[cfg(feature = "otlp")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_feed_is_a_part_of_the_telemetry() {
    let feed = Feed::default();
    let telemetry = otel_tasks::Telemetry::builder()
        .export_if_configured()
        .env(|_| None)
        .with(&feed)
        .build()
        .expect("built");
    let tasks =
        TaskManager::builder().meter(telemetry.meter()).tracer(telemetry.tracer()).build().expect("valid");
    let page = Page::new(&tasks).feed(&feed).serve(ANY).expect("served");
    tasks.spawn("command", async {}).await.expect("it runs");
    let metrics = get(&page, "/metrics").body;
    assert!(metrics.contains("task_runs_total{"), "{metrics}");
    let command = get(&page, "/tasks/command").json();
    assert_eq!(command["traces"].as_array().map(Vec::len), Some(1), "{command}");
    telemetry.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_and_errors_are_data() {
    let tasks = TaskManager::new();
    let page = Page::new(&tasks).serve(ANY).expect("served");
    let hostile = "<img src=x onerror=alert(1)>\u{202e}🦀/..%2f?#\"&'";
    let failed = tasks.spawn(hostile, async { Err::<(), _>("<script>alert(1)</script>\n\u{0}") }).await;
    assert!(failed.is_err() || failed.is_ok(), "it ran");
    eventually("it shows", || get(&page, "/tasks").json()["tasks"][0]["runs"] == 1).await;
    let answer = get(&page, "/tasks");
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let name = answer.json()["tasks"][0]["name"].as_str().expect("a name").to_owned();
    assert_eq!(answer.json()["tasks"][0]["last_error"], "<script>alert(1)</script>\n\u{0}");
    let path: String = name.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let task = get(&page, &format!("/tasks/{path}"));
    assert_eq!((task.status, &task.json()["name"]), (200, &Value::from(name)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_keeps_no_manager_alive() {
    let tasks = TaskManager::builder().spawn_grace(Duration::ZERO).build().unwrap();
    let page = Page::new(&tasks).serve(ANY).expect("served");
    let alive = Arc::new(());
    let guard = alive.clone();
    drop(tasks.spawn("waits", async move {
        let _guard = guard;
        std::future::pending::<()>().await;
    }));
    drop(tasks);
    eventually("it shows", || Arc::strong_count(&alive) == 1).await;
    for path in ["/tasks", "/health/live", "/tasks/waits"] {
        let answer = get(&page, path);
        assert_eq!(
            (answer.status, answer.json()),
            (503, json!({ "error": "the manager is gone" })),
            "{path}"
        );
    }
    assert_eq!(get(&page, "/").status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nonsense_is_survived() {
    let tasks = TaskManager::new();
    let page = Page::new(&tasks).token(TOKEN).serve(ANY).expect("served");
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let beginnings = [
        "",
        "GET / HTTP/1.1\r\n",
        "POST /tasks/a/stop HTTP/1.1\r\nHost: localhost\r\n",
        "GET /tasks/%",
        "PRI * HTTP/2.0\r\n\r\n",
    ];
    for round in 0..200 {
        let mut stream = TcpStream::connect(page.address()).expect("it listens");
        let mut bytes = beginnings[round % beginnings.len()].as_bytes().to_vec();
        bytes.extend((0..random() % 300).map(|_| random() as u8));
        // It may have closed the connection already.
        let _ = stream.write_all(&bytes).and_then(|()| stream.write_all(b"\r\n\r\n"));
    }
    // What the document allows, with what it does not.
    eventually("a place is free", || get(&page, "/openapi.json").status == 200).await;
    let document = get(&page, "/openapi.json").json();
    let paths: Vec<_> =
        document["paths"].as_object().expect("paths").keys().filter(|path| *path != "/events").collect();
    for round in 0..300 {
        let mut part =
            || -> String { (0..random() % 40).map(|_| format!("%{:02x}", random() as u8)).collect() };
        let path = paths[round % paths.len()].replace("{name}", &part()).replace("{action}", &part());
        let method = ["GET", "POST", "PUT", "DELETE", "OPTIONS"][round % 5];
        let answer =
            ask(page.address(), method, &path, &[("Authorization", "Bearer x"), ("Accept", &part())]);
        assert!(
            (200..504).contains(&answer.status) && answer.status != 500,
            "{method} {path}: {}",
            answer.status
        );
    }
    let mut large = TcpStream::connect(page.address()).expect("it listens");
    let _ = large.write_all(
        format!("GET / HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "a".repeat(200_000)).as_bytes(),
    );
    let mut answer = String::new();
    let _ = large.read_to_string(&mut answer);
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
    assert_eq!(get(&page, "/health/live").status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_a_request_is_not_waited_for_long() {
    let tasks = TaskManager::new();
    let page = Page::new(&tasks).serve(ANY).expect("served");
    let mut stream = TcpStream::connect(page.address()).expect("it listens");
    // Ten seconds are promised; hyper's own patience is thirty.
    stream.set_read_timeout(Some(secs(20))).expect("a timeout");
    stream.write_all(b"GET / HTTP/1.1\r\nHost: local").expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it is closed, not left open");
    assert!(!answer.contains("200 OK"), "{answer}");
}

/// A gate that lets in at once.
struct Open;

impl Gate for Open {
    fn name(&self) -> &str {
        "orders"
    }

    fn enter(&self) -> BoxFuture<'_, Grant> {
        let until = BootInstant::now().saturating_add(secs(60));
        Box::pin(async move { Grant::new(1, until, secs(5)).0 })
    }
}

/// Each documented path answers what the document says, and nothing that it does not name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openapi_document_matches_the_responses() {
    let tasks = TaskManager::new();
    tasks.register(gives_up("broken").gate(Open)).expect("registered");
    tasks.start();
    let feed = Feed::default();
    let page = Page::new(&tasks).feed(&feed).token(TOKEN).serve(ANY).expect("served");
    eventually("it shows", || get(&page, "/tasks/broken").json()["state"] == "failed").await;
    assert_eq!(get(&page, "/tasks/broken").json()["gate"]["name"], "orders");
    let document = get(&page, "/openapi.json").json();
    assert_eq!(document["openapi"], "3.1.0");
    let schemes = json!({ "token": { "type": "http", "scheme": "bearer" } });
    assert_eq!(document["components"]["securitySchemes"], schemes);
    let control = &document["paths"]["/tasks/{name}/{action}"]["post"];
    assert_eq!(control["security"], json!([{ "token": [] }]));
    let paths = document["paths"].as_object().expect("paths");
    assert_eq!(paths.len(), 11, "{:?}", paths.keys());
    for (path, methods) in paths {
        for (method, operation) in methods.as_object().expect("methods") {
            if path == "/events" {
                continue;
            }
            let asked = path.replace("{name}", "broken").replace("{action}", "pause");
            let answer = ask(page.address(), &method.to_uppercase(), &asked, &[]);
            let documented = &operation["responses"][answer.status.to_string()];
            assert!(documented.is_object(), "{method} {path} answers {}", answer.status);
            let schema = &documented["content"]["application/json"]["schema"];
            if schema.is_object() {
                check(&document, schema, &answer.json(), path);
            }
        }
    }
}

fn check(document: &Value, schema: &Value, value: &Value, place: &str) {
    if let Some(name) = schema["$ref"].as_str() {
        let name = name.rsplit('/').next().expect("a name");
        return check(document, &document["components"]["schemas"][name], value, place);
    }
    if let Some(parts) = schema["allOf"].as_array() {
        let part_of = |part: &Value| match part["$ref"].as_str() {
            Some(name) => document["components"]["schemas"][name.rsplit('/').next().expect("a name")].clone(),
            None => part.clone(),
        };
        let mut properties = serde_json::Map::new();
        for part in parts {
            properties.extend(part_of(part)["properties"].as_object().expect("properties").clone());
        }
        return check(document, &serde_json::json!({ "properties": properties }), value, place);
    }
    if let Some(choices) = schema["oneOf"].as_array().filter(|_| !value.is_null()) {
        let choice = choices.iter().find(|choice| choice["type"] != "null").expect("a choice");
        return check(document, choice, value, place);
    }
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                // A map names what its values are, not its keys.
                let property = match &schema["additionalProperties"] {
                    values if values.is_object() => values,
                    _ => &schema["properties"][name],
                };
                assert!(property.is_object(), "{place}: {name} is not in the document");
                check(document, property, value, &format!("{place} {name}"));
            }
        }
        Value::Array(values) => {
            values.iter().for_each(|value| check(document, &schema["items"], value, place))
        }
        Value::Null => {
            let optional = schema.to_string().contains("null");
            assert!(optional, "{place}: null is not in the document: {schema}");
        }
        _ => {}
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_counts_minutes_and_shows_the_schedule_and_the_runtime() {
    let tasks = TaskManager::new();
    let page = Page::new(&tasks).serve(ANY).expect("served");
    let sweep = otel_tasks::TaskLoop::every(Duration::from_secs(3_600), |_| async { Err::<(), _>("lost") });
    tasks.register(CriticalTaskConfig::from_loop("sweep", sweep)).expect("registered");
    tasks.start();
    tasks.spawn("command", async {}).await.expect("it runs");
    let row = |name: &str| {
        let listed = get(&page, "/tasks").json();
        listed["tasks"]
            .as_array()
            .expect("a list")
            .iter()
            .find(|row| row["name"] == name)
            .cloned()
            .expect("a row")
    };
    assert_eq!(row("command")["minutes"]["runs"][59], 1);
    assert_eq!(row("command")["minutes"]["errors"].as_array().map(Vec::len), Some(60));
    let schedule = get(&page, "/schedule").json();
    assert_eq!(
        (&schedule["tasks"][0]["name"], &schedule["tasks"][0]["schedule"]),
        (&json!("sweep"), &json!("every 1h"))
    );
    let runtime = get(&page, "/runtime").json();
    assert_eq!((&runtime["workers"], &runtime["stalled"]), (&json!(2), &json!(false)));
    assert!(runtime["busy_ratio"].as_f64().is_some_and(|ratio| (0.0..=1.0).contains(&ratio)), "{runtime}");
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_token_delays_its_own_address_alone() {
    use std::{
        io::{Read, Write},
        net::{IpAddr, SocketAddr},
    };
    let tasks = TaskManager::new();
    tasks.register(waits("gateway")).expect("registered");
    tasks.start();
    let page = Page::new(&tasks).token(TOKEN).serve(ANY).expect("served");
    let address = page.address();
    let restart = move |from: [u8; 4], token: &str| {
        let socket =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        socket.bind(&SocketAddr::from((IpAddr::from(from), 0)).into()).expect("an address of this machine");
        socket.connect(&address.into()).expect("it listens");
        let mut stream = std::net::TcpStream::from(socket);
        let head = "POST /tasks/gateway/restart HTTP/1.1\r\nHost: localhost\r\nConnection: close";
        write!(stream, "{head}\r\nAuthorization: Bearer {token}\r\n\r\n").expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        answer.split(' ').nth(1).map(str::to_owned).expect("a status")
    };
    let attackers: Vec<_> =
        (0..20).map(|_| std::thread::spawn(move || restart([127, 0, 0, 2], "wrong"))).collect();
    std::thread::sleep(Duration::from_millis(200));
    // Two of the others share a turn with the attackers only in one of 65,536 processes.
    let began = Instant::now();
    let others = [3, 4].map(|last| std::thread::spawn(move || restart([127, 0, 0, last], TOKEN)));
    let first = others.map(|other| (other.join().expect("answered"), began.elapsed()));
    assert!(first.iter().any(|(status, time)| status == "202" && *time < secs(1)), "{first:?}");
    let statuses: Vec<_> = attackers.into_iter().map(|attacker| attacker.join().expect("answered")).collect();
    let of = |status: &str| statuses.iter().filter(|given| *given == status).count();
    assert_eq!((of("401"), of("429")), (8, 12), "{statuses:?}");
    assert!(began.elapsed() > secs(6), "a second for each that was looked at");
    tasks.shutdown().await;
}
