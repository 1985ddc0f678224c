//! The protocol of systemd's service manager, `sd_notify(3)`: the variables that it sets, and a socket that never blocks.
//!
//! Written by hand. The crate `sd-notify` sends on a blocking socket, for which the watchdog's thread must not wait, and it does not know
//! abstract socket names.

use std::{
    ffi::OsString,
    fmt, io,
    os::unix::{
        ffi::OsStrExt as _,
        net::{SocketAddr, UnixDatagram},
    },
    sync::atomic::{AtomicBool, Ordering::SeqCst},
    time::Duration,
};

/// The socket of the service manager: a path, or an abstract name after `@`.
const NOTIFY_SOCKET: &str = "NOTIFY_SOCKET";
/// The time in microseconds after which the service manager ends a service that has sent no ping.
const WATCHDOG_USEC: &str = "WATCHDOG_USEC";
/// The process that is asked for pings.
const WATCHDOG_PID: &str = "WATCHDOG_PID";

/// The longest status in bytes.
const STATUS_LENGTH: usize = 200;

/// The way to the service manager. One of a process at a time.
pub(crate) struct Notifier {
    socket: UnixDatagram,
    address: SocketAddr,
    watchdog: Option<Duration>,
    _claim: Claim,
}

/// A variable whose value cannot be used.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Ignored {
    pub(crate) variable: &'static str,
    pub(crate) value: String,
    reason: String,
}

impl fmt::Display for Ignored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={:?} is ignored: {}", self.variable, self.value, self.reason)
    }
}

/// Another manager of this process has the way to the service manager.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Claimed;

/// Marks the process's one notifier.
struct Claim;

static CLAIMED: AtomicBool = AtomicBool::new(false);

impl Claim {
    fn take() -> Result<Self, Claimed> {
        if CLAIMED.swap(true, SeqCst) { Err(Claimed) } else { Ok(Self) }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        CLAIMED.store(false, SeqCst);
    }
}

impl Notifier {
    /// Reads the variables and leaves them in the environment, so programs that this one starts get them too. `None` if there is no service
    /// manager to notify.
    ///
    /// # Errors
    /// [`Claimed`] if this process has a notifier already.
    pub(crate) fn from_variables(
        variable: impl Fn(&str) -> Option<OsString>,
    ) -> Result<(Option<Self>, Vec<Ignored>), Claimed> {
        let Some(name) = variable(NOTIFY_SOCKET).filter(|name| !name.is_empty()) else {
            return Ok((None, Vec::new()));
        };
        let ignored = |variable, value: &OsString, reason: String| Ignored {
            variable,
            value: value.to_string_lossy().into_owned(),
            reason,
        };
        let opened = address(name.as_bytes()).and_then(|address| {
            let socket = UnixDatagram::unbound()?;
            socket.set_nonblocking(true)?;
            Ok((socket, address))
        });
        let (socket, address) = match opened {
            Ok(opened) => opened,
            Err(error) => return Ok((None, vec![ignored(NOTIFY_SOCKET, &name, error.to_string())])),
        };
        let claim = Claim::take()?;
        let mut warnings = Vec::new();
        let mut watchdog = None;
        if let Some(value) = variable(WATCHDOG_USEC).filter(|value| !value.is_empty()) {
            match number(&value) {
                Some(micros) if micros > 0 => watchdog = Some(Duration::from_micros(micros)),
                _ => {
                    let reason = "it is no number of microseconds above zero".to_owned();
                    warnings.push(ignored(WATCHDOG_USEC, &value, reason));
                }
            }
        }
        if let Some(value) = variable(WATCHDOG_PID).filter(|value| !value.is_empty() && watchdog.is_some()) {
            match number(&value) {
                Some(pid) if pid == u64::from(std::process::id()) => {}
                // The pings are another process's, for example of the shell that started this one.
                Some(_) => watchdog = None,
                None => {
                    watchdog = None;
                    let reason = "it is no process id, and so no pings are sent".to_owned();
                    warnings.push(ignored(WATCHDOG_PID, &value, reason));
                }
            }
        }
        Ok((Some(Self { socket, address, watchdog, _claim: claim }), warnings))
    }

    /// The time after which the service manager ends a service that has sent no ping, if it wants pings of this process.
    pub(crate) fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    /// Sends one datagram. Never blocks.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if the service manager's queue is full; any other if there is no service manager.
    pub(crate) fn send(&self, text: &str) -> io::Result<()> {
        // To the address and not connected: a service manager that starts again binds another socket under the same name.
        self.socket.send_to_addr(text.as_bytes(), &self.address).map(|_| ())
    }
}

