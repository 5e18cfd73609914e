//! `restore --source`: dumps go back into their services.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;

use keepwatch_engine::browse;
use keepwatch_engine::dump::{self, DumpError};
use keepwatch_engine::lookup::Lookup;
use keepwatch_engine::manifest::EntryKind;
use keepwatch_engine::repository::Repository;
use keepwatch_engine::snapshots::SnapshotRecord;
use keepwatch_model::size::human_bytes;
use keepwatch_sources::about::{self, About};
use keepwatch_sources::fault::{Fault, Reason};
use keepwatch_sources::restore::{Report, Stored};
use keepwatch_sources::setting::Setting;
use keepwatch_sources::source::{self, kind_named};
use keepwatch_sources::spec::Spec;
use keepwatch_sources::{container, mysql, postgresql, qdrant, redis, sqlite};
use serde_json::json;

use super::restore::RestoreArgs;
use super::source_args::failure;
use crate::clock;
use crate::context::Context;
use crate::errors::{Exit, Failure, Outcome};
use crate::output::{count, escape, plain, print_after, print_json_after, tell};
use crate::select::{pick, snapshot_and_paths};

/// The streams of one source in a snapshot.
pub struct InSnapshot<'a> {
    repository: &'a Repository,
    lookup: &'a Lookup,
    snapshot: &'a SnapshotRecord,
    label: String,
    lengths: BTreeMap<String, u64>,
}

impl<'a> InSnapshot<'a> {
    /// Looks what is there beneath a label.
    pub fn new(
        repository: &'a Repository,
        lookup: &'a Lookup,
        snapshot: &'a SnapshotRecord,
        label: &str,
    ) -> Result<Self, Failure> {
        let mut lengths = BTreeMap::new();
        let prefix = format!("{label}/");
        let lost = browse::list(
            repository,
            lookup,
            snapshot,
            &[label.as_bytes().to_vec()],
            &mut |entry| {
                if entry.kind() == EntryKind::File {
                    if let Some(name) = std::str::from_utf8(&entry.path)
                        .ok()
                        .and_then(|p| p.strip_prefix(&prefix))
                    {
                        lengths.insert(name.to_owned(), entry.len());
                    }
                }
                Ok(())
            },
        )?;
        if let Some(e) = lost.into_iter().next() {
            return Err(Failure::from(e).during("read what the snapshot holds"));
        }
        Ok(InSnapshot {
            repository,
            lookup,
            snapshot,
            label: label.to_owned(),
            lengths,
        })
    }

    /// What the dump says of itself.
    pub fn about(&self) -> Result<About, Fault> {
        About::parse(&self.small(about::NAME, about::LONGEST)?)
    }
}

impl Stored for InSnapshot<'_> {
    fn length(&self, name: &str) -> Option<u64> {
        self.lengths.get(name).copied()
    }

    fn write(&self, name: &str, out: &mut dyn Write) -> Result<u64, Fault> {
        let path = format!("{}/{name}", self.label);
        dump::dump_file(
            self.repository,
            self.lookup,
            self.snapshot,
            path.as_bytes(),
            out,
        )
        .map_err(|e| match e {
            DumpError::Out(e) => Fault::from_io(e),
            e => Fault::new(Reason::NotWhole, e.to_string()),
        })
    }
}

/// The labels of a snapshot that hold a dump of this kind.
pub fn labels(
    repository: &Repository,
    lookup: &Lookup,
    snapshot: &SnapshotRecord,
    kind: &str,
    wanted: Option<&str>,
) -> Result<Vec<String>, Failure> {
    let mut out = Vec::new();
    for path in &snapshot.body.paths {
        let Ok(label) = std::str::from_utf8(path) else {
            continue;
        };
        if label.contains('/') || wanted.is_some_and(|w| w != label) {
            continue;
        }
        let there = InSnapshot::new(repository, lookup, snapshot, label)?;
        if there.length(about::NAME).is_some() && there.about().map_err(failure)?.kind == kind {
            out.push(label.to_owned());
        }
    }
    Ok(out)
}

