//! `dump`: one file, or a tree as tar, to standard output.

use std::io::{BufWriter, IsTerminal, Write, stdout};

use clap::Args;
use keepwatch_engine::browse;
use keepwatch_engine::manifest::EntryKind;

use super::ls::walk;
use crate::clock;
use crate::context::Context;
use crate::errors::{Exit, Failure, Outcome};
use crate::output::escape;
use crate::select::{FilterArgs, pick, snapshot_and_paths, stored_paths};

/// Write a file, or a tree as tar, to standard output
#[derive(Args)]
#[command(
    long_about = "Write a file, or a tree as a tar archive, to standard output. Needs an identity.",
    after_help = "Examples:
  keepwatch dump latest /home/me/notes.txt
  keepwatch dump latest db.sql | psql mydb
  keepwatch dump latest /srv | tar -x -C /tmp/back
  keepwatch dump --tar latest /etc/fstab /etc/hosts > etc.tar"
)]
pub struct DumpArgs {
    /// The snapshot (latest, the beginning of an id, or a time) and paths in it
    #[arg(value_name = "[SNAPSHOT] [PATH]")]
    pub words: Vec<String>,
    /// A tar archive, also of a single file
    #[arg(long)]
    pub tar: bool,
    #[command(flatten)]
    pub filter: FilterArgs,
}

/// The verb.
pub fn run(context: &Context, args: &DumpArgs) -> Outcome {
    if context.json() {
        return Err(Failure::usage(
            "dump writes content to standard output, where a JSON document cannot be as well",
        )
        .advice("leave --json out; 'keepwatch ls --json' describes files"));
    }
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
    let single = match &select[..] {
        [one] if !args.tar => {
            let mut kind = None;
            walk(
                |each| browse::list(&repository, &lookup, snapshot, &select, each),
                &mut |e| {
                    if e.path == *one {
                        kind = Some(e.kind());
                        // Known: the rest of the list is not needed.
                        return Err(Failure::closed_pipe());
                    }
                    Ok(())
                },
            )
            .map(drop)
            .or_else(|f| if f.quiet { Ok(()) } else { Err(f) })?;
            match kind {
                Some(EntryKind::File) => Some(one),
                Some(_) => None,
                None => {
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
            }
        }
        _ => None,
    };
    if single.is_none() && stdout().is_terminal() {
        return Err(Failure::usage(
            "a tar archive would only garble the terminal; nothing was written",
        )
        .advice("send it into a file or a program: keepwatch dump … | tar -t"));
    }
    let mut out = BufWriter::with_capacity(256 << 10, stdout().lock());
    let dumped = match single {
        Some(path) => browse::dump_file(&repository, &lookup, snapshot, path, &mut out),
        None => browse::dump_tar(&repository, &lookup, snapshot, &select, &mut out),
    };
    let result = dumped
        .map(drop)
        .map_err(Failure::from)
        .and_then(|()| out.flush().map_err(Failure::stdout));
    // A reader that went away did not get all of it: that is no success, though nothing to talk about.
    result.map(|()| Exit::Done).map_err(|f| {
        if f.quiet {
            Failure {
                exit: Exit::Failed,
                ..f
            }
        } else {
            f
        }
    })
}
