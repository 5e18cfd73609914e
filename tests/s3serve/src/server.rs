//! A server in this process: its state, and the handle by which a test starts, watches, breaks and ends it.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use s3s::config::{S3Config, StaticConfigProvider};
use s3s::service::S3ServiceBuilder;
use s3s::{S3Result, s3_error};
use serde_json::{Value, json};

use crate::access::Gate;
use crate::blob::Blob;
use crate::clock;
use crate::control::{self, Control};
use crate::digest::{self, Sums};
use crate::host::Host;
use crate::http;
use crate::objects::{Bucket, Content, Objects, Seen};
use crate::operations::Service;
use crate::record::{Book, Record, Stats};
use crate::rules::{Action, Asked, Rule, Rules};
use crate::settings::{Account, Config, Switches};

/// What a server's tasks share.
pub struct State {
    /// How it was started.
    pub config: Config,
    /// What it writes down.
    pub book: Book,
    objects: Mutex<Objects>,
    switches: Mutex<Switches>,
    rules: Mutex<Rules>,
    accounts: Mutex<BTreeMap<String, Account>>,
}

/// A lock that a panicking test has left behind still guards whole values.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

impl State {
    fn new(config: Config) -> Self {
        let mut objects = Objects::default();
        let bucket = Bucket {
            versioned: config.versioned || config.object_lock,
            object_lock: config.object_lock,
            retention: config.retention,
            ..Bucket::default()
        };
        objects.buckets.insert(config.bucket.clone(), bucket);
        let mut rules = Rules::new(config.seed);
        config.rules.iter().for_each(|r| rules.add(r.clone()));
        let accounts = config.accounts.iter();
        State {
            book: Book::default(),
            objects: Mutex::new(objects),
            switches: Mutex::new(config.switches.clone()),
            rules: Mutex::new(rules),
            accounts: Mutex::new(
                accounts
                    .map(|a| (a.access_key.clone(), a.clone()))
                    .collect(),
            ),
            config,
        }
    }
    /// The objects; held for one step only.
    pub fn objects(&self) -> S3Result<MutexGuard<'_, Objects>> {
        self.objects
            .lock()
            .map_err(|_| s3_error!(InternalError, "a request panicked"))
    }
    /// The switches as they are now.
    pub fn switches(&self) -> Switches {
        lock(&self.switches).clone()
    }
    /// An account.
    pub fn account(&self, access_key: &str) -> Option<Account> {
        lock(&self.accounts).get(access_key).cloned()
    }
    /// What the rules say about a request.
    pub fn decide(&self, asked: &Asked<'_>) -> Option<Action> {
        lock(&self.rules).decide(asked)
    }

    fn seen(&self) -> Vec<Seen> {
        lock(&self.objects).seen(&self.config.bucket)
    }
    fn plant(&self, key: &str, bytes: Vec<u8>) -> io::Result<()> {
        let content = Content {
            etag: digest::hex(&digest::md5(&bytes)),
            body: Blob::Memory(Bytes::from(bytes)),
            sums: Sums::default(),
            metadata: None,
            content_type: None,
        };
        let now = clock::now(self.switches().clock_offset_seconds);
        lock(&self.objects)
            .put(&self.config.bucket, key, content, None, (None, false), now)
            .map(drop)
            .map_err(io::Error::other)
    }
    /// All versions, without regard to locks.
    fn erase(&self, key: &str) -> bool {
        let mut objects = lock(&self.objects);
        let bucket = objects.buckets.get_mut(&self.config.bucket);
        bucket.is_some_and(|b| b.keys.remove(key).is_some())
    }
    fn body(&self, key: &str) -> Option<Bytes> {
        let objects = lock(&self.objects);
        let version = objects.buckets.get(&self.config.bucket)?.newest(key)?;
        let body = version.content.as_ref()?.body.clone();
        drop(objects);
        body.bytes().ok()
    }
    /// Changes stored bytes; entity tag and checksums stay those of the old ones, as on a disk that rots.
    fn corrupt(&self, key: &str, at: u64) -> bool {
        let Some(bytes) = self.body(key).filter(|b| !b.is_empty()) else {
            return false;
        };
        let mut wrong = bytes.to_vec();
        let at = (at as usize).min(wrong.len() - 1);
        wrong[at] ^= 0x01;
        let mut objects = lock(&self.objects);
        let bucket = objects.buckets.get_mut(&self.config.bucket);
        let versions = bucket.and_then(|b| b.keys.get_mut(key));
        let Some(version) = versions.and_then(|v| v.last_mut()) else {
            return false;
        };
        let Some(content) = &mut version.content else {
            return false;
        };
        content.body = Blob::Memory(wrong.into());
        true
    }
}

