async fn lines(path: &Path) -> Result<impl Iterator<Item = impl Display>, Error> {
    let __body = async move {
        if let ::core::option::Option::Some(__output) = ::core::option::Option::None::<
            Result<_, Error>,
        > {
            return __output;
        }
        { Ok(open(path)?.lines()) }
    };
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
            |__output| {
                use ::otel_tasks::__private::{
                    ViaAny as _, ViaOpaque as _, ViaDisplay as _,
                };
                (&&&::otel_tasks::__private::Probe(__output)).task_failure()
            },
        )
        .await
}
