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
            |__output, __rules| {
                use ::otel_tasks::__private::via::{
                    ViaAny as _, ViaBox as _, ViaDisplay as _, ViaError as _,
                    ViaOpaque as _, ViaReport as _,
                };
                (&&&&&&::otel_tasks::__private::Probe(__output)).task_exit(__rules)
            },
        )
        .await
}
