//! Every shape of async fn the attribute takes, without a warning.

#![deny(warnings, missing_docs, unreachable_pub, elided_lifetimes_in_paths)]

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt::{Debug, Display};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;

use otel_tasks::{TaskCategory, instrumented_task};

type Boxed = Box<dyn std::error::Error + Send + Sync>;
type Outcome<T, E = Boxed> = Result<T, E>;

#[instrumented_task]
async fn plain() {}

#[instrumented_task()]
async fn unit_with_returns(stop: bool) {
    if stop {
        return;
    }
    plain().await;
}

/// Documented.
#[instrumented_task(name = "gateway.ping", category = Gateway, priority = High, component = "gateway")]
#[must_use = "kept"]
#[inline]
pub async fn all_options(n: u32) -> u32 {
    n + 1
}

#[instrumented_task(component = r"raw", priority = "hIgH", category = TaskCategory::Command, name = "x",)]
async fn other_spellings() {}

mod reexport {
    pub(crate) use ::otel_tasks;
}

#[instrumented_task(crate = crate::reexport::otel_tasks, category = "command")]
async fn through_a_reexport() {}

macro_rules! declare {
    ($name:ident, $text:literal, $category:ident, $krate:path) => {
        #[instrumented_task(name = $text, category = $category, crate = $krate)]
        async fn $name() -> io::Result<()> {
            failing("1")?;
            Ok(())
        }
    };
}
declare!(declared, "by.macro", Command, ::otel_tasks);

macro_rules! declare_returning {
    ($($name:ident($($argument:ident: $of:ty),*) -> $output:ty $body:block)*) => {
        $(#[instrumented_task] async fn $name($($argument: $of),*) -> $output $body)*
    };
}
declare_returning! {
    fragment_never() -> ! { panic!() }
    fragment_impl(n: u32) -> impl Iterator<Item = u32> { 0..n }
    fragment_result(text: &str) -> Result<&str, std::num::ParseIntError> {
        text.parse::<u32>()?;
        Ok(text)
    }
}

fn failing(text: &str) -> Result<u32, std::io::Error> {
    text.parse().map_err(io::Error::other)
}

#[instrumented_task]
async fn question_mark(text: &str) -> io::Result<u32> {
    let n = failing(text)?;
    if n == 3 {
        Err(io::ErrorKind::Other)?;
    }
    if n == 4 {
        return Ok(4);
    }
    Ok(n)
}

#[instrumented_task]
async fn boxed_error(text: &str) -> Result<u32, Boxed> {
    if text.is_empty() {
        return Err("empty".into());
    }
    Ok(text.parse::<u32>()?)
}

#[instrumented_task]
async fn alias_with_default(text: &str) -> Outcome<()> {
    text.parse::<u32>()?;
    Ok(())
}

#[instrumented_task]
async fn diverges_to_err() -> Result<(), Boxed> {
    Err("always")?
}

#[instrumented_task]
async fn coercions(first: bool) -> Option<Box<dyn Fn() -> u32 + Send>> {
    if first {
        return Some(Box::new(|| 1));
    }
    Some(Box::new(|| 2))
}

#[instrumented_task]
async fn tail_coercion() -> Box<dyn Display + Send> {
    Box::new("only")
}

#[instrumented_task]
async fn tail_unsizes() -> &'static [u8] {
    &[1, 2, 3]
}

#[instrumented_task]
async fn generic<T, const N: usize>(values: [T; N]) -> Result<T, String>
where
    T: Clone + Send,
{
    values.first().cloned().ok_or_else(|| "none".to_owned())
}

#[instrumented_task]
async fn generic_value<T>(value: T) -> T {
    value
}

#[instrumented_task]
async fn generic_error<T, E: Debug>(value: Result<T, E>) -> Result<T, E> {
    let value = value?;
    Ok(value)
}

#[instrumented_task]
async fn named_lifetime<'a>(connection: &'a mut Vec<u8>, other: &str) -> Result<&'a mut [u8], Cow<'a, str>> {
    connection.extend(other.bytes());
    match connection.len() {
        0 => Err(Cow::Borrowed("empty")),
        _ => Ok(&mut connection[..]),
    }
}

#[instrumented_task]
async fn elided_str(text: &str) -> &str {
    text.trim()
}

#[instrumented_task]
async fn elided_option(text: &str) -> Option<&str> {
    text.split(' ').next()
}

#[instrumented_task]
async fn elided_bytes(bytes: &[u8]) -> io::Result<&[u8]> {
    bytes.get(1..).ok_or_else(|| io::Error::other("short"))
}

