//! Guides: one page for one reader with one question. Their code is compiled with the tests.
//!
//! | page | question |
//! |---|---|
//! | [first task](first_task) | How do I get from `cargo new` to a trace in Jaeger? |
//! | [long-lived tasks](long_lived) | How do I keep a task alive? |
//! | [loops](mod@loops) | How do I run something on a schedule? |
//! | [short tasks](short_tasks) | How do I spawn work for a request or a command? |
//! | [telemetry](mod@telemetry) | How do I set up export and sampling? |
//! | [nothing in Jaeger](see_nothing) | Why do I see nothing in Jaeger? |
//! | [deploy](mod@deploy) | How do I run the service in Kubernetes, systemd, Docker or Windows? |
//! | [testing](mod@testing) | How do I test retries, schedules and shutdowns? |
//! | [cost](mod@cost) | How much does it cost, and which parts can I turn off? |
//! | [migrate](mod@migrate) | How do I write my old code here? |
//! | [upgrading](mod@upgrading) | Which versions fit together? |
//! | [faq](mod@faq) | Why is it so? |

/// Includes a page. The definitions come first: they replace those at the end of the page, which are for readers of the repository.
macro_rules! page {
    ($(#[$attribute:meta])* $name:ident, $file:literal ) => {
        $(#[$attribute])*
        #[doc = "[first-task]: crate::guide::first_task"]
        #[doc = "[long-lived]: crate::guide::long_lived"]
        #[doc = "[loops]: crate::guide::loops"]
        #[doc = "[short-tasks]: crate::guide::short_tasks"]
        #[doc = "[telemetry]: crate::guide::telemetry"]
        #[doc = "[see-nothing]: crate::guide::see_nothing"]
        #[doc = "[deploy]: crate::guide::deploy"]
        #[doc = "[testing]: crate::guide::testing"]
        #[doc = "[cost]: crate::guide::cost"]
        #[doc = "[migrate]: crate::guide::migrate"]
        #[doc = "[from-joinset]: crate::guide::migrate::from_joinset"]
        #[doc = "[from-tokio-graceful-shutdown]: crate::guide::migrate::from_tokio_graceful_shutdown"]
        #[doc = "[from-tokio-cron-scheduler]: crate::guide::migrate::from_tokio_cron_scheduler"]
        #[doc = "[from-cron]: crate::guide::migrate::from_cron"]
        #[doc = "[from-discord-ext-tasks]: crate::guide::migrate::from_discord_ext_tasks"]
        #[doc = "[from-tux]: crate::guide::migrate::from_tux"]
        #[doc = "[upgrading]: crate::guide::upgrading"]
        #[doc = "[faq]: crate::guide::faq"]
        #[doc = "[runbooks]: crate::runbooks"]
        #[doc = "[contract]: crate::telemetry::contract"]
        #[doc = "[gate]: crate::gate"]
        #[doc = "[page]: https://docs.rs/otel-tasks-page"]
        #[doc = "[page-reference]: https://docs.rs/crate/otel-tasks/latest/source/docs/page.md"]
        #[doc = "[loops-reference]: https://docs.rs/crate/otel-tasks/latest/source/docs/loops.md"]
        #[doc = "[telemetry-reference]: https://docs.rs/crate/otel-tasks/latest/source/docs/telemetry.md"]
        #[doc = "[supervision]: https://docs.rs/crate/otel-tasks/latest/source/docs/supervision.md"]
        #[doc = "[fleet]: https://docs.rs/crate/otel-tasks/latest/source/docs/fleet.md"]
        #[doc = "[systemd]: https://docs.rs/crate/otel-tasks/latest/source/docs/systemd.md"]
        #[doc = "[stack]: https://docs.rs/crate/otel-tasks/latest/source/docs/stack.md"]
        #[doc = "[performance]: https://docs.rs/crate/otel-tasks/latest/source/docs/internals/performance.md"]
        #[doc = "[compare]: https://docs.rs/crate/otel-tasks/latest/source/COMPARE.md"]
        #[doc = "[changelog]: https://docs.rs/crate/otel-tasks/latest/source/CHANGELOG.md"]
        #[doc = "[platform]: https://docs.rs/crate/otel-tasks/latest/source/PLATFORM.md"]
        #[doc = "[examples]: https://docs.rs/crate/otel-tasks/latest/source/examples/README.md"]
        #[doc = ""]
        #[doc = include_str!(concat!("../docs/", $file))]
        pub mod $name {}
    };
}

page!(
    #[cfg(any(not(doctest), feature = "otlp-http"))]
    first_task,
    "guide/first-task.md"
);

page!(long_lived, "guide/long-lived.md");

page!(
    #[cfg(any(not(doctest), all(feature = "calendar", feature = "macros")))]
    loops,
    "guide/loops.md"
);

page!(
    #[cfg(any(not(doctest), feature = "macros"))]
    short_tasks,
    "guide/short-tasks.md"
);

page!(
    #[cfg(any(not(doctest), feature = "otlp-http"))]
    telemetry,
    "guide/telemetry.md"
);

page!(
    #[cfg(any(not(doctest), feature = "otlp-http"))]
    see_nothing,
    "guide/see-nothing.md"
);

page!(
    #[cfg(any(not(doctest), feature = "otlp-http"))]
    deploy,
    "guide/deploy.md"
);

page!(
    #[cfg(any(not(doctest), all(feature = "testing", feature = "calendar")))]
    testing,
    "guide/testing.md"
);

page!(cost, "guide/cost.md");

page!(upgrading, "upgrading.md");

page!(faq, "faq.md");

/// Migration: old code on the left, the same here on the right.
pub mod migrate {
    page!(from_joinset, "migrate/from-joinset.md");

    page!(from_tokio_graceful_shutdown, "migrate/from-tokio-graceful-shutdown.md");

    page!(
        #[cfg(any(not(doctest), all(feature = "calendar", feature = "macros")))]
        from_tokio_cron_scheduler,
        "migrate/from-tokio-cron-scheduler.md"
    );

    page!(
        #[cfg(any(not(doctest), all(feature = "calendar", feature = "macros")))]
        from_cron,
        "migrate/from-cron.md"
    );

    page!(from_discord_ext_tasks, "migrate/from-discord-ext-tasks.md");

    page!(
        #[cfg(any(not(doctest), feature = "otlp-http"))]
        from_tux,
        "migrate/from-tux.md"
    );
}
