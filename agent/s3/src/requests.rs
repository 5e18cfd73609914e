//! Single requests: how each operation of the store is put to the server, and what its answer means. Most are one attempt; `Shared::again` repeats them.

use std::time::{Duration, Instant, SystemTime};

use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use aws_sdk_s3::operation::put_object::builders::PutObjectFluentBuilder;
use aws_sdk_s3::primitives::{ByteStream, SdkBody};
use aws_sdk_s3::types::{
    ObjectLockMode, ObjectLockRetention, ObjectLockRetentionMode, ServerSideEncryption,
    StorageClass,
};
use aws_smithy_types::DateTime;
use base64::Engine as _;
use bytes::Bytes;
use keepwatch_engine::store::{Fault, Name, StoreError};
use std::sync::atomic::Ordering;

use crate::body::{Movement, Upload};
use crate::classify::{Failure, Kind};
use crate::options::{Checksum, LockMode, ServerSide};
use crate::store::{NO_CHECKSUM, NO_CONDITION, NO_SHA256, PAGE, Shared};
use crate::versions::{AsOf, Version, time};
use crate::wire::SignedBody;

impl Shared {
    pub(crate) async fn put(
        &self,
        name: &Name,
        bytes: Bytes,
        digest: [u8; 32],
    ) -> Result<(), StoreError> {
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
    pub(crate) async fn put_once(
        &self,
        name: &Name,
        bytes: Bytes,
        digest: [u8; 32],
    ) -> Result<(), Failure> {
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

    pub(crate) async fn put_as(
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
        if matches!(name, Name::Pack(_) | Name::Wal(..)) {
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
    pub(crate) async fn get_once(
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
        let answer = self
            .timed(request)
            .await?
            .map_err(|e| self.failure(e).unless_said())?;
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

    async fn head_once(&self, name: &Name) -> Result<HeadObjectOutput, Failure> {
        let request = self
            .wire
            .client
            .head_object()
            .bucket(&self.options.place.bucket)
            .key(self.key(name))
            .set_request_payer(self.payer())
            .send();
        self.wire.counters.heads.fetch_add(1, Ordering::Relaxed);
        self.timed(request).await?.map_err(|e| self.failure(e))
    }

    pub(crate) async fn head(&self, name: &Name) -> Result<u64, StoreError> {
        let object = name.to_string();
        self.again("read", &object, async |_| {
            if let Some(moment) = self.options.as_of {
                return Ok(self.version_at(name, moment).await?.size);
            }
            let answer = self.head_once(name).await?;
            answer
                .content_length()
                .and_then(|n| u64::try_from(n).ok())
                .ok_or_else(|| Failure::again("the server did not say how long it is"))
        })
        .await
    }

    /// A page of the listing of a prefix, and the token of the next.
    pub(crate) async fn page(
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
                return Err(goes_nowhere());
            }
            Ok((objects, next))
        })
        .await
    }

    /// A page of versions under a prefix, and where the next begins.
    #[allow(clippy::type_complexity)]
    pub(crate) async fn version_page(
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
                return Err(goes_nowhere());
            }
            _ => None,
        };
        Ok((all, next))
    }

    /// The version of one object that stood at a moment.
    pub(crate) async fn version_at(
        &self,
        name: &Name,
        moment: SystemTime,
    ) -> Result<Version, Failure> {
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

    pub(crate) async fn delete(&self, name: &Name) -> Result<(), StoreError> {
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
        let answer = self.head_once(name).await.ok()?;
        let until = time(Some(answer.object_lock_retain_until_date()?));
        (until > self.wire.clock.of_server()).then_some(until)
    }

    /// Prolongs the lock of an object to the full time from now, if less than `least` is left of it.
    pub(crate) async fn renew(&self, name: &Name, least: Duration) -> Result<bool, StoreError> {
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

fn goes_nowhere() -> Failure {
    Failure::permanent(
        Fault::Other,
        "the server says that its listing goes on, but not where",
    )
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
