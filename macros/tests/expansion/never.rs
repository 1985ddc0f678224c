async fn serve() -> ! {
    let __body = async move {
        if let ::core::option::Option::Some(__output) = ::core::option::Option::None::<
            ::core::convert::Infallible,
        > {
            return __output;
        }
        {
            loop {
                accept().await
            }
        }
    };
    match ::otel_tasks::__private::instrument(
            {
                static __TASK: ::otel_tasks::__private::Instrumented = ::otel_tasks::__private::Instrumented::new(
                    "serve",
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
    {}
}
