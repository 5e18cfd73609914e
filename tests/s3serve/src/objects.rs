//! Buckets, objects, versions and locks. Everything happens in one step under the caller's lock, so a conditional write has one winner.
//!
//! A key has versions, oldest first. In a bucket without versions there is one, with the id `null`. A version without content is a delete marker.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::time::{Duration, SystemTime};

use s3s::{S3Error, S3ErrorCode, S3Result, s3_error};
use serde::{Deserialize, Serialize};

use crate::blob::Blob;
use crate::clock;
use crate::digest::Sums;
use crate::uploads::Upload;

/// The kind of a retention.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LockMode {
    /// Nobody can shorten or remove it.
    Compliance,
    /// Who sends the bypass header can.
    Governance,
}

/// A bucket's default retention.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Retention {
    /// The kind.
    pub mode: LockMode,
    /// Days.
    pub days: i32,
}

/// The retention of a version.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Lock {
    /// The kind.
    pub mode: LockMode,
    /// Until then.
    pub until: SystemTime,
}

/// What an object is.
#[derive(Clone)]
pub struct Content {
    /// Its bytes.
    pub body: Blob,
    /// Its entity tag, without quotes.
    pub etag: String,
    /// Its checksums.
    pub sums: Sums,
    /// User metadata.
    pub metadata: Option<HashMap<String, String>>,
    /// `Content-Type`, as it came.
    pub content_type: Option<String>,
}

/// One version of a key.
#[derive(Clone)]
pub struct Version {
    /// Its id; `null` in a bucket without versions.
    pub id: String,
    /// Grows with every write to the server.
    pub order: u64,
    /// When it was written, by the server's clock.
    pub modified: SystemTime,
    /// What it is; `None`: a delete marker.
    pub content: Option<Content>,
    /// Its retention.
    pub lock: Option<Lock>,
    /// A legal hold lies on it.
    pub hold: bool,
}

impl Version {
    /// May it not be destroyed now?
    fn locked(&self, now: SystemTime, bypass: bool) -> bool {
        let retained = self
            .lock
            .is_some_and(|l| l.until > now && !(bypass && l.mode == LockMode::Governance));
        self.hold || retained
    }
}

/// A bucket.
#[derive(Default)]
pub struct Bucket {
    /// It keeps versions.
    pub versioned: bool,
    /// It has Object Lock.
    pub object_lock: bool,
    /// Its default retention.
    pub retention: Option<Retention>,
    /// Versions of each key, oldest first, never empty.
    pub keys: BTreeMap<String, Vec<Version>>,
    /// Multipart uploads by id.
    pub uploads: BTreeMap<String, Upload>,
}

/// A condition on a write.
#[derive(Clone, PartialEq, Debug)]
pub enum Condition {
    /// There must be no object (`If-None-Match: *`).
    Absent,
    /// The object must have this entity tag (`If-Match`).
    Tag(String),
}

/// What a test sees of an object.
#[derive(Clone, Debug, Serialize)]
pub struct Seen {
    /// Its key.
    pub key: String,
    /// The version's id.
    pub version: String,
    /// The newest of its key.
    pub newest: bool,
    /// A delete marker.
    pub marker: bool,
    /// Bytes.
    pub size: u64,
    /// Retained until then, in seconds since 1970.
    pub locked_until: Option<i64>,
}

/// All buckets.
#[derive(Default)]
pub struct Objects {
    /// By name.
    pub buckets: BTreeMap<String, Bucket>,
    /// The order of the newest write.
    pub order: u64,
}

/// What a listing goes over.
pub struct Query<'a> {
    /// Only keys with this beginning.
    pub prefix: &'a str,
    /// Keys that share what stands before this, after the prefix, are one entry.
    pub delimiter: Option<&'a str>,
    /// Only keys (or common prefixes) after this.
    pub after: &'a str,
    /// At most so many entries.
    pub limit: usize,
    /// Only versions up to this order.
    pub newest: u64,
}

