//! The store: puts, gets, listings and deletions, each tried again as the policy says.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::{Duration, Instant, SystemTime};

use aws_sdk_s3::operation::put_object::builders::PutObjectFluentBuilder;
use aws_sdk_s3::primitives::{ByteStream, SdkBody};
use aws_sdk_s3::types::{
    ObjectLockMode, ObjectLockRetention, ObjectLockRetentionMode, RequestPayer,
    ServerSideEncryption, StorageClass,
};
use aws_smithy_types::DateTime;
use base64::Engine as _;
use bytes::Bytes;
use keepwatch_engine::ids::ObjectId;
use keepwatch_engine::progress::Cancel;
use keepwatch_engine::store::{Area, Fault, Finding, Listed, Name, Store, StoreError, Traffic};
use sha2::{Digest, Sha256};
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;

use crate::body::{Movement, Upload};
use crate::classify::{self, Failure, Kind};
use crate::options::{Checksum, LockMode, Options, ServerSide};
use crate::rate::Rate;
use crate::retry::Policy;
use crate::versions::{AsOf, Version, time};
use crate::wire::{self, SignedBody, Wire};

/// Objects in a page of a listing: what S3 gives at most. About 500 KB of XML.
const PAGE: i32 = 1000;
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
    upload: Option<Arc<Rate>>,
    download: Option<Rate>,
    connections: Semaphore,
    /// The server has answered at least once.
    answered: AtomicBool,
    /// What the server was found not to know: conditional writes (1), SHA-256 (2), any checksum (4).
    lacking: AtomicU8,
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
    fn error(&self, verb: &'static str, object: &str, fault: Fault, why: String) -> StoreError {
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
            let say = |fault, text: String| Err(self.error(verb, object, fault, text));
            let wait = match failure.kind {
                Kind::Permanent(fault) => return say(fault, failure.text),
                Kind::Unsupported => return say(Fault::Other, failure.text),
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

    async fn put(&self, name: &Name, bytes: Bytes, digest: [u8; 32]) -> Result<(), StoreError> {
        let object = name.to_string();
        let exists = || {
            self.error(
                "write",
                &object,
                Fault::Exists,
                "there is an object of this name already".into(),
            )
        };
        // Names that are hashes can be written twice without harm. Others are looked for first: a server may ignore the condition.
        if name.object_id().is_none() {
            match self.head(name).await {
                Ok(_) => return Err(exists()),
                Err(e) if e.is_missing() => {}
                Err(e) => return Err(e),
            }
        }
        let (object, bytes) = (&object, &bytes);
        self.again("write", object, async |attempt| {
            let failure = match self.put_once(name, bytes.clone(), digest).await {
                Ok(()) => return Ok(()),
                Err(f) => f,
            };
            if attempt > 1 && failure.is(Fault::Exists) {
                // The answer to an earlier attempt may have been lost after its work was done.
                let there = self.get_once(name, None, bytes.len() as u64).await?;
                if there == **bytes {
                    return Ok(());
                }
            }
            Err(failure)
        })
        .await
    }

    /// One put, in the best form that the server is known to understand.
    async fn put_once(&self, name: &Name, bytes: Bytes, digest: [u8; 32]) -> Result<(), Failure> {
        loop {
            let lacking = self.lacking.load(Ordering::Relaxed);
            let failure = match self.put_as(name, bytes.clone(), digest, lacking).await {
                Ok(()) => return Ok(()),
                Err(f) => f,
            };
            let text = failure.text.to_ascii_lowercase();
            let about_checksum = text.contains("checksum") || text.contains("algorithm");
            let lack = match failure.kind {
                Kind::Unsupported if lacking & NO_CONDITION == 0 && !about_checksum => NO_CONDITION,
                Kind::Unsupported | Kind::Permanent(Fault::Other)
                    if about_checksum && self.options.checksum == Checksum::Auto =>
                {
                    if lacking & NO_SHA256 == 0 {
                        NO_SHA256
                    } else {
                        NO_CHECKSUM
                    }
                }
                _ => return Err(failure),
            };
            if lacking & lack != 0 {
                return Err(failure);
            }
            tracing::info!(
                "the server does not know a header ({}); going on without it",
                failure.text
            );
            self.lacking.fetch_or(lack, Ordering::Relaxed);
        }
    }

    async fn put_as(
        &self,
        name: &Name,
        bytes: Bytes,
        digest: [u8; 32],
        lacking: u8,
    ) -> Result<(), Failure> {
        let length = bytes.len() as u64;
        let base64 = base64::engine::general_purpose::STANDARD;
        let mut request = self
            .request(name, &bytes)
            .set_if_none_match((lacking & NO_CONDITION == 0).then(|| "*".to_owned()));
        let checksum = match self.options.checksum {
            Checksum::Auto if lacking & NO_CHECKSUM != 0 => Checksum::None,
            Checksum::Auto if lacking & NO_SHA256 != 0 => Checksum::Crc64Nvme,
            Checksum::Auto => Checksum::Sha256,
            other => other,
        };
        match checksum {
            Checksum::Sha256 => request = request.checksum_sha256(base64.encode(digest)),
            Checksum::Crc64Nvme => {
                let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, &bytes);
                request = request.checksum_crc64_nvme(base64.encode(crc.to_be_bytes()));
            }
            Checksum::Auto | Checksum::None => {}
        }
        let _permit = self.connections.acquire().await;
        let movement = Movement::new();
        let body = Upload::new(bytes, self.upload.clone(), movement.clone());
        let request = request
            .body(ByteStream::new(SdkBody::from_body_1_x(body)))
            .customize()
            .interceptor(SignedBody(hex(&digest)))
            .send();
        self.wire.counters.puts.fetch_add(1, Ordering::Relaxed);
        self.wire.counters.sent.fetch_add(length, Ordering::Relaxed);
        let done = self.watched(&movement, request).await?;
        done.map(|_| ()).map_err(|e| self.failure(e))
    }

    fn request(&self, name: &Name, bytes: &Bytes) -> PutObjectFluentBuilder {
        let o = &self.options;
        let mut request = self
            .wire
            .client
            .put_object()
            .bucket(&o.place.bucket)
            .key(self.key(name))
            .content_length(bytes.len() as i64)
            .set_request_payer(self.payer());
        if matches!(name, Name::Pack(_)) {
            request = request.set_storage_class(o.storage_class.as_deref().map(StorageClass::from));
        }
        match &o.server_side {
            None => {}
            Some(ServerSide::S3) => {
                request = request.server_side_encryption(ServerSideEncryption::Aes256)
            }
            Some(ServerSide::Kms(key)) => {
                request = request
                    .server_side_encryption(ServerSideEncryption::AwsKms)
                    .set_ssekms_key_id(key.clone())
            }
        }
        if let Some(lock) = o.object_lock.filter(|_| is_locked(name)) {
            request = request
                .object_lock_mode(match lock.mode {
                    LockMode::Governance => ObjectLockMode::Governance,
                    LockMode::Compliance => ObjectLockMode::Compliance,
                })
                .object_lock_retain_until_date(date(self.until(lock.days)));
        }
        request
    }

    fn until(&self, days: u32) -> SystemTime {
        self.wire.clock.of_server() + Duration::from_secs(u64::from(days) * 86_400)
    }

    /// Reads an object or a range of it. `limit`: the most bytes that are taken.
    async fn get_once(
        &self,
        name: &Name,
        range: Option<(u64, u64)>,
        limit: u64,
    ) -> Result<Vec<u8>, Failure> {
        let version = match self.options.as_of {
            None => None,
            Some(moment) => Some(self.version_at(name, moment).await?.id),
        };
        let _permit = self.connections.acquire().await;
        let request = self
            .wire
            .client
            .get_object()
            .bucket(&self.options.place.bucket)
            .key(self.key(name))
            .set_version_id(version)
            .set_range(range.map(|(at, n)| format!("bytes={at}-{}", at + n - 1)))
            .set_request_payer(self.payer())
            .send();
        self.wire.counters.gets.fetch_add(1, Ordering::Relaxed);
        let answer = self.timed(request).await?.map_err(|e| self.failure(e))?;
        let promised = answer.content_length().and_then(|n| u64::try_from(n).ok());
        if let Some((_, wanted)) = range {
            if promised.is_some_and(|n| n != wanted) {
                return Err(Failure::permanent(
                    Fault::Other,
                    format!(
                        "{wanted} bytes are wanted and the server has {}",
                        promised.unwrap_or(0)
                    ),
                ));
            }
        } else if promised.is_some_and(|n| n > limit) {
            return Err(Failure::permanent(
                Fault::Other,
                format!(
                    "it has {} bytes, more than the {limit} allowed for it",
                    promised.unwrap_or(0)
                ),
            ));
        }
        // No allocation beyond what was allowed for the object, whatever the server promises.
        let mut out = Vec::with_capacity(promised.unwrap_or(0).min(limit) as usize);
        let mut body = answer.body;
        loop {
            let next = tokio::time::timeout(self.options.idle_timeout, body.next()).await;
            let piece = match next {
                Err(_) => {
                    return Err(Failure::again(format!(
                        "the answer stopped after {} bytes",
                        out.len()
                    )));
                }
                Ok(None) => break,
                Ok(Some(Err(e))) => {
                    return Err(Failure::again(format!(
                        "the answer broke off after {} bytes: {e}",
                        out.len()
                    )));
                }
                Ok(Some(Ok(piece))) => piece,
            };
            self.wire
                .counters
                .received
                .fetch_add(piece.len() as u64, Ordering::Relaxed);
            if out.len() as u64 + piece.len() as u64 > limit {
                return Err(Failure::permanent(
                    Fault::Other,
                    format!("the answer is longer than the {limit} bytes allowed for it"),
                ));
            }
            out.extend_from_slice(&piece);
            if let Some(rate) = &self.download {
                let wait = rate.take(piece.len(), Instant::now());
                if !wait.is_zero() {
                    tokio::time::sleep(wait).await;
                }
            }
        }
        let expected = range.map(|(_, n)| n).or(promised);
        if expected.is_some_and(|n| n != out.len() as u64) {
            return Err(Failure::again(format!(
                "the answer has {} bytes instead of {}",
                out.len(),
                expected.unwrap_or(0)
            )));
        }
        Ok(out)
    }

    async fn head(&self, name: &Name) -> Result<u64, StoreError> {
        let object = name.to_string();
        self.again("read", &object, async |_| {
            if let Some(moment) = self.options.as_of {
                return Ok(self.version_at(name, moment).await?.size);
            }
            let request = self
                .wire
                .client
                .head_object()
                .bucket(&self.options.place.bucket)
                .key(self.key(name))
                .set_request_payer(self.payer())
                .send();
            self.wire.counters.heads.fetch_add(1, Ordering::Relaxed);
            let answer = self.timed(request).await?.map_err(|e| self.failure(e))?;
            answer
                .content_length()
                .and_then(|n| u64::try_from(n).ok())
                .ok_or_else(|| Failure::again("the server did not say how long it is"))
        })
        .await
    }

    /// A page of the listing of a prefix, and the token of the next.
    async fn page(
        &self,
        prefix: &str,
        token: Option<String>,
    ) -> Result<(Vec<(String, u64, SystemTime)>, Option<String>), StoreError> {
        let token = &token;
        self.again("list", prefix, async |_| {
            let request = self
                .wire
                .client
                .list_objects_v2()
                .bucket(&self.options.place.bucket)
                .prefix(self.options.place.key(prefix))
                .max_keys(PAGE)
                .set_continuation_token(token.clone())
                .set_request_payer(self.payer())
                .send();
            self.wire.counters.lists.fetch_add(1, Ordering::Relaxed);
            let answer = self.timed(request).await?.map_err(|e| self.failure(e))?;
            let objects = answer
                .contents()
                .iter()
                .filter_map(|o| {
                    let size = u64::try_from(o.size()?).ok()?;
                    Some((o.key()?.to_owned(), size, time(o.last_modified())))
                })
                .collect();
            let next = answer
                .next_continuation_token()
                .filter(|_| answer.is_truncated() == Some(true))
                .map(str::to_owned);
            if answer.is_truncated() == Some(true) && (next.is_none() || next == *token) {
                return Err(Failure::permanent(
                    Fault::Other,
                    "the server says that its listing goes on, but not where",
                ));
            }
            Ok((objects, next))
        })
        .await
    }

    /// A page of versions under a prefix, and where the next begins.
    #[allow(clippy::type_complexity)]
    async fn version_page(
        &self,
        prefix: &str,
        from: Option<(String, String)>,
    ) -> Result<(Vec<Version>, Option<(String, String)>), Failure> {
        let (key, id) = from.unzip();
        let request = self
            .wire
            .client
            .list_object_versions()
            .bucket(&self.options.place.bucket)
            .prefix(self.options.place.key(prefix))
            .max_keys(PAGE)
            .set_key_marker(key)
            .set_version_id_marker(id)
            .set_request_payer(self.payer())
            .send();
        self.wire.counters.lists.fetch_add(1, Ordering::Relaxed);
        let answer = self.timed(request).await?.map_err(|e| self.failure(e))?;
        let versions = answer.versions().iter().filter_map(|v| {
            Some(Version {
                key: v.key()?.to_owned(),
                id: v.version_id()?.to_owned(),
                modified: time(v.last_modified()),
                latest: v.is_latest() == Some(true),
                size: u64::try_from(v.size()?).ok()?,
                marker: false,
            })
        });
        let markers = answer.delete_markers().iter().filter_map(|m| {
            Some(Version {
                key: m.key()?.to_owned(),
                id: m.version_id()?.to_owned(),
                modified: time(m.last_modified()),
                latest: m.is_latest() == Some(true),
                size: 0,
                marker: true,
            })
        });
        let all: Vec<_> = versions.chain(markers).collect();
        let next = match (answer.is_truncated(), answer.next_key_marker()) {
            (Some(true), Some(key)) => Some((
                key.to_owned(),
                answer
                    .next_version_id_marker()
                    .unwrap_or_default()
                    .to_owned(),
            )),
            (Some(true), None) => {
                return Err(Failure::permanent(
                    Fault::Other,
                    "the server says that its listing goes on, but not where",
                ));
            }
            _ => None,
        };
        Ok((all, next))
    }

    /// The version of one object that stood at a moment.
    async fn version_at(&self, name: &Name, moment: SystemTime) -> Result<Version, Failure> {
        let key = self.key(name);
        let mut as_of = AsOf::new(moment);
        let mut found = None;
        let mut take = |v: Version| {
            if v.key == key {
                found = Some(v);
            }
        };
        let mut from = None;
        loop {
            let (page, next) = self.version_page(&name.to_string(), from).await?;
            as_of.page(page, &mut take);
            // Keys that begin with ours come after it.
            if next.as_ref().is_none_or(|(k, _)| *k > key) {
                break;
            }
            from = next;
        }
        as_of.end(&mut take);
        found.ok_or_else(|| Failure::permanent(Fault::Missing, "there was no such object then"))
    }

    async fn delete(&self, name: &Name) -> Result<(), StoreError> {
        let object = name.to_string();
        let done = self
            .again("delete", &object, async |_| {
                let request = self
                    .wire
                    .client
                    .delete_object()
                    .bucket(&self.options.place.bucket)
                    .key(self.key(name))
                    .set_request_payer(self.payer())
                    .send();
                self.wire.counters.deletes.fetch_add(1, Ordering::Relaxed);
                let answer = self.timed(request).await?;
                answer.map(|_| ()).map_err(|e| self.failure(e))
            })
            .await;
        match done {
            Err(e) if e.is_missing() => Ok(()),
            Err(e) if e.fault == Fault::Denied => match self.locked_until(name).await {
                Some(until) => Err(self.error(
                    "delete",
                    &object,
                    Fault::Locked,
                    format!(
                        "it is locked until {}",
                        date(until)
                            .fmt(aws_smithy_types::date_time::Format::DateTime)
                            .unwrap_or_default()
                    ),
                )),
                None => Err(e),
            },
            other => other,
        }
    }

    /// Until when it is locked, if it is.
    pub(crate) async fn locked_until(&self, name: &Name) -> Option<SystemTime> {
        let request = self
            .wire
            .client
            .head_object()
            .bucket(&self.options.place.bucket)
            .key(self.key(name))
            .set_request_payer(self.payer())
            .send();
        self.wire.counters.heads.fetch_add(1, Ordering::Relaxed);
        let answer = self.timed(request).await.ok()?.ok()?;
        let until = time(Some(answer.object_lock_retain_until_date()?));
        (until > self.wire.clock.of_server()).then_some(until)
    }

    /// Prolongs the lock of an object to the full time from now, if less than `least` is left of it.
    async fn renew(&self, name: &Name, least: Duration) -> Result<bool, StoreError> {
        let Some(lock) = self.options.object_lock.filter(|_| is_locked(name)) else {
            return Ok(false);
        };
        if let Some(until) = self.locked_until(name).await {
            if until > self.wire.clock.of_server() + least {
                return Ok(false);
            }
        }
        let object = name.to_string();
        let until = self.until(lock.days);
        self.again("lock", &object, async |_| {
            let retention = ObjectLockRetention::builder()
                .mode(match lock.mode {
                    LockMode::Governance => ObjectLockRetentionMode::Governance,
                    LockMode::Compliance => ObjectLockRetentionMode::Compliance,
                })
                .retain_until_date(date(until))
                .build();
            let request = self
                .wire
                .client
                .put_object_retention()
                .bucket(&self.options.place.bucket)
                .key(self.key(name))
                .retention(retention)
                .checksum_algorithm(aws_sdk_s3::types::ChecksumAlgorithm::Sha256)
                .set_request_payer(self.payer())
                .send();
            self.wire.counters.heads.fetch_add(1, Ordering::Relaxed);
            self.timed(request).await?.map_err(|e| self.failure(e))
        })
        .await?;
        Ok(true)
    }
}

/// What a lock is for: everything that a restore needs. Marks and tombstones are only `prune`'s and `forget`'s notes.
fn is_locked(name: &Name) -> bool {
    !matches!(name, Name::Marks(_) | Name::Tombstone(_))
}

fn date(time: SystemTime) -> DateTime {
    DateTime::from(time)
}

fn hex(bytes: &[u8]) -> String {
    keepwatch_engine::ids::hex(bytes)
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
        let s = &self.shared;
        let prefix = format!("{}/", area.prefix());
        let full = s.options.place.key(&prefix);
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
