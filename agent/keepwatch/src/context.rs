//! What every command shares: the options before the verb, the repository that is meant, and the keys that open it.

use std::cell::OnceCell;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use keepwatch_engine::ids::{OwnerKey, RepositoryId};
use keepwatch_engine::keys::WriterKey;
use keepwatch_engine::limits;
use keepwatch_engine::lookup::Lookup;
use keepwatch_engine::progress::Cancel;
use keepwatch_engine::record::Record;
use keepwatch_engine::repository::{AccessError, Repository};
use keepwatch_engine::seal::{Ask, Identity, ReaderIdentity, is_passphrase_file};
use keepwatch_engine::snapshots::SnapshotSet;
use keepwatch_engine::store::{Area, Fault, Name, Store, list_all};

use crate::cli::Globals;
use crate::errors::{Exit, Failure, IDENTITY_ADVICE, WRITER_ADVICE};
use crate::keys::{self, GivenIdentity, Terminal};
use crate::output::{escape, tell};
use crate::places::Places;
use crate::progress::Bar;
use crate::signals::Child;
use crate::stores::Target;

/// See the module.
pub struct Context {
    /// Options before the verb.
    pub globals: Globals,
    /// Where things lie.
    pub places: Places,
    /// The person's request to stop.
    pub cancel: Cancel,
    /// A child that stops with us.
    pub child: Child,
    /// The store of the repository that is meant, once it was opened, and the id that it claims.
    pub opened: OnceCell<(Arc<dyn Store>, RepositoryId)>,
    /// The same store from before its first request on, for what a command that failed tells of its traffic.
    pub asked: Arc<OnceLock<Arc<dyn Store>>>,
    /// What the names of systemd credentials begin with: nothing, or `from-` for a second repository.
    pub prefix: &'static str,
}

impl Context {
    /// The context of a second repository, of which something is taken: named and opened by other options.
    pub fn second(&self, globals: Globals) -> Context {
        Context {
            globals,
            places: self.places.clone(),
            cancel: self.cancel.clone(),
            child: self.child.clone(),
            opened: OnceCell::new(),
            asked: Arc::default(),
            prefix: "from-",
        }
    }

    /// A file that systemd gave us.
    fn credential(&self, name: &str) -> Option<PathBuf> {
        keys::credential(&format!("{}{name}", self.prefix))
    }

    /// Whether results are printed as JSON.
    pub fn json(&self) -> bool {
        self.globals.json
    }

    /// A progress bar, on a terminal.
    pub fn bar(&self) -> Bar {
        Bar::new(self.globals.quiet || self.globals.json, true)
    }

    /// The same for a verb whose report names every problem once more.
    pub fn bar_without_problems(&self) -> Bar {
        Bar::new(self.globals.quiet || self.globals.json, false)
    }

    /// A remark for people.
    pub fn note(&self, text: &str) {
        if !self.globals.quiet && !self.globals.json {
            tell(text);
        }
    }

    /// Where the repository that is meant lies.
    pub fn target(&self) -> Result<Target, Failure> {
        match &self.globals.repo {
            Some(given) => Target::parse(given.as_os_str(), &self.globals.s3, self.prefix),
            None => Ok(Target::Local {
                path: self.places.default_repository()?,
            }),
        }
    }

    /// True when nobody named a repository.
    pub fn is_default(&self) -> bool {
        self.globals.repo.is_none()
    }

    /// The store of an existing repository, and the id that it claims.
    fn store(&self) -> Result<(Arc<dyn Store>, RepositoryId), Failure> {
        if let Some((store, id)) = self.opened.get() {
            return Ok((store.clone(), *id));
        }
        let store = match self.target()?.open(&self.cancel) {
            Ok(s) => s,
            Err(e) if e.fault == Fault::Missing && self.is_default() => {
                return Err(Failure::failed(format!(
                    "there is no repository yet at the default place {}",
                    e.store
                ))
                .advice(
                    "the first 'keepwatch backup PATH' makes it; or name another with --repo",
                ));
            }
            Err(e) => return Err(e.into()),
        };
        let _ = self.asked.set(store.clone());
        let id = self.peek(&store)?;
        let _ = self.opened.set((store.clone(), id));
        Ok((store, id))
    }

