//! An open repository: its description, the keys at hand, and the reading and writing of signed records.
//!
//! Who opens it decides what can be done. A *writer* has a writer key: it pins recipient and owner, so nothing in the bucket can redirect what it seals.
//! A *reader* has an identity: it opens the repository identity, from which the owner key follows, which proves `config`; then the secrets in `config`.
//! The verbs (`backup`, `restore`, `verify`, `forget`, `prune`) are functions over this handle.

mod members;
mod open;

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use ed25519_dalek::SigningKey;

use crate::chunker::Chunker;
use crate::envelope;
use crate::ids::{ObjectId, OwnerKey, RepositoryId, WriterId};
use crate::keys::{self, HashKeys};
use crate::limits;
use crate::lookup::{Gather, Lookup};
use crate::object::{ContentError, ObjectError};
use crate::record::{self, Record, RecordError, RecordKind};
use crate::records::{Config, FORMAT_VERSION, Index, WriterRecord};
use crate::seal::{Identity, KeyTextError, Recipient};
use crate::store::{Area, KeyName, Name, Store, StoreError, for_each};

/// Minimum, average and maximum length of chunks, in bytes. Half of the 1 MiB that is usual: on a 2 GB dump with 2 % of its rows changed the repository grows by a
/// third less, at the same CPU time, since small chunks share envelopes; a quarter would halve it again, but double the index of a 10 TB repository.
pub const CHUNKER: [u32; 3] = [128 << 10, 512 << 10, 2 << 20];

/// Why a repository could not be opened, made, or its keys changed.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// The store did not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is nothing of ours at this place.
    #[error("{0} is not a Keepwatch repository: it has no 'config'")]
    NotARepository(String),
    /// There is something at this place already.
    #[error("{0} already holds a repository; nothing was changed")]
    AlreadyExists(String),
    /// A newer program wrote it.
    #[error(
        "the repository {location} has format version {found}, this program knows {FORMAT_VERSION}; use a newer Keepwatch, nothing was written"
    )]
    Newer {
        /// Where.
        location: String,
        /// Its version.
        found: u32,
    },
    /// Config or a key record is damaged or forged.
    #[error("the repository {location} cannot be trusted: {object}: {cause}")]
    Untrusted {
        /// Where.
        location: String,
        /// Which object.
        object: String,
        /// Why.
        cause: ContentError,
    },
    /// The identity opens none of the key files.
    #[error("the identity opens none of the {tried} key files of {location}{detail}")]
    WrongIdentity {
        /// Where.
        location: String,
        /// How many were tried.
        tried: usize,
        /// What a plugin or passphrase said.
        detail: String,
    },
    /// The writer key is for another repository.
    #[error("the writer key is for repository {key}, but {location} is repository {found}")]
    OtherRepository {
        /// Where.
        location: String,
        /// The key's.
        key: RepositoryId,
        /// The one found.
        found: RepositoryId,
    },
    /// The repository is not the one known.
    #[error(
        "the repository {location} is not the one that is known: its owner key is {found}, expected {expected}; somebody may have exchanged it, nothing was read from it or written to it"
    )]
    OtherOwner {
        /// Where.
        location: String,
        /// As derived.
        found: OwnerKey,
        /// As pinned.
        expected: OwnerKey,
    },
    /// A key could not be used.
    #[error(transparent)]
    Key(#[from] KeyTextError),
    /// Only a reader can do this.
    #[error("{0} needs an identity that opens the repository")]
    NeedsIdentity(&'static str),
    /// Only a writer can do this.
    #[error("{0} needs a writer key of this repository")]
    NeedsWriter(&'static str),
    /// This writer is not enrolled, or was revoked.
    #[error(
        "writer {0} is not enrolled in the repository, or was revoked; issue a new writer key with an identity: keepwatch key writer"
    )]
    NotEnrolled(WriterId),
    /// A name that is taken or impossible.
    #[error("{0}")]
    Name(String),
    /// No randomness.
    #[error("the operating system gives no random numbers: {0}")]
    Random(String),
}

/// The signing half of a writer.
pub struct Writer {
    /// Its id.
    pub id: WriterId,
    signing: SigningKey,
}

/// An open repository; see the module.
pub struct Repository {
    store: Arc<dyn Store>,
    id: RepositoryId,
    config: Config,
    owner: OwnerKey,
    recipient: Recipient,
    hash: HashKeys,
    host: Identity,
    host_recipient: Recipient,
    reader: Option<Identity>,
    writer: Option<Writer>,
    writers: BTreeMap<WriterId, WriterRecord>,
}

/// A key file as `key list` shows it.
#[derive(Debug, Clone)]
pub struct KeySlot {
    /// Its name.
    pub name: KeyName,
    /// Bytes.
    pub size: u64,
    /// "passphrase", "X25519", "ssh-ed25519", "plugin …": the first stanza of the age file.
    pub kind: String,
}

