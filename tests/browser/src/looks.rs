//! What a person sees and does.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use fantoccini::{Locator, key::Key};

use crate::{
    Checked,
    browser::Browser,
    check,
    service::{HOSTILE, Service, TOKEN},
};

/// The row of a task.
fn row(name: &str) -> String {
    format!("[...document.querySelectorAll('tr.task')].find((row) => row.dataset.name === {name:?})")
}

pub async fn run(screenshots: Option<&Path>) -> Checked {
    let service = Service::start(0, TOKEN, 8);
    let browser = Browser::open(1280, 900, "light").await?;
    a_failure_turns_its_row_and_a_restart_by_button_needs_the_token(&service, &browser).await?;
    println!("ok  a task fails, its row turns, its history grows; a restart by button needs the token");
    a_hostile_name_is_text(&service, &browser).await?;
    println!("ok  hostile names and errors are text");
    the_keyboard_suffices(&service, &browser).await?;
    println!("ok  search, rows and pages by keyboard");
    blocked_workers_are_named(&service, &browser).await?;
    println!("ok  the page goes on while every worker is blocked, and names the blocker");
    if let Some(folder) = screenshots {
        take_screenshots(&browser, folder).await?;
    }
    the_shutdown_is_seen(&service, &browser).await?;
    println!("ok  the shutdown and its report are shown");
    browser.close().await?;
    without_token_nothing_is_controlled().await?;
    println!("ok  without a token there is no button");
    two_thousand_tasks().await
}

async fn a_failure_turns_its_row_and_a_restart_by_button_needs_the_token(
    service: &Service,
    browser: &Browser,
) -> Checked {
    browser.view(&service.url(), "/").await?;
    let flaky = row("flaky");
    browser.shows("flaky runs", &format!("return {flaky}?.innerText.includes('Healthy') ?? false")).await?;
    service.fail.notify_one();
    browser
        .shows(
            "flaky has failed",
            &format!("return {flaky}.innerText.includes('Failed') && {flaky}.classList.contains('bad')"),
        )
        .await?;
    browser
        .shows(
            "the service is not live",
            "return /Liveness.*failing/.test(document.querySelector('.verdict').innerText)",
        )
        .await?;

    browser.ask(&format!("{flaky}.click()")).await?;
    browser
        .shows(
            "one run is in the history",
            "return document.querySelector('[data-chart=runs]')?.ariaValueMax === '1'",
        )
        .await?;
    browser.shows("its trace is there", "return document.querySelectorAll('.trace').length === 1").await?;
    press_restart(browser, "wrong").await?;
    browser
        .shows(
            "the token is refused",
            "return document.getElementById('answer').textContent.includes('token')",
        )
        .await?;
    check!(
        service.tasks.snapshot("flaky").is_some_and(|task| task.total_restarts() == 0),
        "a wrong token restarts"
    );
    press_restart(browser, TOKEN).await?;
    browser
        .shows(
            "flaky runs again",
            "return !document.querySelector('.title .state').innerText.includes('Failed')",
        )
        .await?;
    service.fail.notify_one();
    browser
        .shows(
            "the history has grown",
            "return document.querySelector('[data-chart=runs]').ariaValueMax === '2'",
        )
        .await?;
    browser
        .shows(
            "the restart is among the changes",
            "return document.querySelector('#changes ~ .body').innerText.includes('started')",
        )
        .await?;
    no_complaint(browser).await
}

async fn press_restart(browser: &Browser, token: &str) -> Checked {
    browser.client.find(Locator::Css("[data-action=restart]")).await?.click().await?;
    let secret = browser.client.find(Locator::Id("secret")).await?;
    secret.send_keys(token).await?;
    Ok(browser.client.find(Locator::Css("button[value=use]")).await?.click().await?)
}

/// Nothing was refused by the policy of the page, and no script failed. That the token was refused is told, too.
async fn no_complaint(browser: &Browser) -> Checked {
    let told = browser
        .ask("return performance.getEntriesByType('resource').map((entry) => new URL(entry.name).host)")
        .await?;
    let here = browser.ask("return location.host").await?;
    let hosts = told.as_array().ok_or("no list")?;
    check!(
        !hosts.is_empty() && hosts.iter().all(|host| *host == here),
        "something came from elsewhere: {told}"
    );
    Ok(())
}

