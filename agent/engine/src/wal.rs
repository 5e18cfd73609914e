//! PostgreSQL's write-ahead log in a repository: one object for each file that the server archives (FORMAT.md, section 11).
//!
//! Not a snapshot for each: a busy server makes tens of thousands of files a month, and each must be durable by itself within a fraction of a second, with one object written.
//! The object is a signed record (the head, which a writing host can read) and behind it the file, sealed to the readers. The head carries a keyed hash of the content, so that the same file
//! pushed twice is told from another file of the same name without reading either of them back.
//!
//! The name of an object ends with the hash of its bytes. So two servers that archive different files under one name overwrite nothing: both are there, and whoever reads is told.
//!
//! Memory: a file four times over while it is compressed and sealed: 64 MiB for a segment of the usual 16 MiB.

use std::collections::BTreeMap;

use crate::envelope::{self, Draft, EnvelopeError, Sealer};
use crate::ids::{ChunkId, ChunkKind, ObjectId, WalCluster, WriterId};
use crate::limits;
use crate::object::{ContentError, ObjectError};
use crate::record::{self, RecordError};
use crate::records::{Ancestor, WalHead};
use crate::repository::{PutError, Repository};
use crate::snapshots::SnapshotRecord;
use crate::store::{Area, Listed, Name, StoreError};
use crate::wal_file::WalFile;

/// zstd's level: 16 MiB in less than a tenth of a second, while the server waits.
const LEVEL: i32 = 3;

/// A file to be stored.
pub struct NewWal<'a> {
    /// System identifier of the cluster.
    pub system: u64,
    /// Its name.
    pub file: WalFile,
    /// Its content.
    pub content: &'a [u8],
    /// What a history says.
    pub ancestors: Option<Vec<Ancestor>>,
    /// Now, in seconds since 1970.
    pub time: i64,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// It was stored.
    Stored(ObjectId),
    /// The same content was there already.
    There(ObjectId),
}

/// Why a file was not stored or not found.
#[derive(Debug, thiserror::Error)]
pub enum WalError {
    /// An object.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// Storing.
    #[error(transparent)]
    Put(#[from] PutError),
    /// Another file with this name is there.
    #[error(
        "{file} is in the repository already with other content (object {}): two servers archive into one place, or the log was begun anew. Nothing was overwritten, and both must not be mixed",
        object.short()
    )]
    Conflict {
        /// The file.
        file: WalFile,
        /// The one that is there.
        object: ObjectId,
    },
    /// It cannot be a WAL file.
    #[error("{file} has {length} bytes, which no WAL file has; it was not stored")]
    Length {
        /// The file.
        file: WalFile,
        /// Its length.
        length: u64,
    },
    /// Compression.
    #[error("{0} cannot be compressed: {1}")]
    Compress(WalFile, std::io::Error),
    /// Only a reader can open it.
    #[error("reading WAL needs an identity that opens the repository")]
    NeedsIdentity,
    /// All there is was signed by a writer who is not believed.
    #[error("{file} was signed by writer {writer} only, whose key was revoked: it may be forged")]
    Revoked {
        /// The file.
        file: WalFile,
        /// Who.
        writer: WriterId,
    },
}

impl From<StoreError> for WalError {
    fn from(e: StoreError) -> Self {
        WalError::Object(e.into())
    }
}

/// The head of a stored file, signature checked.
#[derive(Clone, Debug)]
pub struct Head {
    /// Who signed.
    pub writer: WriterId,
    /// The writer's key was taken back.
    pub revoked: bool,
    /// What it says.
    pub body: WalHead,
    /// Bytes of the record; the envelopes follow.
    pub record: usize,
}

/// The stored objects of one file, normally one or none.
pub fn copies(
    repository: &Repository,
    cluster: WalCluster,
    file: WalFile,
) -> Result<Vec<Listed>, StoreError> {
    let mut out = Vec::new();
    let under = format!("{cluster}/{}/", file.directory());
    repository
        .store()
        .list_under(Area::Wal, &under, &mut |l| match l.name {
            Name::Wal(c, f, _) if c == cluster && f == file => out.push(l),
            _ => {}
        })?;
    out.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(out)
}

/// Stores a file, unless the same content is there under its name. It is durable when this returns.
pub fn push(repository: &Repository, new: &NewWal<'_>) -> Result<Pushed, WalError> {
    let cluster = repository.hash().cluster(new.system);
    let content = repository.hash().wal(new.content);
    for listed in copies(repository, cluster, new.file)? {
        let Some(id) = listed.name.object_id() else {
            continue;
        };
        match head(repository, &listed) {
            // Whatever a thief put there must not stop the server from archiving.
            Ok(h) if h.revoked => {}
            Ok(h) if h.body.content == content => return Ok(Pushed::There(id)),
            Ok(_) => {
                return Err(WalError::Conflict {
                    file: new.file,
                    object: id,
                });
            }
            Err(ObjectError::Store(e)) if !e.is_missing() => return Err(e.into()),
            // Damaged, or gone since it was listed: stored anew beside it.
            Err(e) => tracing::warn!("{e}; it is stored again"),
        }
    }
    let bytes = make(repository, new, content)?;
    let id = ObjectId::of(&bytes);
    let name = Name::Wal(cluster, new.file, id);
    repository
        .store()
        .put_owned(&name, bytes)
        .map_err(PutError::from)?;
    Ok(Pushed::Stored(id))
}

