//! Making and opening a repository: who proves what to whom.
//!
//! `config` is signed by the owner, whose key follows from the repository identity. A writer has both pinned in its key; a reader opens the identity first, derives the owner, and
//! only then believes `config`.

use std::collections::BTreeMap;
use std::sync::Arc;

use keepwatch_model::time::Moment;

use super::members::sealed_identity;
use super::{AccessError, Repository};
use crate::ids::{OWNER, OwnerKey, RepositoryId};
use crate::keys::{self, HashKeys, WriterKey};
use crate::limits;
use crate::object::ContentError;
use crate::record::{self, Record, RecordError, RecordKind};
use crate::records::{Config, FORMAT_VERSION, SealedSecrets};
use crate::seal::{Identity, OpenError, ReaderIdentity, ReaderRecipient};
use crate::secret::{Secret32, SecretText};
use crate::store::{Area, KeyName, Name, Store, both, list_all};

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
        let (writers, bytes) = both(
            &*store,
            || list_all(&*store, Area::Writers),
            || read_config(&*store),
        );
        let bytes = bytes?;
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
        repository.load_writers(&writers?)?;
        repository.use_writer(key)?;
        Ok(repository)
    }

    /// Opens a twin of a repository, whose keys are the same (see [`Self::init_with`]), with what that repository's opener knows: it reads what a writer can read, and does not write.
    /// That it is a twin is proved by the owner's signature over its `config`, and by its records, which open with the same host identity.
    pub fn open_as_twin(store: Arc<dyn Store>, of: &Repository) -> Result<Repository, AccessError> {
        let location = store.location();
        let (writers, bytes) = both(
            &*store,
            || list_all(&*store, Area::Writers),
            || read_config(&*store),
        );
        let bytes = bytes?;
        let record = parse_config(&location, &bytes)?;
        let config = verify_config(&location, &record, of.owner)?;
        let mut repository = Repository {
            store,
            id: record.repository,
            owner: of.owner,
            recipient: of.recipient.clone(),
            hash: HashKeys::new(Secret32::new(*of.hash.secret().expose())),
            host: of.host.clone(),
            host_recipient: of.host.recipient(),
            config,
            reader: of.reader.clone(),
            writer: None,
            writers: BTreeMap::new(),
        };
        if repository.config.recipient != of.recipient.to_string() {
            return Err(repository.untrusted(
                "config",
                ContentError::Decode("its recipient is not that of its twin".into()),
            ));
        }
        repository.load_writers(&writers?)?;
        Ok(repository)
    }

    /// True when the two have the same keys, so that ciphertext of one can be read, found and named in the other.
    pub fn is_twin_of(&self, other: &Repository) -> bool {
        self.recipient.to_string() == other.recipient.to_string()
            && self.host_recipient.to_string() == other.host_recipient.to_string()
            && self.hash.secret().expose() == other.hash.secret().expose()
    }

    /// Opens with an identity. `pinned`: the owner key, where it is known.
    pub fn open_as_reader(
        store: Arc<dyn Store>,
        identity: &ReaderIdentity,
        pinned: Option<OwnerKey>,
    ) -> Result<Repository, AccessError> {
        let location = store.location();
        let (writers, (key_files, bytes)) = both(
            &*store,
            || list_all(&*store, Area::Writers),
            || {
                both(
                    &*store,
                    || list_all(&*store, Area::Keys),
                    || read_config(&*store),
                )
            },
        );
        let bytes = bytes?;
        let record = parse_config(&location, &bytes)?;
        let mut tried = 0;
        let mut detail = String::new();
        let mut found = None;
        for listed in key_files? {
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
        repository.load_writers(&writers?)?;
        Ok(repository)
    }
}

pub(super) fn read_config(store: &dyn Store) -> Result<Vec<u8>, AccessError> {
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

pub(super) fn parse_config<'a>(location: &str, bytes: &'a [u8]) -> Result<Record<'a>, AccessError> {
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

pub(super) fn verify_config(
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