impl Repository {
    /// The store.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }
    /// Its id.
    pub fn id(&self) -> RepositoryId {
        self.id
    }
    /// Its description.
    pub fn config(&self) -> &Config {
        &self.config
    }
    /// The owner's public key: the fingerprint by which a reader knows the repository.
    pub fn owner(&self) -> OwnerKey {
        self.owner
    }
    /// To whom content is sealed.
    pub fn recipient(&self) -> &Recipient {
        &self.recipient
    }
    /// To whom lists are sealed.
    pub fn host_recipient(&self) -> &Recipient {
        &self.host_recipient
    }
    /// What opens lists.
    pub fn host(&self) -> &Identity {
        &self.host
    }
    /// What opens content, for readers.
    pub fn reader(&self) -> Option<&Identity> {
        self.reader.as_ref()
    }
    /// Who writes, for writers.
    pub fn writer(&self) -> Option<&Writer> {
        self.writer.as_ref()
    }
    /// Everybody who is or was enrolled.
    pub fn writers(&self) -> &BTreeMap<WriterId, WriterRecord> {
        &self.writers
    }
    /// Keys for chunk ids.
    pub fn hash(&self) -> &HashKeys {
        &self.hash
    }
    /// The chunker of this repository.
    pub fn chunker(&self) -> Result<Chunker, AccessError> {
        Chunker::new(&self.hash.chunker_table(), self.config.chunker).ok_or_else(|| {
            self.untrusted(
                "config",
                ContentError::Decode("impossible lengths of chunks".into()),
            )
        })
    }

    /// Signs, seals and stores a record. Returns its name's hash.
    pub fn put_record<T: minicbor::Encode<()>>(
        &self,
        area: Area,
        body: &T,
    ) -> Result<ObjectId, PutError> {
        let (bytes, id) = self.make_record(area, body)?;
        let name = Name::hashed(area, id).expect("records lie in areas of hashed names");
        self.store.put(&name, &bytes)?;
        Ok(id)
    }

    /// The bytes of a signed record and their hash.
    pub fn make_record<T: minicbor::Encode<()>>(
        &self,
        area: Area,
        body: &T,
    ) -> Result<(Vec<u8>, ObjectId), PutError> {
        let writer = self.writer.as_ref().ok_or(PutError::NeedsWriter)?;
        let plain = minicbor::to_vec(body).expect("encoding into memory does not fail");
        let sealed = self.host_recipient.seal(&envelope::compress_body(&plain));
        let bytes = record::write(kind_of(area), self.id, writer.id, &writer.signing, &sealed);
        let id = ObjectId::of(&bytes);
        Ok((bytes, id))
    }

    /// Reads a record: hash, frame, signature, seal, content, in this order. Returns its signer and body.
    pub fn get_record<T: for<'b> minicbor::Decode<'b, ()>>(
        &self,
        area: Area,
        id: ObjectId,
    ) -> Result<(WriterId, T), ObjectError> {
        let name = Name::hashed(area, id).expect("records lie in areas of hashed names");
        let bytes = self.store.get(&name, limits::RECORD_BYTES as u64)?;
        if ObjectId::of(&bytes) != id {
            return Err(ObjectError::content(&name, ContentError::Hash));
        }
        self.open_signed(area, &name, &bytes)
    }

    /// Reads many records, in their order, as many at once as the store takes calls. Memory: one record for each.
    pub fn each_record<T: for<'b> minicbor::Decode<'b, ()> + Send>(
        &self,
        area: Area,
        ids: &[ObjectId],
        each: &mut dyn FnMut(ObjectId, Result<(WriterId, T), ObjectError>),
    ) {
        // In pieces, so that not all records are in memory.
        for some in ids.chunks(self.store.connections().max(1)) {
            let read = for_each(&*self.store, some, |id| self.get_record::<T>(area, *id));
            for (id, record) in some.iter().zip(read) {
                each(*id, record);
            }
        }
    }

    /// Opens a record whose hash says nothing, since more than the record stands in the object.
    pub(crate) fn open_signed<T: for<'b> minicbor::Decode<'b, ()>>(
        &self,
        area: Area,
        name: &Name,
        bytes: &[u8],
    ) -> Result<(WriterId, T), ObjectError> {
        let signer = Record::parse(bytes)
            .map_err(|e| ObjectError::content(name, e))?
            .signer;
        let refuse = |e: RecordError| Err(ObjectError::content(name, e));
        let Some(writer) = self.writers.get(&signer) else {
            return refuse(RecordError::UnknownSigner(signer));
        };
        // What a revoked writer stored stays usable: chunks prove themselves, and its snapshots are set apart by `snapshots`.
        if writer.revoked && matches!(area, Area::Tombstones | Area::Marks) {
            return refuse(RecordError::RevokedSigner(signer));
        }
        let Some(key) = keys::verifying_key(&writer.public) else {
            return refuse(RecordError::UnknownSigner(signer));
        };
        let limit = match area {
            Area::Index => limits::INDEX_CONTENT_BYTES,
            Area::Snapshots => limits::SNAPSHOT_CONTENT_BYTES,
            Area::Wal => limits::WAL_HEAD_CONTENT,
            _ => limits::RECORD_CONTENT_BYTES,
        };
        Ok((
            signer,
            self.open_record(name, bytes, kind_of(area), signer, &key, limit)?,
        ))
    }

