//! The live page: what the tasks do, in a browser.

use std::io;

use otel_tasks::TaskManager;
use otel_tasks_page::{Feed, Page, PageServer};

use crate::options::Options;

/// Serves the page until the returned server is dropped. With a token it may restart, pause, resume and stop tasks.
pub(crate) fn serve(tasks: &TaskManager, feed: &Feed, options: &Options) -> io::Result<PageServer> {
    let token = options.page_token.clone().unwrap_or_default();
    Page::new(tasks).feed(feed).token(token).serve(options.page)
}
