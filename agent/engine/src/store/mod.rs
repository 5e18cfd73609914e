//! The store: where a repository's objects lie. What an implementation must promise:
//!
//! - **put** is atomic, creates only, and is durable when it returns: after `Ok` a crash or power loss does not lose the object, and no reader
//!   ever sees a part of it. An existing name is [`StoreError::Exists`], its content untouched.
//! - **get** after a finished put returns those bytes. **list** after a finished put names it.
//! - **delete** of an absent object is `Ok`: it may be repeated.
//! - No call is retried by the engine: retries, limits and logs are wrappers around a store.
//!
//! The engine calls stores from several threads at once and blocks on them; an asynchronous client drives its own runtime inside. Objects are few
//! and large (about 16 MiB), so a thread for each transfer in flight costs less than an asynchronous engine would.

use std::fmt;
use std::time::{Duration, SystemTime};

use crate::ids::{ObjectId, WalCluster, WriterId, unhex};
use crate::wal_file::WalFile;

pub mod local;
pub mod memory;

/// A group of objects that is listed together.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
pub enum Area {
    /// `keys/`
    Keys,
    /// `writers/`
    Writers,
    /// `packs/`
    Packs,
    /// `index/`
    Index,
    /// `snapshots/`
    Snapshots,
    /// `tombstones/`
    Tombstones,
    /// `marks/`
    Marks,
    /// `wal/`
    Wal,
}

impl Area {
    /// All of them.
    pub const ALL: [Area; 8] = [
        Area::Keys,
        Area::Writers,
        Area::Packs,
        Area::Index,
        Area::Snapshots,
        Area::Tombstones,
        Area::Marks,
        Area::Wal,
    ];

    /// The first component of the names in it.
    pub fn prefix(self) -> &'static str {
        match self {
            Area::Keys => "keys",
            Area::Writers => "writers",
            Area::Packs => "packs",
            Area::Index => "index",
            Area::Snapshots => "snapshots",
            Area::Tombstones => "tombstones",
            Area::Marks => "marks",
            Area::Wal => "wal",
        }
    }
}

/// The name of a reader's key file, without `.age`.
#[derive(Clone, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
pub struct KeyName(String);

impl KeyName {
    /// 1 to 64 characters of `a-z A-Z 0-9 . _ -`, not beginning with a dot.
    pub fn new(text: &str) -> Option<Self> {
        let ok = (1..=64).contains(&text.len())
            && !text.starts_with('.')
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
        ok.then(|| KeyName(text.to_owned()))
    }
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The name of an object; every name that the engine uses has this form, so no path is ever built from foreign text.
#[derive(Clone, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
pub enum Name {
    /// `config`
    Config,
    /// `keys/<name>.age`
    Key(KeyName),
    /// `writers/<id>`, or `writers/<id>.revoked`
    Writer(WriterId, bool),
    /// `packs/<2 hex>/<64 hex>`
    Pack(ObjectId),
    /// `index/<64 hex>`
    Index(ObjectId),
    /// `snapshots/<64 hex>`
    Snapshot(ObjectId),
    /// `tombstones/<64 hex>`
    Tombstone(ObjectId),
    /// `marks/<64 hex>`
    Marks(ObjectId),
    /// `wal/<cluster>/<directory>/<file>.<64 hex>`
    Wal(WalCluster, WalFile, ObjectId),
}

impl Name {
    /// The object's name within an area whose names are hashes.
    pub fn hashed(area: Area, id: ObjectId) -> Option<Name> {
        match area {
            Area::Packs => Some(Name::Pack(id)),
            Area::Index => Some(Name::Index(id)),
            Area::Snapshots => Some(Name::Snapshot(id)),
            Area::Tombstones => Some(Name::Tombstone(id)),
            Area::Marks => Some(Name::Marks(id)),
            Area::Keys | Area::Writers | Area::Wal => None,
        }
    }
    /// The hash in the name, if it has one.
    pub fn object_id(&self) -> Option<ObjectId> {
        match self {
            Name::Pack(i)
            | Name::Index(i)
            | Name::Snapshot(i)
            | Name::Tombstone(i)
            | Name::Marks(i)
            | Name::Wal(_, _, i) => Some(*i),
            Name::Config | Name::Key(_) | Name::Writer(..) => None,
        }
    }
    /// Parses what follows an area's prefix; `None` for foreign files, which are left alone.
    pub fn parse(area: Area, rest: &str) -> Option<Name> {
        let hashed = |text: &str| {
            unhex::<32>(text)
                .map(ObjectId)
                .and_then(|id| Name::hashed(area, id))
        };
        match area {
            Area::Keys => rest
                .strip_suffix(".age")
                .and_then(KeyName::new)
                .map(Name::Key),
            Area::Writers => match rest.strip_suffix(".revoked") {
                Some(id) => unhex::<8>(id).map(|i| Name::Writer(WriterId(i), true)),
                None => unhex::<8>(rest).map(|i| Name::Writer(WriterId(i), false)),
            },
            Area::Packs => {
                let (dir, file) = rest.split_once('/')?;
                (file.get(..2) == Some(dir)).then(|| hashed(file)).flatten()
            }
            Area::Wal => {
                let (cluster, rest) = rest.split_once('/')?;
                let (dir, rest) = rest.split_once('/')?;
                let (file, id) = rest.rsplit_once('.')?;
                let file: WalFile = file.parse().ok()?;
                let cluster = WalCluster(unhex::<8>(cluster)?);
                let id = ObjectId(unhex::<32>(id)?);
                (file.directory() == dir).then_some(Name::Wal(cluster, file, id))
            }
            _ => hashed(rest),
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Name::Config => f.write_str("config"),
            Name::Key(n) => write!(f, "keys/{}.age", n.0),
            Name::Writer(w, false) => write!(f, "writers/{w}"),
            Name::Writer(w, true) => write!(f, "writers/{w}.revoked"),
            Name::Pack(i) => {
                let hex = i.to_string();
                write!(f, "packs/{}/{hex}", &hex[..2])
            }
            Name::Index(i) => write!(f, "index/{i}"),
            Name::Snapshot(i) => write!(f, "snapshots/{i}"),
            Name::Tombstone(i) => write!(f, "tombstones/{i}"),
            Name::Marks(i) => write!(f, "marks/{i}"),
            Name::Wal(c, file, i) => write!(f, "wal/{c}/{}/{file}.{i}", file.directory()),
        }
    }
}

/// What a listing says of an object.
#[derive(Clone, Debug)]
pub struct Listed {
    /// Its name.
    pub name: Name,
    /// Its length in bytes.
    pub size: u64,
    /// When the store took it, by the store's clock.
    pub modified: SystemTime,
}

/// What kind of failure, for those who decide on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// There is no such object.
    Missing,
    /// The name is taken.
    Exists,
    /// No room: full disk or quota.
    Full,
    /// The store may be read, not written.
    ReadOnly,
    /// Not allowed.
    Denied,
    /// It may not be removed before a time that is still to come.
    Locked,
    /// Anything else.
    Other,
}

