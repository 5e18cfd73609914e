//! The store: puts, gets, listings and deletions, each tried again as the policy says.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::{Duration, Instant, SystemTime};

use aws_sdk_s3::types::RequestPayer;
use bytes::Bytes;
use keepwatch_engine::ids::ObjectId;
use keepwatch_engine::progress::Cancel;
use keepwatch_engine::store::{Area, Fault, Finding, Listed, Name, Store, StoreError, Traffic};
use sha2::{Digest, Sha256};
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;

use crate::body::Movement;
use crate::classify::{self, Failure, Kind};
use crate::options::Options;
use crate::rate::Rate;
use crate::retry::Policy;
use crate::versions::{AsOf, Version};
use crate::wire::{self, Wire};

/// Objects in a page of a listing: what S3 gives at most. About 500 KB of XML.
pub(crate) const PAGE: i32 = 1000;
/// A whole object whose bytes do not have the hash in its name is read so many times before it is handed over as it is.
const READS: u32 = 3;
/// Threads of the runtime. Hashing is done by the callers' threads.
const THREADS: usize = 2;
/// How often a wait looks whether it is still wanted.
const LOOK: Duration = Duration::from_millis(200);

/// See the module.
pub struct S3Store {
    runtime: Option<Runtime>,
    pub(crate) shared: Shared,
}

pub(crate) struct Shared {
    pub(crate) wire: Wire,
    pub(crate) options: Options,
    location: String,
    policy: Policy,
    pub(crate) upload: Option<Arc<Rate>>,
    pub(crate) download: Option<Rate>,
    pub(crate) connections: Semaphore,
    /// The server has answered at least once.
    answered: AtomicBool,
    /// What the server was found not to know: conditional writes (1), SHA-256 (2), any checksum (4).
    pub(crate) lacking: AtomicU8,
    cancel: Cancel,
}

pub(crate) const NO_CONDITION: u8 = 1;
pub(crate) const NO_SHA256: u8 = 2;
pub(crate) const NO_CHECKSUM: u8 = 4;

impl S3Store {
    /// Opens the place. No request is sent yet. `cancel`: a person's request to stop ends waits and retries.
    pub fn open(options: Options, cancel: Cancel) -> Result<Self, StoreError> {
        let location = options.location();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("keepwatch-s3")
            .enable_all()
            .build()
            .map_err(|cause| StoreError {
                verb: "open",
                object: "the bucket".into(),
                store: location.clone(),
                fault: Fault::Other,
                cause,
            })?;
        let wire = runtime.block_on(wire::connect(&options))?;
        let shared = Shared {
            wire,
            policy: Policy::new(options.retry_for),
            upload: options.limit_upload.map(|n| Arc::new(Rate::new(n))),
            download: options.limit_download.map(Rate::new),
            connections: Semaphore::new(options.connections.clamp(1, 64)),
            answered: AtomicBool::new(false),
            lacking: AtomicU8::new(0),
            location,
            options,
            cancel,
        };
        Ok(S3Store {
            runtime: Some(runtime),
            shared,
        })
    }

    pub(crate) fn block<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime
            .as_ref()
            .expect("the runtime lives as long as the store")
            .block_on(future)
    }

    fn put_bytes(&self, name: &Name, bytes: Bytes) -> Result<(), StoreError> {
        let s = &self.shared;
        s.writable("write", name)?;
        // Hashed by the caller's thread, not by the runtime's.
        let digest: [u8; 32] = Sha256::digest(&bytes).into();
        self.block(s.put(name, bytes, digest))
    }
}

impl Drop for S3Store {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Shared {
    pub(crate) fn error(
        &self,
        verb: &'static str,
        object: &str,
        fault: Fault,
        why: String,
    ) -> StoreError {
        StoreError {
            verb,
            object: object.to_owned(),
            store: self.location.clone(),
            fault,
            cause: io::Error::other(why),
        }
    }

    fn writable(&self, verb: &'static str, name: &Name) -> Result<(), StoreError> {
        match self.options.as_of {
            None => Ok(()),
            Some(_) => Err(self.error(
                verb,
                &name.to_string(),
                Fault::ReadOnly,
                "the repository is looked at as it was in the past, where nothing can be written"
                    .into(),
            )),
        }
    }

    pub(crate) fn key(&self, name: &Name) -> String {
        self.options.place.key(&name.to_string())
    }

    pub(crate) fn payer(&self) -> Option<RequestPayer> {
        self.options
            .requester_pays
            .then_some(RequestPayer::Requester)
    }

    pub(crate) fn failure<E>(
        &self,
        e: aws_sdk_s3::error::SdkError<
            E,
            aws_smithy_runtime_api::client::orchestrator::HttpResponse,
        >,
    ) -> Failure
    where
        E: aws_sdk_s3::error::ProvideErrorMetadata + std::error::Error + 'static,
    {
        let f = classify::sdk(e, self.wire.clock.of_signing());
        if f.status.is_some() {
            self.answered.store(true, Ordering::Relaxed);
        }
        f
    }

