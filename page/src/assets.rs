//! The files of the page, unchanged in the binary.

use std::borrow::Cow;

use axum::{
    extract::{OriginalUri, Path},
    http::{StatusCode, header},
    response::{Html, IntoResponse, Response},
};

use crate::guard::refusal;

const JAVASCRIPT: &str = "text/javascript; charset=utf-8";

/// Declares the served files: the address below `assets/`, its media type, its text.
macro_rules! files {
    ($($name:literal: $kind:expr,)+) => {
        const FILES: &[(&str, &str, &str)] = &[$(($name, $kind, include_str!(concat!("assets/", $name))),)+];
    };
}

files! {
    "app.js": JAVASCRIPT,
    "chart.js": JAVASCRIPT,
    "dialog.js": JAVASCRIPT,
    "events.js": JAVASCRIPT,
    "format.js": JAVASCRIPT,
    "overview.js": JAVASCRIPT,
    "parts.js": JAVASCRIPT,
    "runtime.js": JAVASCRIPT,
    "schedule.js": JAVASCRIPT,
    "state.js": JAVASCRIPT,
    "task.js": JAVASCRIPT,
    "trace.js": JAVASCRIPT,
    "vendor/htm-preact.js": JAVASCRIPT,
    "page.css": "text/css; charset=utf-8",
    "icon.svg": "image/svg+xml",
}

/// The page. All its addresses are relative, so that a proxy may add a prefix. They are relative to its own folder, or to the folder above
/// if it is nested at an address without a slash at the end.
pub(crate) async fn index(OriginalUri(uri): OriginalUri) -> Html<Cow<'static, str>> {
    const PAGE: &str = include_str!("assets/page.html");
    match uri.path().rsplit('/').next() {
        None | Some("") => Html(PAGE.into()),
        Some(folder) => {
            // Percent-encoding leaves these alone, and they would end the attribute.
            let folder = folder.replace('&', "&amp;").replace('"', "&quot;").replace('<', "&lt;");
            // With the dot, a folder with a colon in its name is no scheme.
            Html(PAGE.replace("./", &format!("./{folder}/")).into())
        }
    }
}

pub(crate) async fn file(Path(name): Path<String>) -> Response {
    match FILES.iter().find(|(known, ..)| *known == name) {
        Some((_, kind, text)) => ([(header::CONTENT_TYPE, *kind)], *text).into_response(),
        None => refusal(StatusCode::NOT_FOUND, "there is no such path"),
    }
}

#[cfg(test)]
mod tests;
