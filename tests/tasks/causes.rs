//! An error keeps its causes wherever it is shown, and its text is bounded where it is made.

use std::{
    error::Error,
    fmt, io,
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::Context as _;
use otel_tasks::{
    Backoff, CriticalTaskConfig, TaskLoop, TaskManager,
    events::{TaskEventKind, TaskEvents},
    policy::{ErrorClass, Exit, ExitKind, Failure},
    snapshot::LastError,
};
use tokio::task::LocalSet;
use tracing_subscriber::prelude::*;

use crate::{
    outputs::Mine,
    support::{
        Events, millis, secs,
        spans::{Spans, text},
    },
};

const TEXT: &str = "load the settings: connect: refused";

fn refused() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionRefused, "refused")
}

fn report() -> anyhow::Error {
    anyhow::Error::from(refused()).context("connect").context("load the settings")
}

/// A chain of errors that are `std::error::Error`, each naming itself alone.
fn chain() -> impl Error {
    #[derive(Debug)]
    struct Link(&'static str, Option<Box<Link>>, io::Error);
    impl fmt::Display for Link {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }
    impl Error for Link {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            match &self.1 {
                Some(link) => Some(&**link),
                None => Some(&self.2),
            }
        }
    }
    Link("load the settings", Some(Box::new(Link("connect", None, refused()))), refused())
}

fn last_error(tasks: &TaskManager, name: &str) -> LastError {
    tasks.snapshot(name).and_then(|task| task.last_error).unwrap_or_else(|| panic!("{name} failed"))
}

#[tokio::test(start_paused = true)]
async fn each_kind_of_error_keeps_its_causes() {
    let tasks = TaskManager::new();
    let boxed = || Box::<dyn Error + Send + Sync>::from(report());
    drop(tasks.spawn("error", async { Err::<(), _>(chain_of_mine()) }).await);
    drop(tasks.spawn("opaque", async { Err::<(), _>(chain()) }).await);
    drop(tasks.spawn("anyhow", async { Err::<(), _>(report()) }).await);
    drop(tasks.spawn("boxed", async move { Err::<(), _>(boxed()) }).await);
    let eyre = || eyre::Report::new(refused()).wrap_err("connect").wrap_err("load the settings");
    drop(tasks.spawn("eyre", async move { Err::<(), _>(eyre()) }).await);
    let text = async { Err::<(), _>(format!("{:#}", report())) };
    drop(tasks.spawn("text", text).await);
    drop(tasks.spawn_blocking("blocking", |_| Err::<(), _>(report())).await);
    LocalSet::new()
        .run_until(async { tasks.spawn_local("local", async { Err::<(), _>(report()) }).await })
        .await
        .unwrap()
        .unwrap_err();
    for name in ["opaque", "anyhow", "boxed", "eyre", "text", "blocking", "local"] {
        assert_eq!(last_error(&tasks, name).message, TEXT, "{name}");
    }
    assert_eq!(last_error(&tasks, "error").message, "mine: refused");
}

fn chain_of_mine() -> Mine {
    Mine::from(refused())
}

/// The texts of the failures in events that have come so far.
fn told(events: &mut TaskEvents) -> Vec<(&'static str, String)> {
    std::iter::from_fn(|| events.try_recv())
        .filter_map(|event| match event.kind {
            TaskEventKind::Retrying { ref failure, .. } => {
                Some((event.kind.as_str(), failure.message.clone()))
            }
            TaskEventKind::Exited { exit: Exit::Failure(ref failure), .. } => {
                Some((event.kind.as_str(), failure.message.clone()))
            }
            _ => None,
        })
        .collect()
}

