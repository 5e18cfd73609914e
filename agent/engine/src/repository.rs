//! An open repository: its description, the keys at hand, and the reading and writing of signed records.
//!
//! Who opens it decides what can be done. A *writer* has a writer key: it pins recipient and owner, so nothing in the bucket can redirect what it seals.
//! A *reader* has an identity: it opens the repository identity, from which the owner key follows, which proves `config`; then the secrets in `config`.
//! The verbs (`backup`, `restore`, `verify`, `forget`, `prune`) are functions over this handle.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use ed25519_dalek::SigningKey;
use keepwatch_model::time::Moment;

use crate::chunker::Chunker;
use crate::envelope;
use crate::ids::{OWNER, ObjectId, OwnerKey, RepositoryId, WriterId};
use crate::keys::{self, HashKeys, WriterKey};
use crate::limits;
use crate::lookup::{Gather, Lookup};
use crate::object::{ContentError, ObjectError};
use crate::record::{self, Record, RecordError, RecordKind};
use crate::records::{Config, FORMAT_VERSION, Index, SealedSecrets, WriterRecord};
use crate::seal::{Identity, KeyTextError, OpenError, ReaderIdentity, ReaderRecipient, Recipient};
use crate::secret::{Secret32, SecretText};
use crate::store::{Area, KeyName, Name, Store, StoreError, list_all};

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
    /// Makes a repository in an empty store. Returns it opened as writer, with the writer key to be kept by this host.
    pub fn init(
        store: Arc<dyn Store>,
        readers: &[(KeyName, ReaderRecipient)],
        label: &str,
        chunker: [u32; 3],
        now: Moment,
    ) -> Result<(Repository, WriterKey), AccessError> {
        Self::init_with(store, readers, label, chunker, now, None)
    }

    /// As [`Self::init`], with the keys of another repository, so that ciphertext can be copied between the two.
    pub fn init_with(
        store: Arc<dyn Store>,
        readers: &[(KeyName, ReaderRecipient)],
        label: &str,
        chunker: [u32; 3],
        now: Moment,
        twin: Option<&Repository>,
    ) -> Result<(Repository, WriterKey), AccessError> {
        let location = store.location();
        if readers.is_empty() {
            return Err(AccessError::Name(
                "a repository without any recipient could never be restored".into(),
            ));
        }
        match store.size(&Name::Config) {
            Ok(_) => return Err(AccessError::AlreadyExists(location)),
            Err(e) if e.is_missing() => {}
            Err(e) => return Err(e.into()),
        }
        let random = |e: getrandom::Error| AccessError::Random(e.to_string());
        let identity = match twin {
            None => Identity::generate(),
            Some(t) => t
                .reader
                .clone()
                .ok_or(AccessError::NeedsIdentity("making a twin of a repository"))?,
        };
        let (hash_secret, host) = match twin {
            None => (Secret32::random().map_err(random)?, Identity::generate()),
            Some(t) => (Secret32::new(*t.hash.secret().expose()), t.host.clone()),
        };
        let mut id = [0; 16];
        getrandom::fill(&mut id).map_err(random)?;
        let id = RepositoryId(id);
        let owner_key = keys::owner_signing_key(&identity);
        let owner = OwnerKey(owner_key.verifying_key().to_bytes());
        let secrets = SealedSecrets {
            hash_secret: *hash_secret.expose(),
            host_identity: host.text().expose().to_owned(),
        };
        let sealed = zeroize::Zeroizing::new(
            minicbor::to_vec(&secrets).expect("encoding into memory does not fail"),
        );
        let config = Config {
            version: FORMAT_VERSION,
            recipient: identity.recipient().to_string(),
            owner,
            created: now.unix_seconds(),
            chunker,
            secrets: identity.recipient().seal(&sealed),
        };
        // Keys first: a config without a key file would be a repository that nobody can read.
        for (name, reader) in readers {
            store.put(
                &Name::Key(name.clone()),
                &sealed_identity(id, &identity, reader)?,
            )?;
        }
        let mut repository = Repository {
            store,
            id,
            owner,
            recipient: identity.recipient(),
            hash: HashKeys::new(hash_secret),
            host_recipient: host.recipient(),
            host,
            config,
            reader: Some(identity),
            writer: None,
            writers: BTreeMap::new(),
        };
        let key = repository.enroll(label, true, now)?;
        let body =
            minicbor::to_vec(&repository.config).expect("encoding into memory does not fail");
        let bytes = record::write(RecordKind::Config, id, OWNER, &owner_key, &body);
        match repository.store.put(&Name::Config, &bytes) {
            Err(e) if e.fault == crate::store::Fault::Exists => {
                return Err(AccessError::AlreadyExists(location));
            }
            other => other?,
        }
        repository.use_writer(&key)?;
        repository.reader = None;
        Ok((repository, key))
    }

    /// Opens with a writer key.
    pub fn open_as_writer(
        store: Arc<dyn Store>,
        key: &WriterKey,
    ) -> Result<Repository, AccessError> {
        let location = store.location();
        let bytes = read_config(&*store)?;
        let record = parse_config(&location, &bytes)?;
        if record.repository != key.repository {
            return Err(AccessError::OtherRepository {
                location,
                key: key.repository,
                found: record.repository,
            });
        }
        let config = verify_config(&location, &record, key.owner)?;
        let mut repository = Repository {
            store,
            id: key.repository,
            owner: key.owner,
            // The pin, not what the config says: `verify_config` made sure that they agree, but nothing hangs on it.
            recipient: key.recipient.clone(),
            hash: HashKeys::new(Secret32::new(*key.hash_secret.expose())),
            host: key.host.clone(),
            host_recipient: key.host.recipient(),
            config,
            reader: None,
            writer: None,
            writers: BTreeMap::new(),
        };
        if repository.config.recipient != key.recipient.to_string() {
            return Err(repository.untrusted(
                "config",
                ContentError::Decode(
                    "its recipient is not the one that the writer key pins".into(),
                ),
            ));
        }
        repository.load_writers()?;
        repository.use_writer(key)?;
        Ok(repository)
    }

    /// Opens with an identity. `pinned`: the owner key, where it is known.
    pub fn open_as_reader(
        store: Arc<dyn Store>,
        identity: &ReaderIdentity,
        pinned: Option<OwnerKey>,
    ) -> Result<Repository, AccessError> {
        let location = store.location();
        let bytes = read_config(&*store)?;
        let record = parse_config(&location, &bytes)?;
        let mut tried = 0;
        let mut detail = String::new();
        let mut found = None;
        for listed in list_all(&*store, Area::Keys)? {
            tried += 1;
            let sealed = store.get(&listed.name, limits::KEY_FILE_BYTES as u64)?;
            match identity.open(&sealed, limits::KEY_FILE_BYTES) {
                Ok(plain) => {
                    let plain = zeroize::Zeroizing::new(plain);
                    let untrusted = |why: &str| AccessError::Untrusted {
                        location: location.clone(),
                        object: listed.name.to_string(),
                        cause: ContentError::Decode(why.to_owned()),
                    };
                    let text = std::str::from_utf8(&plain)
                        .map_err(|_| untrusted("it is not an identity file"))?;
                    let line = text
                        .lines()
                        .find(|l| l.starts_with("AGE-SECRET-KEY-"))
                        .ok_or_else(|| untrusted("it holds no identity"))?;
                    let identity =
                        Identity::parse(&SecretText::new(line.to_owned()), "of the repository")
                            .map_err(|_| untrusted("it holds no identity"))?;
                    found = Some(identity);
                    break;
                }
                Err(OpenError::WrongKey) => {}
                Err(e) => detail = format!(" ({}: {e})", listed.name),
            }
        }
        let Some(identity) = found else {
            return Err(AccessError::WrongIdentity {
                location,
                tried,
                detail,
            });
        };
        let owner_key = keys::owner_signing_key(&identity);
        let owner = OwnerKey(owner_key.verifying_key().to_bytes());
        if let Some(expected) = pinned.filter(|p| *p != owner) {
            return Err(AccessError::OtherOwner {
                location,
                found: owner,
                expected,
            });
        }
        let config = verify_config(&location, &record, owner)?;
        let untrusted = |cause: ContentError| AccessError::Untrusted {
            location: location.clone(),
            object: "config".into(),
            cause,
        };
        if config.recipient != identity.recipient().to_string() {
            return Err(untrusted(ContentError::Decode(
                "its recipient does not belong to the repository identity".into(),
            )));
        }
        let plain = zeroize::Zeroizing::new(
            identity
                .open(&config.secrets, limits::KEY_FILE_BYTES)
                .map_err(|e| untrusted(e.into()))?,
        );
        let secrets: SealedSecrets =
            minicbor::decode(&plain).map_err(|e| untrusted(ContentError::Decode(e.to_string())))?;
        let host = Identity::parse(
            &SecretText::new(secrets.host_identity.clone()),
            "of the host",
        )?;
        let mut repository = Repository {
            store,
            id: record.repository,
            owner,
            recipient: identity.recipient(),
            hash: HashKeys::new(Secret32::new(secrets.hash_secret)),
            host_recipient: host.recipient(),
            host,
            config,
            reader: Some(identity),
            writer: None,
            writers: BTreeMap::new(),
        };
        repository.load_writers()?;
        Ok(repository)
    }

    /// Adds the right to write to a repository opened by a reader.
    pub fn use_writer(&mut self, key: &WriterKey) -> Result<(), AccessError> {
        if key.repository != self.id {
            return Err(AccessError::OtherRepository {
                location: self.store.location(),
                key: key.repository,
                found: self.id,
            });
        }
        match self.writers.get(&key.id) {
            Some(w) if !w.revoked && w.public == key.signing.verifying_key().to_bytes() => {}
            _ => return Err(AccessError::NotEnrolled(key.id)),
        }
        self.writer = Some(Writer {
            id: key.id,
            signing: key.signing.clone(),
        });
        Ok(())
    }

    /// Makes a writer and records it. Needs the repository identity.
    pub fn enroll(
        &mut self,
        label: &str,
        maintain: bool,
        now: Moment,
    ) -> Result<WriterKey, AccessError> {
        let identity = self
            .reader
            .as_ref()
            .ok_or(AccessError::NeedsIdentity("issuing a writer key"))?;
        let random = |e: getrandom::Error| AccessError::Random(e.to_string());
        let mut id = [0; 8];
        getrandom::fill(&mut id).map_err(random)?;
        let seed = Secret32::random().map_err(random)?;
        let signing = SigningKey::from_bytes(seed.expose());
        let record = WriterRecord {
            id: WriterId(id),
            public: signing.verifying_key().to_bytes(),
            label: label.chars().take(128).collect(),
            created: now.unix_seconds(),
            maintain,
            revoked: false,
        };
        let key = WriterKey {
            repository: self.id,
            recipient: self.recipient.clone(),
            owner: self.owner,
            hash_secret: Secret32::new(*self.hash.secret().expose()),
            host: self.host.clone(),
            id: record.id,
            signing,
        };
        let bytes = self.owner_record(&keys::owner_signing_key(identity), &record);
        self.store.put(&Name::Writer(record.id, false), &bytes)?;
        self.writers.insert(record.id, record);
        Ok(key)
    }

    /// Takes a writer's right back: what it signs, and signed, is refused from now on. Needs the repository identity.
    pub fn revoke_writer(&mut self, id: WriterId) -> Result<(), AccessError> {
        let identity = self
            .reader
            .as_ref()
            .ok_or(AccessError::NeedsIdentity("revoking a writer"))?;
        let record = self
            .writers
            .get(&id)
            .ok_or_else(|| AccessError::Name(format!("there is no writer {id}")))?;
        let record = WriterRecord {
            revoked: true,
            ..record.clone()
        };
        let bytes = self.owner_record(&keys::owner_signing_key(identity), &record);
        self.store.put(&Name::Writer(id, true), &bytes)?;
        self.writers.insert(id, record);
        Ok(())
    }

    fn owner_record(&self, owner: &SigningKey, record: &WriterRecord) -> Vec<u8> {
        let plain = minicbor::to_vec(record).expect("encoding into memory does not fail");
        let body = self.host_recipient.seal(&envelope::compress_body(&plain));
        record::write(RecordKind::Writer, self.id, OWNER, owner, &body)
    }

    fn load_writers(&mut self) -> Result<(), AccessError> {
        let owner = keys::verifying_key(&self.owner.0).ok_or_else(|| {
            self.untrusted(
                "config",
                ContentError::Decode("its owner key is not usable".into()),
            )
        })?;
        for listed in list_all(&*self.store, Area::Writers)? {
            let Name::Writer(id, revoked) = listed.name else {
                continue;
            };
            match self.read_writer(&listed.name, id, revoked, &owner) {
                // Listed in order: the revocation of an id comes after its record and replaces it.
                Ok(record) => drop(self.writers.insert(id, record)),
                // A damaged or forged writer is no writer: its records will be refused by name.
                Err(e) => {
                    tracing::warn!(object = %listed.name, "a writer's record is not believed: {e}")
                }
            }
        }
        Ok(())
    }

    fn read_writer(
        &self,
        name: &Name,
        id: WriterId,
        revoked: bool,
        owner: &ed25519_dalek::VerifyingKey,
    ) -> Result<WriterRecord, ObjectError> {
        let bytes = self.store.get(name, limits::RECORD_BYTES as u64)?;
        let limit = limits::RECORD_CONTENT_BYTES;
        let record: WriterRecord =
            self.open_record(name, &bytes, RecordKind::Writer, OWNER, owner, limit)?;
        if record.id != id || record.revoked != revoked {
            return Err(ObjectError::content(
                name,
                ContentError::Decode("it describes another writer".into()),
            ));
        }
        Ok(record)
    }

    /// Reads `config` and the records of all writers again: how many there are, and those that cannot be believed.
    pub fn recheck(&self) -> Result<(u64, Vec<ObjectError>), StoreError> {
        let mut problems = Vec::new();
        let config = || -> Result<(), AccessError> {
            let location = self.store.location();
            let bytes = read_config(&*self.store)?;
            let record = parse_config(&location, &bytes)?;
            verify_config(&location, &record, self.owner)?;
            if record.repository != self.id {
                return Err(
                    self.untrusted("config", RecordError::Repository(record.repository).into())
                );
            }
            Ok(())
        };
        match config() {
            Ok(()) => {}
            Err(AccessError::Store(e)) => problems.push(e.into()),
            Err(AccessError::Untrusted { cause, .. }) => {
                problems.push(ObjectError::content(Name::Config, cause))
            }
            Err(e) => problems.push(ObjectError::content(
                Name::Config,
                ContentError::Decode(e.to_string()),
            )),
        }
        let mut objects = 1;
        let owner = keys::verifying_key(&self.owner.0);
        for listed in list_all(&*self.store, Area::Writers)? {
            if let (Name::Writer(id, revoked), Some(owner)) = (&listed.name, &owner) {
                objects += 1;
                problems.extend(self.read_writer(&listed.name, *id, *revoked, owner).err());
            }
        }
        Ok((objects, problems))
    }

    fn untrusted(&self, object: &str, cause: ContentError) -> AccessError {
        AccessError::Untrusted {
            location: self.store.location(),
            object: object.to_owned(),
            cause,
        }
    }

    /// Adds a reader. Needs the repository identity.
    pub fn add_key(&self, name: &KeyName, reader: &ReaderRecipient) -> Result<(), AccessError> {
        let identity = self
            .reader
            .as_ref()
            .ok_or(AccessError::NeedsIdentity("adding a reader"))?;
        let bytes = sealed_identity(self.id, identity, reader)?;
        match self.store.put(&Name::Key(name.clone()), &bytes) {
            Err(e) if e.fault == crate::store::Fault::Exists => Err(AccessError::Name(format!(
                "a key named '{}' exists already; choose another name",
                name.as_str()
            ))),
            other => Ok(other?),
        }
    }

    /// Removes a reader; never the last one. What he read or copied before stays readable to him.
    pub fn remove_key(&self, name: &KeyName) -> Result<(), AccessError> {
        let keys = list_all(&*self.store, Area::Keys)?;
        if !keys.iter().any(|k| k.name == Name::Key(name.clone())) {
            return Err(AccessError::Name(format!(
                "there is no key named '{}'",
                name.as_str()
            )));
        }
        if keys.len() == 1 {
            return Err(AccessError::Name(format!(
                "'{}' is the last key: without it nobody could ever restore; add another first",
                name.as_str()
            )));
        }
        Ok(self.store.delete(&Name::Key(name.clone()))?)
    }

    /// The key files, as they present themselves: age files show the kind of their recipient, not who it is.
    pub fn key_slots(&self) -> Result<Vec<KeySlot>, AccessError> {
        let mut out = Vec::new();
        for listed in list_all(&*self.store, Area::Keys)? {
            let Name::Key(name) = listed.name.clone() else {
                continue;
            };
            let bytes = self
                .store
                .get(&listed.name, limits::KEY_FILE_BYTES as u64)?;
            let kind = bytes
                .split(|b| *b == b'\n')
                .filter_map(|l| std::str::from_utf8(l).ok()?.strip_prefix("-> "))
                .find(|l| !l.contains("grease"))
                .and_then(|l| l.split(' ').next())
                .map_or("damaged", |k| if k == "scrypt" { "passphrase" } else { k });
            out.push(KeySlot {
                name,
                size: listed.size,
                kind: kind.chars().take(40).collect(),
            });
        }
        Ok(out)
    }

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

    fn open_signed<T: for<'b> minicbor::Decode<'b, ()>>(
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
        let (mut lookup, covered) = Lookup::open(&dir, scratch, &present).map_err(cache_error)?;
        let mut problems = Vec::new();
        let mut gather = Gather::default();
        let mut wanted: Vec<_> = present.difference(&covered).copied().collect();
        wanted.sort_unstable();
        for id in wanted {
            match self.get_record::<Index>(Area::Index, id) {
                Ok((_, index)) => {
                    // A refused object leaves no rows behind: it is gathered by itself first.
                    let mut one = Gather::default();
                    match one.add(id, &index) {
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
            if gather.is_full() {
                let part = std::mem::take(&mut gather)
                    .write(&dir)
                    .map_err(cache_error)?;
                lookup.add(part).map_err(cache_error)?;
            }
        }
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
        Area::Keys | Area::Writers | Area::Packs => {
            unreachable!("these areas hold no records of writers")
        }
    }
}

fn sealed_identity(
    id: RepositoryId,
    identity: &Identity,
    reader: &ReaderRecipient,
) -> Result<Vec<u8>, AccessError> {
    let text = zeroize::Zeroizing::new(format!(
        "# Keepwatch repository key. It opens every pack: age -d -i THIS-FILE\n# repository: {id}\n# recipient: {}\n{}\n",
        identity.recipient(),
        identity.text().expose()
    ));
    Ok(reader.seal(text.as_bytes())?)
}

fn read_config(store: &dyn Store) -> Result<Vec<u8>, AccessError> {
    store
        .get(&Name::Config, limits::RECORD_BYTES as u64)
        .map_err(|e| {
            if e.is_missing() {
                AccessError::NotARepository(store.location())
            } else {
                e.into()
            }
        })
}

fn parse_config<'a>(location: &str, bytes: &'a [u8]) -> Result<Record<'a>, AccessError> {
    if bytes.len() > 4 && bytes.starts_with(b"KWR") && bytes[3] > b'1' && bytes[3].is_ascii_digit()
    {
        return Err(AccessError::Newer {
            location: location.to_owned(),
            found: (bytes[3] - b'0') as u32,
        });
    }
    Record::parse(bytes).map_err(|e| AccessError::Untrusted {
        location: location.to_owned(),
        object: "config".into(),
        cause: e.into(),
    })
}

