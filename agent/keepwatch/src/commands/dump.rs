//! `dump`: one file, or a tree as tar, to standard output.

use std::io::{BufWriter, IsTerminal, Write, stdout};

use clap::Args;
use keepwatch_engine::dump::{self, DumpError};

use crate::clock;
use crate::context::Context;
use crate::errors::{Exit, Failure, Outcome};
use crate::output::{escape, escape_bytes, plain, tell};
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
    let mut out = BufWriter::with_capacity(256 << 10, stdout().lock());
    let single = match &select[..] {
        [one] if !args.tar => {
            dump::dump_file(&repository, &lookup, snapshot, one, &mut out).map(drop)
        }
        _ => Err(DumpError::NotAFile(String::new())),
    };
    let dumped = match single {
        // Nothing was written yet.
        Err(DumpError::NotAFile(_)) => {
            if stdout().is_terminal() {
                return Err(Failure::usage(
                    "a tar archive would only garble the terminal; nothing was written",
                )
                .advice("send it into a file or a program: keepwatch dump … | tar -t"));
            }
            dump::dump_tar(&repository, &lookup, snapshot, &select, &mut out).map(|report| {
                for p in &report.left_out {
                    tell(&format!(
                        "keepwatch: left out: {}: {}",
                        escape_bytes(&p.path),
                        escape(&plain(&p.what))
                    ));
                }
                if report.entries == 0 && !select.is_empty() {
                    Exit::NothingFound
                } else {
                    Exit::Done
                }
            })
        }
        other => other.map(|()| Exit::Done),
    };
    let result = dumped
        .map_err(Failure::from)
        .and_then(|exit| out.flush().map(|()| exit).map_err(Failure::stdout));
    match result {
        Ok(Exit::NothingFound) => Err(Failure::new(
            Exit::NothingFound,
            format!(
                "snapshot {} holds nothing at {}",
                snapshot.id.short(),
                escape(&paths.join(", "))
            ),
        )
        .advice(LS_ADVICE)),
        // A reader that went away did not get all of it: that is no success, though nothing to talk about.
        Err(f) if f.quiet => Err(Failure {
            exit: Exit::Failed,
            ..f
        }),
        other => other,
    }
}

const LS_ADVICE: &str = "'keepwatch ls' shows what it holds; paths are from the root";

impl From<DumpError> for Failure {
    fn from(e: DumpError) -> Self {
        let message = e.to_string();
        match e {
            DumpError::Browse(e) => e.into(),
            DumpError::Content { .. } => Failure::failed(message)
                .advice("do not use the output; 'keepwatch verify' says what is damaged"),
            DumpError::NotFound(_) => Failure::new(Exit::NothingFound, message).advice(LS_ADVICE),
            DumpError::NotAFile(_) => Failure::usage(message),
            DumpError::Out(e) => Failure::stdout(e),
        }
    }
}
