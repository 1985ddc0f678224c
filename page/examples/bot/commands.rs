//! Commands: short tasks, one run each. They fail, panic and take too long as commands do.

use std::{fmt, io, sync::Arc, time::Duration};

use otel_tasks::{TaskError, instrumented_task};
use tracing::info_span;

use crate::{Bot, server::ask_archive};

/// How long a command may take.
const PATIENCE: Duration = Duration::from_millis(700);

#[derive(Debug)]
pub(crate) enum CommandError {
    Unknown(String),
    Usage(&'static str),
    Io(io::Error),
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(command) => write!(f, "there is no command {command:?}"),
            Self::Usage(usage) => write!(f, "usage: {usage}"),
            Self::Io(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for CommandError {}

impl From<io::Error> for CommandError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Runs `<id> <command> <arguments>` as a task of its own, and makes an answer of whatever becomes of it.
pub(crate) async fn answer(bot: Arc<Bot>, line: String) -> String {
    let (id, command) = line.split_once(' ').unwrap_or((&line, ""));
    let verb = command.split(' ').next().unwrap_or_default();
    // Metered as `command_ping`: the rule for names cuts the id off. The span keeps it.
    let name = format!("command_{verb}_{id}");
    let run = run(bot.clone(), command.to_owned());
    match bot.tasks.task(&name).timeout(PATIENCE).spawn(run).await {
        Ok(Ok(reply)) => format!("REPLY {id} {reply}"),
        Ok(Err(error)) => format!("ERROR {id} {error}"),
        Err(TaskError::ShuttingDown | TaskError::Cancelled) => format!("BUSY {id} shutting down"),
        // A panic, or out of time: the service learns that it failed, and the bot goes on.
        Err(_) => format!("ERROR {id} something went wrong"),
    }
}

async fn run(bot: Arc<Bot>, command: String) -> Result<String, CommandError> {
    let words: Vec<&str> = command.split(' ').collect();
    match words.as_slice() {
        ["ping", number] => Ok(format!("pong {number}")),
        ["roll", dice] => Ok(roll(dice).await?.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")),
        ["choose", options @ ..] => Ok(choose(options).to_owned()),
        ["remind", seconds, text @ ..] => {
            let seconds = seconds.parse().map_err(|_| CommandError::Usage("remind <seconds> <text>"))?;
            bot.reminders.add(Duration::from_secs(seconds), &text.join(" ")).await?;
            Ok(format!("in {seconds} s"))
        }
        ["archive", page] => {
            let page = page.parse().map_err(|_| CommandError::Usage("archive <page>"))?;
            let line = ask_archive(bot.service, page).await?;
            Ok(parse_page(&line).map_err(CommandError::Usage)?.1.to_owned())
        }
        _ => Err(CommandError::Unknown(command)),
    }
}

/// A run of its own inside the command's, in the same trace; the span in it is an ordinary one.
#[instrumented_task(name = "roll_dice", category = Command)]
async fn roll(dice: &str) -> Result<Vec<u64>, CommandError> {
    const USAGE: CommandError = CommandError::Usage("roll <dice>d<sides>, each at least 1");
    let (dice, sides) = info_span!("parse_dice", dice).in_scope(|| {
        let (dice, sides) = dice.split_once('d').ok_or(USAGE)?;
        Ok::<(usize, u64), CommandError>((
            dice.parse().map_err(|_| USAGE)?,
            sides.parse().map_err(|_| USAGE)?,
        ))
    })?;
    if dice == 0 || sides == 0 {
        return Err(USAGE);
    }
    Ok((0..dice).map(|_| fastrand::u64(1..=sides)).collect())
}

/// The bug of this bot: with nothing to choose from it panics. The command fails; nothing else does.
fn choose<'a>(options: &[&'a str]) -> &'a str {
    options[fastrand::usize(..) % options.len()]
}

/// The number and the text of an archive page.
pub(crate) fn parse_page(line: &str) -> Result<(u64, &str), &'static str> {
    let broken = "a broken page";
    let (number, text) = line.strip_prefix("PAGE ").and_then(|page| page.split_once(' ')).ok_or(broken)?;
    Ok((number.parse().map_err(|_| broken)?, text))
}
