//! What a server and these credentials can do, found by trying: `keepwatch doctor`.
//!
//! Only objects under `probe/` are written, of fixed names and content, so that credentials which may not delete leave two small objects behind and not more with every
//! run. Nothing of the repository is touched, and nothing in the store relies on what is found here: it is told to people.

use std::time::Instant;

use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{BucketVersioningStatus, ObjectLockEnabled};
use base64::Engine as _;
use keepwatch_engine::store::{Fault, Finding, Verdict};
use sha2::{Digest, Sha256};

use crate::classify::{Failure, Kind};
use crate::store::{S3Store, Shared};

const CONTENT: &[u8] =
    b"Keepwatch tried here what this server can do. This object may be deleted.\n";
const CONDITION: &str = "probe/condition";
const CHECKSUM: &str = "probe/checksum";
/// Round trips of which the median is told.
const TRIPS: usize = 5;
/// A clock this many seconds off is told as a fault: servers refuse requests at 900.
const SKEW: i64 = 300;

fn found(what: &'static str, verdict: Verdict, text: impl Into<String>) -> Finding {
    Finding {
        what,
        verdict,
        text: text.into(),
    }
}

/// Tries everything. Ends early when the bucket cannot be reached at all.
pub(crate) fn examine(store: &S3Store) -> Vec<Finding> {
    let s = &store.shared;
    let mut out = vec![found(
        "server",
        Verdict::Note,
        format!(
            "{} in region {}",
            s.options.endpoint.as_deref().unwrap_or("AWS"),
            s.wire.region
        ),
    )];
    match store.block(reach(s)) {
        Ok(text) => out.push(found("reachable", Verdict::Good, text)),
        Err(why) => {
            out.push(found("reachable", Verdict::Bad, why));
            return out;
        }
    }
    let off = s.wire.clock.offset_millis() / 1000;
    out.push(match off.abs() {
        0..=5 => found("clock", Verdict::Good, "agrees with the server's"),
        n if n < SKEW => found("clock", Verdict::Note, format!("the server's is {off} s ahead of ours")),
        _ => found("clock", Verdict::Bad, format!("the server's is {off} s ahead of ours: requests will be refused; set the clock of this machine")),
    });
    out.extend(store.block(bucket(s)));
    out.extend(store.block(writes(s)));
    out
}

async fn reach(s: &Shared) -> Result<String, String> {
    let mut trips = Vec::new();
    for _ in 0..TRIPS {
        let begun = Instant::now();
        s.again("list", "the bucket", async |_| {
            let request = s
                .wire
                .client
                .list_objects_v2()
                .bucket(&s.options.place.bucket)
                .prefix(s.options.place.key("config"))
                .max_keys(1)
                .set_request_payer(s.payer())
                .send();
            s.timed(request).await?.map_err(|e| s.failure(e))
        })
        .await
        .map_err(|e| e.cause.to_string())?;
        trips.push(begun.elapsed());
    }
    trips.sort_unstable();
    Ok(format!(
        "may list the bucket; {:.1} ms for a request",
        trips[TRIPS / 2].as_secs_f64() * 1000.0
    ))
}

/// What the bucket itself is set to. Most writing credentials may not ask; that is no fault.
async fn bucket(s: &Shared) -> Vec<Finding> {
    let mut out = Vec::new();
    let name = &s.options.place.bucket;
    let asked = |f: Failure| match f.kind {
        Kind::Permanent(Fault::Denied) => "these credentials may not ask".to_owned(),
        _ => f.text,
    };
    let request = s.wire.client.get_bucket_versioning().bucket(name).send();
    let versioning = match s.timed(request).await {
        Ok(Ok(v)) => {
            let on = v.status() == Some(&BucketVersioningStatus::Enabled);
            out.push(if on {
                found(
                    "versioning",
                    Verdict::Good,
                    "on: what is deleted or overwritten can be brought back (--s3-as-of)",
                )
            } else {
                found("versioning", Verdict::Note, "off: what is deleted is gone")
            });
            Some(on)
        }
        Ok(Err(e)) => {
            out.push(found(
                "versioning",
                Verdict::Note,
                format!("not known: {}", asked(s.failure(e))),
            ));
            None
        }
        Err(f) => {
            out.push(found(
                "versioning",
                Verdict::Note,
                format!("not known: {}", f.text),
            ));
            None
        }
    };
    let request = s
        .wire
        .client
        .get_object_lock_configuration()
        .bucket(name)
        .send();
    let wanted = s.options.object_lock.is_some();
    let lock = match s.timed(request).await {
        Ok(Ok(answer)) => {
            let enabled = answer
                .object_lock_configuration()
                .and_then(|c| c.object_lock_enabled())
                == Some(&ObjectLockEnabled::Enabled);
            match enabled {
                true => found("object lock", Verdict::Good, "the bucket has it"),
                false if wanted => found(
                    "object lock",
                    Verdict::Bad,
                    "is asked for, and the bucket does not have it",
                ),
                false => found("object lock", Verdict::Note, "the bucket does not have it"),
            }
        }
        Ok(Err(e)) => {
            let f = s.failure(e);
            let denied = f.is(Fault::Denied);
            let verdict = if wanted && !denied {
                Verdict::Bad
            } else {
                Verdict::Note
            };
            let text = if denied {
                format!("not known: {}", asked(f))
            } else {
                "the bucket does not have it".into()
            };
            found("object lock", verdict, text)
        }
        Err(f) => found(
            "object lock",
            Verdict::Note,
            format!("not known: {}", f.text),
        ),
    };
    out.push(lock);
    if versioning == Some(false) && wanted {
        out.push(found(
            "lock and versions",
            Verdict::Bad,
            "an object lock protects versions, and the bucket keeps none",
        ));
    }
    out
}