#[instrumented_task]
async fn elided_path(text: &str) -> Cow<'_, str> {
    text.into()
}

#[instrumented_task]
async fn elided_dyn(number: &u32) -> &dyn Display {
    number
}

#[instrumented_task]
async fn impl_argument(text: impl AsRef<str> + Send, f: impl FnOnce(u32) -> u32 + Send) -> u32 {
    plain().await;
    f(u32::try_from(text.as_ref().len()).unwrap_or_default())
}

#[instrumented_task]
async fn impl_return(n: u32) -> impl Iterator<Item = u32> + Send {
    0..n
}

#[instrumented_task]
async fn impl_in_result(n: u32) -> Result<impl Iterator<Item = impl Display>, Boxed> {
    if n == 0 {
        return Err("zero".into());
    }
    Ok(0..n)
}

#[instrumented_task]
async fn impl_future() -> impl Future<Output = ()> + Send {
    plain()
}

#[instrumented_task]
async fn yields_a_future() -> Pin<Box<dyn Future<Output = ()> + Send>> {
    Box::pin(async {})
}

#[instrumented_task]
async fn tuples((a, b): (u32, u32), [c, ..]: [u32; 2], _: String) -> (u32, u32, u32) {
    (a, b, c)
}

#[instrumented_task]
async fn mutable(mut n: u32, mut text: String) -> String {
    n += 1;
    text.push_str(&n.to_string());
    text
}

#[instrumented_task]
async fn never() -> ! {
    loop {
        plain().await;
    }
}

#[instrumented_task]
async fn uninhabited(stop: bool) -> Result<std::convert::Infallible, Boxed> {
    loop {
        if stop {
            return Err("stop".into());
        }
        plain().await;
    }
}

#[instrumented_task]
async fn only_uninhabited() -> std::convert::Infallible {
    loop {
        plain().await;
    }
}

#[instrumented_task]
async fn panics() -> u32 {
    panic!("as written")
}

#[instrumented_task]
async fn todo_later() -> Result<u32, Boxed> {
    todo!()
}

#[instrumented_task]
async fn r#match() {}

#[instrumented_task]
async fn our_names(__body: u32, __output: u32, __task: u32) -> u32 {
    #[allow(non_upper_case_globals, unused)]
    static __TASK: u32 = 1;
    __body + __output + __task + __TASK
}

#[instrumented_task]
async fn inner_attributes() {
    #![allow(unused_variables)]
    let unused = 1;
}

#[instrumented_task]
async fn items_inside() -> u32 {
    use std::collections::HashSet as Set;
    const ONE: u32 = 1;
    fn two() -> u32 {
        2
    }
    let set: Set<u32> = [ONE, two()].into();
    #[instrumented_task]
    async fn nested(n: u32) -> u32 {
        n
    }
    nested(set.into_iter().sum()).await
}

#[instrumented_task]
async fn labels() -> u32 {
    'outer: loop {
        for n in 0.. {
            if n == 3 {
                break 'outer n;
            }
        }
    }
}

#[instrumented_task]
async unsafe fn not_safe() {}

#[derive(Debug, Default)]
struct Opaque;

#[instrumented_task]
async fn opaque_error() -> Result<(), Opaque> {
    Err(Opaque)
}

/// A type with methods.
#[derive(Default, Clone)]
pub struct Cache {
    map: HashMap<String, u32>,
    name: String,
}

impl Cache {
    const NAME: &'static str = "cache";

    #[instrumented_task(name = "cache.open")]
    async fn open(name: &str) -> io::Result<Self> {
        failing(name)?;
        Ok(Self { name: Self::NAME.into(), ..Self::default() })
    }

    #[instrumented_task]
    async fn fresh() -> Self {
        Self::default()
    }

    #[instrumented_task]
    async fn get(&self, key: &str) -> Option<&u32> {
        self.map.get(key)
    }

    #[instrumented_task]
    async fn name(&self) -> &str {
        &self.name
    }

    #[instrumented_task]
    async fn bytes(&self) -> io::Result<&[u8]> {
        failing(&self.name)?;
        Ok(self.name.as_bytes())
    }

    /// Documented and public.
    #[instrumented_task]
    pub async fn put(&mut self, key: String, value: u32) -> Result<&mut u32, Boxed> {
        self.name.clear();
        plain().await;
        Ok(self.map.entry(key).or_insert(value))
    }

    #[instrumented_task]
    async fn fluent(&mut self) -> &mut Self {
        self
    }