/// The verb.
pub fn run(context: &Context, args: &RestoreArgs) -> Outcome {
    let [text] = &args.source.sources[..] else {
        return Err(Failure::usage(
            "several sources are restored one after the other, each by its own call",
        ));
    };
    let (snapshot_text, paths) = snapshot_and_paths(&args.words);
    if !paths.is_empty() {
        return Err(
            Failure::usage("paths of files and --source do not go together")
                .advice("say with --database what is restored"),
        );
    }
    drop(Spec::parse(text).map_err(failure)?);
    let mut spec = args.source.specs(&[], None)?.remove(0);
    let kind = kind_named(&spec.kind).map_err(failure)?;
    let wanted = spec.one("label").map_err(failure)?;
    let place = Place::new(kind, &mut spec, args).map_err(failure)?;
    spec.end().map_err(failure)?;
    if args.dry_run {
        return Err(Failure::usage("--dry-run says nothing of a database")
            .advice("restore it under another name: --database NAME=OTHER"));
    }
    let repository = context.open_reader()?;
    let set = context.snapshots(&repository)?;
    let mut filter = args.filter.filter();
    if snapshot_text.is_none_or(|t| t == "latest") && filter.paths.is_empty() {
        filter.paths.extend(wanted.clone().or_else(|| {
            let known = set
                .live
                .iter()
                .any(|s| s.body.paths.iter().any(|p| &p[..] == kind.as_bytes()));
            known.then(|| kind.to_owned())
        }));
    }
    let snapshot = pick(
        &set,
        snapshot_text.unwrap_or("latest"),
        &filter,
        clock::now(),
    )?;
    let lookup = context.lookup(&repository)?;
    let labels = labels(&repository, &lookup, snapshot, kind, wanted.as_deref())?;
    let label = match &labels[..] {
        [one] => one,
        [] => {
            return Err(Failure::new(
                Exit::NothingFound,
                format!(
                    "snapshot {} holds no dump of the kind '{kind}'{}",
                    snapshot.id.short(),
                    wanted.map_or(String::new(), |w| format!(
                        " with the label '{}'",
                        escape(&w)
                    ))
                ),
            )
            .advice("'keepwatch ls' shows what it holds; one that was given a label is named by --label"));
        }
        several => {
            return Err(Failure::usage(format!(
                "snapshot {} holds several dumps of this kind: {}",
                snapshot.id.short(),
                several.join(", ")
            ))
            .advice("say which with --label"));
        }
    };
    let stored = InSnapshot::new(&repository, &lookup, snapshot, label)?;
    let about = stored.about().map_err(failure)?;
    let setting = args.source.setting(context);
    let report = place.restore(&stored, &about, &setting).map_err(failure)?;
    for n in &report.notes {
        tell(&format!("keepwatch: warning: {}", escape(&plain(n))));
    }
    if context.json() {
        let mut document = json!(report);
        document["snapshot"] = json!(snapshot.id);
        document["kind"] = json!(kind);
        document["label"] = json!(label);
        print_json_after(&document)?;
    } else if !context.globals.quiet {
        print_after(&format!(
            "restored from snapshot {}: {} ({})\n{}",
            snapshot.id.short(),
            count(report.restored.len() as u64, "thing", "things"),
            human_bytes(report.bytes),
            report
                .restored
                .iter()
                .map(|r| format!("  {}\n", escape(r)))
                .collect::<String>(),
        ))?;
    }
    Ok(Exit::Done)
}

/// Where a dump goes.
pub enum Place {
    /// A server of PostgreSQL.
    Postgresql(postgresql::Server, postgresql::Options),
    /// A server of MySQL.
    Mysql(mysql::Server, mysql::Options),
    /// Files of SQLite: which, and where; all to where they were when none is named.
    Sqlite(sqlite::Options, Option<PathBuf>),
    /// The file of a Redis server.
    Redis(Option<redis::Redis>, redis::Options),
    /// A server of Qdrant.
    Qdrant(qdrant::Server, qdrant::Options),
    /// A container.
    Container(container::Container, bool),
}

/// `NAME` or `NAME=OTHER`.
fn renamed(all: Vec<String>) -> BTreeMap<String, String> {
    all.into_iter()
        .map(|d| match d.split_once('=') {
            Some((from, to)) => (from.to_owned(), to.to_owned()),
            None => (d.clone(), d),
        })
        .collect()
}

