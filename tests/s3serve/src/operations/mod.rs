//! The operations of S3, over [`crate::objects`].

mod buckets;
mod list;
mod locks;
mod multipart;
mod read;
mod write;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http_body_util::BodyExt;
use s3s::dto::*;
use s3s::{Body, S3, S3Request, S3Response, S3Result, s3_error};

use crate::access;
use crate::blob::Blob;
use crate::clock;
use crate::digest::{self, Sums, Verdict};
use crate::objects::{self, Bucket as Pail, Condition, Content, Lock, LockMode, Query, Version};
use crate::server::State;
use crate::settings::{Checksums, Conditions};
use crate::uploads::{self, Part as Piece, Upload};

/// How long a racy server looks away between its check and its write.
const RACE: Duration = Duration::from_millis(30);

/// The S3 side of a server.
pub struct Service(pub Arc<State>);

type Answer<T> = S3Result<S3Response<T>>;

fn answer<T>(output: T) -> Answer<T> {
    Ok(S3Response::new(output))
}

fn header<T>(req: &S3Request<T>, name: &str) -> Option<String> {
    Some(req.headers.get(name)?.to_str().ok()?.to_owned())
}

fn tag(etag: &str) -> Option<ETag> {
    Some(ETag::Strong(etag.to_owned()))
}

fn io(e: std::io::Error) -> s3s::S3Error {
    s3s::S3Error::internal_error(e)
}

fn mode_name(mode: LockMode) -> &'static str {
    match mode {
        LockMode::Compliance => ObjectLockMode::COMPLIANCE,
        LockMode::Governance => ObjectLockMode::GOVERNANCE,
    }
}

fn mode(name: &str) -> S3Result<LockMode> {
    match name {
        "COMPLIANCE" => Ok(LockMode::Compliance),
        "GOVERNANCE" => Ok(LockMode::Governance),
        _ => Err(s3_error!(MalformedXML, "Unknown wormMode directive.")),
    }
}

/// To the second, which is what Object Lock is given in.
fn system_time(t: &Timestamp) -> S3Result<SystemTime> {
    let mut text = Vec::new();
    let written = t.format(TimestampFormat::EpochSeconds, &mut text);
    let text = String::from_utf8_lossy(&text);
    let whole = text.split('.').next().and_then(|s| s.parse().ok());
    match (written, whole) {
        (Ok(()), Some(seconds)) => Ok(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)),
        _ => Err(s3_error!(
            InvalidArgument,
            "The retain until date must be in the future!"
        )),
    }
}

/// The version's id as answers carry it: not where versions are not kept.
fn shown(id: &str) -> Option<String> {
    (id != "null").then(|| id.to_owned())
}

/// The condition of a write.
fn condition<T>(req: &S3Request<T>) -> S3Result<Option<Condition>> {
    match (header(req, "if-none-match"), header(req, "if-match")) {
        (None, None) => Ok(None),
        (Some(star), None) if star == "*" => Ok(Some(Condition::Absent)),
        (None, Some(tag)) => Ok(Some(Condition::Tag(tag.trim_matches('"').to_owned()))),
        _ => Err(s3_error!(
            NotImplemented,
            "A header you provided implies functionality that is not implemented"
        )),
    }
}

/// Retention and legal hold that an upload asks for.
fn lock_of(
    mode_: Option<ObjectLockMode>,
    until: Option<Timestamp>,
    hold: Option<ObjectLockLegalHoldStatus>,
) -> S3Result<(Option<Lock>, bool)> {
    let lock = match (mode_, until) {
        (Some(m), Some(until)) => Some(Lock {
            mode: mode(m.as_str())?,
            until: system_time(&until)?,
        }),
        (None, None) => None,
        _ => {
            return Err(s3_error!(
                InvalidArgument,
                "x-amz-object-lock-retain-until-date and x-amz-object-lock-mode must both be supplied"
            ));
        }
    };
    Ok((lock, hold.is_some_and(|h| h.as_str() == "ON")))
}

/// An uploaded body and what it was judged to be.
struct Received {
    bytes: Bytes,
    md5: [u8; 16],
    verdict: Verdict,
    with_checksum: bool,
}

impl Service {
    fn now(&self) -> SystemTime {
        clock::now(self.0.switches().clock_offset_seconds)
    }

    fn stamp(&self, time: SystemTime) -> Option<Timestamp> {
        Some(Timestamp::from(time))
    }