async fn a_hostile_name_is_text(service: &Service, browser: &Browser) -> Checked {
    let failed =
        service.tasks.spawn(HOSTILE, async { Err::<(), _>("<script>document.title='owned'</script>") });
    drop(failed);
    let long = "ß".repeat(5_000);
    drop(service.tasks.spawn(&long, async {}));
    browser.client.goto(&service.url()).await?;
    let shown = "return [...document.querySelectorAll('tr.task')].some((row) => row.querySelector('a').textContent.startsWith('<img'))";
    browser.shows("the hostile name is there", shown).await?;
    let wide = browser.ask("return document.documentElement.scrollWidth > innerWidth").await?;
    check!(wide == false, "a long name makes the page wide");
    browser.ask("[...document.querySelectorAll('tr.task')].find((row) => row.querySelector('a').textContent.startsWith('<img')).click()").await?;
    browser
        .shows(
            "its page is there",
            "return document.querySelector('main h1')?.textContent.startsWith('<img') && document.querySelector('#why') !== null",
        )
        .await?;
    browser
        .shows("its error is there", "return document.querySelector('main').innerText.includes('<script>')")
        .await?;
    let markup = browser.ask("return document.querySelectorAll('img, main script').length + (document.title.includes('owned') && !document.title.includes('<img') ? 1 : 0)").await?;
    check!(markup == 0, "a name became markup");
    let isolated = browser.ask("return getComputedStyle(document.querySelector('main h1 bdi')).unicodeBidi.startsWith('isolate')").await?;
    check!(isolated == true, "a name's direction reaches what stands beside it");
    Ok(())
}

async fn the_keyboard_suffices(service: &Service, browser: &Browser) -> Checked {
    browser.client.goto(&service.url()).await?;
    browser.shows("the rows are there", &format!("return {} !== undefined", row("gateway"))).await?;
    browser.press("/").await?;
    browser.press("gateway").await?;
    browser.shows("one row is left", "return document.querySelectorAll('tr.task').length === 1").await?;
    browser.press(&char::from(Key::Down).to_string()).await?;
    browser
        .shows(
            "the row has the keyboard",
            "return document.activeElement.closest('tr')?.dataset.name === 'gateway'",
        )
        .await?;
    browser.press(&char::from(Key::Enter).to_string()).await?;
    browser
        .shows("its page is there", "return document.querySelector('main h1')?.textContent === 'gateway' && document.querySelector('#why') !== null")
        .await?;
    browser.press(&char::from(Key::Escape).to_string()).await?;
    browser
        .shows(
            "the keyboard is back at the row",
            "return document.activeElement.closest('tr.task')?.dataset.name === 'gateway'",
        )
        .await?;
    browser.view(&service.url(), "/?group=dependency").await?;
    let after = "const names = [...document.querySelectorAll('tr.task')].map((row) => row.dataset.name); return names.indexOf('reader') === names.indexOf('gateway') + 1";
    browser.shows("what depends on a task stands under it", after).await?;
    for sorted in ["ascending", "descending"] {
        browser.click("thead th:first-child button").await?;
        browser
            .shows(sorted, &format!("return document.querySelector('thead th').ariaSort === '{sorted}'"))
            .await?;
    }
    check!(
        browser.ask("return location.hash.includes('sort=name')").await? == true,
        "the view is not in the address"
    );
    browser.press("2").await?;
    browser.shows("the schedule", "return document.querySelector('.lanes') !== null").await?;
    browser.press("3").await?;
    browser.shows("the events", "return document.querySelectorAll('.events li').length > 3").await?;
    browser.view(&service.url(), "/task/tick").await?;
    browser
        .shows("the chart is there", "return document.querySelector('[data-chart=runs]') !== null")
        .await?;
    browser.ask("document.querySelector('[data-chart=runs]').focus()").await?;
    browser.press(&char::from(Key::Home).to_string()).await?;
    browser
        .shows(
            "the first value",
            "return document.querySelector('[data-chart=runs] ~ .value').innerText.includes('success after') && document.querySelector('[data-chart=runs]').ariaValueNow === '1'",
        )
        .await
}

