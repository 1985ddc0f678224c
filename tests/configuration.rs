//! Values from configuration files: texts that are read as they are written, and settings that are checked by the builders.

use std::{fmt::Debug, str::FromStr, time::Duration};

use otel_tasks::{
    Backoff, RestartPolicy, TaskCategory, TaskManager, TaskPriority, Telemetry,
    gate::Claim,
    health::HealthThresholds,
    policy::{
        DependencyLoss, ErrorClass, Escalation, ExitKind, Jitter, OverrunAction, PolicyError,
        RestartIntensity, RestartReason, RestartStrategy, StallAction,
    },
    schedule::{MissedPolicy, OnError, OverlapPolicy},
    shutdown::ShutdownOutcome,
    snapshot::{SkipReason, TaskState},
    telemetry::{InstallError, Signal},
};

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn reads_back<T: FromStr<Err: Debug> + ToString + PartialEq + Debug>(value: T, text: &str) {
    assert_eq!(value.to_string(), text);
    assert_eq!(text.parse::<T>().expect(text), value);
}

/// Each word of a closed set is read in any case; another word is refused with the words that are known.
macro_rules! words {
    ($($set:ty: $first:literal $count:literal),+ $(,)?) => {
        #[test]
        fn each_word_of_a_closed_set_is_read_in_any_case() {
            $(
                assert_eq!(<$set>::ALL.len(), $count, stringify!($set));
                assert_eq!(<$set>::ALL[0].as_str(), $first);
                for value in <$set>::ALL {
                    reads_back(*value, value.as_str());
                    assert_eq!(value.as_str().to_uppercase().parse(), Ok(*value));
                    #[cfg(feature = "serde")]
                    {
                        let json = serde_json::to_string(value).expect("serializes");
                        assert_eq!(json, format!("\"{value}\""));
                        assert_eq!(serde_json::from_str::<$set>(&json).expect("deserializes"), *value);
                    }
                }
                let error = "nonsense".parse::<$set>().expect_err("not a word").to_string();
                assert!(error.contains("\"nonsense\"") && error.contains($first), "{error}");
                #[cfg(feature = "serde")]
                {
                    let error = serde_json::from_str::<$set>("\"nonsense\"").expect_err("not a word").to_string();
                    assert!(error.contains($first), "{error}");
                }
            )+
        }
    };
}

words! {
    TaskCategory: "scheduled" 5,
    TaskPriority: "low" 4,
    RestartPolicy: "always" 3,
    RestartReason: "failure" 9,
    RestartStrategy: "one_for_one" 3,
    DependencyLoss: "keep" 3,
    Escalation: "none" 3,
    StallAction: "report" 3,
    OverrunAction: "exit" 2,
    Claim: "won" 3,
    ErrorClass: "transient" 2,
    ExitKind: "success" 5,
    Jitter: "none" 4,
    TaskState: "waiting" 9,
    SkipReason: "missed" 2,
    ShutdownOutcome: "clean" 5,
    OnError: "continue" 2,
    Signal: "traces" 3,
}

#[test]
fn a_backoff_is_read_as_it_is_written() {
    let growing = Backoff::growing(secs(1), secs(60));
    for (backoff, text) in [
        (growing, "1s..1m"),
        (Backoff::constant(secs(5)), "5s"),
        (Backoff::constant(Duration::ZERO), "0s"),
        (growing.jitter(Jitter::Full), "1s..1m jitter full"),
        (growing.stable_after(secs(90)), "1s..1m stable_after 1m30s"),
        (Backoff::constant(secs(5)).jitter(Jitter::Equal), "5s jitter equal"),
        (Backoff::new(secs(1), 3.0, secs(60)).unwrap(), "1s..1m factor 3"),
        (Backoff::growing(Duration::from_millis(100), Duration::MAX), &growing_to_the_end()),
    ] {
        reads_back(backoff, text);
    }
    assert_eq!(Backoff::growing(secs(9), secs(1)), Backoff::new(secs(9), 2.0, secs(9)).unwrap());
    for text in [
        "",
        "soon",
        "1s..",
        "..1s",
        "5s..1s",
        "1s..2s factor",
        "1s..2s factor 0.5",
        "5s jitter wild",
        "5s often 3",
    ] {
        let error = text.parse::<Backoff>().expect_err(text);
        assert!(matches!(error, PolicyError::Backoff { .. }), "{text:?}: {error:?}");
    }
}

fn growing_to_the_end() -> String {
    Backoff::growing(Duration::from_millis(100), Duration::MAX).to_string()
}