    /// Runs attempts until one succeeds, fails for good, or the policy says that it is enough.
    pub(crate) async fn again<T>(
        &self,
        verb: &'static str,
        object: &str,
        attempt: impl AsyncFn(u32) -> Result<T, Failure>,
    ) -> Result<T, StoreError> {
        let begun = Instant::now();
        let (mut attempts, mut skewed, mut renewed) = (0, false, false);
        loop {
            attempts += 1;
            let failure = match attempt(attempts).await {
                Ok(done) => {
                    self.answered.store(true, Ordering::Relaxed);
                    return Ok(done);
                }
                Err(f) => f,
            };
            let say = |fault, text: String| {
                if fault == Fault::Other {
                    self.wire.counters.failures.fetch_add(1, Ordering::Relaxed);
                }
                Err(self.error(verb, object, fault, text))
            };
            let wait = match failure.kind {
                Kind::Permanent(fault) => return say(fault, failure.text),
                // That a server cannot do something is its answer.
                Kind::Unsupported => {
                    return Err(self.error(verb, object, Fault::Other, failure.text));
                }
                Kind::Skewed(server) if !skewed => {
                    skewed = true;
                    self.wire.clock.follow_server(server);
                    tracing::warn!(
                        "the server's clock is {} s ahead of ours; requests are signed with its time now",
                        self.wire.clock.offset_millis() / 1000
                    );
                    Duration::ZERO
                }
                Kind::Skewed(_) => {
                    let off = self.wire.clock.offset_millis() / 1000;
                    return say(
                        Fault::Denied,
                        format!(
                            "the clocks of this machine and of the server differ too much ({off} s): {}; set the clock",
                            failure.text
                        ),
                    );
                }
                Kind::Credentials if !renewed => {
                    renewed = true;
                    self.wire.provider.invalidate();
                    Duration::ZERO
                }
                Kind::Credentials => {
                    return say(
                        Fault::Denied,
                        format!("the credentials are not accepted: {}", failure.text),
                    );
                }
                Kind::Again(again) => {
                    let answered = self.answered.load(Ordering::Relaxed);
                    let wait = if self.cancel.is_cancelled() {
                        None
                    } else {
                        self.policy
                            .wait(attempts, begun.elapsed(), answered, again, jitter())
                    };
                    match wait {
                        Some(wait) => {
                            tracing::debug!(
                                "cannot {verb} {object}, attempt {attempts}: {}; next in {wait:?}",
                                failure.text
                            );
                            wait
                        }
                        None if attempts > 1 => {
                            // What is asked next is given up sooner: the server seems to be away.
                            self.answered.store(false, Ordering::Relaxed);
                            return say(
                                Fault::Other,
                                format!(
                                    "{} (tried {attempts} times in {} s)",
                                    failure.text,
                                    begun.elapsed().as_secs()
                                ),
                            );
                        }
                        None => return say(Fault::Other, failure.text),
                    }
                }
            };
            self.wire.counters.retries.fetch_add(1, Ordering::Relaxed);
            self.pause(wait).await;
        }
    }

    /// Waits, unless the person asked to stop.
    async fn pause(&self, wait: Duration) {
        let end = tokio::time::Instant::now() + wait;
        while !self.cancel.is_cancelled() {
            let left = end.saturating_duration_since(tokio::time::Instant::now());
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left.min(LOOK)).await;
        }
    }

    /// Drives a request, and gives up when nothing moves for too long.
    pub(crate) async fn watched<T>(
        &self,
        movement: &Movement,
        request: impl Future<Output = T>,
    ) -> Result<T, Failure> {
        tokio::pin!(request);
        let limit = self.options.idle_timeout;
        loop {
            let left = limit.saturating_sub(movement.idle());
            tokio::select! {
                done = &mut request => return Ok(done),
                () = tokio::time::sleep(left.max(Duration::from_millis(10))) => {
                    if movement.idle() >= limit {
                        return Err(Failure::again(format!("nothing moved for {} s", limit.as_secs_f64())));
                    }
                }
            }
        }
    }

    /// Drives a request without a body.
    pub(crate) async fn timed<T>(&self, request: impl Future<Output = T>) -> Result<T, Failure> {
        self.watched(&Movement::new(), request).await
    }
}

/// Even in 0..1.
fn jitter() -> f64 {
    let mut random = [0u8; 8];
    // Without randomness all waits are the longest ones.
    if getrandom::fill(&mut random).is_err() {
        return 1.0;
    }
    (u64::from_le_bytes(random) >> 11) as f64 / (1u64 << 53) as f64
}