    /// Reads an upload's body and judges its checksums.
    async fn receive<T>(
        &self,
        req: &mut S3Request<T>,
        body: Option<StreamingBlob>,
    ) -> S3Result<Received> {
        let how = self.0.switches().checksums;
        if how == Checksums::RefuseTrailers && header(req, "x-amz-trailer").is_some() {
            return Err(s3_error!(InvalidRequest, "Invalid payload signature"));
        }
        let bytes = match body {
            None => Bytes::new(),
            Some(body) => match Body::from(body).collect().await {
                Ok(all) => all.to_bytes(),
                Err(e) => return Err(incomplete(e)),
            },
        };
        let trailer = req.trailing_headers.as_ref().and_then(|t| t.take());
        let announced = Sums::announced(|name| {
            header(req, name).or_else(|| {
                let value = trailer.as_ref()?.get(name)?;
                Some(value.to_str().ok()?.to_owned())
            })
        });
        let md5 = digest::md5(&bytes);
        let content_md5 = header(req, "content-md5");
        let verdict = digest::judge(&announced, content_md5.as_deref(), &md5, &bytes, how)?;
        if how != Checksums::StoreThenRefuse {
            verdict.wrong?;
            return Ok(Received {
                with_checksum: content_md5.is_some() || announced != Sums::default(),
                bytes,
                md5,
                verdict: Verdict {
                    sums: verdict.sums,
                    wrong: Ok(()),
                },
            });
        }
        Ok(Received {
            with_checksum: content_md5.is_some() || announced != Sums::default(),
            bytes,
            md5,
            verdict,
        })
    }

    /// Writes an object as the switches for conditions say. The version's id.
    async fn write(
        &self,
        bucket: &str,
        key: &str,
        content: Content,
        condition: Option<Condition>,
        lock: (Option<Lock>, bool),
    ) -> S3Result<String> {
        let now = self.now();
        let condition = condition.as_ref();
        let state = &self.0;
        match self.0.switches().conditions {
            Conditions::Refused if condition.is_some() => Err(s3_error!(
                NotImplemented,
                "A header you provided implies functionality that is not implemented"
            )),
            Conditions::Racy if condition.is_some() => {
                if let Some(c) = condition {
                    state.objects()?.check(bucket, key, c)?;
                }
                tokio::time::sleep(RACE).await;
                state.objects()?.put(bucket, key, content, None, lock, now)
            }
            Conditions::Ignored => state.objects()?.put(bucket, key, content, None, lock, now),
            _ => state
                .objects()?
                .put(bucket, key, content, condition, lock, now),
        }
    }

    /// Reads a version's head.
    fn find(&self, bucket: &str, key: &str, id: Option<&str>) -> S3Result<(Version, Content)> {
        let version = self.0.objects()?.get(bucket, key, id)?;
        let content = version.content.clone().ok_or_else(objects::no_such_key)?;
        Ok((version, content))
    }
}

/// The body did not arrive as announced, or its chunk signatures or its trailer are wrong.
fn incomplete(e: s3s::StdError) -> s3s::S3Error {
    s3_error!(
        IncompleteBody,
        "The request body did not arrive as announced: {e}"
    )
}

/// The trait is one piece, its operations are not: each stands in the module that is named here.
macro_rules! forward {
    ($($name:ident: $input:ident => $output:ident in $module:ident;)*) => {
        #[async_trait::async_trait]
        impl S3 for Service {
            $(async fn $name(&self, req: S3Request<$input>) -> Answer<$output> {
                $module::$name(self, req).await
            })*
        }
    };
}

forward! {
    put_object: PutObjectInput => PutObjectOutput in write;
    get_object: GetObjectInput => GetObjectOutput in read;
    head_object: HeadObjectInput => HeadObjectOutput in read;
    delete_object: DeleteObjectInput => DeleteObjectOutput in write;
    delete_objects: DeleteObjectsInput => DeleteObjectsOutput in write;
    list_objects_v2: ListObjectsV2Input => ListObjectsV2Output in list;
    list_object_versions: ListObjectVersionsInput => ListObjectVersionsOutput in list;
    head_bucket: HeadBucketInput => HeadBucketOutput in buckets;
    get_bucket_location: GetBucketLocationInput => GetBucketLocationOutput in buckets;
    create_bucket: CreateBucketInput => CreateBucketOutput in buckets;
    delete_bucket: DeleteBucketInput => DeleteBucketOutput in buckets;
    list_buckets: ListBucketsInput => ListBucketsOutput in buckets;
    get_bucket_versioning: GetBucketVersioningInput => GetBucketVersioningOutput in buckets;
    put_bucket_versioning: PutBucketVersioningInput => PutBucketVersioningOutput in buckets;
    get_object_lock_configuration: GetObjectLockConfigurationInput => GetObjectLockConfigurationOutput in locks;
    put_object_lock_configuration: PutObjectLockConfigurationInput => PutObjectLockConfigurationOutput in locks;
    put_object_retention: PutObjectRetentionInput => PutObjectRetentionOutput in locks;
    get_object_retention: GetObjectRetentionInput => GetObjectRetentionOutput in locks;
    put_object_legal_hold: PutObjectLegalHoldInput => PutObjectLegalHoldOutput in locks;
    create_multipart_upload: CreateMultipartUploadInput => CreateMultipartUploadOutput in multipart;
    upload_part: UploadPartInput => UploadPartOutput in multipart;
    complete_multipart_upload: CompleteMultipartUploadInput => CompleteMultipartUploadOutput in multipart;
    abort_multipart_upload: AbortMultipartUploadInput => AbortMultipartUploadOutput in multipart;
    list_multipart_uploads: ListMultipartUploadsInput => ListMultipartUploadsOutput in multipart;
    list_parts: ListPartsInput => ListPartsOutput in multipart;
}