    #[instrumented_task]
    async fn into_name(self) -> String {
        self.name
    }

    #[instrumented_task]
    async fn mut_self(mut self, name: &str) -> Self {
        self.name = name.into();
        self
    }

    #[instrumented_task]
    async fn shared(self: Arc<Self>) -> usize {
        self.map.len()
    }

    #[instrumented_task]
    async fn boxed(self: Box<Self>) -> Result<Self, Opaque> {
        Ok(*self)
    }

    #[instrumented_task]
    async fn pinned(self: Pin<&mut Self>) -> usize {
        self.map.len()
    }
}

struct Fails<T>(T);

impl<Err: Display + Clone + Sync + Send> Fails<Err> {
    #[instrumented_task]
    async fn err(&self) -> Result<(), Err> {
        Err(self.0.clone())
    }
}

impl<TError: Display + Clone + Sync + Send> Fails<TError> {
    #[instrumented_task]
    async fn t_error(&self) -> Result<(), TError> {
        Err(self.0.clone())
    }
}

struct Wrapper<'a, T: ?Sized>(&'a T);

impl<'a, T: ?Sized + Display + Sync> Wrapper<'a, T> {
    #[instrumented_task]
    async fn inner(&self) -> &'a T {
        self.0
    }

    #[instrumented_task]
    async fn text<U>(&self, other: U) -> Result<String, U>
    where
        U: Display + Send,
    {
        Ok(format!("{}{other}", self.0))
    }
}

#[allow(async_fn_in_trait)]
trait Source {
    type Item: Send;
    type Error: std::error::Error + Send;

    async fn next(&mut self) -> Result<Self::Item, Self::Error>;

    #[instrumented_task]
    async fn skip(&mut self) -> Result<Self::Item, Self::Error> {
        self.next().await?;
        self.next().await
    }
}

impl Source for Cache {
    type Item = u32;
    type Error = io::Error;

    #[instrumented_task]
    async fn next(&mut self) -> Result<u32, Self::Error> {
        failing(&self.name)
    }
}

fn send<F: Future + Send>(_: F) {}

fn spawned<F: Future + Send + 'static>(_: F) {}

/// Compiled, not run.
#[allow(unreachable_code, clippy::let_underscore_future)]
fn main() {
    if true {
        return;
    }
    spawned(plain());
    spawned(unit_with_returns(true));
    spawned(all_options(1));
    spawned(other_spellings());
    spawned(through_a_reexport());
    spawned(declared());
    spawned(fragment_never());
    spawned(fragment_impl(1));
    send(fragment_result(""));
    send(question_mark(""));
    send(boxed_error(""));
    send(alias_with_default(""));
    spawned(diverges_to_err());
    spawned(coercions(true));
    spawned(tail_coercion());
    spawned(tail_unsizes());
    spawned(generic([1, 2]));
    spawned(generic_value(1));
    spawned(generic_error::<u32, Opaque>(Ok(1)));
    send(named_lifetime(&mut Vec::new(), ""));
    send(elided_str(""));
    send(elided_option(""));
    send(elided_bytes(&[]));
    send(elided_path(""));
    let _ = elided_dyn(&1);
    spawned(impl_argument("", |n| n));
    spawned(impl_return(1));
    spawned(impl_in_result(1));
    spawned(impl_future());
    spawned(yields_a_future());
    spawned(tuples((1, 2), [3, 4], String::new()));
    spawned(mutable(1, String::new()));
    spawned(never());
    spawned(uninhabited(true));
    spawned(only_uninhabited());
    spawned(panics());
    spawned(todo_later());
    spawned(r#match());
    spawned(our_names(1, 2, 3));
    spawned(inner_attributes());
    spawned(items_inside());
    spawned(labels());
    // SAFETY: it does nothing.
    spawned(unsafe { not_safe() });
    spawned(opaque_error());

    let mut cache = Cache::default();
    send(Cache::open(""));
    spawned(Cache::fresh());
    send(cache.get(""));
    send(cache.name());
    send(cache.bytes());
    send(cache.put(String::new(), 1));
    send(cache.fluent());
    spawned(cache.clone().into_name());
    send(cache.clone().mut_self(""));
    spawned(Arc::new(cache.clone()).shared());
    spawned(Box::new(cache.clone()).boxed());
    send(Pin::new(&mut cache).pinned());
    send(cache.skip());
    send(cache.next());
    let wrapper = Wrapper("text");
    send(wrapper.inner());
    send(wrapper.text(1));
}
