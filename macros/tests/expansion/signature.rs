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
