//! `backup --view`: the files are read from a snapshot of their file system.
//!
//! This process takes the view, and runs the same command again in a mount namespace of its own, where the view is mounted over the files: so
//! paths in the snapshot are theirs, and nobody else sees the mount. When that process is gone, however it ended, the view is removed.

use std::ffi::OsString;
use std::io::{Read as _, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use keepwatch_sources::child::find;
use keepwatch_sources::fault::Reason;
use keepwatch_sources::setting::{Setting, Stop};
use keepwatch_sources::view::View;
use rustix::fs::CWD;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, mount_bind, move_mount, open_tree};
use rustix::process::Pid;

use super::source_args::failure;
use crate::context::Context;
use crate::errors::{Exit, Failure, Outcome, plain_io};
use crate::output::{escape, plain, tell};
use crate::places::make_private_dir;

/// Bytes of the reader's document that are kept in memory.
const DOCUMENT_MOST: u64 = 64 << 20;
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
    // What lies in the view must be there before it is taken, to be mounted over it.
    for place in written(context) {
        if place.starts_with(view.origin()) {
            make_private_dir(&place)?;
        }
    }
    let held = view
        .take(&setting)
        .map_err(|e| failure(e).safe("no snapshot was made"))?;
    // Its parent is this process, whoever supervises us.
    let option = |name: &str, value: &Path| {
        let mut word = OsString::from(name);
        word.push(value);
        word
    };
    let parent = OsString::from(format!("--supervised-by={}", std::process::id()));
    let mut options = vec![
        parent,
        option("--view-root=", held.root()),
        option("--view-origin=", held.origin()),
    ];
    options.extend(held.below().iter().map(|d| option("--view-below=", d)));
    let mut command = Command::new(unshare);
    command
        .args(["--mount", "--propagation", "private", "--"])
        .arg(program)
        .args(with(without(std::env::args_os().skip(1)), options));
    // There is one document: that of the reader, unless more is known here of how it ended.
    if context.globals.json {
        command.stdout(Stdio::piped());
    }
    // A reader that outlives us keeps the next run from taking the view away.
    held.lend(true).map_err(failure)?;
    let spawned = command.spawn();
    held.lend(false).map_err(failure)?;
    let mut child = spawned.map_err(|e| {
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
    let mut document = Vec::new();
    if let Some(out) = child.stdout.take() {
        // Half of one is as good as none, and is seen to be half.
        let _ = out.take(DOCUMENT_MOST).read_to_end(&mut document);
    }
    let waited = child.wait();
    context.child.set(None);
    let held_on = held.check();
    if let Err(e) = held.release() {
        tell(&format!("keepwatch: warning: {}", escape(&plain(&e.text))));
    }
    let status = waited.map_err(|e| {
        Failure::failed(format!(
            "it cannot be told how the process that read the view ended: {}",
            plain_io(&e)
        ))
    })?;
    let ran_full = match (status.code(), held_on) {
        (Some(1 | 3), Err(e)) if e.reason == Reason::NoSpace => Some(e.text),
        // With 0 all of it had been read by then.
        _ => None,
    };
    if let Some(text) = ran_full {
        // Whatever the reader has said: this is why.
        return Err(Failure::failed(text)
            .safe("the snapshot is not whole, if one was made")
            .advice("give the view more room: lvm:GROUP/VOLUME:DIR:SIZE"));
    }
    let _ = std::io::stdout().write_all(&document);
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

/// Where a run writes besides the repository.
pub fn written(context: &Context) -> Vec<PathBuf> {
    let places = &context.places;
    let mut all: Vec<PathBuf> = Vec::new();
    all.extend(places.remembered().map(Path::to_owned));
    match &context.globals.cache_dir {
        Some(cache) => all.push(cache.clone()),
        None => all.extend(places.caches().map(Path::to_owned)),
    }
    all
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
fn with(mut words: Vec<OsString>, options: Vec<OsString>) -> Vec<OsString> {
    let at = words.iter().position(|w| w == "--").unwrap_or(words.len());
    words.splice(at..at, options);
    words
}

/// In the process that reads: mounts the view over the files, and over it, as they are, file systems that begin below and the places to which
/// this process writes.
pub fn enter(
    context: &Context,
    args: &ViewArgs,
    repository: &[PathBuf],
    one_file_system: bool,
) -> Result<(), Failure> {
    let (Some(root), Some(origin)) = (&args.view_root, &args.view_origin) else {
        return Ok(());
    };
    let cannot = |what: &Path, e: rustix::io::Errno| {
        Failure::failed(format!(
            "cannot mount {} over {}: {}; no snapshot was made",
            root.display(),
            what.display(),
            plain_io(&e.into())
        ))
    };
    let own = written(context)
        .into_iter()
        .filter_map(|p| std::fs::canonicalize(p).ok());
    let own: Vec<PathBuf> = own.chain(repository.iter().cloned()).collect();
    let mut again: Vec<&PathBuf> = own.iter().filter(|p| p.starts_with(origin)).collect();
    for below in &args.view_below {
        if !one_file_system {
            tell(&format!(
                "keepwatch: note: {} is another file system: it is not part of the view, and is read as it is",
                escape(&below.display().to_string())
            ));
        }
        again.push(below);
    }
    // The place of one may lie in another.
    again.sort();
    again.dedup();
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE;
    let mut trees = Vec::new();
    for place in again {
        let tree = open_tree(CWD, place, flags).map_err(|e| cannot(place, e))?;
        trees.push((tree, place));
    }
    mount_bind(root, origin).map_err(|e| cannot(origin, e))?;
    for (tree, place) in trees {
        let from = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        move_mount(&tree, "", CWD, place, from).map_err(|e| cannot(place, e))?;
    }
    Ok(())
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
    /// What it lacks
    #[arg(long, hide = true, requires = "view_root", value_name = "DIR")]
    pub view_below: Vec<PathBuf>,
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
        let got = with(out, vec!["a".into(), "b".into(), "c".into()]);
        assert_eq!(
            got,
            [
                "backup", "--repo", "/r", "a", "b", "c", "--", "/srv", "--view"
            ]
        );
    }
}
