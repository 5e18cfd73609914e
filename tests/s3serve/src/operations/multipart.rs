//! Multipart uploads.

use super::*;

/// `CreateMultipartUpload`.
pub async fn create_multipart_upload(
    s: &Service,
    req: S3Request<CreateMultipartUploadInput>,
) -> Answer<CreateMultipartUploadOutput> {
    let input = req.input;
    let lock = lock_of(
        input.object_lock_mode,
        input.object_lock_retain_until_date,
        input.object_lock_legal_hold_status,
    )?;
    let now = s.now();
    let mut objects = s.0.objects()?;
    objects.order += 1;
    let id = format!("upload-{:016x}", objects.order);
    let upload = Upload {
        key: input.key.clone(),
        began: now,
        like: Content {
            body: Blob::Memory(Bytes::new()),
            etag: String::new(),
            sums: Sums::default(),
            metadata: input.metadata,
            content_type: input.content_type.map(|c| c.to_string()),
        },
        lock,
        parts: Default::default(),
    };
    objects
        .bucket(&input.bucket)?
        .uploads
        .insert(id.clone(), upload);
    answer(CreateMultipartUploadOutput {
        bucket: Some(input.bucket),
        key: Some(input.key),
        upload_id: Some(id),
        ..Default::default()
    })
}

/// `UploadPart`.
pub async fn upload_part(
    s: &Service,
    mut req: S3Request<UploadPartInput>,
) -> Answer<UploadPartOutput> {
    let (bucket, key) = (req.input.bucket.clone(), req.input.key.clone());
    let (id, number) = (req.input.upload_id.clone(), req.input.part_number);
    if !(1..=10_000).contains(&number) {
        return Err(s3_error!(
            InvalidArgument,
            "Part number must be an integer between 1 and 10000, inclusive"
        ));
    }
    let body = req.input.body.take();
    let got = s.receive(&mut req, body).await?;
    s.0.objects()?.bucket(&bucket)?.upload(&key, &id)?;
    let piece = Piece {
        body: Blob::store(got.bytes, s.0.config.dir.as_deref())
            .await
            .map_err(io)?,
        md5: got.md5,
        modified: s.now(),
    };
    let mut objects = s.0.objects()?;
    let upload = objects.bucket(&bucket)?.upload(&key, &id)?;
    upload.parts.insert(number, piece);
    drop(objects);
    got.verdict.wrong?;
    let sums = got.verdict.sums;
    answer(UploadPartOutput {
        e_tag: tag(&digest::hex(&got.md5)),
        checksum_crc32: sums.crc32(),
        checksum_crc32c: sums.crc32c(),
        checksum_crc64nvme: sums.crc64nvme(),
        checksum_sha1: sums.sha1(),
        checksum_sha256: sums.sha256(),
        ..Default::default()
    })
}

/// `CompleteMultipartUpload`.
pub async fn complete_multipart_upload(
    s: &Service,
    req: S3Request<CompleteMultipartUploadInput>,
) -> Answer<CompleteMultipartUploadOutput> {
    let condition = condition(&req)?;
    let input = req.input;
    let named: Vec<(i32, String)> = input
        .multipart_upload
        .and_then(|m| m.parts)
        .unwrap_or_default()
        .into_iter()
        .map(|p| {
            let tag = p.e_tag.map(ETag::into_value).unwrap_or_default();
            (p.part_number.unwrap_or(0), tag)
        })
        .collect();
    let (parts, like, lock) = {
        let mut objects = s.0.objects()?;
        let upload = objects
            .bucket(&input.bucket)?
            .upload(&input.key, &input.upload_id)?;
        let parts = upload.chosen(&named, s.0.config.min_part)?;
        (parts, upload.like.clone(), upload.lock)
    };
    let (mut all, mut md5s) = (Vec::new(), Vec::new());
    for part in &parts {
        all.extend_from_slice(&part.body.read(0..part.body.len()).await.map_err(io)?);
        md5s.extend_from_slice(&part.md5);
    }
    let etag = format!("{}-{}", digest::hex(&digest::md5(&md5s)), parts.len());
    let content = Content {
        body: Blob::store(all.into(), s.0.config.dir.as_deref())
            .await
            .map_err(io)?,
        etag: etag.clone(),
        ..like
    };
    let id = s
        .write(&input.bucket, &input.key, content, condition, lock)
        .await?;
    let mut objects = s.0.objects()?;
    objects
        .bucket(&input.bucket)?
        .uploads
        .remove(&input.upload_id);
    drop(objects);
    answer(CompleteMultipartUploadOutput {
        bucket: Some(input.bucket),
        key: Some(input.key),
        e_tag: tag(&etag),
        version_id: shown(&id),
        ..Default::default()
    })
}

/// `AbortMultipartUpload`.
pub async fn abort_multipart_upload(
    s: &Service,
    req: S3Request<AbortMultipartUploadInput>,
) -> Answer<AbortMultipartUploadOutput> {
    let mut objects = s.0.objects()?;
    let bucket = objects.bucket(&req.input.bucket)?;
    bucket.upload(&req.input.key, &req.input.upload_id)?;
    bucket.uploads.remove(&req.input.upload_id);
    answer(AbortMultipartUploadOutput::default())
}

/// `ListMultipartUploads`.
pub async fn list_multipart_uploads(
    s: &Service,
    req: S3Request<ListMultipartUploadsInput>,
) -> Answer<ListMultipartUploadsOutput> {
    let input = req.input;
    let prefix = input.prefix.clone().unwrap_or_default();
    let mut objects = s.0.objects()?;
    let mut uploads: Vec<MultipartUpload> = objects
        .bucket(&input.bucket)?
        .uploads
        .iter()
        .filter(|(_, u)| u.key.starts_with(&prefix))
        .map(|(id, u)| MultipartUpload {
            key: Some(u.key.clone()),
            upload_id: Some(id.clone()),
            initiated: s.stamp(u.began),
            ..Default::default()
        })
        .collect();
    uploads.sort_by(|a, b| (&a.key, &a.upload_id).cmp(&(&b.key, &b.upload_id)));
    answer(ListMultipartUploadsOutput {
        bucket: Some(input.bucket),
        prefix: input.prefix,
        is_truncated: Some(false),
        uploads: Some(uploads),
        ..Default::default()
    })
}

/// `ListParts`.
pub async fn list_parts(s: &Service, req: S3Request<ListPartsInput>) -> Answer<ListPartsOutput> {
    let input = req.input;
    let mut objects = s.0.objects()?;
    let upload = objects
        .bucket(&input.bucket)?
        .upload(&input.key, &input.upload_id)
        .map_err(|_| uploads::no_such_upload())?;
    let parts = upload
        .parts
        .iter()
        .map(|(n, p)| Part {
            part_number: Some(*n),
            size: Some(p.body.len() as i64),
            e_tag: tag(&digest::hex(&p.md5)),
            last_modified: s.stamp(p.modified),
            ..Default::default()
        })
        .collect();
    answer(ListPartsOutput {
        bucket: Some(input.bucket),
        key: Some(input.key),
        upload_id: Some(input.upload_id),
        is_truncated: Some(false),
        parts: Some(parts),
        ..Default::default()
    })
}
