//! Object Lock: configuration, retention, legal hold.

use super::*;

/// `GetObjectLockConfiguration`.
pub async fn get_object_lock_configuration(
    s: &Service,
    req: S3Request<GetObjectLockConfigurationInput>,
) -> Answer<GetObjectLockConfigurationOutput> {
    let (lock, retention) = {
        let mut objects = s.0.objects()?;
        let bucket = objects.bucket(&req.input.bucket)?;
        (bucket.object_lock, bucket.retention)
    };
    if !lock {
        return Err(objects::custom(
            404,
            "ObjectLockConfigurationNotFoundError",
            "Object Lock configuration does not exist for this bucket",
        ));
    }
    let rule = retention.map(|r| ObjectLockRule {
        default_retention: Some(DefaultRetention {
            days: Some(r.days),
            mode: Some(ObjectLockRetentionMode::from_static(mode_name(r.mode))),
            years: None,
        }),
    });
    answer(GetObjectLockConfigurationOutput {
        object_lock_configuration: Some(ObjectLockConfiguration {
            object_lock_enabled: Some(ObjectLockEnabled::from_static(ObjectLockEnabled::ENABLED)),
            rule,
        }),
    })
}

/// `PutObjectLockConfiguration`.
pub async fn put_object_lock_configuration(
    s: &Service,
    req: S3Request<PutObjectLockConfigurationInput>,
) -> Answer<PutObjectLockConfigurationOutput> {
    let retention = req
        .input
        .object_lock_configuration
        .and_then(|c| c.rule?.default_retention);
    let retention = match retention {
        None => None,
        Some(r) => Some(objects::Retention {
            mode: mode(r.mode.as_ref().map_or("", |m| m.as_str()))?,
            days: r.days.or(r.years.map(|y| y * 365)).unwrap_or(0),
        }),
    };
    let mut objects = s.0.objects()?;
    let bucket = objects.bucket(&req.input.bucket)?;
    if !bucket.versioned {
        return Err(s3_error!(
            InvalidBucketState,
            "Versioning must be 'Enabled' on the bucket to apply a Object Lock configuration"
        ));
    }
    bucket.object_lock = true;
    bucket.retention = retention;
    answer(PutObjectLockConfigurationOutput::default())
}

/// `PutObjectRetention`.
pub async fn put_object_retention(
    s: &Service,
    req: S3Request<PutObjectRetentionInput>,
) -> Answer<PutObjectRetentionOutput> {
    let input = req.input;
    let lock = match input.retention {
        None => None,
        Some(r) => {
            let as_mode = r.mode.map(|m| ObjectLockMode::from(m.as_str().to_owned()));
            lock_of(as_mode, r.retain_until_date, None)?.0
        }
    };
    let now = s.now();
    s.0.objects()?.retain(
        &input.bucket,
        &input.key,
        input.version_id.as_deref(),
        lock,
        input.bypass_governance_retention == Some(true),
        now,
    )?;
    answer(PutObjectRetentionOutput::default())
}

/// `GetObjectRetention`.
pub async fn get_object_retention(
    s: &Service,
    req: S3Request<GetObjectRetentionInput>,
) -> Answer<GetObjectRetentionOutput> {
    let input = req.input;
    let lock = {
        let mut objects = s.0.objects()?;
        objects
            .lockable(&input.bucket, &input.key, input.version_id.as_deref())?
            .lock
    };
    let Some(lock) = lock else {
        return Err(objects::custom(
            404,
            "NoSuchObjectLockConfiguration",
            "The specified object does not have a ObjectLock configuration",
        ));
    };
    answer(GetObjectRetentionOutput {
        retention: Some(ObjectLockRetention {
            mode: Some(ObjectLockRetentionMode::from_static(mode_name(lock.mode))),
            retain_until_date: s.stamp(lock.until),
        }),
    })
}

/// `PutObjectLegalHold`.
pub async fn put_object_legal_hold(
    s: &Service,
    req: S3Request<PutObjectLegalHoldInput>,
) -> Answer<PutObjectLegalHoldOutput> {
    let input = req.input;
    let status = input.legal_hold.and_then(|h| h.status);
    let mut objects = s.0.objects()?;
    objects
        .lockable(&input.bucket, &input.key, input.version_id.as_deref())?
        .hold = status.is_some_and(|s| s.as_str() == "ON");
    answer(PutObjectLegalHoldOutput::default())
}
