//! Reading objects.

use super::*;

/// `GetObject`.
pub async fn get_object(s: &Service, req: S3Request<GetObjectInput>) -> Answer<GetObjectOutput> {
    let input = req.input;
    let (version, content) = s.find(&input.bucket, &input.key, input.version_id.as_deref())?;
    let size = content.body.len();
    let range = match input.range {
        Some(range) => range.check(size)?,
        None => 0..size,
    };
    let content_range = input
        .range
        .is_some()
        .then(|| format!("bytes {}-{}/{size}", range.start, range.end - 1));
    let whole = range == (0..size);
    let wanted = input
        .checksum_mode
        .is_some_and(|m| m.as_str() == ChecksumMode::ENABLED);
    let sums = if whole && wanted {
        content.sums.clone()
    } else {
        Sums::default()
    };
    let bytes = content.body.read(range).await.map_err(io)?;
    let partial = content_range.is_some();
    let output = GetObjectOutput {
        accept_ranges: Some("bytes".into()),
        content_length: Some(bytes.len() as i64),
        content_range,
        content_type: content.content_type.as_deref().and_then(|c| c.parse().ok()),
        body: Some(StreamingBlob::from(Body::from(bytes))),
        e_tag: tag(&content.etag),
        last_modified: s.stamp(version.modified),
        metadata: content.metadata.clone(),
        version_id: shown(&version.id),
        object_lock_mode: version
            .lock
            .map(|l| ObjectLockMode::from_static(mode_name(l.mode))),
        object_lock_retain_until_date: version.lock.and_then(|l| s.stamp(l.until)),
        checksum_crc32: sums.crc32(),
        checksum_crc32c: sums.crc32c(),
        checksum_crc64nvme: sums.crc64nvme(),
        checksum_sha1: sums.sha1(),
        checksum_sha256: sums.sha256(),
        ..Default::default()
    };
    let mut response = S3Response::new(output);
    if partial {
        response.status = Some(hyper::StatusCode::PARTIAL_CONTENT);
    }
    Ok(response)
}

/// `HeadObject`.
pub async fn head_object(s: &Service, req: S3Request<HeadObjectInput>) -> Answer<HeadObjectOutput> {
    let input = req.input;
    let (version, content) = s.find(&input.bucket, &input.key, input.version_id.as_deref())?;
    let wanted = input
        .checksum_mode
        .is_some_and(|m| m.as_str() == ChecksumMode::ENABLED);
    let sums = if wanted {
        content.sums.clone()
    } else {
        Sums::default()
    };
    answer(HeadObjectOutput {
        accept_ranges: Some("bytes".into()),
        content_length: Some(content.body.len() as i64),
        content_type: content.content_type.as_deref().and_then(|c| c.parse().ok()),
        e_tag: tag(&content.etag),
        last_modified: s.stamp(version.modified),
        metadata: content.metadata.clone(),
        version_id: shown(&version.id),
        object_lock_mode: version
            .lock
            .map(|l| ObjectLockMode::from_static(mode_name(l.mode))),
        object_lock_retain_until_date: version.lock.and_then(|l| s.stamp(l.until)),
        checksum_crc32: sums.crc32(),
        checksum_crc32c: sums.crc32c(),
        checksum_crc64nvme: sums.crc64nvme(),
        checksum_sha1: sums.sha1(),
        checksum_sha256: sums.sha256(),
        ..Default::default()
    })
}
