//! `ls`: the files of a snapshot.

use std::io;

use clap::Args;
use keepwatch_engine::browse::{self, BrowseError};
use keepwatch_engine::manifest::{Entry, EntryKind, FLAG_TORN};
use keepwatch_engine::object::ObjectError;
use keepwatch_model::time::Moment;
use serde_json::{Value, json};

use crate::clock;
use crate::context::Context;
use crate::errors::{Exit, Failure, Outcome, plain_io};
use crate::output::{JsonStream, Out, escape, escape_bytes, put_path, tell};
use crate::select::{FilterArgs, pick, snapshot_and_paths, stored_paths};

/// List the files of a snapshot
#[derive(Args)]
#[command(
    long_about = "List the files of a snapshot, by default of the latest. Needs an identity.",
    after_help = "Examples:
  keepwatch ls
  keepwatch ls -l latest /home/me/Documents
  keepwatch ls 3f2a91c0 --json"
)]
pub struct LsArgs {
    /// The snapshot (latest, the beginning of an id, or a time) and paths in it
    #[arg(value_name = "[SNAPSHOT] [PATH]")]
    pub words: Vec<String>,
    /// With mode, owner, size and time
    #[arg(short, long)]
    pub long: bool,
    #[command(flatten)]
    pub filter: FilterArgs,
}

/// The verb.
pub fn run(context: &Context, args: &LsArgs) -> Outcome {
    let (text, paths) = snapshot_and_paths(&args.words);
    let select = stored_paths(paths)?;
    let repository = context.open_reader()?;
    let set = context.snapshots(&repository)?;
    let snapshot = pick(
        &set,
        text.unwrap_or("latest"),
        &args.filter.filter(),
        clock::now(),
    )?;
    let lookup = context.lookup(&repository)?;
    let mut shown = 0u64;
    let lost = if context.json() {
        let mut stream = JsonStream::begin("entries")?;
        let lost = walk(
            |each| browse::list(&repository, &lookup, snapshot, &select, each),
            &mut |e| {
                shown += 1;
                stream.push(&entry_json(e))
            },
        )?;
        stream.end(&json!({ "snapshot": snapshot.id, "unreadable": lost.iter().map(ToString::to_string).collect::<Vec<_>>() }))?;
        lost
    } else {
        let mut out = Out::new();
        let lost = walk(
            |each| browse::list(&repository, &lookup, snapshot, &select, each),
            &mut |e| {
                shown += 1;
                out.line(if args.long {
                    long_line(e)
                } else {
                    short_line(e)
                })
            },
        )?;
        out.flush()?;
        lost
    };
    if !lost.is_empty() {
        return tell_lost(&lost);
    }
    if shown == 0 && !select.is_empty() {
        return Err(Failure::new(
            Exit::NothingFound,
            format!(
                "snapshot {} holds nothing at {}",
                snapshot.id.short(),
                escape(&paths.join(", "))
            ),
        )
        .advice("'keepwatch ls' shows what it holds; paths are from the root"));
    }
    Ok(Exit::Done)
}

/// Names the parts of a manifest that are lost.
pub fn tell_lost(lost: &[ObjectError]) -> Outcome {
    for e in lost {
        tell(&format!("keepwatch: {}", escape(&e.to_string())));
    }
    Err(Failure::new(
        Exit::Partial,
        "the list is not whole: parts of it cannot be read",
    )
    .advice("'keepwatch verify' says what is damaged"))
}

/// Calls a listing function with a receiver that may fail with a [`Failure`], which then ends the listing.
pub fn walk<R>(
    list: impl FnOnce(&mut dyn FnMut(&Entry) -> io::Result<()>) -> Result<R, BrowseError>,
    each: &mut dyn FnMut(&Entry) -> Result<(), Failure>,
) -> Result<R, Failure> {
    let mut stopped = None;
    let result = list(&mut |entry| {
        each(entry).map_err(|f| {
            stopped = Some(f);
            io::Error::other("stopped")
        })
    });
    match stopped {
        Some(f) => Err(f),
        None => Ok(result?),
    }
}

/// The path, with a mark for directories.
pub fn short_line(e: &Entry) -> String {
    let mut line = format!("/{}", escape_bytes(&e.path));
    if e.kind() == EntryKind::Directory {
        line.push('/');
    }
    line
}

