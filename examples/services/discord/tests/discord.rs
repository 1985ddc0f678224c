//! The bot against the local gateway: real processes, sockets and signals.
#![cfg(unix)]

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

/// Much longer than anything takes here.
const PATIENCE: Duration = Duration::from_secs(60);

/// A process whose lines are read as they come.
struct Process {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
    /// The number of lines that have been waited for.
    seen: usize,
}

impl Process {
    fn start(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a process");
        let output = BufReader::new(child.stdout.take().expect("its output"));
        let lines = Arc::new(Mutex::new(Vec::new()));
        let read = lines.clone();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                read.lock().unwrap().push(line);
            }
        });
        Self { child, lines, seen: 0 }
    }

    fn count(&self, text: &str) -> usize {
        self.lines.lock().unwrap().iter().filter(|line| line.contains(text)).count()
    }

    /// Waits for a line after the last line that was waited for.
    fn wait_for(&mut self, text: &str) -> String {
        let began = Instant::now();
        loop {
            {
                let lines = self.lines.lock().unwrap();
                let found = lines[self.seen..].iter().position(|line| line.contains(text));
                if let Some(found) = found {
                    self.seen += found + 1;
                    return lines[self.seen - 1].clone();
                }
                assert!(began.elapsed() < PATIENCE, "waited in vain for {text:?} among {lines:#?}");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn order(&self, order: &str) {
        let mut stdin: &ChildStdin = self.child.stdin.as_ref().expect("its input");
        writeln!(stdin, "{order}").expect("it reads");
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("sh").args(["-c", "kill -s \"$0\" \"$1\"", signal, &pid]).status();
        assert!(sent.expect("a shell").success());
    }

    fn end(&mut self) -> ExitStatus {
        let began = Instant::now();
        loop {
            match self.child.try_wait().expect("a child") {
                Some(status) => return status,
                None => {
                    assert!(began.elapsed() < PATIENCE, "it does not end: {:#?}", self.lines.lock().unwrap())
                }
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn gateway() -> (Process, String) {
    let mut gateway = Process::start(Command::new(env!("CARGO_BIN_EXE_local_gateway")).arg("127.0.0.1:0"));
    let line = gateway.wait_for("listening on ");
    let address = line.strip_prefix("listening on ").expect("an address").to_owned();
    (gateway, address)
}

fn bot(address: &str, commands_take: &str) -> Process {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bot"));
    for (name, _) in std::env::vars_os() {
        if ["OTEL_", "RUST_LOG", "TRACE"].iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
            command.env_remove(name);
        }
    }
    command.env("DISCORD_GATEWAY", address).env("SWEEP_EVERY", "0.2").env("COMMANDS_TAKE", commands_take);
    Process::start(&mut command)
}

#[test]
fn guilds_come_and_go_and_an_outage_of_the_gateway_heals() {
    let (mut gateway, address) = gateway();
    gateway.order("guild 1");
    gateway.order("guild 2");
    let mut bot = bot(&address, "0.05");
    gateway.wait_for("identified");
    bot.wait_for("swept guild 1");
    gateway.order("message 100 !ping");
    bot.wait_for("replied to message 100: pong");

    gateway.order("guild 3");
    bot.wait_for("swept guild 3");
    gateway.order("leave 2");
    gateway.order("message 101 !ping");
    bot.wait_for("replied to message 101: pong");
    let swept = bot.count("swept guild 2");
    std::thread::sleep(Duration::from_millis(700));
    assert!(bot.count("swept guild 2") <= swept + 1, "its loop goes with the guild");
    assert!(swept > 0);

    gateway.order("reconnect");
    gateway.wait_for("resumed");
    // The session outlives the runs that fail meanwhile: an outage has no connection to take.
    gateway.order("down 4");
    gateway.wait_for("down");
    gateway.wait_for("up");
    gateway.wait_for("resumed");
    gateway.order("message 102 !ping");
    bot.wait_for("replied to message 102: pong");

    // A session that cannot be resumed is replaced by a new one, with the present guilds.
    gateway.order("forget");
    gateway.order("reconnect");
    gateway.wait_for("not resumed");
    gateway.wait_for("identified");
    gateway.order("message 103 !ping");
    bot.wait_for("replied to message 103: pong");

    bot.signal("TERM");
    gateway.wait_for("closed by the bot");
    assert!(bot.end().success(), "{:#?}", bot.lines.lock().unwrap());
    assert_eq!(bot.count("replied to message"), 4, "each message once");
}

#[test]
fn commands_that_have_begun_are_finished_after_sigterm() {
    let (mut gateway, address) = gateway();
    gateway.order("guild 1");
    let mut bot = bot(&address, "1");
    bot.wait_for("swept guild 1");
    for message in 1..=20 {
        gateway.order(&format!("message {message} !ping"));
    }
    bot.wait_for("replied to message");
    for message in 21..=40 {
        gateway.order(&format!("message {message} !ping"));
    }
    std::thread::sleep(Duration::from_millis(300));
    bot.signal("TERM");
    gateway.wait_for("closed by the bot");
    assert!(bot.end().success(), "{:#?}", bot.lines.lock().unwrap());
    for message in 1..=40 {
        assert_eq!(bot.count(&format!("replied to message {message}:")), 1, "message {message}");
    }
}

#[test]
fn a_second_sigterm_ends_the_bot_at_once_and_a_killed_bot_comes_back() {
    let (mut gateway, address) = gateway();
    gateway.order("guild 1");
    let mut hurried = bot(&address, "8");
    hurried.wait_for("swept guild 1");
    gateway.order("message 1 !ping");
    std::thread::sleep(Duration::from_millis(300));
    hurried.signal("TERM");
    gateway.wait_for("closed by the bot");
    let asked = Instant::now();
    hurried.signal("TERM");
    hurried.end();
    assert!(asked.elapsed() < Duration::from_secs(6), "{:?}", asked.elapsed());
    assert_eq!(hurried.count("replied to message"), 0);

    let mut killed = bot(&address, "0.05");
    gateway.wait_for("identified");
    killed.wait_for("swept guild 1");
    killed.signal("KILL");
    killed.end();
    let mut again = bot(&address, "0.05");
    gateway.wait_for("identified");
    again.wait_for("swept guild 1");
    gateway.order("message 2 !ping");
    again.wait_for("replied to message 2: pong");
}