fn number(value: &OsString) -> Option<u64> {
    value.to_str()?.parse().ok()
}

fn address(name: &[u8]) -> io::Result<SocketAddr> {
    match name {
        [b'/', ..] => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(name)),
        #[cfg(any(target_os = "linux", target_os = "android"))]
        [b'@', name @ ..] => {
            use std::os::linux::net::SocketAddrExt as _;
            SocketAddr::from_abstract_name(name)
        }
        _ => Err(io::Error::other("it is neither an absolute path nor an abstract socket of this system")),
    }
}

/// A status as one line of bounded length.
pub(crate) fn one_line(status: &str) -> String {
    let mut line: String = status.chars().map(|char| if char.is_control() { ' ' } else { char }).collect();
    if line.len() > STATUS_LENGTH {
        const CUT: &str = "...";
        let end = (0..=STATUS_LENGTH - CUT.len()).rev().find(|end| line.is_char_boundary(*end)).unwrap_or(0);
        line.truncate(end);
        line.push_str(CUT);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One test: a process has one notifier at a time.
    #[test]
    fn variables_that_cannot_be_used_are_ignored_with_a_warning() {
        let own = std::process::id().to_string();
        let read = |variables: &[(&str, &str)]| {
            Notifier::from_variables(|name| {
                let held = variables.iter().find(|(variable, _)| *variable == name);
                held.map(|(_, value)| value.into())
            })
        };
        let watchdog = |variables: &[(&str, &str)]| {
            let with_socket = [&[(NOTIFY_SOCKET, "/run/none")], variables].concat();
            let (notifier, ignored) = read(&with_socket).expect("no other notifier");
            let ignored: Vec<_> = ignored.iter().map(ToString::to_string).collect();
            (notifier.expect("a socket").watchdog(), ignored.join("; "))
        };
        let nothing = || (None, String::new());
        assert_eq!(watchdog(&[]), nothing());
        let two = Some(Duration::from_secs(2));
        assert_eq!(watchdog(&[(WATCHDOG_USEC, "2000000")]), (two, String::new()));
        assert_eq!(
            watchdog(&[(WATCHDOG_USEC, "2000000"), (WATCHDOG_PID, own.as_str())]),
            (two, String::new())
        );
        assert_eq!(watchdog(&[(WATCHDOG_USEC, "2000000"), (WATCHDOG_PID, "1")]), nothing());
        assert_eq!(watchdog(&[(WATCHDOG_PID, "x")]), nothing());
        for bad in ["0", "-1", "2s", "99999999999999999999999"] {
            let expected =
                format!("WATCHDOG_USEC={bad:?} is ignored: it is no number of microseconds above zero");
            assert_eq!(watchdog(&[(WATCHDOG_USEC, bad)]), (None, expected));
        }
        let longest = u64::MAX.to_string();
        let far = Some(Duration::from_micros(u64::MAX));
        assert_eq!(watchdog(&[(WATCHDOG_USEC, longest.as_str())]), (far, String::new()));
        assert_eq!(
            watchdog(&[(WATCHDOG_USEC, "1000"), (WATCHDOG_PID, "x")]).1,
            r#"WATCHDOG_PID="x" is ignored: it is no process id, and so no pings are sent"#
        );

        for none in [&[][..], &[(NOTIFY_SOCKET, "")], &[(WATCHDOG_USEC, "1000")]] {
            let (notifier, ignored) = read(none).expect("no other notifier");
            assert!(notifier.is_none() && ignored.is_empty());
        }
        for bad in ["relative", "vsock:2:1234"] {
            let (notifier, ignored) = read(&[(NOTIFY_SOCKET, bad)]).expect("no other notifier");
            assert!(notifier.is_none() && ignored[0].variable == NOTIFY_SOCKET, "{ignored:?}");
        }

        let first = read(&[(NOTIFY_SOCKET, "/run/none")]).expect("the first");
        assert!(read(&[(NOTIFY_SOCKET, "/run/none")]).is_err_and(|error| error == Claimed));
        drop(first);
        assert!(read(&[(NOTIFY_SOCKET, "/run/none")]).is_ok());
    }

    #[test]
    fn a_status_is_one_line_of_bounded_length() {
        assert_eq!(one_line("1 unhealthy: a\nMAINPID=1\r\u{85}b"), "1 unhealthy: a MAINPID=1  b");
        let long = one_line(&"ü".repeat(1_000));
        assert!(long.len() <= STATUS_LENGTH && long.ends_with("ü..."), "{long}");
    }
}