#[tokio::test(start_paused = true)]
async fn the_causes_are_in_events_outcomes_records_and_spans() {
    let spans = Spans::new();
    let (events, _recording) = Events::record();
    let layers = tracing_subscriber::registry()
        .with(events.clone())
        .with(otel_tasks::telemetry::layer(spans.tracer()));
    let _guard = tracing::subscriber::set_default(layers);
    let tasks = TaskManager::new();
    let mut stream = tasks.subscribe();
    let outcomes = Arc::new(Mutex::new(Vec::new()));
    let noted = outcomes.clone();
    let body = TaskLoop::every(secs(60), |_| async { Err::<(), _>(report()) })
        .count(1)
        .retry(1, Backoff::constant(secs(1)))
        .after_iteration(move |outcome| {
            noted.lock().unwrap().push(outcome.exit.message());
            async {}
        });
    tasks.register(CriticalTaskConfig::from_loop("loop", body)).unwrap();
    let task = CriticalTaskConfig::one_shot("task", |_| async { Err::<(), _>(report()) });
    tasks.register(task.restart_policy(otel_tasks::RestartPolicy::Never)).unwrap();
    tasks.start();
    tokio::time::sleep(secs(5)).await;
    let mut told = told(&mut stream);
    told.sort_unstable();
    let expected = ["exited", "exited", "retrying"].map(|kind| (kind, TEXT.to_owned()));
    assert_eq!(told, expected);
    assert_eq!(*outcomes.lock().unwrap(), [TEXT]);
    for name in ["loop", "task"] {
        assert_eq!(last_error(&tasks, name).message, TEXT, "{name}");
        let run = spans.run_of(name);
        assert_eq!(run.status, opentelemetry::trace::Status::error(TEXT), "{name}");
        assert_eq!(text(&run, "error.type").as_deref(), Some("anyhow::Error"), "{name}");
    }
    let retried = &events.named("task.iteration.retried")[0];
    assert_eq!(retried.field("exception.message"), TEXT);
    assert!(retried.message().ends_with(TEXT), "{retried:?}");
    let failures = events.named("task.exception");
    assert_eq!(failures.len(), 2);
    for failure in failures {
        assert_eq!(failure.field("exception.message"), TEXT);
        assert!(failure.message().ends_with(TEXT), "{failure:?}");
    }
}

#[cfg(feature = "macros")]
mod instrumented {
    use otel_tasks::instrumented_task;

    use super::*;

    #[instrumented_task]
    async fn of_anyhow() -> anyhow::Result<()> {
        Err(refused()).context("connect").context("load the settings")
    }

    #[instrumented_task]
    async fn of_an_error() -> Result<(), Mine> {
        Err(Mine::from(refused()))
    }

    #[instrumented_task]
    async fn of_a_box() -> Result<(), Box<dyn Error>> {
        Err(chain().into())
    }

    #[instrumented_task]
    async fn of_a_text() -> Result<(), String> {
        Err("text".to_owned())
    }

    /// An error that borrows.
    #[derive(Debug)]
    struct Borrows<'a>(&'a str, io::Error);

    impl fmt::Display for Borrows<'_> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }

    impl Error for Borrows<'_> {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            Some(&self.1)
        }
    }

    #[instrumented_task]
    async fn of_an_error_that_borrows(text: &str) -> Result<(), Borrows<'_>> {
        Err(Borrows(text, refused()))
    }

    #[instrumented_task]
    async fn of_a_text_that_borrows(text: &str) -> Result<(), &str> {
        Err(text)
    }

    #[instrumented_task]
    async fn of_any_error<E: Error>(error: E) -> Result<(), E> {
        Err(error)
    }

    async fn each_fails() {
        let _ = of_anyhow().await;
        let _ = of_an_error().await;
        let _ = of_a_text().await;
        let _ = of_an_error_that_borrows("borrowed").await;
        let _ = of_a_text_that_borrows("borrowed").await;
        let _ = of_any_error(Mine::from(refused())).await;
    }

    const EACH: [(&str, &str); 6] = [
        ("of_anyhow", TEXT),
        ("of_an_error", "mine: refused"),
        ("of_a_text", "text"),
        ("of_an_error_that_borrows", "borrowed: refused"),
        ("of_a_text_that_borrows", "borrowed"),
        ("of_any_error", "mine: refused"),
    ];

    #[tokio::test]
    async fn an_instrumented_function_keeps_the_causes() {
        let tasks = TaskManager::new();
        tasks.spawn("outer", each_fails()).await.unwrap();
        LocalSet::new()
            .run_until(async { tasks.spawn_local("local", async { drop(of_a_box().await) }).await })
            .await
            .unwrap();
        for (name, text) in EACH.into_iter().chain([("of_a_box", TEXT)]) {
            assert_eq!(last_error(&tasks, name).message, text, "{name}");
        }
    }

    #[tokio::test]
    async fn the_managers_rules_are_for_instrumented_functions_too() {
        let tasks = TaskManager::builder()
            .error_type(|_: &io::Error| "io")
            .error_type(|_: &Mine| "mine")
            .error_type(|_: &String| "text")
            .build()
            .unwrap();
        tasks.spawn("outer", each_fails()).await.unwrap();
        let types = EACH.map(|(name, _)| last_error(&tasks, name).error_type);
        // An error whose type may borrow is found by its sources alone.
        assert_eq!(types, ["io", "mine", "text", "io", "&str", "io"]);
    }
}

