//! Chromium without a screen, through its driver.

use std::{
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use fantoccini::{Client, ClientBuilder, wd::WebDriverCompatibleCommand};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};

use crate::Checked;

/// How long something may take to show: a tick of the page is a second.
const SHOWS: Duration = Duration::from_secs(20);

pub struct Browser {
    pub client: Client,
    driver: Child,
}

impl Browser {
    /// A window of this size; `scheme` is what the page is told that its reader prefers.
    pub async fn open(width: u32, height: u32, scheme: &str) -> Checked<Self> {
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let program = std::env::var("CHROMEDRIVER").unwrap_or_else(|_| "chromedriver".to_owned());
        let driver = Command::new(&program)
            .arg(format!("--port={port}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("{program} (apt-get install chromium chromium-driver): {error}"))?;
        let mut arguments = vec![
            "--headless=new".to_owned(),
            "--no-sandbox".to_owned(),
            "--disable-gpu".to_owned(),
            "--disable-dev-shm-usage".to_owned(),
            "--hide-scrollbars".to_owned(),
            format!("--window-size={width},{height}"),
        ];
        if scheme == "dark" {
            arguments.push("--force-dark-mode".to_owned());
        }
        let capabilities = json!({
            "goog:chromeOptions": { "args": arguments },
            "goog:loggingPrefs": { "browser": "ALL" },
        });
        let Value::Object(capabilities) = capabilities else { unreachable!("an object") };
        let until = Instant::now() + SHOWS;
        let client = loop {
            let mut builder = ClientBuilder::new(HttpConnector::new());
            match builder
                .capabilities(capabilities.clone())
                .connect(&format!("http://127.0.0.1:{port}"))
                .await
            {
                Ok(client) => break client,
                Err(error) if Instant::now() > until => return Err(format!("the browser: {error}").into()),
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        };
        Ok(Self { client, driver })
    }

    /// The size of what is seen, and whether its reader prefers `light` or `dark`. A window cannot be as narrow as a telephone.
    pub async fn looks(&self, width: u32, height: u32, scheme: &str) -> Checked {
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500 });
        self.tell("Emulation.setDeviceMetricsOverride", size).await?;
        let features = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.tell("Emulation.setEmulatedMedia", features).await
    }

    async fn tell(&self, command: &'static str, parameters: Value) -> Checked {
        self.client.issue_cmd(DevTools { command, parameters }).await?;
        Ok(())
    }

    /// Runs a script before those of each page that is opened from now on.
    pub async fn before_each_page(&self, script: &str) -> Checked {
        self.tell("Page.addScriptToEvaluateOnNewDocument", json!({ "source": script })).await
    }

    /// Opens a view of the page: the part of its address after `#`. Read again, also if it is open.
    pub async fn view(&self, page: &str, view: &str) -> Checked {
        self.client.goto("about:blank").await?;
        self.client.goto(&format!("{page}#{view}")).await?;
        self.shows(
            "the stream is there",
            "return document.querySelector('.live')?.textContent.includes('Live') ?? false",
        )
        .await
    }

    /// Clicks what a selector finds first.
    pub async fn click(&self, selector: &str) -> Checked {
        Ok(self.client.find(fantoccini::Locator::Css(selector)).await?.click().await?)
    }

    /// What a script answers.
    pub async fn ask(&self, script: &str) -> Checked<Value> {
        Ok(self.client.execute(script, Vec::new()).await?)
    }

    /// Waits until a script answers true.
    pub async fn shows(&self, what: &str, script: &str) -> Checked {
        let until = Instant::now() + SHOWS;
        while self.ask(script).await? != true {
            if Instant::now() > until {
                let text = self.ask("return document.body.innerText").await?;
                return Err(format!("it never shows that {what}; it shows: {text}").into());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// Presses keys where the keyboard is.
    pub async fn press(&self, keys: &str) -> Checked {
        Ok(self.client.active_element().await?.send_keys(keys).await?)
    }

    pub async fn close(mut self) -> Checked {
        let closed = self.client.clone().close().await;
        self.driver.kill()?;
        self.driver.wait()?;
        Ok(closed?)
    }
}

/// A command of the DevTools protocol, through the driver.
#[derive(Debug)]
struct DevTools {
    command: &'static str,
    parameters: Value,
}

impl WebDriverCompatibleCommand for DevTools {
    fn endpoint(&self, base: &url::Url, session: Option<&str>) -> Result<url::Url, url::ParseError> {
        base.join(&format!("session/{}/goog/cdp/execute", session.unwrap_or_default()))
    }

    fn method_and_body(&self, _: &url::Url) -> (http::Method, Option<String>) {
        let body = json!({ "cmd": self.command, "params": self.parameters });
        (http::Method::POST, Some(body.to_string()))
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // After a failure; `close` has done it otherwise.
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}
