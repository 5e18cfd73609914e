//! Buckets: their being there, their place, their versioning.

use super::*;

/// `HeadBucket`.
pub async fn head_bucket(s: &Service, req: S3Request<HeadBucketInput>) -> Answer<HeadBucketOutput> {
    s.0.objects()?.bucket(&req.input.bucket)?;
    answer(HeadBucketOutput {
        bucket_region: Some(s.0.config.region.clone()),
        ..Default::default()
    })
}

/// `GetBucketLocation`.
pub async fn get_bucket_location(
    s: &Service,
    req: S3Request<GetBucketLocationInput>,
) -> Answer<GetBucketLocationOutput> {
    s.0.objects()?.bucket(&req.input.bucket)?;
    let region = &s.0.config.region;
    answer(GetBucketLocationOutput {
        location_constraint: (region != "us-east-1")
            .then(|| BucketLocationConstraint::from(region.clone())),
    })
}

/// `CreateBucket`.
pub async fn create_bucket(
    s: &Service,
    req: S3Request<CreateBucketInput>,
) -> Answer<CreateBucketOutput> {
    let name = req.input.bucket;
    let lock = req.input.object_lock_enabled_for_bucket == Some(true);
    let mut objects = s.0.objects()?;
    if objects.buckets.contains_key(&name) {
        return Err(s3_error!(
            BucketAlreadyOwnedByYou,
            "Your previous request to create the named bucket succeeded and you already own it."
        ));
    }
    let pail = Pail {
        versioned: lock,
        object_lock: lock,
        ..Pail::default()
    };
    objects.buckets.insert(name.clone(), pail);
    answer(CreateBucketOutput {
        location: Some(format!("/{name}")),
    })
}

/// `DeleteBucket`.
pub async fn delete_bucket(
    s: &Service,
    req: S3Request<DeleteBucketInput>,
) -> Answer<DeleteBucketOutput> {
    let mut objects = s.0.objects()?;
    if !objects.bucket(&req.input.bucket)?.keys.is_empty() {
        return Err(s3_error!(
            BucketNotEmpty,
            "The bucket you tried to delete is not empty"
        ));
    }
    objects.buckets.remove(&req.input.bucket);
    answer(DeleteBucketOutput::default())
}

/// `ListBuckets`.
pub async fn list_buckets(
    s: &Service,
    _: S3Request<ListBucketsInput>,
) -> Answer<ListBucketsOutput> {
    let objects = s.0.objects()?;
    let row = |name: &String| Bucket {
        name: Some(name.clone()),
        ..Default::default()
    };
    answer(ListBucketsOutput {
        buckets: Some(objects.buckets.keys().map(row).collect()),
        ..Default::default()
    })
}

/// `GetBucketVersioning`.
pub async fn get_bucket_versioning(
    s: &Service,
    req: S3Request<GetBucketVersioningInput>,
) -> Answer<GetBucketVersioningOutput> {
    let versioned = s.0.objects()?.bucket(&req.input.bucket)?.versioned;
    answer(GetBucketVersioningOutput {
        status: versioned
            .then(|| BucketVersioningStatus::from_static(BucketVersioningStatus::ENABLED)),
        ..Default::default()
    })
}

/// `PutBucketVersioning`.
pub async fn put_bucket_versioning(
    s: &Service,
    req: S3Request<PutBucketVersioningInput>,
) -> Answer<PutBucketVersioningOutput> {
    let wanted = req.input.versioning_configuration.status;
    let enabled = wanted.is_some_and(|s| s.as_str() == BucketVersioningStatus::ENABLED);
    let mut objects = s.0.objects()?;
    let bucket = objects.bucket(&req.input.bucket)?;
    if !enabled {
        // versions that exist would need the rules of suspended buckets
        return Err(s3_error!(
            InvalidBucketState,
            "Versioning cannot be suspended here"
        ));
    }
    bucket.versioned = true;
    answer(PutBucketVersioningOutput::default())
}