/// A page of a listing.
pub struct Page {
    /// Keys with the version that is shown.
    pub entries: Vec<(String, Version)>,
    /// Common prefixes.
    pub prefixes: Vec<String>,
    /// The last key or prefix, if there is more.
    pub next: Option<String>,
}

/// `AccessDenied`, as Object Lock says it.
pub fn locked() -> S3Error {
    s3_error!(
        AccessDenied,
        "Access Denied because object protected by object lock."
    )
}

/// An error whose code s3s does not know.
pub fn custom(status: u16, code: &str, message: &str) -> S3Error {
    let mut error = S3Error::with_message(
        S3ErrorCode::Custom(code.to_owned().into()),
        message.to_owned(),
    );
    if let Ok(status) = hyper::StatusCode::from_u16(status) {
        error.set_status_code(status);
    }
    error
}

impl Objects {
    /// A bucket.
    pub fn bucket(&mut self, name: &str) -> S3Result<&mut Bucket> {
        self.buckets
            .get_mut(name)
            .ok_or_else(|| s3_error!(NoSuchBucket, "The specified bucket does not exist."))
    }

    /// Checks a condition on a write.
    pub fn check(&mut self, bucket: &str, key: &str, condition: &Condition) -> S3Result<()> {
        let now = self
            .bucket(bucket)?
            .newest(key)
            .and_then(|v| v.content.as_ref());
        let failed = || {
            s3_error!(
                PreconditionFailed,
                "At least one of the pre-conditions you specified did not hold"
            )
        };
        match (condition, now) {
            (Condition::Absent, None) => Ok(()),
            (Condition::Absent, Some(_)) => Err(failed()),
            (Condition::Tag(_), None) => Err(no_such_key()),
            (Condition::Tag(tag), Some(c)) if *tag == c.etag => Ok(()),
            (Condition::Tag(_), Some(_)) => Err(failed()),
        }
    }

    /// Writes an object, if the condition holds. The version's id.
    pub fn put(
        &mut self,
        bucket: &str,
        key: &str,
        content: Content,
        condition: Option<&Condition>,
        lock: (Option<Lock>, bool),
        now: SystemTime,
    ) -> S3Result<String> {
        if let Some(condition) = condition {
            self.check(bucket, key, condition)?;
        }
        let retention = self.bucket(bucket)?.retention;
        let default = retention.map(|r| Lock {
            mode: r.mode,
            until: now + Duration::from_secs(r.days.max(0) as u64 * 86_400),
        });
        self.add(
            bucket,
            key,
            Some(content),
            (lock.0.or(default), lock.1),
            now,
        )
    }

    /// A new version, in place of the old one where versions are not kept.
    fn add(
        &mut self,
        bucket: &str,
        key: &str,
        content: Option<Content>,
        lock: (Option<Lock>, bool),
        now: SystemTime,
    ) -> S3Result<String> {
        self.order += 1;
        let order = self.order;
        let bucket = self.bucket(bucket)?;
        let version = Version {
            id: if bucket.versioned {
                format!("v{order:016x}")
            } else {
                "null".into()
            },
            order,
            modified: now,
            content,
            lock: lock.0,
            hold: lock.1,
        };
        let id = version.id.clone();
        let versions = bucket.keys.entry(key.to_owned()).or_default();
        if !bucket.versioned {
            versions.clear();
        }
        versions.push(version);
        Ok(id)
    }

    /// A version to read: the newest, or the one named.
    pub fn get(&mut self, bucket: &str, key: &str, id: Option<&str>) -> S3Result<Version> {
        let bucket = self.bucket(bucket)?;
        let version = match id {
            None => bucket.newest(key).ok_or_else(no_such_key)?,
            Some(id) => bucket.version(key, id)?,
        };
        match (&version.content, id) {
            (Some(_), _) => Ok(version.clone()),
            (None, None) => Err(marked(no_such_key(), version)),
            (None, Some(_)) => Err(marked(
                s3_error!(
                    MethodNotAllowed,
                    "The specified method is not allowed against this resource."
                ),
                version,
            )),
        }
    }

