#[inline]
pub fn not_async() -> u32 {
    1
}
::core::compile_error! {
    "`name` must not be empty"
}
::core::compile_error! {
    "unknown option `retries`, expected one of `name`, `category`, `priority`, `component`, `crate`"
}
::core::compile_error! {
    "`#[instrumented_task]` needs an async fn; write it above any attribute that takes the `async` away, such as `#[tokio::main]`"
}