/// As `ls -l`.
pub fn long_line(e: &Entry) -> String {
    let owner =
        |name: &Option<String>, id: u32| name.as_deref().map_or_else(|| id.to_string(), escape);
    let size = match (e.kind(), e.device) {
        (EntryKind::CharDevice | EntryKind::BlockDevice, Some([major, minor])) => {
            format!("{major},{minor}")
        }
        _ => e.len().to_string(),
    };
    let time = time(e).map_or_else(|| "?".to_owned(), |t| t.short());
    let mut line = format!(
        "{} {:<8} {:<8} {:>12} {time} {}",
        mode(e),
        owner(&e.user, e.uid),
        owner(&e.group, e.gid),
        size,
        short_line(e)
    );
    if let Some(target) = &e.target {
        line += &format!(" -> {}", escape_bytes(target));
    }
    line
}

fn time(e: &Entry) -> Option<Moment> {
    Moment::from_parts(
        e.mtime.seconds,
        e.mtime.nanoseconds,
        clock::now().offset_seconds(),
    )
    .ok()
}

fn kind_word(kind: EntryKind) -> (&'static str, char) {
    match kind {
        EntryKind::File => ("file", '-'),
        EntryKind::Directory => ("directory", 'd'),
        EntryKind::Symlink => ("symlink", 'l'),
        EntryKind::Fifo => ("fifo", 'p'),
        EntryKind::CharDevice => ("character-device", 'c'),
        EntryKind::BlockDevice => ("block-device", 'b'),
        EntryKind::Socket => ("socket", 's'),
    }
}

fn mode(e: &Entry) -> String {
    let m = e.mode;
    let mut out = String::from(kind_word(e.kind()).1);
    for (shift, special, set, unset) in [
        (6, 0o4000, 's', 'S'),
        (3, 0o2000, 's', 'S'),
        (0, 0o1000, 't', 'T'),
    ] {
        let bits = m >> shift;
        out.push(if bits & 4 != 0 { 'r' } else { '-' });
        out.push(if bits & 2 != 0 { 'w' } else { '-' });
        out.push(match (bits & 1 != 0, m & special != 0) {
            (true, true) => set,
            (false, true) => unset,
            (true, false) => 'x',
            (false, false) => '-',
        });
    }
    out
}

/// As programs read it.
pub fn entry_json(e: &Entry) -> Value {
    let mut v = json!({
        "kind": kind_word(e.kind()).0,
        "mode": format!("{:04o}", e.mode),
        "uid": e.uid,
        "gid": e.gid,
        "user": e.user,
        "group": e.group,
        "mtime": time(e),
    });
    put_path(&mut v, &e.path);
    if e.kind() == EntryKind::File {
        v["size"] = json!(e.len());
        v["stored_size"] = json!(e.stored_len());
    }
    if let Some(target) = &e.target {
        v["target"] = json!(String::from_utf8_lossy(target));
    }
    if let Some(device) = e.device {
        v["device"] = json!(device);
    }
    if e.has_flag(FLAG_TORN) {
        v["changed_while_read"] = json!(true);
    }
    v
}

impl From<BrowseError> for Failure {
    fn from(e: BrowseError) -> Self {
        let message = e.to_string();
        match e {
            BrowseError::Object(e) => e.into(),
            BrowseError::Io(e) => Failure::failed(format!("cannot read the local cache of the index: {}", plain_io(&e)))
                .advice("give another place with --cache-dir, or use --no-cache; the cache can be deleted at any time"),
            BrowseError::Path { .. } => Failure::usage(message),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_and_names_as_ls_writes_them() {
        let mut e = Entry::new(b"a/b\x1b".to_vec(), EntryKind::File);
        e.mode = 0o4755;
        assert_eq!(mode(&e), "-rwsr-xr-x");
        assert_eq!(short_line(&e), "/a/b\\u{1b}");
        let mut e = Entry::new(b"tmp".to_vec(), EntryKind::Directory);
        e.mode = 0o1777;
        assert_eq!(mode(&e), "drwxrwxrwt");
        assert_eq!(short_line(&e), "/tmp/");
        assert_eq!(entry_json(&e)["mode"], "1777");
    }
}