impl Place {
    fn new(kind: &str, spec: &mut Spec, args: &RestoreArgs) -> Result<Self, Fault> {
        let replace = args.replace;
        let wrong = |text: &str| Fault::new(Reason::Parameter, text);
        let needs_target = matches!(kind, sqlite::KIND | redis::KIND);
        if args.target.is_some() && !needs_target {
            return Err(wrong(
                "--target is for files; a database is named by --database NAME=OTHER",
            ));
        }
        let target = args
            .target
            .as_ref()
            .map(std::path::absolute)
            .transpose()
            .map_err(Fault::from_io)?;
        Ok(match kind {
            postgresql::KIND => {
                let server = source::postgresql_server(spec)?;
                let options = postgresql::Options {
                    databases: renamed(spec.many("database")),
                    globals: spec.flag("globals")?.unwrap_or(true),
                    replace,
                    no_tablespaces: false,
                    jobs: match args.threads {
                        0 => std::thread::available_parallelism()
                            .map_or(1, |n| n.get())
                            .min(16),
                        n => n.into(),
                    },
                };
                Place::Postgresql(server, options)
            }
            mysql::KIND => {
                let server = source::mysql_server(spec)?;
                let options = mysql::Options {
                    databases: renamed(spec.many("database")),
                    users: spec.flag("globals")?.unwrap_or(true),
                    replace,
                };
                Place::Mysql(server, options)
            }
            sqlite::KIND => {
                if target.is_none() && !args.in_place {
                    return Err(wrong(
                        "a database of SQLite needs --target FILE, or --in-place",
                    ));
                }
                let files = renamed(spec.many("database"))
                    .into_iter()
                    .map(|(from, to)| (from, PathBuf::from(to)))
                    .collect();
                Place::Sqlite(sqlite::Options { files, replace }, target)
            }
            redis::KIND => {
                let file = target.ok_or_else(|| wrong("a snapshot of Redis needs --target FILE: dump.rdb in the directory of the server"))?;
                // Anything that is said of the server means: look whether it runs.
                let given = spec.to_text().contains('?');
                let server = source::redis_of(spec)?;
                Place::Redis(given.then_some(server), redis::Options { file, replace })
            }
            qdrant::KIND => {
                let server = source::qdrant_of(spec)?;
                let options = qdrant::Options {
                    collections: renamed(spec.many("database")),
                    replace,
                };
                Place::Qdrant(server, options)
            }
            container::KIND => {
                // What is restored is said by the snapshot.
                spec.add("container-path", "/");
                Place::Container(source::container_of(spec)?, replace)
            }
            other => {
                return Err(wrong(&format!(
                    "what a {other} printed is written out by 'keepwatch dump'"
                )));
            }
        })
    }

    /// Restores.
    pub fn restore(
        self,
        stored: &dyn Stored,
        about: &About,
        setting: &Setting,
    ) -> Result<Report, Fault> {
        match self {
            Place::Postgresql(server, options) => {
                postgresql::restore(stored, about, &server, &options, setting)
            }
            Place::Mysql(server, options) => {
                mysql::restore(stored, about, &server, &options, setting)
            }
            Place::Sqlite(mut options, target) => {
                let there: Vec<&str> = about
                    .all("database")
                    .filter_map(|i| i.of.as_deref())
                    .collect();
                if options.files.is_empty() {
                    options.files = there
                        .iter()
                        .map(|f| ((*f).to_owned(), PathBuf::from(f)))
                        .collect();
                }
                if let Some(target) = target {
                    if options.files.len() != 1 {
                        return Err(Fault::new(
                            Reason::Parameter,
                            format!(
                                "the snapshot has several databases, and --target is one file; say which with --database: {}",
                                there.join(", ")
                            ),
                        ));
                    }
                    options
                        .files
                        .values_mut()
                        .for_each(|to| *to = target.clone());
                }
                sqlite::restore(stored, about, &options, setting)
            }
            Place::Redis(server, options) => {
                redis::restore(stored, about, server.as_ref(), &options, setting)
            }
            Place::Qdrant(server, options) => {
                qdrant::restore(stored, about, &server, &options, setting)
            }
            Place::Container(container, replace) => {
                container::restore(stored, about, &container, replace, setting)
            }
        }
    }
}
