//! Somebody is woken at three: each of five questions is answered within two clicks from the overview.

use crate::{
    Checked,
    axe::Axe,
    browser::Browser,
    check, contrast,
    service::{Service, TOKEN},
};

pub async fn run() -> Checked {
    let service = Service::night(TOKEN);
    let axe = Axe::install()?;
    let browser = Browser::open(1280, 900, "light").await?;
    browser.view(&service.url(), "/").await?;
    browser
        .shows(
            "a task was given up",
            "return /Readiness.*failing.*order_sync/.test(document.querySelector('.verdict')?.textContent ?? '') && document.querySelector('tr.task')?.textContent.includes('Failed')",
        )
        .await?;
    five_questions_take_two_clicks_each(&service, &browser).await?;
    println!("ok  what is broken, since when, why, what changed, what can I do: two clicks at most");
    actions_follow_the_state(&service, &browser).await?;
    println!("ok  actions follow the state; a stop is confirmed; a refusal says why");
    a_lease_shows_where_it_is_held(&service, &browser).await?;
    println!(
        "ok  a task in standby names the holder of its lease; the holder has the term and the time that is left"
    );
    views_are_accessible(&service, &browser, &axe).await?;
    println!(
        "ok  axe finds nothing on any view, and the contrast suffices, light and dark, wide and on a telephone"
    );
    a_telephone_shows_health_and_the_last_error(&service, &browser).await?;
    println!("ok  390 pixels show health and the last error");
    a_shutdown_is_counted_down(&service, &browser).await?;
    println!("ok  a shutdown is counted down, then reported");
    browser.close().await
}

/// What stands in a part of the page.
async fn text(browser: &Browser, selector: &str) -> Checked<String> {
    let script = format!("return document.querySelector({selector:?})?.innerText ?? ''");
    Ok(browser.ask(&script).await?.as_str().unwrap_or_default().to_owned())
}

fn contains(question: &str, text: &str, words: &[&str]) -> Checked {
    for word in words {
        check!(text.contains(word), "{question} {word:?} is not in {text:?}");
    }
    Ok(())
}

async fn five_questions_take_two_clicks_each(service: &Service, browser: &Browser) -> Checked {
    // Without a click.
    let verdict = text(browser, ".verdict").await?;
    contains("What is broken?", &verdict, &["Readiness failing", "order_sync", "refused (os error 111)"])?;
    let first = text(browser, "tr.task").await?;
    contains("What is broken?", &first, &["order_sync", "Failed"])?;
    let changed = text(browser, "#changed ~ .body").await?;
    contains("What changed?", &changed, &["order_sync", "gave up"])?;

    let all = text(browser, "#tasks").await?;
    contains("How often?", &all, &["every 900 ms", "every 2.5 s", "every 15 min", "every 1 d"])?;

    // One click: its page.
    browser.click(".verdict p a").await?;
    browser.shows("its page is there", "return document.querySelector('#last-error') !== null").await?;
    let why = text(browser, "#why ~ .body").await?;
    contains("Since when?", &why, &["Unhealthy since"])?;
    contains("Why?", &why, &["insert orders", "Trace"])?;
    contains("What changed?", &text(browser, "#changes ~ .body").await?, &["given up"])?;
    contains("What can I do?", &text(browser, ".actions").await?, &["Restart"])?;
    let trace = text(browser, ".trace[open]").await?;
    contains("Why?", &trace, &["GET /orders", "INSERT orders", "connect shop-db:5432"])?;
    let link = browser.ask("return document.querySelector('#why ~ .body .tools a').href").await?;
    check!(
        link.as_str()
            .is_some_and(|link| link.starts_with("https://jaeger.example.com/trace/") && link.len() == 65),
        "the trace's link is {link}"
    );

    let utc = browser.ask("return /\\dT\\d.*Z/.test(document.querySelector('main').innerText)").await?;
    check!(utc == false, "a time of another zone among the reader's: {why}");

    // Two clicks: the attributes of a span.
    browser.ask("[...document.querySelectorAll('.trace[open] .span summary')].find((line) => line.textContent.includes('INSERT')).click()").await?;
    contains("Why?", &text(browser, ".trace[open] .span[open]").await?, &["refused (os error 111)"])?;

    // From the overview, the trace is one click away, too.
    browser.view(&service.url(), "/").await?;
    browser
        .shows("the sentence is there", "return document.querySelector('.verdict a.button') !== null")
        .await?;
    browser.click(".verdict a.button").await?;
    browser.shows("the trace is open and seen", "const trace = document.querySelector('.trace[open]')?.getBoundingClientRect(); return trace !== undefined && trace.top < innerHeight").await
}