/// A store's answer when it could not do what was asked.
#[derive(Debug, thiserror::Error)]
#[error("cannot {verb} {object} in {store}: {cause}")]
pub struct StoreError {
    /// What was tried: "read", "write", "list", "delete", "open".
    pub verb: &'static str,
    /// On which object or area.
    pub object: String,
    /// In which store.
    pub store: String,
    /// What kind of failure.
    pub fault: Fault,
    /// Why.
    pub cause: std::io::Error,
}

impl StoreError {
    /// True when the object is not there.
    pub fn is_missing(&self) -> bool {
        self.fault == Fault::Missing
    }
}

/// What was moved between us and a store over a network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Traffic {
    /// Requests sent, of any kind, repeated ones included.
    pub requests: u64,
    /// Attempts after the first.
    pub retries: u64,
    /// What was given up: errors of the server or of the line that repetition did not mend. A refusal is an answer.
    pub failures: u64,
    /// Objects written.
    pub puts: u64,
    /// Objects or ranges read.
    pub gets: u64,
    /// Questions about objects.
    pub heads: u64,
    /// Pages of listings.
    pub lists: u64,
    /// Deletions.
    pub deletes: u64,
    /// Bytes of objects sent, repeated ones included.
    pub sent_bytes: u64,
    /// Bytes of objects received.
    pub received_bytes: u64,
}

/// How a finding is meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Good,
    /// To know.
    Note,
    /// Something will not work.
    Bad,
}

/// What was found out about a store by trying.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Finding {
    /// What was tried.
    pub what: &'static str,
    /// How it is meant.
    pub verdict: Verdict,
    /// What was found, for people.
    pub text: String,
}

/// See the module's documentation for the contract.
pub trait Store: Send + Sync {
    /// Where it is, for messages: a path or a URL without credentials.
    fn location(&self) -> String;
    /// Creates an object, durable on return.
    fn put(&self, name: &Name, bytes: &[u8]) -> Result<(), StoreError>;
    /// As [`Store::put`], for a caller that has no more use for the bytes: a store that needs them for longer than the call is spared a copy.
    fn put_owned(&self, name: &Name, bytes: Vec<u8>) -> Result<(), StoreError> {
        self.put(name, &bytes)
    }
    /// The whole object; refuses one longer than `limit` bytes.
    fn get(&self, name: &Name, limit: u64) -> Result<Vec<u8>, StoreError>;
    /// `length` bytes from `offset`; a shorter object is an error.
    fn get_range(&self, name: &Name, offset: u64, length: u64) -> Result<Vec<u8>, StoreError>;
    /// Its length in bytes.
    fn size(&self, name: &Name) -> Result<u64, StoreError>;
    /// Calls `each` for every object of an area, in any order; names that are not ours are passed over.
    fn list(&self, area: Area, each: &mut dyn FnMut(Listed)) -> Result<(), StoreError>;
    /// As [`Store::list`], only what lies in the directory `under` of the area, such as `0123456789abcdef/0000000100000000/`.
    fn list_under(
        &self,
        area: Area,
        under: &str,
        each: &mut dyn FnMut(Listed),
    ) -> Result<(), StoreError> {
        let prefix = format!("{}/{under}", area.prefix());
        self.list(area, &mut |l| {
            if l.name.to_string().starts_with(&prefix) {
                each(l)
            }
        })
    }
    /// Removes an object; absent is fine.
    fn delete(&self, name: &Name) -> Result<(), StoreError>;
    /// Removes what interrupted writes left behind and is older than `before`; how many.
    fn sweep(&self, before: SystemTime) -> Result<u64, StoreError>;
    /// The store's idea of now, against which `modified` is judged.
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }
    /// How many calls at once are worth while: more than one where most of a call is waiting.
    fn connections(&self) -> usize {
        1
    }
    /// Makes sure that an object cannot be removed for at least `least` from now, where the store locks what is put; true when its lock was prolonged.
    fn renew(&self, _name: &Name, _least: Duration) -> Result<bool, StoreError> {
        Ok(false)
    }
    /// For how long objects are locked when they are put.
    fn lock_time(&self) -> Option<Duration> {
        None
    }
    /// What was moved so far, for a store over a network.
    fn traffic(&self) -> Option<Traffic> {
        None
    }
    /// Tries what the store can do, for people. May write and remove small objects beside the repository's.
    fn examine(&self) -> Vec<Finding> {
        Vec::new()
    }
}

