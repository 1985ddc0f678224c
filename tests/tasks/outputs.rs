//! What a task may return, in every kind of run: each line compiles with no type named for it.

use std::{borrow::Cow, error::Error, fmt, io, path::PathBuf, time::Duration};

use otel_tasks::{
    CriticalTaskConfig, Schedule, TaskContext, TaskHandle, TaskLoop, TaskManager, Value,
    policy::{DiscardExt as _, OutputError, TaskOutput},
};
use tokio::task::LocalSet;

use crate::support::secs;

/// An error with a cause.
#[derive(Debug)]
pub(crate) struct Mine(io::Error);

impl fmt::Display for Mine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("mine")
    }
}

impl Error for Mine {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.0)
    }
}

impl From<io::Error> for Mine {
    fn from(error: io::Error) -> Self {
        Self(error)
    }
}

fn refused() -> io::Error {
    io::Error::other("refused")
}

/// Calls a macro with each output that can be sent to another thread.
macro_rules! each_output {
    ($use:ident) => {
        $use!(());
        $use!(true);
        $use!('c');
        $use!(42);
        $use!(4.2);
        $use!(1_u8);
        $use!(1_u16);
        $use!(1_u32);
        $use!(1_u64);
        $use!(1_u128);
        $use!(1_usize);
        $use!(1_i8);
        $use!(1_i16);
        $use!(1_i64);
        $use!(1_i128);
        $use!(1_isize);
        $use!(1_f32);
        $use!(String::from("text"));
        $use!("text");
        $use!(Cow::Borrowed("text"));
        $use!(PathBuf::from("path"));
        $use!(Duration::from_secs(1));
        $use!(Value(vec![(1, "one")]));
        $use!(Value(Err::<(), _>(std::sync::Mutex::new(1))));
        $use!(Ok::<Vec<u8>, io::Error>(Vec::new()));
        $use!(Err::<(), _>(refused()));
        $use!(Err::<(), _>(Mine(refused())));
        $use!(Err::<(), _>(Box::new(Mine(refused()))));
        $use!(Err::<(), _>(std::sync::Arc::new(Mine(refused()))));
        $use!(Err::<(), _>(anyhow::Error::from(refused())));
        $use!(Err::<(), _>(eyre::Report::from(refused())));
        $use!(Err::<(), _>(Box::<dyn Error + Send + Sync>::from("boxed")));
        $use!(Err::<(), Box<dyn Error + Send>>(Box::new(refused())));
        $use!(Err::<(), _>("text"));
        $use!(Err::<(), _>(String::from("text")));
        $use!(Err::<(), _>(Cow::Borrowed("text")));
        $use!({ std::fs::read("/does/not/exist").map_err(anyhow::Error::from) });
    };
}

#[tokio::test(start_paused = true)]
async fn each_output_is_returned_by_each_kind_of_run() {
    let tasks = TaskManager::new();
    let mut runs = 0;
    macro_rules! spawn {
        ($output:expr) => {
            let _ = tasks.spawn("spawn", async { $output }).await.expect("it ends");
            let _ = tasks.task("spawn_with").spawn_with(|_| async { $output }).await.expect("it ends");
            let _ = tasks.spawn_blocking("spawn_blocking", |_| $output).await.expect("it ends");
            let local = tasks.clone();
            let run_local = async move { local.spawn_local("spawn_local", async { $output }).await };
            let _ = LocalSet::new().run_until(run_local).await.expect("it ends");
            let name = format!("registered {runs}");
            tasks.register(CriticalTaskConfig::one_shot(name, |_| async { $output })).unwrap();
            let body = TaskLoop::every(secs(1), |_| async { $output }).count(1);
            tasks.register(CriticalTaskConfig::from_loop(format!("loop {runs}"), body)).unwrap();
            runs += 1;
        };
    }
    each_output!(spawn);
    tasks.start();
    tokio::time::sleep(Duration::from_millis(1)).await;
    let count = |name: &str| {
        let task = tasks.snapshot(name).expect("it ran");
        (task.total_runs(), task.total_errors())
    };
    for name in ["spawn", "spawn_with", "spawn_blocking", "spawn_local"] {
        assert_eq!(count(name), (37, 12), "{name}");
    }
    for kind in ["registered", "loop"] {
        let counts = (0..runs).map(|number| count(&format!("{kind} {number}")));
        let all = counts.fold((0, 0), |all, one| (all.0 + one.0, all.1 + one.1));
        assert_eq!(all, (37, 12), "{kind}");
    }
}

