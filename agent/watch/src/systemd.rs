//! systemd over D-Bus: states of units and jobs. What the unit probe and the restarts share.
//!
//! The connection to the system bus is made when it is first needed and again after it broke; `systemctl` is never run. Names of
//! units are checked before they are sent.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use futures_util::StreamExt as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;
use tokio::sync::Mutex;
use tokio::time::timeout;
use zbus::zvariant::{OwnedObjectPath, OwnedValue};
use zbus::{Connection, Proxy};

const SERVICE: &str = "org.freedesktop.systemd1";
const MANAGER_PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";
/// One call to systemd may take this long; jobs have their own time.
const CALL: Duration = Duration::from_secs(20);

/// The name of a unit, with its type: `nginx.service`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnitName(Box<str>);

impl UnitName {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for UnitName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = [
            "service",
            "socket",
            "target",
            "timer",
            "mount",
            "path",
            "swap",
            "slice",
            "scope",
            "automount",
            "device",
        ];
        let fail = |why: &str| {
            Err(format!(
                "{:?} is not a name of a unit: {why}",
                crate::text::clean_to(text, 60)
            ))
        };
        if text.len() > 255 {
            return fail("it is longer than 255 bytes");
        }
        if !text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b":-_.\\@".contains(&b))
        {
            return fail("use letters, digits and :-_.\\@");
        }
        match text.rsplit_once('.') {
            Some((name, kind)) if !name.is_empty() && known.contains(&kind) => {}
            _ => return fail("it must end in a type such as .service"),
        }
        // A template without an instance is no unit.
        if text.contains("@.") {
            return fail("it is a template; name an instance");
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for UnitName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl Serialize for UnitName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for UnitName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// What systemd says of a unit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitStatus {
    /// `loaded`, `not-found`, `masked`, …
    pub load: String,
    /// `active`, `inactive`, `failed`, `activating`, `deactivating`, `reloading`, …
    pub active: String,
    /// `running`, `dead`, `auto-restart`, …
    pub sub: String,
    /// Why it last ended: `success`, `exit-code`, `signal`, `oom-kill`, `start-limit-hit`, …; empty for units that have none.
    pub result: String,
    /// How often systemd restarted it on its own.
    pub restarts: u32,
    /// Id of its present or last run, 32 hexadecimal digits, or empty.
    pub invocation: String,
}

/// Why systemd could not be asked or did not do it.
#[derive(Debug, Error)]
pub enum SystemdError {
    /// No connection to the bus, or it broke.
    #[error("cannot reach systemd over the system bus: {0}")]
    Bus(String),
    /// It took too long.
    #[error("systemd did not answer in time")]
    Timeout,
    /// Polkit or the bus refused.
    #[error("systemd refuses: {0}")]
    Denied(String),
    /// systemd answered with another error.
    #[error("systemd answers: {0}")]
    Refused(String),
}

impl From<zbus::Error> for SystemdError {
    fn from(error: zbus::Error) -> Self {
        let text = crate::text::chain(&error);
        match &error {
            zbus::Error::MethodError(name, detail, _) => {
                let said = crate::text::clean(detail.as_deref().unwrap_or(name.as_str()));
                let denied = [
                    "AccessDenied",
                    "InteractiveAuthorizationRequired",
                    "AuthFailed",
                ];
                if denied.iter().any(|d| name.as_str().ends_with(d)) {
                    Self::Denied(said)
                } else if ["NoReply", "TimedOut", "Timeout"]
                    .iter()
                    .any(|d| name.as_str().ends_with(d))
                {
                    Self::Timeout
                } else if ["ServiceUnknown", "NameHasNoOwner", "Disconnected"]
                    .iter()
                    .any(|d| name.as_str().ends_with(d))
                {
                    Self::Bus(said)
                } else {
                    Self::Refused(said)
                }
            }
            _ => Self::Bus(text),
        }
    }
}

/// The connection.
#[derive(Debug, Default)]
pub struct Systemd {
    connection: Mutex<Option<Connection>>,
}

impl Systemd {
    async fn connection(&self) -> Result<Connection, SystemdError> {
        let mut kept = self.connection.lock().await;
        if let Some(connection) = &*kept {
            return Ok(connection.clone());
        }
        let fresh = timeout(CALL, Connection::system())
            .await
            .map_err(|_| SystemdError::Timeout)??;
        *kept = Some(fresh.clone());
        Ok(fresh)
    }

    /// Runs one conversation. A connection that broke, or on which an answer did not come, is given up.
    async fn with<T, F, Fut>(&self, limit: Duration, talk: F) -> Result<T, SystemdError>
    where
        F: FnOnce(Connection) -> Fut,
        Fut: Future<Output = Result<T, SystemdError>>,
    {
        let connection = self.connection().await?;
        let result = match timeout(limit, talk(connection)).await {
            Ok(result) => result,
            Err(_) => Err(SystemdError::Timeout),
        };
        if matches!(result, Err(SystemdError::Bus(_) | SystemdError::Timeout)) {
            *self.connection.lock().await = None;
        }
        result
    }