impl<S: Store + ?Sized> Store for std::sync::Arc<S> {
    fn location(&self) -> String {
        (**self).location()
    }
    fn put(&self, name: &Name, bytes: &[u8]) -> Result<(), StoreError> {
        (**self).put(name, bytes)
    }
    fn get(&self, name: &Name, limit: u64) -> Result<Vec<u8>, StoreError> {
        (**self).get(name, limit)
    }
    fn get_range(&self, name: &Name, offset: u64, length: u64) -> Result<Vec<u8>, StoreError> {
        (**self).get_range(name, offset, length)
    }
    fn size(&self, name: &Name) -> Result<u64, StoreError> {
        (**self).size(name)
    }
    fn list(&self, area: Area, each: &mut dyn FnMut(Listed)) -> Result<(), StoreError> {
        (**self).list(area, each)
    }
    fn list_under(
        &self,
        area: Area,
        under: &str,
        each: &mut dyn FnMut(Listed),
    ) -> Result<(), StoreError> {
        (**self).list_under(area, under, each)
    }
    fn delete(&self, name: &Name) -> Result<(), StoreError> {
        (**self).delete(name)
    }
    fn sweep(&self, before: SystemTime) -> Result<u64, StoreError> {
        (**self).sweep(before)
    }
    fn now(&self) -> SystemTime {
        (**self).now()
    }
    fn put_owned(&self, name: &Name, bytes: Vec<u8>) -> Result<(), StoreError> {
        (**self).put_owned(name, bytes)
    }
    fn connections(&self) -> usize {
        (**self).connections()
    }
    fn renew(&self, name: &Name, least: Duration) -> Result<bool, StoreError> {
        (**self).renew(name, least)
    }
    fn lock_time(&self) -> Option<Duration> {
        (**self).lock_time()
    }
    fn traffic(&self) -> Option<Traffic> {
        (**self).traffic()
    }
    fn examine(&self) -> Vec<Finding> {
        (**self).examine()
    }
}

/// Every object of an area. For areas that are small by nature, never for packs of a large repository.
pub fn list_all(store: &dyn Store, area: Area) -> Result<Vec<Listed>, StoreError> {
    let mut out = Vec::new();
    store.list(area, &mut |l| out.push(l))?;
    out.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(out)
}

/// Does the same to each, in their order, as many at once as the store takes calls: behind a network each is a round trip. A panic is passed on.
/// Memory: a thread for each call in flight, and all results.
pub(crate) fn for_each<T: Sync, R: Send>(
    store: &dyn Store,
    items: &[T],
    f: impl Fn(&T) -> R + Sync,
) -> Vec<R> {
    let (mut out, f) = (Vec::with_capacity(items.len()), &f);
    for some in items.chunks(store.connections().max(1)) {
        // The first in this thread: a store that takes one call at a time starts none.
        let Some((here, others)) = some.split_first() else {
            break;
        };
        std::thread::scope(|scope| {
            let others: Vec<_> = others.iter().map(|i| scope.spawn(move || f(i))).collect();
            out.push(f(here));
            for other in others {
                out.push(
                    other
                        .join()
                        .unwrap_or_else(|p| std::panic::resume_unwind(p)),
                );
            }
        });
    }
    out
}

/// Does both, at once where the store takes several calls: behind a network each is a round trip. A panic of either is passed on.
pub(crate) fn both<A: Send, B>(
    store: &dyn Store,
    first: impl FnOnce() -> A + Send,
    second: impl FnOnce() -> B,
) -> (A, B) {
    if store.connections() <= 1 {
        return (first(), second());
    }
    std::thread::scope(|scope| {
        let first = scope.spawn(first);
        let second = second();
        let first = first
            .join()
            .unwrap_or_else(|p| std::panic::resume_unwind(p));
        (first, second)
    })
}
