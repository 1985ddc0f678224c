//! The live page: what the tasks do, in a browser.

use std::io;

use otel_tasks::{
    TaskManager,
    page::{Feed, Page, PageServer},
    telemetry::TelemetryBuilder,
};

use crate::options::Options;

/// What the page shows beside the tasks.
#[derive(Default)]
pub(crate) struct LivePage(Feed);

impl LivePage {
    pub(crate) fn feed(&self, telemetry: TelemetryBuilder) -> TelemetryBuilder {
        telemetry.page(&self.0)
    }

    /// Serves it until what is returned is dropped. With a token it may restart, pause, resume and stop tasks.
    pub(crate) fn serve(&self, tasks: &TaskManager, options: &Options) -> io::Result<PageServer> {
        let page = Page::new(tasks).feed(&self.0).token(options.page_token.clone().unwrap_or_default());
        page.serve(options.page)
    }
}
