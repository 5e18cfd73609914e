//! Listing objects and versions.

use super::*;

/// `ListObjectsV2`.
pub async fn list_objects_v2(
    s: &Service,
    req: S3Request<ListObjectsV2Input>,
) -> Answer<ListObjectsV2Output> {
    let input = req.input;
    let switches = s.0.switches();
    let limit = page_limit(input.max_keys, switches.max_keys)?;
    let after = match &input.continuation_token {
        Some(token) => from_token(token)?,
        None => input.start_after.clone().unwrap_or_default(),
    };
    let mut objects = s.0.objects()?;
    let newest = objects.order.saturating_sub(switches.list_lag);
    let page = objects.bucket(&input.bucket)?.page(&Query {
        prefix: input.prefix.as_deref().unwrap_or(""),
        delimiter: input.delimiter.as_deref(),
        after: &after,
        limit,
        newest,
    });
    drop(objects);
    let encode = encoder(input.encoding_type.as_ref());
    let count = page.entries.len() + page.prefixes.len();
    let contents: Vec<Object> = page
        .entries
        .iter()
        .filter_map(|(key, version)| {
            let content = version.content.as_ref()?;
            Some(Object {
                key: Some(encode(key)),
                size: Some(content.body.len() as i64),
                e_tag: tag(&content.etag),
                last_modified: s.stamp(version.modified),
                storage_class: Some(ObjectStorageClass::from_static(
                    ObjectStorageClass::STANDARD,
                )),
                ..Default::default()
            })
        })
        .collect();
    answer(ListObjectsV2Output {
        name: Some(input.bucket),
        prefix: input.prefix.as_deref().map(&encode),
        delimiter: input.delimiter.as_deref().map(&encode),
        start_after: input.start_after.as_deref().map(&encode),
        encoding_type: input.encoding_type,
        continuation_token: input.continuation_token,
        max_keys: Some(limit as i32),
        key_count: Some(count as i32),
        is_truncated: Some(page.next.is_some()),
        next_continuation_token: page.next.as_deref().map(to_token),
        common_prefixes: Some(
            page.prefixes
                .iter()
                .map(|p| CommonPrefix {
                    prefix: Some(encode(p)),
                })
                .collect(),
        ),
        contents: Some(contents),
        ..Default::default()
    })
}

/// `ListObjectVersions`.
pub async fn list_object_versions(
    s: &Service,
    req: S3Request<ListObjectVersionsInput>,
) -> Answer<ListObjectVersionsOutput> {
    let input = req.input;
    let limit = page_limit(input.max_keys, s.0.switches().max_keys)?;
    let prefix = input.prefix.as_deref().unwrap_or("");
    let encode = encoder(input.encoding_type.as_ref());
    let (mut versions, mut markers) = (Vec::new(), Vec::new());
    let mut next = None;
    {
        let mut objects = s.0.objects()?;
        let bucket = objects.bucket(&input.bucket)?;
        // newest first within a key; a page begins after (key marker, version marker)
        let mut waiting = input.version_id_marker.as_deref();
        let all = bucket.keys.iter().flat_map(|(key, list)| {
            let newest = list.len().saturating_sub(1);
            let rows = list.iter().enumerate().rev();
            rows.map(move |(n, v)| (key, v, n == newest))
        });
        let mut last: Option<(String, String)> = None;
        for (key, v, newest) in all.filter(|(key, ..)| key.starts_with(prefix)) {
            if let Some(marker) = input.key_marker.as_deref() {
                if key.as_str() < marker || (key == marker && input.version_id_marker.is_none()) {
                    continue;
                }
                if key == marker && waiting.is_some() {
                    waiting = waiting.filter(|w| *w != v.id);
                    continue;
                }
            }
            if versions.len() + markers.len() == limit {
                next = last;
                break;
            }
            last = Some((key.clone(), v.id.clone()));
            match &v.content {
                Some(content) => versions.push(ObjectVersion {
                    key: Some(encode(key)),
                    version_id: Some(v.id.clone()),
                    is_latest: Some(newest),
                    size: Some(content.body.len() as i64),
                    e_tag: tag(&content.etag),
                    last_modified: s.stamp(v.modified),
                    ..Default::default()
                }),
                None => markers.push(DeleteMarkerEntry {
                    key: Some(encode(key)),
                    version_id: Some(v.id.clone()),
                    is_latest: Some(newest),
                    last_modified: s.stamp(v.modified),
                    ..Default::default()
                }),
            }
        }
    }
    let (next_key, next_id) = next.unzip();
    answer(ListObjectVersionsOutput {
        name: Some(input.bucket),
        prefix: input.prefix,
        key_marker: input.key_marker,
        version_id_marker: input.version_id_marker,
        max_keys: Some(limit as i32),
        is_truncated: Some(next_key.is_some()),
        next_key_marker: next_key,
        next_version_id_marker: next_id,
        versions: Some(versions),
        delete_markers: Some(markers),
        ..Default::default()
    })
}

/// Entries in a page: what the client wants, at most what the server gives.
fn page_limit(wanted: Option<i32>, most: usize) -> S3Result<usize> {
    match usize::try_from(wanted.unwrap_or(i32::MAX)) {
        Ok(n) => Ok(n.min(most)),
        Err(_) => Err(s3_error!(
            InvalidArgument,
            "Argument maxKeys must be an integer between 0 and 2147483647"
        )),
    }
}

/// A continuation token: not the key itself, so that a client that makes its own tokens is found out.
fn to_token(key: &str) -> String {
    format!("t{}", digest::hex(key.as_bytes()))
}

fn from_token(token: &str) -> S3Result<String> {
    let bytes = token.strip_prefix('t').and_then(|hex| {
        let pairs = (0..hex.len()).step_by(2);
        pairs
            .map(|i| u8::from_str_radix(hex.get(i..i + 2)?, 16).ok())
            .collect::<Option<Vec<u8>>>()
    });
    bytes
        .and_then(|b| String::from_utf8(b).ok())
        .ok_or_else(|| {
            s3_error!(
                InvalidArgument,
                "The continuation token provided is incorrect"
            )
        })
}

/// Names as a listing writes them: percent-encoded if the client asked for that.
fn encoder(kind: Option<&EncodingType>) -> impl Fn(&str) -> String + use<> {
    let url = kind.is_some_and(|k| k.as_str() == EncodingType::URL);
    move |text: &str| {
        if !url {
            return text.to_owned();
        }
        let mut out = String::new();
        for b in text.bytes() {
            if b.is_ascii_alphanumeric() || b"-_.~/".contains(&b) {
                out.push(char::from(b));
            } else {
                out.push_str(&format!("%{b:02X}"));
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_back_and_others_are_refused() {
        for key in ["", "packs/00/ab", "ü/ space"] {
            assert_eq!(from_token(&to_token(key)).unwrap(), key);
        }
        for bad in ["", "packs/00", "t0", "tzz", "tff"] {
            assert!(from_token(bad).is_err(), "{bad}");
        }
    }
}