    /// Deletes: the version named for good; else, where versions are kept, by a marker. The id of what was removed or made, and whether it is a marker.
    pub fn delete(
        &mut self,
        name: &str,
        key: &str,
        id: Option<&str>,
        bypass: bool,
        now: SystemTime,
    ) -> S3Result<(Option<String>, bool)> {
        let bucket = self.bucket(name)?;
        match id {
            None if bucket.versioned => {
                let id = self.add(name, key, None, (None, false), now)?;
                Ok((Some(id), true))
            }
            None => {
                bucket.keys.remove(key);
                Ok((None, false))
            }
            Some(id) => {
                let Some(versions) = bucket.keys.get_mut(key) else {
                    return Ok((Some(id.to_owned()), false));
                };
                let Some(at) = versions.iter().position(|v| v.id == id) else {
                    return Ok((Some(id.to_owned()), false));
                };
                if versions[at].locked(now, bypass) {
                    return Err(locked());
                }
                let gone = versions.remove(at);
                if versions.is_empty() {
                    bucket.keys.remove(key);
                }
                Ok((Some(gone.id), gone.content.is_none()))
            }
        }
    }

    /// Sets a version's retention; a compliance lock only grows.
    pub fn retain(
        &mut self,
        bucket: &str,
        key: &str,
        id: Option<&str>,
        lock: Option<Lock>,
        bypass: bool,
        now: SystemTime,
    ) -> S3Result<()> {
        let version = self.lockable(bucket, key, id)?;
        if let Some(old) = version.lock.filter(|l| l.until > now) {
            let weaker = lock.is_none_or(|new| {
                new.until < old.until
                    || (old.mode == LockMode::Compliance && new.mode == LockMode::Governance)
            });
            if weaker && !(bypass && old.mode == LockMode::Governance) {
                return Err(locked());
            }
        }
        if lock.is_some_and(|l| l.until <= now) {
            return Err(s3_error!(
                InvalidArgument,
                "The retain until date must be in the future!"
            ));
        }
        version.lock = lock;
        Ok(())
    }

    /// A version of a bucket with Object Lock.
    pub fn lockable(
        &mut self,
        bucket: &str,
        key: &str,
        id: Option<&str>,
    ) -> S3Result<&mut Version> {
        let bucket = self.bucket(bucket)?;
        if !bucket.object_lock {
            return Err(s3_error!(
                InvalidRequest,
                "Bucket is missing Object Lock Configuration"
            ));
        }
        let versions = bucket.keys.get_mut(key).ok_or_else(no_such_key)?;
        let at = match id {
            None => versions.len().checked_sub(1),
            Some(id) => versions.iter().position(|v| v.id == id),
        };
        at.and_then(|at| versions.get_mut(at))
            .filter(|v| v.content.is_some())
            .ok_or_else(|| s3_error!(NoSuchVersion, "The specified version does not exist."))
    }

    /// What a test sees.
    pub fn seen(&self, bucket: &str) -> Vec<Seen> {
        let Some(bucket) = self.buckets.get(bucket) else {
            return Vec::new();
        };
        let mut out = Vec::new();
        for (key, versions) in &bucket.keys {
            for (n, v) in versions.iter().enumerate() {
                out.push(Seen {
                    key: key.clone(),
                    version: v.id.clone(),
                    newest: n + 1 == versions.len(),
                    marker: v.content.is_none(),
                    size: v.content.as_ref().map_or(0, |c| c.body.len()),
                    locked_until: v.lock.map(|l| clock::seconds(l.until)),
                });
            }
        }
        out
    }
}

