//! Who carries restarts out: a trait with the real systemd behind it, so that the policy can be tested without one.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::policy::{Facts, Step};
use crate::process::{End, Program, run};
use crate::systemd::{Systemd, SystemdError, UnitName};

/// Work in progress.
pub type Working<'a, T> = Pin<Box<dyn Future<Output = Result<T, SystemdError>> + Send + 'a>>;

/// How a step ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    /// It did what it should.
    pub ok: bool,
    /// The result of the job: `done`, `failed`, `timeout`, `dependency`, `canceled`; for a command its exit.
    pub result: String,
    /// The unit's invocation afterwards.
    pub invocation: String,
}

/// Carries out what the policy allowed.
pub trait Executor: Send + Sync {
    /// Whether this unit may be restarted at all.
    fn allows(&self, unit: &UnitName) -> bool;

    /// What the unit and the system are doing.
    fn facts<'a>(&'a self, unit: &'a UnitName) -> Working<'a, Facts>;

    /// Does one step, for at most `limit`.
    fn act<'a>(&'a self, unit: &'a UnitName, step: &'a Step, limit: Duration) -> Working<'a, Done>;
}

/// The real one.
pub struct SystemdExecutor {
    systemd: Arc<Systemd>,
    allowed: BTreeSet<UnitName>,
    commands: BTreeMap<String, Program>,
    activation_lock: Box<Path>,
}

impl SystemdExecutor {
    /// May restart these units (and those that their escalations name) and run these commands, nothing else. Polkit must
    /// allow the same units to the daemon's user.
    pub fn new(
        systemd: Arc<Systemd>,
        allowed: impl IntoIterator<Item = UnitName>,
        commands: BTreeMap<String, Program>,
    ) -> Self {
        Self {
            systemd,
            allowed: allowed.into_iter().collect(),
            commands,
            activation_lock: Path::new("/run/nixos/switch-to-configuration.lock").into(),
        }
    }

    async fn restart(&self, unit: &UnitName, limit: Duration) -> Result<String, SystemdError> {
        if !self.allowed.contains(unit) {
            return Err(SystemdError::Denied(format!(
                "{unit} is not among the units that may be restarted"
            )));
        }
        self.systemd.restart(unit, limit).await
    }

    async fn command(&self, name: &str, limit: Duration) -> Result<(bool, String), SystemdError> {
        let program = self
            .commands
            .get(name)
            .ok_or_else(|| SystemdError::Refused(format!("there is no command named {name}")))?;
        let ran = run(program, Instant::now() + limit)
            .await
            .map_err(|e| SystemdError::Refused(format!("the command {name} cannot be run: {e}")))?;
        Ok(match ran.end {
            End::Exit(0) => (true, "done".into()),
            End::Exit(code) => (false, format!("exit code {code}")),
            End::Signal(n) => (false, format!("signal {n}")),
            End::Deadline => (false, "timeout".into()),
        })
    }
}

impl Executor for SystemdExecutor {
    fn allows(&self, unit: &UnitName) -> bool {
        self.allowed.contains(unit)
    }

    fn facts<'a>(&'a self, unit: &'a UnitName) -> Working<'a, Facts> {
        Box::pin(async move {
            Ok(Facts {
                unit: self.systemd.unit(unit).await?,
                system: self.systemd.state().await?,
                activation: is_locked(&self.activation_lock),
            })
        })
    }

    fn act<'a>(&'a self, unit: &'a UnitName, step: &'a Step, limit: Duration) -> Working<'a, Done> {
        Box::pin(async move {
            let (ok, result) = match step {
                Step::Unit => done(self.restart(unit, limit).await?),
                Step::Dependants(others) => {
                    let (mut ok, mut result) = done(self.restart(unit, limit).await?);
                    for other in others {
                        if !ok {
                            break;
                        }
                        (ok, result) = done(self.restart(other, limit).await?);
                        if !ok {
                            result = format!("{other}: {result}");
                        }
                    }
                    (ok, result)
                }
                Step::Command(name) => self.command(name, limit).await?,
                Step::Reboot => {
                    self.systemd.reboot().await?;
                    (true, "done".into())
                }
            };
            let invocation = self.systemd.unit(unit).await.map(|u| u.invocation);
            Ok(Done {
                ok,
                result,
                invocation: invocation.unwrap_or_default(),
            })
        })
    }
}

fn done(result: String) -> (bool, String) {
    (result == "done", result)
}

/// Whether some process holds a lock on this file. Read from `/proc/locks`: trying to take the lock would, for a moment, make
/// the activation fail that we want to stay out of the way of.
fn is_locked(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let Ok(meta) = std::fs::metadata(path) else {
        return false;
    };
    let (major, minor) = (rustix::fs::major(meta.dev()), rustix::fs::minor(meta.dev()));
    let place = format!("{major:02x}:{minor:02x}:{}", meta.ino());
    std::fs::read_to_string("/proc/locks").is_ok_and(|locks| {
        locks
            .lines()
            .any(|l| l.split_whitespace().any(|word| word == place))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_seen_without_taking_it() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(!is_locked(file.path()));
        rustix::fs::flock(file.as_file(), rustix::fs::FlockOperation::LockExclusive).unwrap();
        assert!(is_locked(file.path()));
        rustix::fs::flock(file.as_file(), rustix::fs::FlockOperation::Unlock).unwrap();
        assert!(!is_locked(file.path()));
        assert!(!is_locked(Path::new("/nonexistent")));
    }

    #[tokio::test]
    async fn only_named_units_and_commands() {
        let e = SystemdExecutor::new(
            Arc::default(),
            ["a.service".parse().unwrap()],
            BTreeMap::new(),
        );
        let other: UnitName = "b.service".parse().unwrap();
        assert!(!e.allows(&other));
        let limit = Duration::from_secs(1);
        assert!(matches!(
            e.act(&other, &Step::Unit, limit).await,
            Err(SystemdError::Denied(_))
        ));
        let step = Step::Command("rm".into());
        assert!(matches!(
            e.act(&other, &step, limit).await,
            Err(SystemdError::Refused(_))
        ));
    }
}
