async fn ping<'a>(connection: &'a mut Connection, n: u32) -> io::Result<u32> {
    let __body = async move {
        if let ::core::option::Option::Some(__output) = ::core::option::Option::None::<
            io::Result<u32>,
        > {
            return __output;
        }
        {
            connection.ping(n).await?;
            Ok(n)
        }
    };
    crate::reexport::tasks::__private::instrument(
            {
                static __TASK: crate::reexport::tasks::__private::Instrumented = crate::reexport::tasks::__private::Instrumented::new(
                    "gateway.ping",
                    ::core::option::Option::Some(TaskCategory::Gateway),
                    ::core::option::Option::Some(
                        crate::reexport::tasks::TaskPriority::High,
                    ),
                    ::core::option::Option::Some("gateway"),
                );
                &__TASK
            },
            __body,
            |__output, __rules| {
                use crate::reexport::tasks::__private::via::{
                    ViaAny as _, ViaBox as _, ViaDisplay as _, ViaError as _,
                    ViaOpaque as _, ViaReport as _,
                };
                (&&&&&&crate::reexport::tasks::__private::Probe(__output))
                    .task_exit(__rules)
            },
        )
        .await
}