impl Bucket {
    /// The newest version of a key, marker or not.
    pub fn newest(&self, key: &str) -> Option<&Version> {
        self.keys.get(key).and_then(|v| v.last())
    }
    /// A version by its id.
    fn version(&self, key: &str, id: &str) -> S3Result<&Version> {
        self.keys
            .get(key)
            .and_then(|versions| versions.iter().find(|v| v.id == id))
            .ok_or_else(|| s3_error!(NoSuchVersion, "The specified version does not exist."))
    }
    /// A page of the keys that have an object.
    pub fn page(&self, query: &Query<'_>) -> Page {
        let mut page = Page {
            entries: Vec::new(),
            prefixes: Vec::new(),
            next: None,
        };
        let start = query.after.max(query.prefix);
        let range = (Bound::Included(start), Bound::Unbounded);
        let mut last = String::new();
        for (key, versions) in self.keys.range::<str, _>(range) {
            if !key.starts_with(query.prefix) {
                break;
            }
            let shown = versions.iter().rev().find(|v| v.order <= query.newest);
            let Some(version) = shown.filter(|v| v.content.is_some()) else {
                continue;
            };
            let common = query.delimiter.filter(|d| !d.is_empty()).and_then(|d| {
                let rest = &key[query.prefix.len()..];
                rest.find(d)
                    .map(|at| key[..query.prefix.len() + at + d.len()].to_owned())
            });
            let entry = common.as_ref().unwrap_or(key);
            if entry.as_str() <= query.after || page.prefixes.last() == Some(entry) {
                continue;
            }
            if page.entries.len() + page.prefixes.len() == query.limit {
                page.next = Some(last);
                break;
            }
            last = entry.clone();
            match common {
                Some(prefix) => page.prefixes.push(prefix),
                None => page.entries.push((key.clone(), version.clone())),
            }
        }
        page
    }
}

/// `NoSuchKey`.
pub fn no_such_key() -> S3Error {
    s3_error!(NoSuchKey, "The specified key does not exist.")
}

