//! Who belongs to a repository: writers, enrolled and revoked by the owner, and readers, each with a key file.

use ed25519_dalek::SigningKey;
use keepwatch_model::time::Moment;

use super::open::{parse_config, read_config, verify_config};
use super::{AccessError, KeySlot, Repository, Writer};
use crate::envelope;
use crate::ids::{OWNER, RepositoryId, WriterId};
use crate::keys::{self, WriterKey};
use crate::limits;
use crate::object::{ContentError, ObjectError};
use crate::record::{self, RecordError, RecordKind};
use crate::records::WriterRecord;
use crate::seal::{Identity, ReaderRecipient};
use crate::secret::Secret32;
use crate::store::{Area, KeyName, Listed, Name, StoreError, for_each, list_all};

impl Repository {
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

    /// `listed`: what [`list_all`] says of the writers.
    pub(super) fn load_writers(&mut self, listed: &[Listed]) -> Result<(), AccessError> {
        let owner = keys::verifying_key(&self.owner.0).ok_or_else(|| {
            self.untrusted(
                "config",
                ContentError::Decode("its owner key is not usable".into()),
            )
        })?;
        let read = for_each(&*self.store, listed, |listed| match listed.name {
            Name::Writer(id, revoked) => {
                Some((id, self.read_writer(&listed.name, id, revoked, &owner)))
            }
            _ => None,
        });
        for (listed, read) in listed.iter().zip(read) {
            match read {
                // Listed in order: the revocation of an id comes after its record and replaces it.
                Some((id, Ok(record))) => drop(self.writers.insert(id, record)),
                // Not there any more is one thing; not readable just now says nothing about the writer.
                Some((_, Err(ObjectError::Store(e)))) if !e.is_missing() => return Err(e.into()),
                // A damaged or forged writer is no writer: its records will be refused by name.
                Some((_, Err(e))) => {
                    tracing::warn!(object = %listed.name, "a writer's record is not believed: {e}")
                }
                None => {}
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

    pub(super) fn untrusted(&self, object: &str, cause: ContentError) -> AccessError {
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
}

pub(super) fn sealed_identity(
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