/// A server that runs; stopped when dropped.
pub struct Server {
    state: Arc<State>,
    at: SocketAddr,
    control: Option<SocketAddr>,
    /// Last, so that it stops after the rest was used.
    _host: Host,
}

impl Server {
    /// Starts it; it answers when this returns.
    pub fn start(config: Config) -> io::Result<Server> {
        let host = Host::start("s3serve")?;
        let listener = host.listen(config.listen)?;
        let at = listener.local_addr()?;
        let control = config.control.map(|c| host.listen(c)).transpose()?;
        let control_at = control.as_ref().map(|c| c.local_addr()).transpose()?;
        let state = Arc::new(State::new(config));
        let mut builder = S3ServiceBuilder::new(Service(state.clone()));
        builder.set_auth(Gate(state.clone()));
        builder.set_access(Gate(state.clone()));
        // Whether a request's time is near enough is judged by our own clock, which may be off by design.
        let mut limits = S3Config::default();
        limits.presigned_url_max_skew_time_secs = u32::MAX;
        builder.set_config(Arc::new(StaticConfigProvider::new(Arc::new(limits))));
        host.spawn(http::serve(listener, state.clone(), builder.build()));
        let server = Server {
            state: state.clone(),
            at,
            control: control_at,
            _host: host,
        };
        if let Some(control) = control {
            let target = Arc::new(Remote(state, server.endpoint()));
            server._host.spawn(control::serve(control, target));
        }
        Ok(server)
    }
    /// With everything by default.
    pub fn plain() -> io::Result<Server> {
        Server::start(Config::default())
    }
    /// Where it is: `http://127.0.0.1:PORT`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.at)
    }
    /// Its address, for a proxy before it.
    pub fn address(&self) -> SocketAddr {
        self.at
    }
    /// Where it is controlled.
    pub fn control(&self) -> Option<String> {
        self.control.map(|at| format!("http://{at}"))
    }
    /// Its region.
    pub fn region(&self) -> &str {
        &self.state.config.region
    }
    /// Its bucket.
    pub fn bucket(&self) -> &str {
        &self.state.config.bucket
    }
    /// The first account's access key id.
    pub fn access_key(&self) -> &str {
        let first = self.state.config.accounts.first();
        first.map_or("", |a| a.access_key.as_str())
    }
    /// The first account's secret key, worth nothing.
    pub fn secret_key(&self) -> &str {
        let first = self.state.config.accounts.first();
        first.map_or("", |a| a.secret_key.as_str())
    }

    /// The switches.
    pub fn switches(&self) -> Switches {
        self.state.switches()
    }
    /// Changes switches.
    pub fn switch(&self, change: impl FnOnce(&mut Switches)) {
        change(&mut lock(&self.state.switches));
    }
    /// Adds an account, or changes the one with this access key.
    pub fn account(&self, account: Account) {
        lock(&self.state.accounts).insert(account.access_key.clone(), account);
    }
    /// Removes an account.
    pub fn remove_account(&self, access_key: &str) {
        lock(&self.state.accounts).remove(access_key);
    }
    /// Adds a rule behind the others.
    pub fn rule(&self, rule: Rule) {
        lock(&self.state.rules).add(rule);
    }
    /// Removes all rules.
    pub fn clear_rules(&self) {
        lock(&self.state.rules).clear();
    }
    /// How often the rules fired, all together.
    pub fn fired(&self) -> u64 {
        lock(&self.state.rules).all().iter().map(|r| r.2).sum()
    }

    /// The counters.
    pub fn stats(&self) -> Stats {
        self.state.book.stats()
    }
    /// The requests, oldest first.
    pub fn requests(&self) -> Vec<Record> {
        self.state.book.records()
    }
    /// Forgets counters and requests.
    pub fn reset(&self) {
        self.state.book.reset();
    }

    /// What is stored, versions and markers included, by key and age.
    pub fn objects(&self) -> Vec<Seen> {
        self.state.seen()
    }
    /// Keys that a listing would name.
    pub fn keys(&self) -> Vec<String> {
        let all = self.state.seen().into_iter();
        all.filter(|s| s.newest && !s.marker)
            .map(|s| s.key)
            .collect()
    }
    /// Uploads that are neither completed nor aborted.
    pub fn uploads(&self) -> usize {
        let objects = lock(&self.state.objects);
        let bucket = objects.buckets.get(&self.state.config.bucket);
        bucket.map_or(0, |b| b.uploads.len())
    }
    /// An object's bytes.
    pub fn body(&self, key: &str) -> Option<Vec<u8>> {
        self.state.body(key).map(|b| b.to_vec())
    }
    /// Stores an object past all rules.
    pub fn plant(&self, key: &str, bytes: &[u8]) -> io::Result<()> {
        self.state.plant(key, bytes.to_vec())
    }
    /// Removes all versions of a key, locked or not. Was there any?
    pub fn erase(&self, key: &str) -> bool {
        self.state.erase(key)
    }
    /// Flips a bit of the stored newest version; its entity tag and checksums stay. Was there one?
    pub fn corrupt(&self, key: &str, at: u64) -> bool {
        self.state.corrupt(key, at)
    }
    /// What a test in another language needs to know, as `tests/s3/server` says it for real servers.
    pub fn description(&self) -> Value {
        let config = &self.state.config;
        json!({
            "name": "keepwatch-s3serve",
            "version": env!("CARGO_PKG_VERSION"),
            "endpoint": self.endpoint(),
            "control": self.control(),
            "region": self.region(),
            "access_key": self.access_key(),
            "secret_key": self.secret_key(),
            "bucket": self.bucket(),
            "path_style": true,
            "pid": std::process::id(),
            "supports": {
                "wrong_credentials": true,
                "conditional": true,
                "conditional_atomic": true,
                "checksums": true,
                "versioning": config.versioned || config.object_lock,
                "object_lock": config.object_lock,
                "multipart": true,
            },
        })
    }
}