async fn actions_follow_the_state(service: &Service, browser: &Browser) -> Checked {
    let offered = "return [...document.querySelectorAll('.actions button')].map((button) => button.dataset.action).join(' ')";
    for (task, expected) in [
        ("order_sync", "restart pause stop"),
        ("gateway", "restart pause stop"),
        ("price_refresh", "run restart pause stop"),
    ] {
        browser.view(&service.url(), &format!("/task/{task}")).await?;
        browser
            .shows("the actions are there", "return document.querySelector('.actions button') !== null")
            .await?;
        let shown = browser.ask(offered).await?;
        check!(shown == expected, "{task}: {shown}");
    }
    // The token: Enter means Use.
    browser.click("[data-action=pause]").await?;
    browser.shows("the token is asked for", "return document.activeElement?.id === 'secret'").await?;
    browser.press(TOKEN).await?;
    browser.press("\u{e007}").await?;
    browser
        .shows(
            "it is paused",
            "return document.querySelector('.title .state').textContent.includes('Paused')",
        )
        .await?;
    browser.shows("only what makes sense is offered", "return document.querySelector('.actions').innerText.includes('Resume') && document.querySelector('[data-action=pause]') === null").await?;

    // A stop is confirmed; the way back is the default.
    browser.view(&service.url(), "/task/gateway").await?;
    browser
        .shows("the actions are there", "return document.querySelector('[data-action=stop]') !== null")
        .await?;
    browser.click("[data-action=stop]").await?;
    browser
        .shows("the way back is chosen", "return document.activeElement?.textContent === 'Cancel'")
        .await?;
    let asked = text(browser, "dialog").await?;
    contains("What does a stop do?", &asked, &["gateway", "cart_cache"])?;
    browser.press("\u{e007}").await?;
    browser.shows("the dialog is gone", "return document.querySelector('dialog') === null && document.activeElement?.dataset.action === 'stop'").await?;
    let state = service.tasks.snapshot("gateway").and_then(|task| task.state);
    check!(state.is_some_and(|state| state.as_str() == "running"), "Enter stopped it: {state:?}");

    // What is refused says why: somebody else was faster, and this page stands still.
    browser.view(&service.url(), "/task/session_sweep").await?;
    browser
        .shows("the actions are there", "return document.querySelector('[data-action=run]') !== null")
        .await?;
    browser.press("p").await?;
    browser
        .shows("it stands still", "return document.querySelector('.live').textContent.includes('Paused')")
        .await?;
    service.tasks.stop("session_sweep").map_err(|error| error.to_string())?;
    // It ends.
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    browser.click("[data-action=run]").await?;
    browser
        .shows(
            "why it is refused",
            "return /^Not now: .*it is stopped/.test(document.getElementById('answer').textContent)",
        )
        .await?;
    browser.press("p").await
}

