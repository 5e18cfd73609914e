//! Makes, in a directory, what a host with many files has after many daily backups: the repository's metadata without the data, a tree of sparse files, and the local
//! cache; see `repo`, `tree` and `model`. `tests/scale/run` measures Keepwatch on it.
//!
//! ```text
//! repo/                       the repository
//! tree/                       what it is a backup of
//! identity.txt                opens it
//! config/ cache/ state/ data/ XDG directories, with writer key and cache where `keepwatch` looks for them
//! ```

mod model;
mod repo;
mod tree;

use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Parser;
use keepwatch_engine::backup::cache::CacheWriter;
use keepwatch_engine::backup::cache_path;
use keepwatch_engine::repository::{CHUNKER, Repository};
use keepwatch_engine::seal::{AskNobody, Identity, ReaderRecipient};
use keepwatch_engine::store::{KeyName, local::LocalStore};
use keepwatch_model::time::Moment;
use serde_json::{Value, json};

use model::Model;
use repo::{Growth, Maker, Result};

#[derive(Parser)]
#[command(about = "Makes the metadata of a large repository, and a tree that fits it")]
enum Verb {
    /// Make it all in a directory that does not exist
    Make(Shape),
    /// Give the files that change on a day new content
    Change {
        #[command(flatten)]
        shape: Shape,
        /// Which day, counted from 0; days before the number of snapshots are past
        #[arg(long)]
        day: u16,
        /// Change files anywhere instead of clusters
        #[arg(long)]
        scattered: bool,
    },
}

#[derive(clap::Args)]
struct Shape {
    /// Where
    #[arg(long)]
    dir: PathBuf,
    /// Multiplies files and chunks
    #[arg(long, default_value_t = 1.0)]
    factor: f64,
    /// Files in each snapshot
    #[arg(long, default_value_t = 5_000_000)]
    files: u32,
    /// Chunks in all
    #[arg(long, default_value_t = 10_000_000)]
    chunks: u64,
    /// Daily snapshots
    #[arg(long, default_value_t = 100)]
    snapshots: u16,
    /// Name of the host in the snapshots
    #[arg(long, default_value = "scale")]
    host: String,
}

impl Shape {
    fn model(&self, now: Moment) -> Model {
        let files = (self.files as f64 * self.factor) as u32;
        let chunks = (self.chunks as f64 * self.factor) as u64;
        // The last snapshot was made yesterday.
        Model::new(files, chunks, self.snapshots, now.unix_seconds() - 86_400)
    }
}

fn main() {
    let done = match Verb::parse() {
        Verb::Make(shape) => make(&shape),
        Verb::Change {
            shape,
            day,
            scattered,
        } => change(&shape, day, scattered),
    };
    match done {
        Ok(report) => println!("{report}"),
        Err(e) => {
            eprintln!("keepwatch-scale: {e}");
            std::process::exit(1);
        }
    }
}

fn now() -> Result<Moment> {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    Ok(Moment::from_parts(since.as_secs() as i64, 0, 0)?)
}

fn private(dir: &Path) -> std::io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
}

fn secret(path: &Path, text: &str) -> std::io::Result<()> {
    fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?
        .write_all(text.as_bytes())
}

fn make(shape: &Shape) -> Result<Value> {
    let now = now()?;
    let model = shape.model(now);
    private(&shape.dir)?;
    let dir = shape.dir.canonicalize()?;
    let (root, tree) = (dir.join("repo"), dir.join("tree"));

    let identity = Identity::generate();
    secret(
        &dir.join("identity.txt"),
        &format!("{}\n", identity.text().expose()),
    )?;
    let reader = ReaderRecipient::parse(&identity.recipient().to_string(), &AskNobody)?;
    let name = KeyName::new("scale").ok_or("a name of a key")?;
    let (repository, key) = Repository::init(
        Arc::new(LocalStore::create(&root)?),
        &[(name, reader)],
        &shape.host,
        CHUNKER,
        now,
    )?;
    let keys = dir.join("config/keepwatch/writer-keys");
    private(&keys)?;
    secret(
        &keys.join(format!("{}.key", repository.id())),
        key.to_text().expose(),
    )?;
    let caches = dir.join(format!("cache/keepwatch/{}", repository.id()));
    private(&caches)?;

    let source = tree.to_str().ok_or("the path is not UTF-8")?;
    let mut maker = Maker::new(&repository, root, model, &shape.host, source)?;
    let mut days = Vec::new();
    let mut last = None;
    for day in 0..model.days {
        last = Some(maker.day(day)?);
        days.push(maker.growth);
    }
    let last = last.ok_or("no snapshot was asked for")?;

    let mut cache = CacheWriter::create(&caches)?;
    tree::make(&tree, &model, &maker.versions, &mut cache)?;
    let paths = [source.as_bytes().to_vec()];
    let path = cache_path(&repository, &caches, &shape.host, None, &paths);
    cache.commit(&path, last, model.days as u64, &maker.indexes)?;
    fs::write(
        caches.join(format!("last-{}", key.id)),
        format!("{last} {}\n", model.days),
    )?;

    let sum = |f: fn(&Growth) -> u64| days.iter().map(f).sum::<u64>();
    let daily = |f: fn(&Growth) -> u64| {
        days[1..].iter().map(f).sum::<u64>() / (days.len() as u64 - 1).max(1)
    };
    let of = |g: &dyn Fn(fn(&Growth) -> u64) -> u64| {
        json!({
            "files changed": g(|g| g.files),
            "chunks": g(|g| g.chunks),
            "list chunks": g(|g| g.list_chunks),
            "manifest chunks": g(|g| g.manifest_chunks),
            "bytes of data packs (absent)": g(|g| g.data - g.manifests.min(g.data)),
            "bytes of manifests (absent, estimated)": g(|g| g.manifests),
            "bytes of lists": g(|g| g.lists),
            "bytes of index": g(|g| g.index),
            "bytes of snapshots": g(|g| g.snapshot),
        })
    };
    Ok(json!({
        "files": model.files,
        "snapshots": model.days,
        "refs of a snapshot": days.last().map(|g| g.refs),
        "index objects": maker.indexes.len(),
        "sum": of(&sum),
        "mean of a day after the first": of(&daily),
    }))
}

fn change(shape: &Shape, day: u16, scattered: bool) -> Result<Value> {
    let model = shape.model(now()?);
    let tree = shape.dir.canonicalize()?.join("tree");
    let files = tree::change(&tree, &model, day, scattered)?;
    Ok(json!({ "files changed": files }))
}
