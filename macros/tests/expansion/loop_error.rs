async fn sweep(&self) {}
::core::compile_error! {
    "`every`: 5 needs a unit: `ns`, `us`, `ms`, `s`, `m`, `h` or `d`"
}
::core::compile_error! {
    "`#[task_loop]` takes no `self`: a loop outlives the call, so give it what it needs as arguments, such as an `Arc`"
}