    /// The repository's id as it claims, compared with what this user knows of the place.
    fn peek(&self, store: &Arc<dyn Store>) -> Result<RepositoryId, Failure> {
        let location = store.location();
        let bytes = match store.get(&Name::Config, limits::RECORD_BYTES as u64) {
            Ok(b) => b,
            Err(e) if e.is_missing() => return Err(AccessError::NotARepository(location).into()),
            Err(e) => return Err(e.into()),
        };
        let id = match Record::parse(&bytes) {
            Ok(r) => r.repository,
            Err(cause) => {
                // The engine knows best what is wrong with it (a newer format, damage); no key is needed to hear that.
                let nobody = ReaderIdentity::native(&Identity::generate());
                return Err(
                    match Repository::open_as_reader(store.clone(), &nobody, None) {
                        Err(e) => e.into(),
                        Ok(_) => AccessError::Untrusted {
                            location,
                            object: "config".into(),
                            cause: cause.into(),
                        }
                        .into(),
                    },
                );
            }
        };
        if self.globals.owner_key.is_none() {
            if let Some(known) = self.places.known_at(&location)? {
                if known.id != id.to_string() {
                    return Err(Failure::new(
                        Exit::Refused,
                        format!(
                            "the repository {location} is not the one that is known: it is repository {id}, known is {}; somebody may have exchanged it, nothing was read from it or written to it",
                            escape(&known.id)
                        ),
                    )
                    .advice("only if you know that the repository at this place was made anew, give its owner key with --owner-key (it stands on its recovery sheet)"));
                }
            }
        }
        Ok(id)
    }

    /// The owner key that the repository must have, as far as this user knows one.
    fn pin(
        &self,
        location: &str,
        id: RepositoryId,
        identity: &GivenIdentity,
    ) -> Result<Option<OwnerKey>, Failure> {
        if let Some(given) = self.globals.owner_key {
            return Ok(Some(given));
        }
        if let Some((_, owner)) = identity.pins.iter().find(|(r, _)| *r == id) {
            return Ok(Some(*owner));
        }
        Ok(self
            .places
            .known_at(location)?
            .and_then(|k| k.owner.parse().ok()))
    }

    /// Whether the comments of the identity speak of repositories, and not of this one.
    fn is_foreign(&self, id: RepositoryId, identity: &GivenIdentity) -> bool {
        self.globals.owner_key.is_none()
            && !identity.pins.is_empty()
            && !identity.pins.iter().any(|(r, _)| *r == id)
    }

    /// The file of the writer key: the one named, a systemd credential, or the one at the usual place. With whether it was named.
    fn writer_key_path(&self, id: RepositoryId) -> Option<(PathBuf, bool)> {
        if let Some(given) = &self.globals.writer_key {
            return Some((given.clone(), true));
        }
        if let Some(path) = self.credential("writer-key") {
            return Some((path, true));
        }
        self.places
            .writer_key(id)
            .filter(|p| p.exists())
            .map(|p| (p, false))
    }

    fn writer_key(&self, id: RepositoryId) -> Result<Option<WriterKey>, Failure> {
        self.writer_key_path(id)
            .map(|(p, _)| keys::read_writer_key(&p))
            .transpose()
    }

    fn named_identity(&self) -> Result<Option<GivenIdentity>, Failure> {
        if let Some(path) = &self.globals.identity {
            return keys::read_identity(path).map(Some);
        }
        if let Some(path) = &self.globals.passphrase_file {
            let phrase = keys::read_passphrase(path)?;
            return Ok(Some(GivenIdentity::passphrase(&phrase)));
        }
        self.credential("identity")
            .map(|p| keys::read_identity(&p))
            .transpose()
    }

    /// The file of the identity that [`Self::open_reader`] takes: the one named, a systemd credential, or the one at the usual place; none for a passphrase.
    pub fn identity_file(&self) -> Option<PathBuf> {
        if let Some(given) = &self.globals.identity {
            return Some(given.clone());
        }
        if self.globals.passphrase_file.is_some() {
            return None;
        }
        let usual = || self.places.identity().filter(|p| p.exists());
        self.credential("identity").or_else(usual)
    }

    /// The identity at the usual place, when it is meant for this repository: the default one, one that its comments name, or any when they name none.
    fn own_identity(&self, id: RepositoryId) -> Result<Option<GivenIdentity>, Failure> {
        let Some(path) = self.places.identity().filter(|p| p.exists()) else {
            return Ok(None);
        };
        let is_default = self.is_default();
        let identity = keys::read_identity(&path)?;
        Ok(Some(identity).filter(|i| is_default || !self.is_foreign(id, i)))
    }