async fn a_lease_shows_where_it_is_held(service: &Service, browser: &Browser) -> Checked {
    browser.view(&service.url(), "/").await?;
    browser
        .shows(
            "the row is there",
            "return document.querySelector('tr[data-name=mail_outbox] .status') !== null",
        )
        .await?;
    let status = text(browser, "tr[data-name=mail_outbox] .status").await?;
    contains("Where does it run?", &status, &["Standby", "outbox is held by shop-4f2:1:9c04e1d7"])?;
    let icon =
        browser.ask("return document.querySelector('tr[data-name=mail_outbox] .name .icon.held') !== null");
    check!(icon.await? == true, "a task in standby has no badge of its own");
    for (task, expected) in [
        ("mail_outbox", &["outbox", "held by", "shop-4f2:1:9c04e1d7"][..]),
        ("price_feed", &["feed", "held by", "this process", "shop-7c9:1:31b7a02f", "412", "in 59 min"]),
    ] {
        browser.view(&service.url(), &format!("/task/{task}")).await?;
        browser
            .shows("its facts are there", "return document.querySelector('#about ~ .body dt') !== null")
            .await?;
        contains("Where does it run?", &text(browser, "#about ~ .body").await?, expected)?;
    }
    let standby = text(browser, "#about ~ .body").await?;
    check!(standby.contains("ends unless extended"), "no end of the lease in {standby:?}");
    Ok(())
}

/// With a task that takes its time to end.
async fn a_shutdown_is_counted_down(service: &Service, browser: &Browser) -> Checked {
    browser.view(&service.url(), "/").await?;
    {
        let _inside = service.runtime().enter();
        drop(service.tasks.spawn("last_order", tokio::time::sleep(std::time::Duration::from_secs(3))));
    }
    let tasks = service.tasks.clone();
    let report = service.runtime().spawn(async move { tasks.shutdown().await });
    browser
        .shows(
            "how long it may take, and who is at work",
            "return /Shutting down.*At most \\d+ s left.*still at work/.test(document.querySelector('.notice')?.textContent ?? '')",
        )
        .await?;
    report.await?;
    browser
        .shows(
            "its report",
            "return /Shut down.*shutdown took/.test(document.querySelector('.notice')?.textContent ?? '')",
        )
        .await
}

async fn views_are_accessible(service: &Service, browser: &Browser, axe: &Axe) -> Checked {
    for (width, height) in [(1280, 900), (390, 844)] {
        for scheme in ["light", "dark"] {
            browser.looks(width, height, scheme).await?;
            for view in [
                "/",
                "/?group=component",
                "/task/order_sync",
                "/task/price_refresh",
                "/task/price_feed",
                "/schedule",
                "/events",
                "/runtime",
            ] {
                browser.view(&service.url(), view).await?;
                browser.shows("the view is there", "return document.querySelector('main h1') !== null && document.querySelector('main .loading') === null").await?;
                let what = format!("{view}, {width} pixels, {scheme}");
                axe.check(browser, &what).await?;
                contrast::check(browser, &what).await?;
            }
            browser.press("?").await?;
            browser
                .shows("the keys are there", "return document.querySelector('dialog kbd') !== null")
                .await?;
            let what = format!("the keys, {width} pixels, {scheme}");
            axe.check(browser, &what).await?;
            contrast::check(browser, &what).await?;
        }
    }
    Ok(())
}

async fn a_telephone_shows_health_and_the_last_error(service: &Service, browser: &Browser) -> Checked {
    browser.looks(390, 844, "light").await?;
    browser.view(&service.url(), "/").await?;
    browser.shows("the row is there", "return document.querySelector('tr.task .error') !== null").await?;
    for part in [".verdict b", "tr.task .status b", "tr.task .error bdi"] {
        let script = format!(
            "const part = document.querySelector({part:?}).getBoundingClientRect(); return part.width > 20 && part.height > 8 && part.left >= 0 && part.top >= 0 && part.bottom <= innerHeight"
        );
        check!(browser.ask(&script).await? == true, "{part} is not seen on a telephone");
    }
    browser.looks(1280, 900, "light").await?;
    let cut = browser.ask("return [...document.querySelectorAll('thead th button')].filter((head) => head.scrollWidth > head.clientWidth).map((head) => head.textContent)").await?;
    check!(cut == serde_json::json!([]), "headers are cut: {cut}");
    Ok(())
}