    /// The status of a unit. One that does not exist has `load` = `not-found`.
    ///
    /// # Errors
    /// The bus or systemd.
    pub async fn unit(&self, unit: &UnitName) -> Result<UnitStatus, SystemdError> {
        self.with(CALL, |c| async move {
            let manager = manager(&c).await?;
            // LoadUnit, not GetUnit: a unit that was never started is not in memory.
            let path: OwnedObjectPath = manager.call("LoadUnit", &(unit.as_str(),)).await?;
            let properties = Proxy::new(&c, SERVICE, path, PROPERTIES).await?;
            let general: HashMap<String, OwnedValue> = properties
                .call("GetAll", &("org.freedesktop.systemd1.Unit",))
                .await?;
            // Only some types have a result; an interface that is not there is an empty one.
            let interface = match unit.as_str().rsplit('.').next() {
                Some("service") => "Service",
                Some("mount") => "Mount",
                Some("socket") => "Socket",
                Some("timer") => "Timer",
                Some("swap") => "Swap",
                Some("path") => "Path",
                _ => "",
            };
            let special: HashMap<String, OwnedValue> = if interface.is_empty() {
                HashMap::new()
            } else {
                let interface = format!("org.freedesktop.systemd1.{interface}");
                properties.call("GetAll", &(interface,)).await?
            };
            Ok(UnitStatus {
                load: text(&general, "LoadState"),
                active: text(&general, "ActiveState"),
                sub: text(&general, "SubState"),
                result: text(&special, "Result"),
                restarts: special
                    .get("NRestarts")
                    .and_then(|v| u32::try_from(v).ok())
                    .unwrap_or(0),
                invocation: general
                    .get("InvocationID")
                    .and_then(|v| Vec::<u8>::try_from(v.try_clone().ok()?).ok())
                    .map(|id| id.iter().take(16).map(|b| format!("{b:02x}")).collect())
                    .unwrap_or_default(),
            })
        })
        .await
    }

    /// The state of the system: `running`, `degraded`, `starting`, `stopping`, `maintenance`, …
    ///
    /// # Errors
    /// The bus or systemd.
    pub async fn state(&self) -> Result<String, SystemdError> {
        self.with(CALL, |c| async move {
            let properties = Proxy::new(&c, SERVICE, MANAGER_PATH, PROPERTIES).await?;
            let value: OwnedValue = properties.call("Get", &(MANAGER, "SystemState")).await?;
            Ok(String::try_from(value)
                .map(|s| crate::text::clean(&s))
                .unwrap_or_default())
        })
        .await
    }

    /// Restarts a unit and waits for the job's end, at most `limit`: `done`, `failed`, `timeout`, `dependency`, `canceled`,
    /// `skipped`. A failed state is reset first: once the start limit is hit, systemd refuses even this restart.
    ///
    /// # Errors
    /// The bus, systemd, polkit, or no end within `limit`.
    pub async fn restart(&self, unit: &UnitName, limit: Duration) -> Result<String, SystemdError> {
        self.with(limit, |c| async move {
            let manager = manager(&c).await?;
            // Without it systemd sends no signals to this connection. Twice is an error that means nothing.
            let _: Result<(), _> = manager.call("Subscribe", &()).await;
            // Before the job is made, so that a quick one is not missed.
            let mut removed = manager.receive_signal("JobRemoved").await?;
            // Fails when the unit is not loaded, which RestartUnit will say better.
            let _: Result<(), _> = manager.call("ResetFailedUnit", &(unit.as_str(),)).await;
            let job: OwnedObjectPath = manager
                .call("RestartUnit", &(unit.as_str(), "replace"))
                .await?;
            while let Some(signal) = removed.next().await {
                let body = signal.body();
                let Ok((_, path, _, result)) =
                    body.deserialize::<(u32, OwnedObjectPath, String, String)>()
                else {
                    continue;
                };
                if path == job {
                    return Ok(crate::text::clean(&result));
                }
            }
            Err(SystemdError::Bus(
                "the connection ended before the job did".into(),
            ))
        })
        .await
    }
}

impl Systemd {
    /// Restarts the host in good order: services are stopped first, as `systemctl reboot` does.
    ///
    /// # Errors
    /// The bus, systemd, polkit.
    pub async fn reboot(&self) -> Result<(), SystemdError> {
        self.with(CALL, |c| async move {
            let manager = manager(&c).await?;
            let _: OwnedObjectPath = manager
                .call("StartUnit", &("reboot.target", "replace-irreversibly"))
                .await?;
            Ok(())
        })
        .await
    }
}

async fn manager(connection: &Connection) -> Result<Proxy<'static>, SystemdError> {
    Ok(Proxy::new(connection, SERVICE, MANAGER_PATH, MANAGER).await?)
}

fn text(properties: &HashMap<String, OwnedValue>, name: &str) -> String {
    properties
        .get(name)
        .and_then(|v| <&str>::try_from(v).ok())
        .map(crate::text::clean)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_units() {
        for good in [
            "nginx.service",
            "getty@tty1.service",
            "a\\x2db.mount",
            "x.y.socket",
        ] {
            assert_eq!(good.parse::<UnitName>().unwrap().as_str(), good);
        }
        for bad in [
            "",
            "nginx",
            ".service",
            "a b.service",
            "a/b.service",
            "a.service\n",
            "getty@.service",
            "x.exe",
            "-*.service",
        ] {
            if bad == "-*.service" || !bad.is_empty() {
                assert!(bad.parse::<UnitName>().is_err(), "{bad:?}");
            }
        }
        assert!(
            format!("{}.service", "x".repeat(300))
                .parse::<UnitName>()
                .is_err()
        );
    }
}
