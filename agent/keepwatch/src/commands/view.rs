//! `backup --view`: the files are read from a snapshot of their file system.
//!
//! This process takes the view, and runs the same command again in a mount namespace of its own, where the view is mounted over the files: so
//! paths in the snapshot are theirs, and nobody else sees the mount. When that process is gone, however it ended, the view is removed.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use keepwatch_sources::child::find;
use keepwatch_sources::setting::{Setting, Stop};
use keepwatch_sources::view::View;
use rustix::process::Pid;

use super::source_args::failure;
use crate::context::Context;
use crate::errors::{Exit, Failure, Outcome, plain_io};
use crate::output::{escape, plain, tell};

/// Options that are not for the process that reads.
const OWN: &[&str] = &["--view", "--scratch", "--supervised-by"];

/// Takes the view, and runs the command again with it.
pub fn run(context: &Context, text: &str, scratch: Option<&Path>) -> Outcome {
    let view = View::parse(text).map_err(failure)?;
    let unshare = find(&["unshare"], None).map_err(failure)?;
    let program = std::env::current_exe().map_err(|e| {
        Failure::failed(format!(
            "cannot tell where this program is: {}",
            plain_io(&e)
        ))
    })?;
    let cancel = context.cancel.clone();
    let mut setting = Setting::new(scratch.map_or_else(std::env::temp_dir, Path::to_owned));
    setting.stop = Stop::when(move || cancel.is_cancelled());
    let held = view
        .take(&setting)
        .map_err(|e| failure(e).safe("no snapshot was made"))?;
    // Its parent is this process, whoever supervises us.
    let mut options = [
        OsString::from("--supervised-by="),
        "--view-root=".into(),
        "--view-origin=".into(),
    ];
    options[0].push(std::process::id().to_string());
    options[1].push(held.root());
    options[2].push(view.origin());
    let mut command = Command::new(unshare);
    command
        .args(["--mount", "--propagation", "private", "--"])
        .arg(program)
        .args(with(without(std::env::args_os().skip(1)), options));
    let mut child = command.spawn().map_err(|e| {
        Failure::failed(format!(
            "cannot start the process that reads the view: {}; no snapshot was made",
            plain_io(&e)
        ))
    })?;
    context
        .child
        .set(i32::try_from(child.id()).ok().and_then(Pid::from_raw));
    if context.cancel.is_cancelled() {
        context.child.terminate();
    }
    let waited = child.wait();
    context.child.set(None);
    if let Err(e) = held.release() {
        tell(&format!("keepwatch: warning: {}", escape(&plain(&e.text))));
    }
    let status = waited.map_err(|e| {
        Failure::failed(format!(
            "it cannot be told how the process that read the view ended: {}",
            plain_io(&e)
        ))
    })?;
    match (status.code(), status.signal()) {
        (Some(0), _) => Ok(Exit::Done),
        (Some(3), _) => Ok(Exit::Partial),
        // It has said why.
        (Some(code), _) => Err(Failure {
            quiet: true,
            ..Failure::new(exit(code), "")
        }),
        (None, signal) => Err(Failure::failed(format!(
            "the process that read the view was ended by signal {}; no snapshot was made",
            signal.unwrap_or_default()
        ))),
    }
}

fn exit(code: i32) -> Exit {
    match code {
        2 => Exit::WrongUse,
        4 => Exit::NothingFound,
        5 => Exit::Refused,
        _ => Exit::Failed,
    }
}

/// The arguments without those that are for this process only.
fn without(words: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut out = Vec::new();
    let mut words = words;
    while let Some(word) = words.next() {
        let text = word.to_string_lossy();
        if text == "--" {
            out.push(word);
            out.extend(words);
            return out;
        }
        if OWN.contains(&&*text) {
            words.next();
        } else if !OWN.iter().any(|o| {
            text.strip_prefix(o)
                .is_some_and(|rest| rest.starts_with('='))
        }) {
            out.push(word);
        }
    }
    out
}

/// Adds options where they are still taken for options.
fn with(mut words: Vec<OsString>, options: [OsString; 3]) -> Vec<OsString> {
    let at = words.iter().position(|w| w == "--").unwrap_or(words.len());
    words.splice(at..at, options);
    words
}

/// In the process that reads: mounts the view over the files.
pub fn enter(root: &Path, origin: &Path) -> Result<(), Failure> {
    rustix::mount::mount_bind(root, origin).map_err(|e| {
        Failure::failed(format!(
            "cannot mount the view {} over {}: {e}; no snapshot was made",
            root.display(),
            origin.display()
        ))
    })
}

/// Options of the process that reads.
#[derive(clap::Args, Clone, Default, Debug)]
pub struct ViewArgs {
    /// Read the files from a snapshot of their file system: btrfs:DIR, zfs:DATASET:DIR or lvm:GROUP/VOLUME:DIR[:SIZE]
    #[arg(long, value_name = "VIEW")]
    pub view: Option<String>,
    /// Where the view lies
    #[arg(long, hide = true, requires = "view_origin", value_name = "DIR")]
    pub view_root: Option<PathBuf>,
    /// Over what it is mounted
    #[arg(long, hide = true, requires = "view_root", value_name = "DIR")]
    pub view_origin: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_go_where_they_are_understood() {
        let words = [
            "backup",
            "--view",
            "btrfs:/srv",
            "--supervised-by=7",
            "--repo",
            "/r",
            "--",
            "/srv",
            "--view",
        ];
        let out = without(words.iter().map(OsString::from));
        assert_eq!(out, ["backup", "--repo", "/r", "--", "/srv", "--view"]);
        let got = with(out, ["a".into(), "b".into(), "c".into()]);
        assert_eq!(
            got,
            [
                "backup", "--repo", "/r", "a", "b", "c", "--", "/srv", "--view"
            ]
        );
    }
}
