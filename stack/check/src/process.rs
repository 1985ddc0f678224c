//! Programs that are started and stopped by their ids, and waited for no longer than they may take.

use std::{
    ffi::OsStr,
    fs::File,
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{OnceLock, mpsc},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// Where each program that is started is noted, by its id and name, so that `stack/test` can end them if this is ended.
pub(crate) static STARTED: OnceLock<PathBuf> = OnceLock::new();

fn note(child: &Child, program: &OsStr) -> Result<()> {
    let Some(path) = STARTED.get() else { return Ok(()) };
    let name = Path::new(program).file_name().unwrap_or_default().to_string_lossy();
    // One write, since two threads start programs.
    let line = format!("{} {name}\n", child.id());
    Ok(File::options().create(true).append(true).open(path)?.write_all(line.as_bytes())?)
}

/// A port that nobody listens at; asked of the system, so that many can be tested at once on one machine.
pub(crate) fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Asks again until it is so; an error is what it was not.
pub(crate) fn wait_until(what: &str, limit: Duration, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let begun = Instant::now();
    loop {
        let last = match holds() {
            Ok(true) => return Ok(()),
            Ok(false) => None,
            Err(error) => Some(error),
        };
        if begun.elapsed() > limit {
            let last = last.map_or(String::new(), |error| format!(": {error:#}"));
            bail!("not within {limit:?}: {what}{last}");
        }
        thread::sleep(Duration::from_millis(200));
    }
}

/// A program under way; killed when it is dropped.
pub(crate) struct Program {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Program {
    /// Starts it with its output in a file.
    pub(crate) fn start(name: &str, command: &mut Command, logs: &Path) -> Result<Self> {
        let log = logs.join(format!("{name}.log"));
        let file = File::options().create(true).append(true).open(&log)?;
        let child = command
            // Ctrl-C is not meant for it: it ends after those that export to it.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("{name} cannot be started"))?;
        note(&child, command.get_program())?;
        Ok(Self { name: name.to_owned(), child, log })
    }

    /// Kills it at once, as a machine that fails would.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Asks it to end, and waits.
    pub(crate) fn stop(&mut self, limit: Duration) -> Result<()> {
        let id = self.child.id().to_string();
        if !Command::new("kill").args(["-TERM", &id]).status()?.success() {
            bail!("{} had ended before it was asked to", self.name);
        }
        let child = &mut self.child;
        let ended = wait_until("its end", limit, || Ok(child.try_wait()?.is_some()));
        ended.with_context(|| format!("{} does not end", self.name))
    }

    /// The memory it has, in bytes.
    pub(crate) fn memory(&self) -> Result<u64> {
        memory_of(self.child.id())
    }

    /// Waits for its HTTP answer, and tells its last words where it ends instead.
    pub(crate) fn wait_for(&mut self, url: &str, limit: Duration) -> Result<()> {
        let child = &mut self.child;
        let ready = wait_until(url, limit, || {
            if let Some(status) = child.try_wait()? {
                bail!("it ended: {status}");
            }
            // Any answer will do: whoever answers listens.
            match ureq::get(url).call() {
                Ok(_) | Err(ureq::Error::StatusCode(400..=499)) => Ok(true),
                Err(error) => Err(error.into()),
            }
        });
        ready.with_context(|| {
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            let last: Vec<&str> = log.lines().rev().take(10).collect();
            format!("{} is not ready; its last lines, backwards:\n{}", self.name, last.join("\n"))
        })
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

fn memory_of(id: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{id}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
}

/// A program that is told something line by line, and answers so: `stack-bot`, or the example bot, which only talks.
pub(crate) struct Bot {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: mpsc::Receiver<String>,
}

impl Bot {
    pub(crate) fn start(command: &mut Command) -> Result<Self> {
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn()?;
        note(&child, command.get_program())?;
        let (send, lines) = mpsc::channel();
        let stdout = BufReader::new(child.stdout.take().context("piped")?);
        thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| send.send(line)));
        let stdin = child.stdin.take();
        Ok(Self { child, stdin, lines })
    }

    pub(crate) fn tell(&mut self, line: &str) -> Result<()> {
        let stdin = self.stdin.as_mut().context("it was told to end")?;
        writeln!(stdin, "{line}")?;
        Ok(stdin.flush()?)
    }

    /// Its next line, as JSON.
    pub(crate) fn answer(&self, limit: Duration) -> Result<Value> {
        let line = self.lines.recv_timeout(limit).context("no line came in time")?;
        serde_json::from_str(&line).with_context(|| line.clone())
    }

    /// Ends it by ending its standard input, and waits for its last line.
    pub(crate) fn end(mut self, limit: Duration) -> Result<Value> {
        self.stdin = None;
        self.last_words(limit)?
            .last()
            .context("it said nothing")
            .and_then(|line| Ok(serde_json::from_str(line)?))
    }

    /// Asks it to end by signal; everything that it said and nobody has heard.
    pub(crate) fn terminate(mut self, limit: Duration) -> Result<Vec<String>> {
        Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status()?;
        self.last_words(limit)
    }

    fn last_words(&mut self, limit: Duration) -> Result<Vec<String>> {
        let child = &mut self.child;
        wait_until("the bot's end", limit, || Ok(child.try_wait()?.is_some()))?;
        Ok(self.lines.iter().collect())
    }

    pub(crate) fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    pub(crate) fn memory(&self) -> Result<u64> {
        memory_of(self.child.id())
    }
}

impl Drop for Bot {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}
