//! What the agent tells systemd: ready, reloading, stopping, alive (`sd_notify(3)`).
//!
//! One datagram for each message, to the socket that `$NOTIFY_SOCKET` names (a path, or an abstract name that begins with `@`).
//! Nobody waits: a message that cannot be sent at once is dropped, the next sign of life follows. `WATCHDOG=1` is sent at half of
//! `$WATCHDOG_USEC`, and only while the scheduler ticks, so that an agent that hangs is started anew.

use std::ffi::OsStr;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use keepwatch_watch::clock::{Clock as _, HostClock};

/// The service manager, or nobody.
pub struct Service {
    socket: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
}

impl Service {
    /// As the environment says.
    pub fn from_env() -> Self {
        let text = |name: &str| std::env::var(name).ok();
        let ours = text("WATCHDOG_PID")
            .is_none_or(|pid| pid.parse::<u32>().is_ok_and(|p| p == std::process::id()));
        let watchdog = text("WATCHDOG_USEC").filter(|_| ours);
        Self::new(
            std::env::var_os("NOTIFY_SOCKET").as_deref(),
            watchdog.as_deref(),
        )
    }

    fn new(address: Option<&OsStr>, watchdog_usec: Option<&str>) -> Self {
        let socket = address
            .filter(|a| !a.is_empty())
            .and_then(|address| match connect(address) {
                Ok(socket) => Some(socket),
                Err(e) => {
                    tracing::warn!("systemd cannot be told anything: {e}");
                    None
                }
            });
        let watchdog = watchdog_usec
            .and_then(|usec| usec.parse::<u64>().ok())
            .filter(|usec| *usec > 0)
            .map(|usec| Duration::from_micros(usec / 2).max(Duration::from_millis(100)));
        Self { socket, watchdog }
    }

    /// How often a sign of life is wanted.
    pub fn watchdog(&self) -> Option<Duration> {
        self.watchdog.filter(|_| self.socket.is_some())
    }

    fn tell(&self, text: &str) {
        if let Some((socket, address)) = &self.socket {
            if let Err(e) = socket.send_to_addr(text.as_bytes(), address) {
                tracing::debug!("systemd was not told: {e}");
            }
        }
    }

    /// Started, or done with reloading.
    pub fn ready(&self, status: &str) {
        self.tell(&format!("READY=1\nSTATUS={}", one_line(status)));
    }

    /// The configuration is read again.
    pub fn reloading(&self) {
        let usec = HostClock.monotonic().as_micros();
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={usec}"));
    }

    /// About to end.
    pub fn stopping(&self) {
        self.tell("STOPPING=1\nSTATUS=stopping");
    }

    /// A sign of life.
    pub fn alive(&self) {
        self.tell("WATCHDOG=1");
    }
}

/// A line break would begin another assignment.
fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

fn connect(address: &OsStr) -> std::io::Result<(UnixDatagram, SocketAddr)> {
    let address = match address.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        [b'/', ..] => SocketAddr::from_pathname(address)?,
        _ => {
            return Err(std::io::Error::other(
                "NOTIFY_SOCKET is neither a path nor an abstract name",
            ));
        }
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    Ok((socket, address))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 1024];
        let n = socket.recv(&mut buffer).expect("a datagram");
        String::from_utf8_lossy(&buffer[..n]).into_owned()
    }

    #[test]
    fn a_path_and_an_abstract_name_are_told() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("notify");
        let name = format!("keepwatch-test-{}", std::process::id());
        let at_path = UnixDatagram::bind(&path).expect("bound");
        let address = SocketAddr::from_abstract_name(&name).expect("a name");
        let at_name = UnixDatagram::bind_addr(&address).expect("bound");
        for (socket, address) in [
            (&at_path, path.into_os_string()),
            (&at_name, format!("@{name}").into()),
        ] {
            let service = Service::new(Some(&address), Some("3000000"));
            assert_eq!(service.watchdog(), Some(Duration::from_millis(1500)));
            service.ready("2 checks\nREADY=0");
            assert_eq!(said(socket), "READY=1\nSTATUS=2 checks READY=0");
            service.reloading();
            assert!(said(socket).starts_with("RELOADING=1\nMONOTONIC_USEC="));
            service.alive();
            assert_eq!(said(socket), "WATCHDOG=1");
            service.stopping();
            assert!(said(socket).starts_with("STOPPING=1"));
        }
    }

    #[test]
    fn nobody_to_tell_is_no_trouble() {
        for address in [
            None,
            Some(""),
            Some("relative"),
            Some("/nonexistent/socket"),
        ] {
            let service = Service::new(address.map(OsStr::new), Some("nonsense"));
            assert_eq!(service.watchdog(), None);
            service.ready("x");
        }
    }
}