impl Store for S3Store {
    fn location(&self) -> String {
        self.shared.location.clone()
    }

    fn put(&self, name: &Name, bytes: &[u8]) -> Result<(), StoreError> {
        self.put_bytes(name, Bytes::copy_from_slice(bytes))
    }

    fn put_owned(&self, name: &Name, bytes: Vec<u8>) -> Result<(), StoreError> {
        self.put_bytes(name, Bytes::from(bytes))
    }

    fn get(&self, name: &Name, limit: u64) -> Result<Vec<u8>, StoreError> {
        let s = &self.shared;
        let object = name.to_string();
        self.block(s.again("read", &object, async |attempt| {
            let bytes = s.get_once(name, None, limit).await?;
            match name.object_id() {
                // It may have been changed on its way. What stays wrong is the caller's to judge.
                Some(id) if attempt < READS && ObjectId::of(&bytes) != id => Err(Failure::again(
                    "its bytes do not have the hash that is its name",
                )),
                _ => Ok(bytes),
            }
        }))
    }

    fn get_range(&self, name: &Name, offset: u64, length: u64) -> Result<Vec<u8>, StoreError> {
        let s = &self.shared;
        let object = name.to_string();
        if length == 0 || offset.checked_add(length).is_none() {
            return Err(s.error(
                "read",
                &object,
                Fault::Other,
                format!("{length} bytes at {offset} are no range"),
            ));
        }
        self.block(s.again("read", &object, async |_| {
            s.get_once(name, Some((offset, length)), length).await
        }))
    }

    fn size(&self, name: &Name) -> Result<u64, StoreError> {
        self.block(self.shared.head(name))
    }

    fn list(&self, area: Area, each: &mut dyn FnMut(Listed)) -> Result<(), StoreError> {
        self.list_under(area, "", each)
    }

    fn list_under(
        &self,
        area: Area,
        under: &str,
        each: &mut dyn FnMut(Listed),
    ) -> Result<(), StoreError> {
        let s = &self.shared;
        let full = s.options.place.key(&format!("{}/", area.prefix()));
        let prefix = format!("{}/{under}", area.prefix());
        let mut give = |key: &str, size, modified| {
            let name = key
                .strip_prefix(&full)
                .and_then(|rest| Name::parse(area, rest));
            if let Some(name) = name {
                each(Listed {
                    name,
                    size,
                    modified,
                });
            }
        };
        if let Some(moment) = s.options.as_of {
            let mut as_of = AsOf::new(moment);
            let mut take = |v: Version| give(&v.key, v.size, v.modified);
            let mut from: Option<(String, String)> = None;
            loop {
                let here = &from;
                let (page, next) = self.block(s.again("list", &prefix, async |_| {
                    s.version_page(&prefix, here.clone()).await
                }))?;
                as_of.page(page, &mut take);
                match next {
                    None => break,
                    next => from = next,
                }
            }
            as_of.end(&mut take);
            return Ok(());
        }
        let mut token = None;
        loop {
            let (page, next) = self.block(s.page(&prefix, token))?;
            for (key, size, modified) in page {
                give(&key, size, modified);
            }
            match next {
                None => return Ok(()),
                next => token = next,
            }
        }
    }

    fn delete(&self, name: &Name) -> Result<(), StoreError> {
        self.shared.writable("delete", name)?;
        self.block(self.shared.delete(name))
    }

    /// There is nothing to sweep: an object appears as a whole or not at all, and there are no multipart uploads.
    fn sweep(&self, _: SystemTime) -> Result<u64, StoreError> {
        Ok(0)
    }

    fn now(&self) -> SystemTime {
        self.shared.wire.clock.of_server()
    }

    fn connections(&self) -> usize {
        self.shared.options.connections.clamp(1, 64)
    }

    fn renew(&self, name: &Name, least: Duration) -> Result<bool, StoreError> {
        self.shared.writable("lock", name)?;
        self.block(self.shared.renew(name, least))
    }

    fn lock_time(&self) -> Option<Duration> {
        self.shared
            .options
            .object_lock
            .map(|l| Duration::from_secs(u64::from(l.days) * 86_400))
    }

    fn traffic(&self) -> Option<Traffic> {
        let c = &self.shared.wire.counters;
        let n = |a: &std::sync::atomic::AtomicU64| a.load(Ordering::Relaxed);
        Some(Traffic {
            requests: n(&c.requests),
            retries: n(&c.retries),
            failures: n(&c.failures),
            puts: n(&c.puts),
            gets: n(&c.gets),
            heads: n(&c.heads),
            lists: n(&c.lists),
            deletes: n(&c.deletes),
            sent_bytes: n(&c.sent),
            received_bytes: n(&c.received),
        })
    }

    fn examine(&self) -> Vec<Finding> {
        crate::probe::examine(self)
    }
}
