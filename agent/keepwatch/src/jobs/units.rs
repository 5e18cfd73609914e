//! Units that are stopped for a run and started again, also when it fails.
//!
//! Only what was active is stopped, and only that is started again. What was stopped stands in a file (`jobs/NAME.stopped`, one unit a line) until it
//! runs again, so that the next run of the job starts what a supervisor that was killed left stopped.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use keepwatch_watch::systemd::UnitName;

use super::child::{self, Cut, TERM_WAIT, Terms};
use super::stop::Stop;
use crate::errors::plain_io;
use crate::output::tell;
use crate::places::replace_private;

/// One call of `systemctl`. Units are stopped within 90 s unless they say otherwise.
const CALL_WAIT: Duration = Duration::from_secs(300);
/// Bytes of the file that are read: 64 units of 256 bytes.
const FILE_MAX: u64 = 64 << 10;

/// The units of a job.
pub struct Units {
    file: PathBuf,
    stopped: Vec<String>,
}

impl Units {
    /// With the file in which those stand that are stopped.
    pub fn new(file: PathBuf) -> Self {
        let stopped = listed(&file);
        Units { file, stopped }
    }

    /// Starts what an earlier run left stopped.
    pub fn recover(&mut self) {
        if self.stopped.is_empty() {
            return;
        }
        tell(&format!(
            "keepwatch: an earlier run was killed while units were stopped for it; starting {}",
            self.stopped.join(" ")
        ));
        if let Err(why) = self.start() {
            tell(&format!("keepwatch: warning: {why}"));
        }
    }

    /// Stops those that are active.
    ///
    /// # Errors
    /// One sentence. Some may be stopped then: call [`Units::start`].
    pub fn stop(&mut self, units: &[UnitName], stop: &Stop) -> Result<(), String> {
        for unit in units {
            let name = unit.as_str();
            let is_active = systemctl(&["is-active", "--quiet", name], None)?;
            if is_active && !self.stopped.iter().any(|a| a == name) {
                self.stopped.push(name.to_owned());
            }
        }
        if self.stopped.is_empty() {
            return Ok(());
        }
        let names = self.stopped.join(" ");
        if let Err(e) = replace_private(&self.file, &(self.stopped.join("\n") + "\n")) {
            tell(&format!(
                "keepwatch: warning: cannot write {}: {}; if this run is killed, nobody starts {names} again",
                self.file.display(),
                plain_io(&e),
            ));
        }
        let mut words = vec!["stop"];
        words.extend(self.stopped.iter().map(String::as_str));
        match systemctl(&words, Some(stop)) {
            Ok(true) => Ok(()),
            Ok(false) => Err(format!("the units {names} could not be stopped")),
            Err(why) => Err(why),
        }
    }

    /// Starts again what is stopped.
    ///
    /// # Errors
    /// One sentence.
    pub fn start(&mut self) -> Result<(), String> {
        if self.stopped.is_empty() {
            return Ok(());
        }
        let mut words = vec!["start"];
        words.extend(self.stopped.iter().map(String::as_str));
        let names = self.stopped.join(" ");
        let advice = format!("start them by hand: systemctl start {names}");
        match systemctl(&words, None) {
            Ok(true) => {
                let _ = fs::remove_file(&self.file);
                self.stopped.clear();
                Ok(())
            }
            Ok(false) => Err(format!(
                "the units {names} were not started again; {advice}"
            )),
            Err(why) => Err(format!(
                "the units {names} were not started again: {why}; {advice}"
            )),
        }
    }
}

fn listed(file: &Path) -> Vec<String> {
    let text = read(file).unwrap_or_default();
    // The file is ours, but a name that is none would be an option of systemctl.
    let names = text.lines().filter(|l| l.parse::<UnitName>().is_ok());
    names.map(str::to_owned).collect()
}

fn read(path: &Path) -> io::Result<String> {
    use std::io::Read;
    let mut text = String::new();
    fs::File::open(path)?
        .take(FILE_MAX)
        .read_to_string(&mut text)?;
    Ok(text)
}

/// Whether it succeeded.
fn systemctl(words: &[&str], stop: Option<&Stop>) -> Result<bool, String> {
    let mut command = Command::new("systemctl");
    command.args(words).stdout(std::process::Stdio::null());
    let terms = Terms {
        deadline: CALL_WAIT,
        term_wait: TERM_WAIT,
        stop,
        capture: 0,
        sweep: false,
    };
    let call = words.first().copied().unwrap_or_default();
    let ended = child::run(&mut command, &terms)
        .map_err(|e| format!("systemctl {call} cannot be started: {}", plain_io(&e)))?;
    match ended.cut {
        None => Ok(ended.status.success()),
        Some(Cut::Timeout) => Err(format!(
            "systemctl {call} took longer than {} s",
            CALL_WAIT.as_secs()
        )),
        Some(Cut::Stop) => Err(format!("systemctl {call} was stopped by a signal")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_units_are_taken_from_the_file() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("jobs/x.stopped");
        assert!(listed(&file).is_empty());
        replace_private(&file, "a.service\n--force\n\nb\nc.timer\n").expect("written");
        assert_eq!(Units::new(file).stopped, ["a.service", "c.timer"]);
    }
}