/// The object of a file.
pub(crate) fn make(
    repository: &Repository,
    new: &NewWal<'_>,
    content: [u8; 32],
) -> Result<Vec<u8>, WalError> {
    let length = new.content.len() as u64;
    if length == 0 || length > limits::WAL_FILE_BYTES {
        let file = new.file;
        return Err(WalError::Length { file, length });
    }
    let failed = |e| WalError::Compress(new.file, e);
    let mut sealer = Sealer::new(LEVEL).map_err(failed)?;
    let mut sealed = Vec::new();
    let mut envelopes = Vec::new();
    for part in new.content.chunks(limits::ENVELOPE_CONTENT) {
        let mut draft = Draft::new(ChunkKind::Data);
        for chunk in part.chunks(limits::CHUNK_BYTES) {
            // No index names it: the head's hash proves the content as a whole.
            draft.push(ChunkId([0; 32]), chunk);
        }
        let envelope = sealer
            .seal(&draft, repository.recipient())
            .map_err(failed)?;
        envelopes.push(envelope.bytes.len() as u32);
        match sealed.is_empty() {
            // Nearly always the only one.
            true => sealed = envelope.bytes,
            false => sealed.extend_from_slice(&envelope.bytes),
        }
    }
    drop(sealer);
    let body = WalHead {
        system: new.system,
        file: new.file.to_string(),
        time: new.time,
        length,
        content,
        envelopes,
        sealed: *blake3::hash(&sealed).as_bytes(),
        ancestors: new.ancestors.clone(),
    };
    with_head(repository, &body, &sealed)
}

/// A head of our own before what is sealed already.
pub(crate) fn with_head(
    repository: &Repository,
    body: &WalHead,
    sealed: &[u8],
) -> Result<Vec<u8>, WalError> {
    let (mut bytes, _) = repository.make_record(Area::Wal, body)?;
    bytes.extend_from_slice(sealed);
    Ok(bytes)
}

/// Reads the head of a stored file, some hundred bytes, and compares the object's length with it.
pub fn head(repository: &Repository, listed: &Listed) -> Result<Head, ObjectError> {
    let length = listed.size.min(limits::WAL_HEAD_BYTES);
    if length == 0 {
        return Err(ObjectError::content(&listed.name, RecordError::Frame));
    }
    let bytes = repository.store().get_range(&listed.name, 0, length)?;
    head_of(repository, &listed.name, &bytes, listed.size)
}

/// The head of an object that begins with `bytes` and has `size` bytes in all.
pub(crate) fn head_of(
    repository: &Repository,
    name: &Name,
    bytes: &[u8],
    size: u64,
) -> Result<Head, ObjectError> {
    let refuse = |cause: ContentError| Err(ObjectError::content(name, cause));
    let odd = |why: &str| ContentError::Decode(why.to_owned());
    let Some(record) = record::length(bytes).filter(|n| *n <= bytes.len()) else {
        return refuse(RecordError::Frame.into());
    };
    let (writer, body): (_, WalHead) = repository.open_signed(Area::Wal, name, &bytes[..record])?;
    let Name::Wal(cluster, file, _) = name else {
        return refuse(odd("its name is not that of a WAL file"));
    };
    if body.file != file.to_string() || repository.hash().cluster(body.system) != *cluster {
        return refuse(odd("it is another file than its name says"));
    }
    let sealed: u64 = body.envelopes.iter().map(|n| u64::from(*n)).sum();
    if body.length == 0
        || body.length > limits::WAL_FILE_BYTES
        || body
            .ancestors
            .as_ref()
            .is_some_and(|a| a.len() > limits::WAL_ANCESTORS)
    {
        return refuse(odd("it has impossible numbers"));
    }
    if record as u64 + sealed != size {
        return refuse(odd("it does not have the length that its head says"));
    }
    let revoked = repository.writers().get(&writer).is_none_or(|w| w.revoked);
    Ok(Head {
        writer,
        revoked,
        body,
        record,
    })
}