/// The control endpoint of a server.
struct Remote(Arc<State>, String);

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    key: String,
    #[serde(default)]
    at: u64,
    #[serde(default)]
    text: String,
}

impl Control for Remote {
    fn control(&self, method: &str, path: &str, body: &[u8]) -> Option<Result<Value, String>> {
        let state = &self.0;
        Some(match (method, path) {
            ("GET", "") => control::write(json!({
                "endpoint": self.1,
                "switches": state.switches(),
                "rules": lock(&state.rules).all().len(),
            })),
            ("GET", "switches") => control::write(state.switches()),
            ("PATCH" | "POST", "switches") => {
                control::change(&state.switches(), body).map(|new: Switches| {
                    *lock(&state.switches) = new;
                    Value::Null
                })
            }
            ("GET", "rules") => {
                let rules = lock(&state.rules).all();
                let row = |(rule, matched, fired)| json!({ "rule": rule, "matched": matched, "fired": fired });
                Ok(rules.into_iter().map(row).collect())
            }
            ("POST", "rules") => control::read_all::<Rule>(body).map(|new| {
                let mut rules = lock(&state.rules);
                new.into_iter().for_each(|r| rules.add(r));
                Value::Null
            }),
            ("DELETE", "rules") => {
                lock(&state.rules).clear();
                Ok(Value::Null)
            }
            ("GET", "stats") => control::write(state.book.stats()),
            ("DELETE", "stats") => {
                state.book.reset();
                Ok(Value::Null)
            }
            ("GET", "requests") => control::write(state.book.records()),
            ("GET", "objects") => control::write(state.seen()),
            ("GET", "uploads") => {
                let objects = lock(&state.objects);
                let bucket = objects.buckets.get(&state.config.bucket);
                control::write(bucket.map_or(0, |b| b.uploads.len()))
            }
            ("POST", "objects/corrupt") => {
                control::read::<Named>(body).map(|n| state.corrupt(&n.key, n.at).into())
            }
            ("POST", "objects/erase") => {
                control::read::<Named>(body).map(|n| state.erase(&n.key).into())
            }
            ("POST", "objects/plant") => control::read::<Named>(body).and_then(|n| {
                let done = state.plant(&n.key, n.text.into_bytes());
                done.map(|()| true.into()).map_err(|e| e.to_string())
            }),
            ("POST", "accounts") => control::read_all::<Account>(body).map(|new| {
                let mut accounts = lock(&state.accounts);
                accounts.extend(new.into_iter().map(|a| (a.access_key.clone(), a)));
                Value::Null
            }),
            ("DELETE", path) => {
                let key = path.strip_prefix("accounts/")?;
                Ok(lock(&state.accounts).remove(key).is_some().into())
            }
            _ => return None,
        })
    }
}