    fn identity(&self, store: &Arc<dyn Store>, id: RepositoryId) -> Result<GivenIdentity, Failure> {
        if let Some(found) = self.find_identity(store, id)? {
            return Ok(found);
        }
        Err(Failure::failed(format!(
            "reading what was backed up in {} needs an identity, and none was given",
            store.location()
        ))
        .advice(IDENTITY_ADVICE))
    }

    /// The identity that was named, the one at the usual place, or a passphrase that a person types.
    fn find_identity(
        &self,
        store: &Arc<dyn Store>,
        id: RepositoryId,
    ) -> Result<Option<GivenIdentity>, Failure> {
        if let Some(given) = self.named_identity()? {
            return Ok(Some(given));
        }
        if let Some(own) = self.own_identity(id)? {
            return Ok(Some(own));
        }
        let has_passphrase = list_all(&**store, Area::Keys)?.iter().any(|k| {
            store
                .get(&k.name, limits::KEY_FILE_BYTES as u64)
                .is_ok_and(|b| is_passphrase_file(&b))
        });
        if has_passphrase && Terminal::is_there() {
            if let Some(phrase) = Terminal.secret(&format!(
                "Passphrase of the repository {}",
                store.location()
            )) {
                return Ok(Some(GivenIdentity::passphrase(&phrase)));
            }
        }
        Ok(None)
    }

    /// Opens the repository beside another that is open: as its twin, which needs no key of its own, or else for one who may read it. `None`: that
    /// needs an identity, and there is none.
    pub fn open_beside(&self, other: &Repository) -> Result<Option<Repository>, Failure> {
        let (store, id) = self.store()?;
        match Repository::open_as_twin(store.clone(), other) {
            Ok(twin) => {
                let location = store.location();
                if let Some(expected) = self.globals.owner_key.filter(|o| *o != twin.owner()) {
                    let found = twin.owner();
                    return Err(AccessError::OtherOwner {
                        location,
                        found,
                        expected,
                    }
                    .into());
                }
                self.places.remember(&location, twin.id(), twin.owner());
                Ok(Some(twin))
            }
            Err(e @ (AccessError::Store(_) | AccessError::Newer { .. })) => Err(e.into()),
            // No twin, or damaged: its own identity tells which.
            Err(_) => match self.find_identity(&store, id)? {
                Some(identity) => self.open_with(store, id, &identity).map(Some),
                None => Ok(None),
            },
        }
    }

    /// Opens the repository for one who may read it; with the right to write where a writer key is at hand.
    pub fn open_reader(&self) -> Result<Repository, Failure> {
        let (store, id) = self.store()?;
        let identity = self.identity(&store, id)?;
        self.open_with(store, id, &identity)
    }

    fn open_with(
        &self,
        store: Arc<dyn Store>,
        id: RepositoryId,
        identity: &GivenIdentity,
    ) -> Result<Repository, Failure> {
        let location = store.location();
        let pinned = self.pin(&location, id, identity)?;
        let mut repository = Repository::open_as_reader(store, &identity.identity, pinned).map_err(|e| match e {
            AccessError::WrongIdentity { location, tried, detail } => {
                let keys = if tried == 1 { "the one key file".to_owned() } else { format!("any of the {tried} key files") };
                // What age says of a wrong passphrase speaks of damage.
                let detail = if identity.is_passphrase { String::new() } else { detail };
                let message = format!("{} does not open {keys} of {location}{detail}; the repository is untouched", identity.name);
                Failure { message, ..AccessError::WrongIdentity { location, tried, detail: String::new() }.into() }
            }
            e => e.into(),
        })?;
        // A twin of one that they name has its owner key.
        let is_twin = identity.pins.iter().any(|(_, o)| *o == repository.owner());
        if self.is_foreign(id, identity) && !is_twin {
            return Err(Failure::new(
                Exit::Refused,
                format!(
                    "the repository {location} ({id}, owner key {}) is none of those that the comments of {} name; somebody may have exchanged it, nothing was read from it",
                    repository.owner(),
                    identity.name
                ),
            )
            .advice("if it is another repository of yours, say so with --owner-key, after comparing it with the recovery sheet or with 'keepwatch key list' on a writing host"));
        }
        if let Some((path, named)) = self.writer_key_path(id) {
            let used = keys::read_writer_key(&path).and_then(|k| Ok(repository.use_writer(&k)?));
            match used {
                Err(f) if named => return Err(f),
                Err(f) => tracing::warn!(
                    "the writer key {} is not used: {}",
                    path.display(),
                    f.message
                ),
                Ok(()) => {}
            }
        }
        self.places
            .remember(&location, repository.id(), repository.owner());
        Ok(repository)
    }

