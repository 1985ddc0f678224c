//! What the reader does is left alone by the updates, and what is said aloud is a change.

use std::time::Duration;

use crate::{
    Checked,
    browser::Browser,
    check,
    service::{Service, TOKEN},
};

/// How long the updates go on beside the reader.
const READ: Duration = Duration::from_secs(10);

/// Notes each change of what a screen reader announces, and each shift of the layout.
const WATCH: &str = "\
    window.said = []; window.shifts = 0; window.nodes = new WeakSet(); \
    const watch = new MutationObserver((changes) => { for (const change of changes) { \
        const region = (change.target.nodeType === 1 ? change.target : change.target.parentElement)?.closest('[aria-live], [role=status], [role=alert], [role=log]'); \
        if (region) window.said.push(region.textContent); } }); \
    watch.observe(document.body, { subtree: true, childList: true, characterData: true }); \
    new PerformanceObserver((list) => { for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.shifts += entry.value; }) \
        .observe({ type: 'layout-shift', buffered: false });";

pub async fn run() -> Checked {
    let mut service = Service::start(0, TOKEN, 8);
    let browser = Browser::open(1280, 900, "light").await?;
    an_opened_trace_the_selection_and_the_focus_stay(&service, &browser).await?;
    println!(
        "ok  an opened trace, the selection, the focus and the place stay for {READ:?}; nothing is announced, nothing moves"
    );
    a_lost_connection_says_how_old_the_data_is(&mut service, &browser).await?;
    println!("ok  a lost connection is said, with the age of the data; paused updates stand still");
    browser.close().await?;
    changes_before_the_subscription_are_drawn(&service).await?;
    println!("ok  a message that arrives between the first drawing and the subscription is drawn");
    Ok(())
}

/// A stream that says everything at once and then nothing: before the first frame, and so before any view has subscribed.
const AT_ONCE: &str = "\
    window.EventSource = class extends EventTarget { \
        static CLOSED = 2; \
        readyState = 1; \
        constructor(address) { \
            super(); \
            const request = new XMLHttpRequest(); \
            request.open('GET', new URL('tasks', address), false); \
            request.send(); \
            const { summary, tasks } = JSON.parse(request.responseText); \
            const data = JSON.stringify({ at: Date.now() / 1000, summary, rows: tasks, events: [] }); \
            queueMicrotask(() => { \
                window.loading = document.querySelector('main .loading') !== null; \
                this.dispatchEvent(new MessageEvent('all', { data })); \
            }); \
        } \
        close() {} \
    };";

async fn changes_before_the_subscription_are_drawn(service: &Service) -> Checked {
    let browser = Browser::open(1280, 900, "light").await?;
    browser.before_each_page(AT_ONCE).await?;
    browser.client.goto(&service.url()).await?;
    browser
        .shows(
            "the rows of the only message",
            "return document.querySelector('.verdict') !== null && document.querySelectorAll('tr.task').length > 2",
        )
        .await?;
    check!(browser.ask("return loading").await? == true, "the message did not come after the first drawing");
    browser.close().await
}

/// On the page of a loop that runs three times a second, so that its traces are soon no longer among the newest.
async fn an_opened_trace_the_selection_and_the_focus_stay(service: &Service, browser: &Browser) -> Checked {
    browser.view(&service.url(), "/task/tick").await?;
    browser
        .shows(
            "two traces are there",
            "return document.querySelectorAll('#traces ~ .body .trace').length > 2",
        )
        .await?;
    browser
        .ask(
            "window.trace = document.querySelectorAll('.trace')[1]; trace.open = true; \
             window.span = trace.querySelector('.span'); span.open = true; \
             window.attribute = [...span.querySelectorAll('dd bdi')].at(-1); \
             span.querySelector('summary').focus(); \
             getSelection().selectAllChildren(attribute); \
             window.selected = getSelection().toString(); \
             scrollTo(0, 200); window.runs = document.querySelector('[data-chart=runs]').ariaValueText;",
        )
        .await?;
    // The toggles are drawn.
    tokio::time::sleep(Duration::from_millis(300)).await;
    browser.ask(&format!("{WATCH} window.place = span.getBoundingClientRect().top")).await?;
    tokio::time::sleep(READ).await;
    for (what, holds) in [
        ("the trace is not open", "trace.isConnected && trace.open"),
        ("the span is not open", "span.isConnected && span.open && attribute.isConnected"),
        ("the focus is elsewhere", "document.activeElement === span.querySelector('summary')"),
        ("the selection is another", "selected !== '' && getSelection().toString() === selected"),
        ("what was read is elsewhere", "Math.abs(span.getBoundingClientRect().top - place) < 2"),
        ("the charts stood still", "document.querySelector('[data-chart=runs]').ariaValueText !== runs"),
        ("newer traces are not offered", "document.querySelector('.newer button') !== null"),
    ] {
        check!(browser.ask(&format!("return {holds}")).await? == true, "after {READ:?}, {what}");
    }
    let said = browser.ask("return said").await?;
    check!(said == serde_json::json!([]), "{said} was announced, and nothing had changed");
    let shifts = browser.ask("return shifts").await?;
    check!(shifts.as_f64().is_some_and(|shifts| shifts < 0.01), "the layout shifted by {shifts}");
    browser.click(".newer button").await?;
    let kept = browser.ask("return trace.isConnected && trace.open && span.open").await?;
    check!(kept == true, "newer traces closed the one that is read");

    // A change is announced, once.
    service.fail.notify_one();
    browser
        .shows(
            "the change is announced",
            "return document.getElementById('said').textContent.includes('failing')",
        )
        .await?;
    let said = browser.ask("return new Set(said.filter((text) => text.includes('Liveness'))).size").await?;
    check!(said == 1, "{said} announcements of one change");
    Ok(())
}

async fn a_lost_connection_says_how_old_the_data_is(service: &mut Service, browser: &Browser) -> Checked {
    browser.view(&service.url(), "/").await?;
    service.end_page();
    browser
        .shows(
            "the data's age",
            "return /Connection lost.*\\d+ s old/.test(document.querySelector('.notice')?.textContent ?? '')",
        )
        .await?;
    service.serve();
    browser.shows("it is there again", "return document.querySelector('.notice') === null && document.querySelector('.live').textContent.includes('Live')").await?;
    browser.press("p").await?;
    browser
        .shows("it is paused", "return document.querySelector('.live').textContent.includes('Paused')")
        .await?;
    let shown = "return document.querySelector('main').innerText";
    let before = browser.ask(shown).await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let after = browser.ask(shown).await?;
    check!(after == before, "paused, it changed from {before} to {after}");
    browser.press("p").await?;
    browser.shows("it goes on", "return document.querySelector('.live').textContent.includes('Live')").await
}
