//! A real headless browser, spoken to over two pipes (the DevTools protocol: JSON with a zero byte behind each message).

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::{guardian, place, wait};

/// Where Debian puts one that has no window.
const PROGRAM: &str = "chromium-headless-shell";

/// How long something in a page may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// A browser with one page.
pub struct Browser {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    session: Option<String>,
    next: u64,
    /// What the page has done: its console, its errors, its requests.
    events: Vec<Value>,
}

impl Browser {
    /// Starts one.
    pub async fn start() -> Self {
        let profile = place::directory("browser");
        let mut command = Command::new("sh");
        // It reads commands from descriptor 3 and answers on 4.
        let script = format!(
            "exec 3<&0 4>&1; exec {PROGRAM} --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run --user-data-dir=\"$1\" --remote-debugging-pipe </dev/null >/dev/null 2>&1"
        );
        command
            .args(["-c", &script, "browser"])
            .arg(profile)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true);
        let mut child = command.spawn().expect("sh starts");
        if let Some(id) = child.id() {
            guardian::watch(id);
        }
        let (input, output) = (child.stdin.take().expect("a pipe"), BufReader::new(child.stdout.take().expect("a pipe")));
        let mut browser = Self { child, input, output, session: None, next: 0, events: Vec::new() };
        let target = browser.call("Target.createTarget", json!({ "url": "about:blank" })).await;
        let attached = browser.call("Target.attachToTarget", json!({ "targetId": target["targetId"], "flatten": true })).await;
        browser.session = Some(attached["sessionId"].as_str().expect("a session").to_owned());
        for domain in ["Page", "Runtime", "Log", "Network"] {
            browser.call(&format!("{domain}.enable"), json!({})).await;
        }
        browser
    }

    /// How large the window is, and whether its user likes it dark.
    pub async fn look(&mut self, width: u32, height: u32, dark: bool) {
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600 });
        self.call("Emulation.setDeviceMetricsOverride", size).await;
        let scheme = if dark { "dark" } else { "light" };
        self.call("Emulation.setEmulatedMedia", json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] })).await;
    }

    /// Opens an address.
    pub async fn open(&mut self, url: &str) {
        self.call("Page.navigate", json!({ "url": url })).await;
    }

    /// What an expression in the page comes to.
    pub async fn evaluate(&mut self, expression: &str) -> Value {
        self.try_evaluate(expression).await.unwrap_or_else(|error| panic!("{expression}: {error}"))
    }

    /// Waits until an expression in the page is true. While the page is loading it may fail.
    pub async fn wait_for(&mut self, what: &str, expression: &str) {
        let limit = Instant::now() + PATIENCE;
        while self.try_evaluate(expression).await != Ok(json!(true)) {
            assert!(Instant::now() < limit, "{what} did not come: {expression}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn try_evaluate(&mut self, expression: &str) -> Result<Value, String> {
        let wanted = json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let answer = self.call("Runtime.evaluate", wanted).await;
        if answer.get("exceptionDetails").is_some() { Err(answer.to_string()) } else { Ok(answer["result"]["value"].clone()) }
    }

    /// A picture of the whole page, into a file.
    pub async fn picture(&mut self, file: &Path) {
        let answer = self.call("Page.captureScreenshot", json!({ "format": "png", "captureBeyondViewport": true })).await;
        let bytes = STANDARD.decode(answer["data"].as_str().expect("a picture")).expect("base64");
        std::fs::write(file, bytes).expect("our own directory");
    }

    /// What the page has complained of: errors and warnings on its console, exceptions nobody caught.
    pub fn complaints(&self) -> Vec<&Value> {
        let is_one = |event: &&Value| match event["method"].as_str() {
            Some("Runtime.exceptionThrown") => true,
            Some("Runtime.consoleAPICalled") => event["params"]["type"] == "error",
            Some("Log.entryAdded") => event["params"]["entry"]["level"] == "error",
            _ => false,
        };
        self.events.iter().filter(is_one).collect()
    }

    /// The addresses that the page has asked for something.
    pub fn requests(&self) -> Vec<&str> {
        let asked = self.events.iter().filter(|event| event["method"] == "Network.requestWillBeSent");
        asked.filter_map(|event| event["params"]["request"]["url"].as_str()).collect()
    }

    async fn call(&mut self, method: &str, params: Value) -> Value {
        self.next += 1;
        let mut message = json!({ "id": self.next, "method": method, "params": params });
        if let Some(session) = &self.session {
            message["sessionId"] = json!(session);
        }
        let mut bytes = message.to_string().into_bytes();
        bytes.push(0);
        self.input.write_all(&bytes).await.unwrap_or_else(|error| panic!("{PROGRAM} does not listen ({error}): is it installed?"));
        loop {
            let mut answer = Vec::new();
            let read = wait::within(PATIENCE * 2, method, self.output.read_until(0, &mut answer)).await;
            assert!(read.expect("a pipe") > 0, "{PROGRAM} ended: is it installed?");
            answer.pop();
            let answer: Value = serde_json::from_slice(&answer).expect("JSON");
            if answer["id"] == json!(self.next) {
                assert!(answer.get("error").is_none(), "{method}: {answer}");
                return answer["result"].clone();
            }
            self.events.push(answer);
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if let Some(id) = self.child.id() {
            guardian::forget(id);
        }
    }
}