#[tokio::test(start_paused = true)]
async fn the_managers_rules_are_for_every_kind_of_run() {
    let tasks = TaskManager::builder()
        .error_type(|error: &io::Error| match error.kind() {
            io::ErrorKind::ConnectionRefused => "refused",
            _ => "io",
        })
        .classify(|_: &io::Error| ErrorClass::Permanent)
        .build()
        .unwrap();
    let mut stream = tasks.subscribe();
    drop(tasks.spawn("spawn", async { Err::<(), _>(refused()) }).await);
    drop(tasks.spawn("report", async { Err::<(), _>(report()) }).await);
    drop(tasks.spawn("boxed", async { Err::<(), _>(Box::<dyn Error + Send + Sync>::from(refused())) }).await);
    drop(tasks.spawn("box of it", async { Err::<(), _>(Box::new(refused())) }).await);
    drop(tasks.spawn("source", async { Err::<(), _>(chain()) }).await);
    drop(tasks.spawn("text", async { Err::<(), _>("refused") }).await);
    drop(tasks.spawn_blocking("blocking", |_| Err::<(), _>(refused())).await);
    drop(tasks.task("with").timeout(secs(9)).spawn_with(|_| async { Err::<(), _>(refused()) }).await);
    let local = async { tasks.spawn_local("local", async { Err::<(), _>(refused()) }).await };
    drop(LocalSet::new().run_until(local).await);
    let body = TaskLoop::every(secs(1), |_| async { Err::<(), _>(report()) });
    tasks.register(CriticalTaskConfig::from_loop("loop", body)).unwrap();
    tasks.register(CriticalTaskConfig::new("task", |_| async { Err::<(), _>(report()) })).unwrap();
    tasks.start();
    tokio::time::sleep(secs(5)).await;
    for name in
        ["spawn", "report", "boxed", "box of it", "source", "blocking", "with", "local", "loop", "task"]
    {
        assert_eq!(last_error(&tasks, name).error_type, "refused", "{name}");
    }
    assert_eq!(last_error(&tasks, "text").error_type, "&str");
    // Permanent: neither is begun again.
    for name in ["loop", "task"] {
        let task = tasks.snapshot(name).unwrap();
        assert_eq!(
            (task.total_runs(), task.state),
            (1, Some(otel_tasks::snapshot::TaskState::Failed)),
            "{name}"
        );
    }
    let classes: Vec<_> = std::iter::from_fn(|| stream.try_recv())
        .filter_map(|event| match event.kind {
            TaskEventKind::Exited { exit: Exit::Failure(failure), .. } => Some(failure.class),
            _ => None,
        })
        .collect();
    assert_eq!(classes, [ErrorClass::Permanent, ErrorClass::Permanent]);
}

