/// Keeps `value`.
#[must_use]
#[cfg(unix)]
#[expect(unused_mut)]
pub(crate) async unsafe fn keep<'a, T, const N: usize>(
    mut value: [T; N],
    other: &'a impl Other,
) -> &'a T
where
    T: Clone + 'a,
{
    let __body = async move {
        if let ::core::option::Option::Some(__output) = ::core::option::Option::None::<
            &'a T,
        > {
            return __output;
        }
        { other.keep(value) }
    };
    ::otel_tasks::__private::instrument(
            {
                static __TASK: ::otel_tasks::__private::Instrumented = ::otel_tasks::__private::Instrumented::new(
                    "keep",
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
