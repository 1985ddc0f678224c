async fn lines() -> impl Iterator<Item = String> {
    #[allow(clippy::async_yields_async)]
    let __body = async move { { [].into_iter() } };
    ::otel_tasks::__private::instrument(
            {
                static __TASK: ::otel_tasks::__private::Instrumented = ::otel_tasks::__private::Instrumented::new(
                    "lines",
                    ::core::option::Option::None,
                    ::core::option::Option::None,
                    ::core::option::Option::None,
                );
                &__TASK
            },
            __body,
            |__output, __rules| {
                use ::otel_tasks::__private::via::{
                    ViaAny as _, ViaBox as _, ViaDisplay as _, ViaError as _,
                    ViaOpaque as _, ViaReport as _,
                };
                (&&&&&&::otel_tasks::__private::BorrowingProbe(__output))
                    .task_exit(__rules)
            },
        )
        .await
}