fn verify_config(
    location: &str,
    record: &Record<'_>,
    owner: OwnerKey,
) -> Result<Config, AccessError> {
    let untrusted = |cause: ContentError| AccessError::Untrusted {
        location: location.to_owned(),
        object: "config".into(),
        cause,
    };
    let key =
        keys::verifying_key(&owner.0).ok_or_else(|| untrusted(RecordError::Signature.into()))?;
    if record.signer != OWNER {
        return Err(untrusted(RecordError::UnknownSigner(record.signer).into()));
    }
    let body = record
        .verify(RecordKind::Config, record.repository, &key)
        .map_err(|e| untrusted(e.into()))?;
    let mut version = minicbor::Decoder::new(body);
    if let (Ok(Some(_)), Ok(0u32), Ok(found)) = (version.map(), version.u32(), version.u32()) {
        if found > FORMAT_VERSION {
            return Err(AccessError::Newer {
                location: location.to_owned(),
                found,
            });
        }
    }
    let config: Config =
        minicbor::decode(body).map_err(|e| untrusted(ContentError::Decode(e.to_string())))?;
    if config.version != FORMAT_VERSION {
        return Err(untrusted(ContentError::Decode(format!(
            "format version {}",
            config.version
        ))));
    }
    if config.owner != owner {
        return Err(untrusted(ContentError::Decode(
            "its owner key is not the one that signed it".into(),
        )));
    }
    Ok(config)
}
