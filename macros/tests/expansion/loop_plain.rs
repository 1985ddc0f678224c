fn sweep() -> ::otel_tasks::CriticalTaskConfig {
    let __loop = ::otel_tasks::TaskLoop::on(
        ::otel_tasks::Schedule::every(::core::time::Duration::new(5u64, 0u32)),
        move |_: ::otel_tasks::TaskContext| {
            let __body = async move {
                if let ::core::option::Option::Some(__output) = ::core::option::Option::None::<
                    (),
                > {
                    return __output;
                }
                {
                    work().await;
                }
            };
            __body
        },
    );
    ::otel_tasks::CriticalTaskConfig::from_loop("sweep", __loop)
}