#[tokio::test(start_paused = true)]
async fn the_rule_of_a_task_goes_before_the_managers() {
    let tasks = TaskManager::builder()
        .error_type(|_: &io::Error| "of the manager")
        .error_type(|_: &Mine| "mine of the manager")
        .build()
        .unwrap();
    let fails = || async { Err::<(), _>(report()) };
    let own = tasks.task("own").error_type(|_: &io::Error| "of the task");
    drop(own.spawn(fails()).await);
    drop(tasks.task("other").error_type(|_: &fmt::Error| "of the task").spawn(fails()).await);
    // The outermost error that a rule is for decides; a rule given again replaces the one before.
    let mine = || async { Err::<(), _>(Mine::from(refused())) };
    drop(tasks.spawn("outermost", mine()).await);
    let twice = tasks.task("twice").error_type(|_: &Mine| "first").error_type(|_: &Mine| "second");
    drop(twice.spawn(mine()).await);
    let blocking = tasks.task("blocking").error_type(|_: &io::Error| "of the task");
    drop(blocking.spawn_blocking(|_| Err::<(), _>(refused())).await);
    let timed = tasks.task("timed").timeout(secs(1)).error_type(|_: &io::Error| "of the task");
    drop(timed.spawn(fails()).await);
    let registered = CriticalTaskConfig::one_shot("registered", move |_| fails())
        .error_type(|_: &io::Error| "of the task")
        .classify(|_: &io::Error| ErrorClass::Permanent);
    tasks.register(registered).unwrap();
    tasks.start();
    tokio::time::sleep(millis(1)).await;
    for (name, error_type) in [
        ("own", "of the task"),
        ("other", "of the manager"),
        ("outermost", "mine of the manager"),
        ("twice", "second"),
        ("blocking", "of the task"),
        ("timed", "of the task"),
        ("registered", "of the task"),
    ] {
        assert_eq!(last_error(&tasks, name).error_type, error_type, "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_task_may_time_out_and_name_its_errors() {
    let tasks = TaskManager::new();
    let slow = tasks.task("slow").timeout(secs(3)).error_type(|_: &io::Error| "io");
    let timed_out = slow.spawn(async {
        tokio::time::sleep(secs(9)).await;
        Err::<(), _>(refused())
    });
    assert_eq!(timed_out.await.map(drop), Err(otel_tasks::TaskError::TimedOut(secs(3))));
    // Without a timeout nothing ends it early.
    let patient = tasks.task("patient").error_type(|_: &io::Error| "io");
    let ended = patient.spawn(async {
        tokio::time::sleep(secs(9)).await;
        Err::<(), _>(refused())
    });
    assert!(ended.await.unwrap().is_err());
    assert_eq!(last_error(&tasks, "patient").error_type, "io");
}

/// An error whose text has so many bytes, written in pieces.
#[derive(Debug)]
struct Long(usize);

impl fmt::Display for Long {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let piece = "x".repeat(1_000);
        (0..self.0 / 1_000).try_for_each(|_| f.write_str(&piece))
    }
}

impl Error for Long {}

#[tokio::test(start_paused = true)]
async fn a_long_text_is_cut_wherever_it_comes_from() {
    const LONG: usize = 5_000_000;
    let cut = |text: &str, expected: &str| {
        assert!(text.len() <= Failure::MAX_MESSAGE, "{} bytes", text.len());
        assert!(text.ends_with(expected), "{}", &text[text.len() - 40..]);
    };
    // A panic's message begins with its place.
    let cut_panic = |text: &str| {
        cut(text, " bytes cut)");
        let (kept, note) = text.rsplit_once("y… (").expect("a note");
        let missing: usize = note.replace(|c: char| !c.is_ascii_digit(), "").parse().unwrap();
        let kept = kept.len() - kept.find("yyyy").expect("its beginning") + 1;
        assert_eq!(kept + missing, LONG, "{note}");
        assert!(kept > 8_000, "{kept}");
    };
    let (events, _guard) = Events::record();
    let tasks = TaskManager::new();
    let mut stream = tasks.subscribe();
    let text = || "y".repeat(LONG);
    drop(tasks.spawn("error", async { Err::<(), _>(Long(LONG)) }).await);
    drop(
        tasks.spawn("report", async { Err::<(), _>(anyhow::Error::from(Long(LONG)).context("long")) }).await,
    );
    drop(tasks.spawn("text", async move { Err::<(), _>(text()) }).await);
    let panicked = tasks.spawn("panic", async move { std::panic::panic_any(text()) });
    let panicked: Result<(), _> = panicked.await;
    cut_panic(&panicked.unwrap_err().to_string());
    drop(tasks.spawn_blocking("blocking", move |_| -> () { panic!("{}", text()) }).await);
    let body = TaskLoop::every(secs(60), |_| async { Err::<(), _>(Long(LONG)) })
        .retry(1, Backoff::constant(secs(1)))
        .before_loop(move |_| async move { panic!("{}", text()) });
    tasks.register(CriticalTaskConfig::from_loop("loop", body)).unwrap();
    tasks.register_component("component", move || -> Vec<CriticalTaskConfig> { panic!("{}", text()) });
    tasks.start();
    tokio::time::sleep(secs(5)).await;
    for (name, expected) in [
        ("error", "xx… (4,991,856 bytes cut)"),
        ("report", "xx… (4,991,862 bytes cut)"),
        ("text", "yy… (4,991,856 bytes cut)"),
        ("loop", "xx… (4,991,856 bytes cut)"),
    ] {
        cut(&last_error(&tasks, name).message, expected);
    }
    for name in ["panic", "blocking"] {
        cut_panic(&last_error(&tasks, name).message);
        assert!(last_error(&tasks, name).message.starts_with("panicked at "));
    }
    for (record, count) in [
        ("task.exception", 6),
        ("task.iteration.retried", 1),
        ("task.hook.panicked", 1),
        ("task.monitor.failed", 1),
    ] {
        let records = events.named(record);
        assert_eq!(records.len(), count, "{record}");
        for record in records {
            for field in record.fields.values() {
                assert!(field.len() <= Failure::MAX_MESSAGE + 200, "{}: {}", record.name, field.len());
            }
            assert!(record.message().ends_with("bytes cut)"), "{}", record.name);
        }
    }
    for (_, message) in told(&mut stream) {
        cut(&message, "xx… (4,991,856 bytes cut)");
    }
}

#[tokio::test(start_paused = true)]
async fn a_text_that_cannot_be_written_costs_the_run_its_text_alone() {
    /// `to_string` panics for such an error.
    #[derive(Debug)]
    struct Refuses;
    impl fmt::Display for Refuses {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("as far as it went")?;
            Err(fmt::Error)
        }
    }
    impl Error for Refuses {}
    /// The cause panics while it is shown.
    #[derive(Debug)]
    struct Panics(Option<Box<Panics>>);
    impl fmt::Display for Panics {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            if self.0.is_none() { panic!("a display") } else { f.write_str("outer") }
        }
    }
    impl Error for Panics {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            self.0.as_deref().map(|cause| cause as _)
        }
    }
    let tasks = TaskManager::new();
    let mut stream = tasks.subscribe();
    drop(tasks.spawn("refuses", async { Err::<(), _>(Refuses) }).await);
    assert_eq!(last_error(&tasks, "refuses").message, "as far as it went");
    let panics = tasks.spawn("panics", async { Err::<(), _>(Panics(Some(Box::new(Panics(None))))) });
    assert!(panics.await.unwrap().is_err(), "the error is still returned");
    assert!(last_error(&tasks, "panics").message.ends_with("a display"));
    let task =
        CriticalTaskConfig::new("task", |_| async { Err::<(), _>(Panics(Some(Box::new(Panics(None))))) })
            .backoff(Backoff::constant(Duration::from_secs(3_600)));
    tasks.register(task).unwrap();
    tasks.start();
    tokio::time::sleep(secs(1)).await;
    let kinds: Vec<_> = std::iter::from_fn(|| stream.try_recv())
        .filter_map(|event| match event.kind {
            TaskEventKind::Exited { exit, .. } => Some(exit.kind()),
            _ => None,
        })
        .collect();
    assert_eq!(kinds, [ExitKind::Panic]);
}