async fn put(
    s: &Shared,
    key: &str,
    condition: bool,
    sha256: Option<&[u8; 32]>,
) -> Result<(), Failure> {
    let base64 = base64::engine::general_purpose::STANDARD;
    let request = s
        .wire
        .client
        .put_object()
        .bucket(&s.options.place.bucket)
        .key(s.options.place.key(key))
        .body(ByteStream::from_static(CONTENT))
        .set_if_none_match(condition.then(|| "*".to_owned()))
        .set_checksum_sha256(sha256.map(|d| base64.encode(d)))
        .set_request_payer(s.payer())
        .send();
    s.timed(request)
        .await?
        .map(|_| ())
        .map_err(|e| s.failure(e))
}

async fn writes(s: &Shared) -> Vec<Finding> {
    let mut out = Vec::new();
    if s.options.as_of.is_some() {
        return out;
    }
    let digest: [u8; 32] = Sha256::digest(CONTENT).into();
    let first = put(s, CONDITION, true, None).await;
    let first = match first {
        Err(f) if f.is(Fault::Exists) => Ok(()), // left by credentials that may not delete
        other => other,
    };
    match first {
        Err(f) if f.kind == Kind::Unsupported => {
            out.push(found(
                "create-only writes",
                Verdict::Note,
                "the server refuses them; Keepwatch looks first instead",
            ));
            if let Err(f) = put(s, CONDITION, false, None).await {
                out.push(found("writing", Verdict::Bad, f.text));
                return out;
            }
            out.push(found("writing", Verdict::Good, "allowed"));
        }
        Err(f) => {
            let verdict = Verdict::Bad;
            let text = if f.is(Fault::Denied) {
                "these credentials may not write: good for restores, not for backups".to_owned()
            } else {
                f.text
            };
            out.push(found("writing", verdict, text));
            return out;
        }
        Ok(()) => {
            out.push(found("writing", Verdict::Good, "allowed"));
            out.push(match put(s, CONDITION, true, None).await {
                Err(f) if f.is(Fault::Exists) => found(
                    "create-only writes",
                    Verdict::Good,
                    "the server refuses to overwrite when asked to",
                ),
                Ok(()) => found(
                    "create-only writes",
                    Verdict::Note,
                    "the server ignores them; nothing relies on them",
                ),
                Err(f) => found("create-only writes", Verdict::Note, f.text),
            });
        }
    }
    match put(s, CHECKSUM, false, Some(&digest)).await {
        Ok(()) => {
            let wrong = [0x5a; 32];
            out.push(match put(s, CHECKSUM, false, Some(&wrong)).await {
                Err(_) => found("checksums", Verdict::Good, "SHA-256, and the server refuses a wrong one"),
                Ok(()) => found("checksums", Verdict::Note, "the server takes SHA-256 without checking it; objects are checked by their names when they are read"),
            });
        }
        Err(f) => out.push(found(
            "checksums",
            Verdict::Note,
            format!(
                "the server does not take SHA-256 ({}); another or none is used",
                f.text
            ),
        )),
    }
    let mut gone = true;
    for key in [CONDITION, CHECKSUM] {
        let request = s
            .wire
            .client
            .delete_object()
            .bucket(&s.options.place.bucket)
            .key(s.options.place.key(key))
            .set_request_payer(s.payer())
            .send();
        gone &= matches!(s.timed(request).await, Ok(Ok(_)));
    }
    out.push(if gone {
        found("deleting", Verdict::Note, "allowed: 'prune' works; whoever steals these credentials can delete as well, unless versions are locked")
    } else {
        found("deleting", Verdict::Note, "not allowed: a thief of these credentials cannot delete backups; 'prune' needs others (probe/* was left in the bucket)")
    });
    out
}
