//! Writing and deleting objects.

use super::*;

/// `PutObject`.
pub async fn put_object(
    s: &Service,
    mut req: S3Request<PutObjectInput>,
) -> Answer<PutObjectOutput> {
    let condition = condition(&req)?;
    let lock = lock_of(
        req.input.object_lock_mode.take(),
        req.input.object_lock_retain_until_date.take(),
        req.input.object_lock_legal_hold_status.take(),
    )?;
    let body = req.input.body.take();
    let got = s.receive(&mut req, body).await?;
    let input = req.input;
    if lock != (None, false) {
        let has_lock = s.0.objects()?.bucket(&input.bucket)?.object_lock;
        if !has_lock {
            return Err(s3_error!(
                InvalidRequest,
                "Bucket is missing Object Lock Configuration"
            ));
        }
        if !got.with_checksum {
            return Err(s3_error!(
                InvalidRequest,
                "Content-MD5 OR x-amz-checksum- HTTP header is required for Put Object requests with Object Lock parameters"
            ));
        }
    }
    s.0.objects()?.bucket(&input.bucket)?;
    let etag = digest::hex(&got.md5);
    let sums = got.verdict.sums;
    let content = Content {
        body: Blob::store(got.bytes, s.0.config.dir.as_deref())
            .await
            .map_err(io)?,
        etag: etag.clone(),
        sums: sums.clone(),
        metadata: input.metadata,
        content_type: input.content_type.map(|c| c.to_string()),
    };
    let id = s
        .write(&input.bucket, &input.key, content, condition, lock)
        .await?;
    got.verdict.wrong?;
    answer(PutObjectOutput {
        e_tag: tag(&etag),
        version_id: shown(&id),
        checksum_crc32: sums.crc32(),
        checksum_crc32c: sums.crc32c(),
        checksum_crc64nvme: sums.crc64nvme(),
        checksum_sha1: sums.sha1(),
        checksum_sha256: sums.sha256(),
        ..Default::default()
    })
}

/// `DeleteObject`.
pub async fn delete_object(
    s: &Service,
    req: S3Request<DeleteObjectInput>,
) -> Answer<DeleteObjectOutput> {
    let bypass = req.input.bypass_governance_retention == Some(true);
    let (id, marker) = s.0.objects()?.delete(
        &req.input.bucket,
        &req.input.key,
        req.input.version_id.as_deref(),
        bypass,
        s.now(),
    )?;
    answer(DeleteObjectOutput {
        version_id: id,
        delete_marker: marker.then_some(true),
        ..Default::default()
    })
}

/// `DeleteObjects`.
pub async fn delete_objects(
    s: &Service,
    req: S3Request<DeleteObjectsInput>,
) -> Answer<DeleteObjectsOutput> {
    let account = req
        .credentials
        .as_ref()
        .and_then(|c| s.0.account(&c.access_key));
    let input = req.input;
    let bypass = input.bypass_governance_retention == Some(true);
    let (mut deleted, mut errors) = (Vec::new(), Vec::new());
    let now = s.now();
    for object in input.delete.objects {
        let id = object.version_id.as_deref();
        let may = account
            .as_ref()
            .is_some_and(|a| access::allowed(&s.0, a, "DeleteObject", id.is_some()));
        let done = if may {
            s.0.objects()?
                .delete(&input.bucket, &object.key, id, bypass, now)
        } else {
            Err(s3_error!(AccessDenied, "Access Denied"))
        };
        match done {
            Ok((id, marker)) => deleted.push(DeletedObject {
                key: Some(object.key),
                delete_marker: marker.then_some(true),
                delete_marker_version_id: id.clone().filter(|_| marker),
                version_id: object.version_id,
            }),
            Err(e) if e.code().as_str() == "NoSuchBucket" => return Err(e),
            Err(e) => errors.push(Error {
                key: Some(object.key),
                version_id: object.version_id,
                code: Some(e.code().as_str().to_owned()),
                message: e.message().map(str::to_owned),
            }),
        }
    }
    if input.delete.quiet == Some(true) {
        deleted.clear();
    }
    answer(DeleteObjectsOutput {
        deleted: Some(deleted),
        errors: Some(errors),
        ..Default::default()
    })
}