/// Reads an object and checks all that needs no identity: hash, signature, lengths.
pub(crate) fn read(repository: &Repository, name: &Name) -> Result<(Head, Vec<u8>), ObjectError> {
    let bytes = repository.store().get(name, limits::WAL_OBJECT_BYTES)?;
    if name.object_id() != Some(ObjectId::of(&bytes)) {
        return Err(ObjectError::content(name, ContentError::Hash));
    }
    let head = head_of(repository, name, &bytes, bytes.len() as u64)?;
    // The name proves nothing to him who made it: what follows must be what was signed.
    if *blake3::hash(&bytes[head.record..]).as_bytes() != head.body.sealed {
        return Err(ObjectError::content(name, ContentError::Hash));
    }
    Ok((head, bytes))
}

/// Opens what [`read`] gave. Needs a reader.
pub(crate) fn content(
    repository: &Repository,
    name: &Name,
    head: &Head,
    bytes: &[u8],
) -> Result<Vec<u8>, ObjectError> {
    let refuse = |cause: ContentError| Err(ObjectError::content(name, cause));
    let Some(identity) = repository.reader() else {
        return refuse(ContentError::NeedsIdentity);
    };
    let mut out = Vec::new();
    let mut rest = &bytes[head.record..];
    for n in &head.body.envelopes {
        let Some((envelope, tail)) = rest.split_at_checked(*n as usize) else {
            return refuse(RecordError::Frame.into());
        };
        rest = tail;
        let opened =
            envelope::open(envelope, identity).map_err(|e| ObjectError::content(name, e))?;
        if opened.kind != ChunkKind::Data
            || out.len() as u64 + opened.content.len() as u64 > head.body.length
        {
            let why = "it holds something else than its head says";
            return refuse(EnvelopeError::Content(why).into());
        }
        out.extend_from_slice(&opened.content);
    }
    if out.len() as u64 != head.body.length || repository.hash().wal(&out) != head.body.content {
        return refuse(ContentError::ChunkId);
    }
    Ok(out)
}

/// Brings a file back; `None` when the repository does not have it. One that is there and cannot be had is an error, never `None`.
pub fn fetch(
    repository: &Repository,
    cluster: WalCluster,
    file: WalFile,
    accept_revoked: bool,
) -> Result<Option<Vec<u8>>, WalError> {
    if repository.reader().is_none() {
        return Err(WalError::NeedsIdentity);
    }
    let mut found: Option<(ObjectId, [u8; 32], Vec<u8>)> = None;
    let mut trouble = None;
    for listed in copies(repository, cluster, file)? {
        let Some(id) = listed.name.object_id() else {
            continue;
        };
        let opened = read(repository, &listed.name).and_then(|(head, bytes)| {
            let content = content(repository, &listed.name, &head, &bytes)?;
            Ok((head, content))
        });
        match opened {
            Ok((head, _)) if head.revoked && !accept_revoked => {
                let writer = head.writer;
                trouble.get_or_insert(WalError::Revoked { file, writer });
            }
            Ok((head, content)) => match &found {
                Some((object, hash, _)) if *hash != head.body.content => {
                    let object = *object;
                    return Err(WalError::Conflict { file, object });
                }
                Some(_) => {}
                None => found = Some((id, head.body.content, content)),
            },
            Err(e) if e.is_missing() => {}
            Err(e) => trouble = Some(e.into()),
        }
    }
    match (found, trouble) {
        (Some((_, _, content)), _) => Ok(Some(content)),
        (None, Some(e)) => Err(e),
        (None, None) => Ok(None),
    }
}

/// From where on the WAL of each cluster is needed, by the base backups that are kept.
#[derive(Clone, Debug, Default)]
pub struct Needed(BTreeMap<WalCluster, u64>);

impl Needed {
    /// By these snapshots. A cluster of whose base backups none is believed is not among them: all of its WAL is kept.
    pub fn by<'a>(
        repository: &Repository,
        snapshots: impl Iterator<Item = &'a SnapshotRecord>,
    ) -> Needed {
        let mut out: BTreeMap<WalCluster, (u64, bool)> = BTreeMap::new();
        for s in snapshots {
            let Some(base) = &s.body.base else { continue };
            let cluster = repository.hash().cluster(base.system);
            let entry = out.entry(cluster).or_insert((base.segment, false));
            entry.0 = entry.0.min(base.segment);
            entry.1 |= !s.revoked;
        }
        let believed = out.into_iter().filter(|(_, (_, b))| *b);
        Needed(believed.map(|(c, (position, _))| (c, position)).collect())
    }
    /// Whether a file may be needed. Timelines play no part: what lies before the beginning of every base backup is replayed by none.
    pub fn has(&self, cluster: WalCluster, file: WalFile) -> bool {
        match (self.0.get(&cluster), file.position()) {
            (Some(from), Some(position)) => position >= *from,
            _ => true,
        }
    }
    /// The clusters, and from where on.
    pub fn clusters(&self) -> impl Iterator<Item = (WalCluster, u64)> + '_ {
        self.0.iter().map(|(c, p)| (*c, *p))
    }
}