/// The error, with the headers that say that a delete marker is the reason.
fn marked(mut error: S3Error, version: &Version) -> S3Error {
    let mut headers = hyper::HeaderMap::new();
    headers.insert(
        "x-amz-delete-marker",
        hyper::header::HeaderValue::from_static("true"),
    );
    if let Ok(id) = hyper::header::HeaderValue::from_str(&version.id) {
        headers.insert("x-amz-version-id", id);
    }
    headers.insert(
        hyper::header::CONTENT_TYPE,
        hyper::header::HeaderValue::from_static("application/xml"),
    );
    error.set_headers(headers);
    error
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    const NOW: SystemTime = SystemTime::UNIX_EPOCH;

    fn content(text: &'static str) -> Content {
        Content {
            body: Blob::Memory(Bytes::from_static(text.as_bytes())),
            etag: text.into(),
            sums: Sums::default(),
            metadata: None,
            content_type: None,
        }
    }

    fn bucket(versioned: bool, keys: &[&'static str]) -> Objects {
        let mut o = Objects::default();
        let b = Bucket {
            versioned,
            object_lock: versioned,
            ..Bucket::default()
        };
        o.buckets.insert("b".into(), b);
        for key in keys {
            o.put("b", key, content("x"), None, (None, false), NOW)
                .unwrap();
        }
        o
    }

    #[test]
    fn pages_meet_without_gap_or_overlap() {
        let keys = ["a", "a/1", "a/2", "a/b/3", "b", "c/1", "c/2", "d"];
        for delimiter in [None, Some("/"), Some("b")] {
            for prefix in ["", "a", "a/", "c/", "zzz"] {
                let whole = |limit| {
                    let mut o = bucket(false, &keys);
                    let b = o.bucket("b").unwrap();
                    let (mut all, mut after) = (Vec::new(), String::new());
                    loop {
                        let page = b.page(&Query {
                            prefix,
                            delimiter,
                            after: &after,
                            limit,
                            newest: u64::MAX,
                        });
                        let mut names: Vec<_> = page.entries.into_iter().map(|e| e.0).collect();
                        names.extend(page.prefixes);
                        assert!(names.len() <= limit);
                        names.sort();
                        all.extend(names);
                        match page.next {
                            Some(next) => after = next,
                            None => break all,
                        }
                    }
                };
                let expected = whole(100);
                for limit in 1..=9 {
                    assert_eq!(whole(limit), expected, "{prefix} {delimiter:?} {limit}");
                }
                let mut unique = expected.clone();
                unique.dedup();
                assert_eq!(unique, expected);
            }
        }
    }

    #[test]
    fn conditions_have_one_winner_and_markers_count_as_absent() {
        let mut o = bucket(true, &[]);
        let absent = Some(&Condition::Absent);
        let first = Condition::Tag("1".into());
        let mut put =
            |text, condition| o.put("b", "k", content(text), condition, (None, false), NOW);
        put("1", absent).unwrap();
        assert_eq!(
            put("2", absent).unwrap_err().code(),
            &S3ErrorCode::PreconditionFailed
        );
        put("2", Some(&first)).unwrap();
        assert!(put("3", Some(&first)).is_err());
        o.delete("b", "k", None, false, NOW).unwrap();
        o.put("b", "k", content("4"), absent, (None, false), NOW)
            .unwrap();
        assert_eq!(o.seen("b").len(), 4);
    }

    #[test]
    fn a_lock_holds_until_its_time_and_only_grows() {
        let mut o = bucket(true, &[]);
        let later = |s| NOW + Duration::from_secs(s);
        let lock = |mode, s| {
            Some(Lock {
                mode,
                until: later(s),
            })
        };
        let id = o
            .put(
                "b",
                "k",
                content("x"),
                None,
                (lock(LockMode::Compliance, 100), false),
                NOW,
            )
            .unwrap();
        let id = Some(id.as_str());
        let denied = |r: S3Result<()>| {
            assert_eq!(r.unwrap_err().code(), &S3ErrorCode::AccessDenied);
        };
        denied(o.delete("b", "k", id, true, NOW).map(drop));
        denied(o.retain("b", "k", id, lock(LockMode::Compliance, 50), true, NOW));
        denied(o.retain("b", "k", id, lock(LockMode::Governance, 200), true, NOW));
        denied(o.retain("b", "k", id, None, true, NOW));
        o.retain("b", "k", id, lock(LockMode::Compliance, 200), false, NOW)
            .unwrap();
        // without a version: a marker, the version stays
        let (marker, is_marker) = o.delete("b", "k", None, false, NOW).unwrap();
        assert!(is_marker);
        assert!(o.get("b", "k", None).is_err());
        assert!(o.get("b", "k", id).is_ok());
        o.delete("b", "k", marker.as_deref(), false, NOW).unwrap();
        assert!(o.get("b", "k", None).is_ok(), "undeleted");
        denied(o.delete("b", "k", id, false, later(199)).map(drop));
        o.lockable("b", "k", id).unwrap().hold = true;
        denied(o.delete("b", "k", id, false, later(201)).map(drop));
        o.lockable("b", "k", id).unwrap().hold = false;
        o.delete("b", "k", id, false, later(201)).unwrap();
        assert!(o.seen("b").is_empty());
    }

    #[test]
    fn governance_yields_to_the_bypass_only() {
        let mut o = bucket(true, &[]);
        o.bucket("b").unwrap().retention = Some(Retention {
            mode: LockMode::Governance,
            days: 1,
        });
        let id = o
            .put("b", "k", content("x"), None, (None, false), NOW)
            .unwrap();
        assert!(o.delete("b", "k", Some(&id), false, NOW).is_err());
        o.delete("b", "k", Some(&id), true, NOW).unwrap();
    }
}