#[tokio::test(start_paused = true)]
async fn a_rule_that_cannot_match_is_refused_and_one_for_a_report_is_not() {
    let tasks = TaskManager::new();
    let of_report = |name: &str| CriticalTaskConfig::new(name, |_| async { Err::<(), _>(report()) });
    let of_mine =
        |name: &str| CriticalTaskConfig::new(name, |_| async { Err::<(), _>(Mine::from(refused())) });
    assert!(tasks.register(of_report("any").error_type(|_: &fmt::Error| "fmt")).is_ok());
    assert!(tasks.register(of_report("itself").error_type(|_: &anyhow::Error| "report")).is_ok());
    assert!(tasks.register(of_mine("mine").error_type(|_: &Mine| "mine")).is_ok());
    let boxed = CriticalTaskConfig::new("boxed", |_| async { Err::<(), _>(Box::new(refused())) });
    assert!(tasks.register(boxed.error_type(|_: &io::Error| "io")).is_ok());
    for refused in [
        of_mine("source").error_type(|_: &io::Error| "io"),
        of_mine("text").error_type(|_: &String| "text"),
        of_report("text").error_type(|_: &&str| "text"),
        of_report("report").classify(|_: &eyre::Report| ErrorClass::Permanent),
    ] {
        let error = tasks.register(refused).unwrap_err();
        assert!(matches!(error, otel_tasks::task::RegisterError::ErrorType { .. }), "{error:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_refused_task_of_a_component_is_logged_with_its_cause() {
    let (events, _guard) = Events::record();
    let tasks = TaskManager::new();
    let wrong =
        || vec![CriticalTaskConfig::from_loop("wrong", TaskLoop::every(Duration::ZERO, |_| async {}))];
    tasks.register_component("component", wrong);
    tasks.start();
    let record = &events.named("task.monitor.failed")[0];
    assert_eq!(
        record.message(),
        "component component: the loop of task \"wrong\" is not usable: the interval of a loop must be longer than zero"
    );
}