#[test]
fn a_restart_limit_is_read_as_it_is_written() {
    reads_back(RestartIntensity::new(5, secs(600)).unwrap(), "5 in 10m");
    for text in ["", "5", "five in 10m", "5 in ten minutes", "5 within 10m"] {
        let error = text.parse::<RestartIntensity>().expect_err(text);
        assert!(matches!(error, PolicyError::Intensity { .. }), "{text:?}: {error:?}");
    }
    assert!(matches!("5 in 0s".parse::<RestartIntensity>(), Err(PolicyError::ZeroWindow { .. })));
    assert!(matches!("9999 in 1s".parse::<RestartIntensity>(), Err(PolicyError::TooManyRestarts { .. })));
}

#[test]
fn the_policies_of_loops_are_read_as_they_are_written() {
    reads_back(MissedPolicy::Skip, "skip");
    reads_back(MissedPolicy::RunOnce, "run_once");
    reads_back(MissedPolicy::CatchUp(3), "catch_up 3");
    reads_back(OverlapPolicy::Skip, "skip");
    reads_back(OverlapPolicy::Queue, "queue");
    reads_back(OverlapPolicy::CancelRunning, "cancel_running");
    reads_back(OverlapPolicy::Allow(2), "allow 2");
    for text in ["", "skip 2", "catch_up", "catch_up many", "catch_up -1"] {
        assert!(text.parse::<MissedPolicy>().is_err(), "{text:?}");
    }
    for text in ["", "queue 2", "allow", "allow -1"] {
        assert!(text.parse::<OverlapPolicy>().is_err(), "{text:?}");
    }
}

#[cfg(feature = "serde")]
#[test]
fn a_configuration_file_is_deserialized_whole() {
    #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
    struct Job {
        schedule: otel_tasks::Schedule,
        missed: MissedPolicy,
        overlap: OverlapPolicy,
        category: TaskCategory,
        restart: RestartPolicy,
        backoff: Backoff,
        limit: RestartIntensity,
    }
    let json = r#"{"schedule":"every 5m jitter 30s","missed":"catch_up 3","overlap":"queue","category":"system","restart":"always","backoff":"1s..1m","limit":"5 in 10m"}"#;
    let job: Job = serde_json::from_str(json).expect("a configuration");
    assert_eq!(job.schedule, otel_tasks::Schedule::every(secs(300)).jitter(secs(30)));
    assert_eq!(serde_json::to_string(&job).expect("serializes"), json);
    let error = serde_json::from_str::<Job>(&json.replace("every 5m", "every so")).expect_err("no duration");
    assert!(error.to_string().contains("duration"), "{error}");
}

#[test]
fn a_manager_with_a_setting_that_cannot_be_used_is_not_built() {
    let builder = TaskManager::builder;
    let thresholds = HealthThresholds::default();
    for (builder, expected) in [
        (builder().max_names(0), "ZeroNames"),
        (builder().span_prefix(""), "EmptySpanPrefix"),
        (builder().monitor_interval(Duration::ZERO), r#"ZeroDuration { setting: "monitor_interval" }"#),
        (builder().runtime_stall(Duration::ZERO), r#"ZeroDuration { setting: "runtime_stall" }"#),
        (builder().slow_poll(Duration::ZERO), r#"ZeroDuration { setting: "slow_poll" }"#),
        (builder().wall_clock_step(Duration::ZERO), r#"ZeroDuration { setting: "wall_clock_step" }"#),
        (builder().health_thresholds(thresholds.errors_per_hour(0)), "ZeroThreshold"),
        (builder().health_thresholds(thresholds.restarts_per_hour(0)), "ZeroThreshold"),
    ] {
        let error = builder.build().expect_err("a setting that cannot be used");
        assert_eq!(format!("{error:?}"), expected);
        assert!(!error.to_string().is_empty());
    }
    assert!(builder().shutdown_deadline(Duration::ZERO).spawn_grace(Duration::ZERO).build().is_ok());
}

#[test]
fn telemetry_with_a_setting_of_zero_is_not_built() {
    let builder = || Telemetry::builder().env(|_| None).export_if_configured();
    for (builder, expected) in [
        (builder().name_capacity(0), "name_capacity"),
        (builder().span_queue(0), "span_queue"),
        (builder().metric_interval(Duration::ZERO), "metric_interval"),
        (builder().shutdown_timeout(Duration::ZERO), "shutdown_timeout"),
    ] {
        match builder.build() {
            Err(InstallError::Zero { setting, .. }) => assert_eq!(setting, expected),
            other => panic!("{expected}: {other:?}"),
        }
    }
}