async fn blocked_workers_are_named(service: &Service, browser: &Browser) -> Checked {
    browser.view(&service.url(), "/").await?;
    browser.shows("the overview is there", "return document.querySelector('.verdict') !== null").await?;
    for _ in 0..2 {
        // On the workers of the service, not on the runtime of this caller.
        let _inside = service.runtime().enter();
        drop(service.tasks.spawn("blocker", async { std::thread::sleep(Duration::from_secs(10)) }));
    }
    let began = Instant::now();
    browser
        .shows(
            "the blocker is named",
            "return document.querySelector('.verdict').innerText.includes('blocker blocks the thread')",
        )
        .await?;
    browser
        .shows("nothing runs", "return document.querySelector('.verdict').innerText.includes('runs nothing')")
        .await?;
    check!(began.elapsed() < Duration::from_secs(9), "it was named when it was over");
    let mut slowest = Duration::ZERO;
    while began.elapsed() < Duration::from_secs(8) {
        let asked = Instant::now();
        let status = crate::load::status(service.address, "/health/live")?;
        slowest = slowest.max(asked.elapsed());
        check!(status == 503, "blocked, it says {status}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    println!("    /health/live while blocked: slowest answer {slowest:.1?} (promised: 100 ms)");
    check!(slowest < Duration::from_secs(1), "{slowest:?}");
    browser
        .shows(
            "the alarm is over",
            "return !document.querySelector('.verdict').innerText.includes('blocker')",
        )
        .await
}

async fn the_shutdown_is_seen(service: &Service, browser: &Browser) -> Checked {
    browser.view(&service.url(), "/").await?;
    let tasks = service.tasks.clone();
    let report = service.runtime().spawn(async move { tasks.shutdown().await }).await?;
    let line = report.to_string().lines().next().unwrap_or_default().to_owned();
    browser
        .shows(
            "the report is there",
            &format!("return document.querySelector('.notice')?.innerText.includes({line:?}) ?? false"),
        )
        .await
}

async fn without_token_nothing_is_controlled() -> Checked {
    let service = Service::start(0, "", 8);
    let browser = Browser::open(1280, 900, "light").await?;
    browser.view(&service.url(), "/task/gateway").await?;
    browser.shows("the page is there", "return document.querySelector('#why') !== null").await?;
    let buttons = browser.ask("return document.querySelectorAll('[data-action]').length").await?;
    check!(buttons == 0, "there are buttons");
    browser.close().await
}

/// What many tasks cost the browser: until the table is painted, and per update.
async fn two_thousand_tasks() -> Checked {
    let service = Service::start(2_000, "", 8);
    let closed = crate::load::processor_share(crate::load::WATCHED).await?;
    let browser = Browser::open(1280, 900, "light").await?;
    browser.client.goto(&service.url()).await?;
    browser
        .shows("all are there", "return document.getElementById('count')?.textContent === '2 004 tasks'")
        .await?;
    // A page of the table, updates and a search: what the longest task of the browser's main thread takes, if it is above 50 ms.
    browser
        .ask(
            "window.longest = 0; new PerformanceObserver((list) => { \
             for (const task of list.getEntries()) window.longest = Math.max(window.longest, task.duration); \
             }).observe({ type: 'longtask', buffered: false })",
        )
        .await?;
    browser.click(".pages button:last-of-type").await?;
    browser
        .shows(
            "the second page is there",
            "return document.querySelector('.pages').innerText.includes('Page 2 of')",
        )
        .await?;
    browser.press("/").await?;
    browser.press("worker_01").await?;
    browser
        .shows(
            "it is filtered",
            "return document.getElementById('count')?.textContent === '1 000 of 2 004 tasks'",
        )
        .await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let painted = browser
        .ask("return [performance.getEntriesByName('first-contentful-paint')[0]?.startTime, performance.getEntriesByName('update')[1]?.startTime, performance.getEntriesByName('update').at(-1)?.duration, longest]")
        .await?;
    let rows = browser.ask("return document.querySelectorAll('tr.task').length").await?;
    check!(rows.as_u64().is_some_and(|rows| rows < 200), "{rows} rows are in the document");
    println!(
        "ok  2,000 tasks: first paint {} ms, rows after {:.0} ms, an update of the table takes {:.0} ms, no frame takes more than {:.0} ms, {rows} rows in the document",
        painted[0],
        painted[1],
        painted[2],
        painted[3].as_f64().unwrap_or_default().max(50.0)
    );
    let open = crate::load::processor_share(crate::load::WATCHED).await?;
    println!(
        "    the service beside it: processor {open:.1} % with the page open, {closed:.1} % with it closed"
    );
    check!(painted[1].as_f64().is_some_and(|ms| ms < 10_000.0), "the rows come after {painted} ms");
    check!(painted[3].as_f64().is_some_and(|ms| ms < 500.0), "a frame takes {} ms", painted[3]);
    browser.view(&service.url(), "/?sort=name&down=1").await?;
    browser.shows("the last is first", &format!("return {} !== undefined", row("worker_01999"))).await?;
    browser.close().await
}

/// Of a shop at night, after half a minute.
async fn take_screenshots(browser: &Browser, folder: &Path) -> Checked {
    std::fs::create_dir_all(folder)?;
    let service = Service::night(TOKEN);
    for number in 0..150_u64 {
        let (name, fails) =
            [("checkout", number % 41 == 40), ("send_mail", false), ("render_invoice", false)]
                [number as usize % 3];
        drop(service.tasks.task(name).component("web").spawn(async move {
            tokio::time::sleep(Duration::from_millis(3 + 7 * (number % 5))).await;
            if fails { Err("payment provider: 503 Service Unavailable") } else { Ok(()) }
        }));
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    for (file, width, height, scheme, view) in [
        ("tasks.png", 1280, 1060, "light", "/"),
        ("task.png", 1280, 1060, "light", "/task/order_sync"),
        ("dark.png", 1280, 900, "dark", "/"),
        ("schedule.png", 1280, 620, "light", "/schedule"),
        ("phone.png", 390, 844, "light", "/"),
    ] {
        browser.looks(width, height, scheme).await?;
        browser.view(&service.url(), view).await?;
        browser
            .shows(
                "the view is there",
                "return document.querySelector('tr.task, .lanes, .trace[open]') !== null",
            )
            .await?;
        // The focus is on the heading, and the values of the first second are there.
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        std::fs::write(folder.join(file), browser.client.screenshot().await?)?;
    }
    browser.looks(1280, 900, "light").await?;
    println!("ok  screenshots in {}", folder.display());
    Ok(())
}