    fn open_record<T: for<'b> minicbor::Decode<'b, ()>>(
        &self,
        name: &Name,
        bytes: &[u8],
        kind: RecordKind,
        signer: WriterId,
        key: &ed25519_dalek::VerifyingKey,
        limit: usize,
    ) -> Result<T, ObjectError> {
        let record = Record::parse(bytes).map_err(|e| ObjectError::content(name, e))?;
        if record.signer != signer {
            return Err(ObjectError::content(
                name,
                RecordError::UnknownSigner(record.signer),
            ));
        }
        let body = record
            .verify(kind, self.id, key)
            .map_err(|e| ObjectError::content(name, e))?;
        let frame = self
            .host
            .open(body, limits::RECORD_BYTES)
            .map_err(|e| ObjectError::content(name, ContentError::from(e)))?;
        let plain =
            envelope::decompress_body(&frame, limit).map_err(|e| ObjectError::content(name, e))?;
        minicbor::decode(&plain)
            .map_err(|e| ObjectError::content(name, ContentError::Decode(e.to_string())))
    }

    /// Loads the index into a lookup in `cache` (or a scratch directory). Index objects that cannot be used are returned; what they name is as if it were not stored.
    pub fn load_index(
        &self,
        cache: Option<&Path>,
    ) -> Result<(Lookup, Vec<ObjectError>), ObjectError> {
        let cache_error =
            |e: std::io::Error| ObjectError::content("index", ContentError::Cache(e.to_string()));
        let mut present = HashSet::new();
        self.store
            .list(Area::Index, &mut |l| present.extend(l.name.object_id()))?;
        let (dir, scratch) = match cache {
            Some(dir) => (dir.to_owned(), false),
            None => {
                let mut random = [0; 8];
                getrandom::fill(&mut random)
                    .map_err(|e| cache_error(std::io::Error::other(e.to_string())))?;
                (
                    std::env::temp_dir()
                        .join(format!("keepwatch-index-{}", crate::ids::hex(&random))),
                    true,
                )
            }
        };
        let shown = dir.display().to_string();
        let cache_error = |e: std::io::Error| {
            ObjectError::content("index", ContentError::Cache(format!("{shown}: {e}")))
        };
        let (mut lookup, covered) = Lookup::open(&dir, scratch, &present).map_err(cache_error)?;
        let mut problems = Vec::new();
        let mut gather = Gather::default();
        let mut wanted: Vec<_> = present.difference(&covered).copied().collect();
        wanted.sort_unstable();
        let mut written = Ok(());
        self.each_record::<Index>(Area::Index, &wanted, &mut |id, record| {
            match record {
                Ok((_, index)) => {
                    // A refused object leaves no rows behind: it is gathered by itself first.
                    let mut one = Gather::default();
                    let added = one.add(id, &index);
                    drop(index);
                    match added {
                        Ok(()) if gather.is_empty() => gather = one,
                        Ok(()) => gather.append(one),
                        Err(e) => problems.push(ObjectError::content(
                            Name::Index(id),
                            ContentError::Decode(e.to_string()),
                        )),
                    }
                }
                // Replaced by a prune since it was listed: what replaced it is listed next time, and chunks not found are stored anew.
                Err(e) if e.is_missing() => problems.push(e),
                Err(e) => problems.push(e),
            }
            if gather.is_full() && written.is_ok() {
                written = std::mem::take(&mut gather)
                    .write(&dir)
                    .and_then(|part| lookup.add(part));
            }
        });
        written.map_err(cache_error)?;
        if !gather.is_empty() {
            let part = gather.write(&dir).map_err(cache_error)?;
            lookup.add(part).map_err(cache_error)?;
        }
        Ok((lookup, problems))
    }
}

/// A record could not be stored.
#[derive(Debug, thiserror::Error)]
pub enum PutError {
    /// The store did not take it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Opened without a writer key.
    #[error("writing to the repository needs a writer key")]
    NeedsWriter,
}

fn kind_of(area: Area) -> RecordKind {
    match area {
        Area::Index => RecordKind::Index,
        Area::Snapshots => RecordKind::Snapshot,
        Area::Tombstones => RecordKind::Tombstone,
        Area::Marks => RecordKind::Marks,
        Area::Wal => RecordKind::Wal,
        Area::Keys | Area::Writers | Area::Packs => {
            unreachable!("these areas hold no records of writers")
        }
    }
}
