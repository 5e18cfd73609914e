//! Private scratch directories, removed when they are dropped. What a killed run left is removed by the next one.
//!
//! A directory is named `kw-scratch-PID-START-RANDOM`, short because sockets lie beneath it: of the process that made it and when that one started, so that another
//! process can tell whether its owner still lives. Modes are 0700 and 0600 from the start.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use crate::fault::Fault;

/// What the names begin with.
const PREFIX: &str = "kw-scratch-";

/// A private directory.
pub struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// Makes one in `parent`, after removing what dead processes left there.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn new(parent: &Path) -> Result<Self, Fault> {
        sweep(parent);
        let random = crate::chance::digits::<4>()?;
        let pid = std::process::id();
        let path = parent.join(format!(
            "{PREFIX}{pid}-{}-{}",
            started(pid).unwrap_or_default(),
            *random
        ));
        DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .map_err(|e| Fault::file("make the scratch directory", &path, &e))?;
        Ok(Scratch { path })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives the directory to another user, who then finds in it what is given to him.
    ///
    /// # Errors
    /// We may not.
    pub fn give(&self, to: Option<Owner>) -> Result<(), Fault> {
        give(&self.path, to)
    }

    /// Writes a file that only its owner can read.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn file(&self, name: &str, content: &[u8], to: Option<Owner>) -> Result<PathBuf, Fault> {
        let path = self.path.join(name);
        let write = |mut file: File| file.write_all(content);
        create(&path)
            .and_then(write)
            .map_err(|e| Fault::file("write", &path, &e))?;
        give(&path, to)?;
        Ok(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(e) = fs::remove_dir_all(&self.path) {
            tracing::warn!(
                "cannot remove the scratch directory {}: {e}",
                self.path.display()
            );
        }
    }
}

/// A user and a group, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
}

/// A new file for its owner alone.
///
/// # Errors
/// It exists, or cannot be made.
pub fn create(path: &Path) -> std::io::Result<File> {
    OpenOptions::new()
        .write(true)
        .read(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}

/// Gives a file to another user.
///
/// # Errors
/// We may not.
pub fn give(path: &Path, to: Option<Owner>) -> Result<(), Fault> {
    match to {
        None => Ok(()),
        Some(owner) => std::os::unix::fs::chown(path, Some(owner.uid), Some(owner.gid))
            .map_err(|e| Fault::file("give away", path, &e)),
    }
}

/// Removes what dead processes of this user left in a directory.
pub fn sweep(parent: &Path) {
    let me = rustix::process::geteuid();
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(owner) = name.to_str().and_then(|n| n.strip_prefix(PREFIX)) else {
            continue;
        };
        let mut parts = owner.split('-');
        let (Some(pid), Some(start)) = (parts.next(), parts.next()) else {
            continue;
        };
        let lives = pid
            .parse()
            .ok()
            .and_then(started)
            .is_some_and(|now| now.to_string() == start);
        let is_ours = me.is_root() || entry.metadata().is_ok_and(|m| m.uid() == me.as_raw());
        if lives || !is_ours || !entry.file_type().is_ok_and(|t| t.is_dir()) {
            continue;
        }
        end_servers(&entry.path());
        match fs::remove_dir_all(entry.path()) {
            Ok(()) => tracing::info!(
                "removed {}, left by a run that was killed",
                entry.path().display()
            ),
            Err(e) => tracing::warn!(
                "cannot remove {}, left by a run that was killed: {e}",
                entry.path().display()
            ),
        }
    }
}

/// Writes down a server that runs on a scratch directory, so that it ends with it.
///
/// # Errors
/// It cannot be written.
pub fn note_server(scratch: &Path, name: &str, pid: u32) -> Result<(), Fault> {
    let path = scratch.join(format!("{name}.server"));
    fs::write(
        &path,
        format!("{pid} {}\n", started(pid).unwrap_or_default()),
    )
    .map_err(|e| Fault::file("write", &path, &e))
}

/// Ends the servers that were noted in a directory.
fn end_servers(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.path().extension().is_none_or(|e| e != "server") {
            continue;
        }
        let text = fs::read_to_string(entry.path()).unwrap_or_default();
        let Some((pid, start)) = text.trim().split_once(' ') else {
            continue;
        };
        let Ok(pid) = pid.parse::<u32>() else {
            continue;
        };
        if started(pid).is_some_and(|now| now.to_string() == start) {
            crate::child::kill_group(pid);
        }
    }
}

/// When a process started, in ticks since boot; none when it does not live.
pub(crate) fn started(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything.
    let rest = &text[text.rfind(')')? + 1..];
    let mut fields = rest.split_ascii_whitespace();
    if matches!(fields.next(), Some("Z" | "X")) {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn it_is_private_and_leaves_with_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        let path;
        {
            let scratch = Scratch::new(dir.path()).unwrap();
            path = scratch.path().to_owned();
            let file = scratch.file("x", b"secret", None).unwrap();
            assert_eq!(
                fs::metadata(&path).unwrap().permissions().mode() & 0o777,
                0o700
            );
            assert_eq!(
                fs::metadata(file).unwrap().permissions().mode() & 0o777,
                0o600
            );
            assert!(scratch.file("x", b"again", None).is_err());
            // A second one does not take the first for a leftover.
            let _other = Scratch::new(dir.path()).unwrap();
            assert!(path.exists());
        }
        assert!(!path.exists());
    }

    #[test]
    fn what_dead_processes_left_goes_with_their_servers() {
        let dir = tempfile::tempdir().unwrap();
        let dead = dir.path().join("kw-scratch-999999999-1-aa");
        let recycled = dir
            .path()
            .join(format!("kw-scratch-{}-1-aa", std::process::id()));
        let foreign = dir.path().join("keepwatch-other");
        for d in [&dead, &recycled, &foreign] {
            fs::create_dir(d).unwrap();
        }
        use std::os::unix::process::CommandExt as _;
        let mut server = std::process::Command::new("sleep")
            .arg("1000")
            .process_group(0)
            .spawn()
            .unwrap();
        note_server(&dead, "db", server.id()).unwrap();
        sweep(dir.path());
        assert!(!dead.exists() && !recycled.exists() && foreign.exists());
        assert!(!server.wait().unwrap().success());
    }
}