#[tokio::test]
async fn a_value_comes_back_as_it_was_returned() {
    let tasks = TaskManager::new();
    assert_eq!(tasks.spawn_blocking("number", |_| 42).await, Ok(42));
    assert_eq!(tasks.spawn("text", async { "text" }).await, Ok("text"));
    let Value(rows) = tasks.spawn("rows", async { Value(vec![1, 2]) }).await.unwrap();
    assert_eq!(rows, [1, 2]);
    let error = tasks.spawn("error", async { Err::<(), _>(anyhow::Error::from(refused())) }).await.unwrap();
    assert!(error.unwrap_err().is::<io::Error>(), "it is the error itself");
    assert_eq!(tasks.spawn("tuple", async { (1, 2) }.discard()).await, Ok(()));
}

// An error that is not `Send` is one of a run on its own thread.
#[tokio::test]
async fn a_local_run_returns_a_box_of_any_error() {
    let tasks = TaskManager::new();
    let local = async {
        let run = async { Err::<(), Box<dyn Error>>(Box::new(Mine(refused()))) };
        drop(tasks.spawn_local("local", run).await);
        let mark = async {
            std::fs::read("/does/not/exist")?;
            Ok::<(), Box<dyn Error>>(())
        };
        drop(tasks.spawn_local("mark", mark).await);
    };
    LocalSet::new().run_until(local).await;
    assert_eq!(tasks.snapshot("local").unwrap().last_error.unwrap().message, "mine: refused");
    assert_eq!(tasks.snapshot("mark").unwrap().total_errors(), 1);
}

/// What the compiler has to infer; none of it runs.
#[expect(dead_code, reason = "it is compiled")]
fn inferred(tasks: &TaskManager, context: &TaskContext) {
    fn generic_error<E: Error + Send + Sync + 'static>(tasks: &TaskManager, error: E) {
        drop(tasks.spawn("", async move { Err::<(), E>(error) }));
    }
    fn generic_value<T: Send + 'static>(tasks: &TaskManager, value: T) -> TaskHandle<Value<T>> {
        tasks.spawn("", async move { Value(value) })
    }
    fn generic_output<F, Via>(tasks: &TaskManager, future: F) -> TaskHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: TaskOutput<Via> + Send + 'static,
    {
        tasks.spawn("", future)
    }
    fn generic_kind<E: OutputError<Via> + Send, Via>(tasks: &TaskManager, error: E) {
        drop(generic_output(tasks, async move { Err::<(), E>(error) }));
    }
    generic_error(tasks, refused());
    let Value(_) = futures_now(generic_value(tasks, vec![1])).unwrap();
    generic_kind(tasks, "text");
    drop(generic_output(tasks, async { 42 }));
    drop(tasks.spawn("", async {
        loop {
            tokio::task::yield_now().await
        }
    }));
    drop(tasks.spawn("", async { panic!("never") }));
    drop(tasks.spawn("", std::future::pending::<()>()));
    drop(tasks.spawn("", async {
        std::fs::read("x")?;
        Ok::<(), Mine>(())
    }));
    drop(tasks.spawn("", async {
        std::fs::read("x")?;
        Ok::<(), Box<dyn Error + Send + Sync>>(())
    }));
    drop(tasks.spawn("", async {
        std::fs::read("x")?;
        eyre::Ok(())
    }));
    drop(context.spawn("", async { 42 }));
    drop(tasks.task("").error_type(|_: &Mine| "mine").spawn(async { Err::<(), _>(Mine(refused())) }));
    drop(CriticalTaskConfig::new("", |_| async {
        loop {
            tokio::task::yield_now().await
        }
    }));
    drop(CriticalTaskConfig::new("", |ctx: TaskContext| async move { ctx.cancelled().await }));
    drop(CriticalTaskConfig::unnamed(returns_anyhow));
    drop(TaskLoop::on(Schedule::every(secs(1)), returns_anyhow));
    fn futures_now<T>(_: TaskHandle<T>) -> Result<T, otel_tasks::TaskError> {
        unreachable!("it is compiled only")
    }
}

async fn returns_anyhow(_: TaskContext) -> anyhow::Result<()> {
    Ok(())
}
