/// Sends the digest.
#[cfg(unix)]
pub(crate) fn r#send(
    mailer: Arc<Mailer>,
    to: impl AsRef<str> + Clone,
) -> crate::reexport::tasks::CriticalTaskConfig
where
    Mailer: Send,
{
    let __loop = crate::reexport::tasks::TaskLoop::on(
            crate::reexport::tasks::Schedule::daily(
                    ["09:00", "21:30:15"],
                    "Europe/Berlin",
                )
                .immediate(true)
                .count(3)
                .jitter(::core::time::Duration::new(10u64, 0u32)),
            move |ctx: TaskContext| {
                let mut mailer = ::core::clone::Clone::clone(&mailer);
                let to = ::core::clone::Clone::clone(&to);
                let __body = async move {
                    if let ::core::option::Option::Some(__output) = ::core::option::Option::None::<
                        io::Result<()>,
                    > {
                        return __output;
                    }
                    {
                        mailer.send(ctx.name(), to.as_ref()).await?;
                        Ok(())
                    }
                };
                __body
            },
        )
        .missed(crate::reexport::tasks::schedule::MissedPolicy::CatchUp(2))
        .overlap(crate::reexport::tasks::schedule::OverlapPolicy::Allow(4))
        .retry(
            3,
            crate::reexport::tasks::__private::growing(
                ::core::time::Duration::new(1u64, 0u32),
                ::core::time::Duration::new(60u64, 0u32),
            ),
        );
    crate::reexport::tasks::CriticalTaskConfig::from_loop("digest", __loop)
        .category(crate::reexport::tasks::TaskCategory::System)
        .priority(TaskPriority::Low)
        .component("mail")
        .run_timeout({
            let __length: ::core::time::Duration = LIMIT;
            __length
        })
}