    /// Opens the repository with the host's writer key, unable to read what was backed up.
    pub fn open_writer(&self) -> Result<Repository, Failure> {
        let (store, id) = self.store()?;
        let location = store.location();
        let Some(key) = self.writer_key(id)? else {
            return Err(Failure::failed(format!("writing to the repository {location} needs a writer key, and none was given or found")).advice(WRITER_ADVICE));
        };
        if let Some(expected) = self.globals.owner_key.filter(|o| *o != key.owner) {
            return Err(AccessError::OtherOwner {
                location,
                found: key.owner,
                expected,
            }
            .into());
        }
        let repository = Repository::open_as_writer(store, &key)?;
        self.places
            .remember(&location, repository.id(), repository.owner());
        Ok(repository)
    }

    /// Opens it with what is at hand: a named identity, else the writer key, else the identity at the usual place.
    pub fn open_any(&self) -> Result<Repository, Failure> {
        if self.globals.identity.is_some() || self.globals.passphrase_file.is_some() {
            return self.open_reader();
        }
        let (_, id) = self.store()?;
        match self.writer_key_path(id) {
            Some(_) => self.open_writer(),
            None => self.open_reader(),
        }
    }

    /// Opens it as deep as what is at hand allows: for reading where there is an identity.
    pub fn open_deep(&self) -> Result<Repository, Failure> {
        let (store, id) = self.store()?;
        if let Some(identity) = self.named_identity()? {
            return self.open_with(store, id, &identity);
        }
        match self.own_identity(id) {
            Ok(Some(identity)) => self.open_with(store, id, &identity),
            Ok(None) => self.open_any(),
            // It was not asked for: where the writer key does, that will do.
            Err(f) if self.writer_key_path(id).is_some() => {
                tell(&format!("keepwatch: warning: {}", escape(&f.message)));
                self.open_writer()
            }
            Err(f) => Err(f),
        }
    }

    /// As [`Self::open_any`], and refuses when writing would not be possible.
    pub fn open_to_maintain(&self, what: &str) -> Result<Repository, Failure> {
        let repository = self.open_any()?;
        if repository.writer().is_none() {
            return Err(Failure::failed(format!("{what} needs a writer key of the repository {}, and none was given or found; nothing was changed", repository.store().location()))
                .advice(WRITER_ADVICE));
        }
        Ok(repository)
    }

    /// The local cache of a repository, unless it is not wanted.
    pub fn cache(&self, repository: &Repository) -> Option<PathBuf> {
        if self.globals.no_cache {
            return None;
        }
        match &self.globals.cache_dir {
            Some(dir) => Some(dir.join(repository.id().to_string())),
            None => self.places.cache(repository.id()),
        }
    }

    /// Loads the index. Parts of it that cannot be used are told.
    pub fn lookup(&self, repository: &Repository) -> Result<Lookup, Failure> {
        let cache = self.cache(repository);
        let (lookup, problems) = repository.load_index(cache.as_deref())?;
        for p in problems {
            tell(&format!("keepwatch: warning: {}", escape(&p.to_string())));
        }
        Ok(lookup)
    }

    /// Reads the snapshots. Records that cannot be used are told.
    pub fn snapshots(&self, repository: &Repository) -> Result<SnapshotSet, Failure> {
        let set = repository.snapshots()?;
        for p in &set.problems {
            tell(&format!("keepwatch: warning: {}", escape(&p.to_string())));
        }
        Ok(set)
    }
}

/// The name of this host.
pub fn host_name() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}

/// The name of this user.
pub fn user_name() -> String {
    ["USER", "LOGNAME"]
        .iter()
        .find_map(|v| std::env::var(v).ok().filter(|u| !u.is_empty()))
        .unwrap_or_else(|| rustix::process::getuid().as_raw().to_string())
}
