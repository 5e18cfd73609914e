//! The same requests to our server and to a real one: status and error code must be the same, or the difference is named here with its reason.
//!
//! The real one comes from `tests/s3/server` (versitygw), which installs it when it can. Without it the test says so and passes, unless
//! `KEEPWATCH_REQUIRE_S3` is set.

mod common;

use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::{ByteStream, DateTime};
use aws_sdk_s3::types::*;
use common::{Caller, told};
use keepwatch_s3serve::{RealServer, Server};

/// (step, why our server answers otherwise than the real one)
const DIFFER: &[(&str, &str)] = &[
    (
        "complete out of order",
        "versitygw 1.8 looks at the sizes first: with the small part in front, that is EntityTooSmall; S3 says InvalidPartOrder",
    ),
    (
        "complete an upload that never was",
        "versitygw 1.8 takes the object of that name for the result of an earlier attempt (200); S3 says NoSuchUpload",
    ),
];

/// Steps and what was told, in order.
struct Told(Vec<(&'static str, String)>);

impl Told {
    fn note(&mut self, step: &'static str, said: (u16, String)) {
        // HEAD has no body, so no code
        self.0.push((step, format!("{} {}", said.0, said.1)));
    }
    fn fact(&mut self, step: &'static str, fact: impl std::fmt::Debug) {
        self.0.push((step, format!("{fact:?}")));
    }
}

fn bytes(text: &str) -> ByteStream {
    ByteStream::from(text.as_bytes().to_vec())
}

/// `who` makes a client with another access key and secret.
async fn battery(c: &Client, who: &dyn Fn(Option<&str>, Option<&str>) -> Client) -> Told {
    let mut t = Told(Vec::new());
    let (b, locked) = ("compare-plain", "compare-locked");
    t.note(
        "create bucket",
        told(&c.create_bucket().bucket(b).send().await),
    );
    t.note("head bucket", told(&c.head_bucket().bucket(b).send().await));
    t.note(
        "head no bucket",
        told(&c.head_bucket().bucket("compare-none").send().await).status(),
    );
    t.note(
        "list no bucket",
        told(&c.list_objects_v2().bucket("compare-none").send().await),
    );
    t.note(
        "put no bucket",
        told(
            &c.put_object()
                .bucket("compare-none")
                .key("k")
                .body(bytes("x"))
                .send()
                .await,
        ),
    );
    t.note(
        "wrong secret",
        told(
            &who(None, Some("wrong"))
                .list_objects_v2()
                .bucket(b)
                .send()
                .await,
        ),
    );
    t.note(
        "wrong key id",
        told(
            &who(Some("NOBODY"), None)
                .list_objects_v2()
                .bucket(b)
                .send()
                .await,
        ),
    );
    t.note(
        "get nothing",
        told(&c.get_object().bucket(b).key("none").send().await),
    );
    t.note(
        "head nothing",
        told(&c.head_object().bucket(b).key("none").send().await).status(),
    );
    t.note(
        "delete nothing",
        told(&c.delete_object().bucket(b).key("none").send().await),
    );
    let put = || c.put_object().bucket(b).key("k").body(bytes("0123456789"));
    t.note("put new", told(&put().if_none_match("*").send().await));
    t.note(
        "put again if none",
        told(&put().if_none_match("*").send().await),
    );
    t.note(
        "put if match, wrong",
        told(&put().if_match("\"0123\"").send().await),
    );
    let none = c
        .put_object()
        .bucket(b)
        .key("none")
        .body(bytes("x"))
        .if_match("\"0123\"");
    t.note("put if match, nothing there", told(&none.send().await));
    let etag = c.head_object().bucket(b).key("k").send().await.unwrap();
    t.fact("etag", etag.e_tag());
    t.note(
        "put if match, right",
        told(&put().if_match(etag.e_tag().unwrap()).send().await),
    );
    let zero = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    t.note(
        "wrong sha256",
        told(&put().key("bad").checksum_sha256(zero).send().await),
    );
    t.note(
        "wrong crc32",
        told(&put().key("bad").checksum_crc32("AAAAAA==").send().await),
    );
    t.note(
        "wrong crc64",
        told(
            &put()
                .key("bad")
                .checksum_crc64_nvme("AAAAAAAAAAA=")
                .send()
                .await,
        ),
    );
    t.note(
        "wrong md5",
        told(
            &put()
                .key("bad")
                .content_md5("AAAAAAAAAAAAAAAAAAAAAA==")
                .send()
                .await,
        ),
    );
    t.note(
        "nothing stored",
        told(&c.get_object().bucket(b).key("bad").send().await),
    );
    let sha = put()
        .key("sha")
        .checksum_algorithm(ChecksumAlgorithm::Sha256)
        .send()
        .await;
    t.fact(
        "sha256 said back",
        sha.map(|s| s.checksum_sha256().map(str::to_owned)).ok(),
    );
    for (step, range) in [
        ("range", "bytes=2-4"),
        ("range over the end", "bytes=8-99"),
        ("suffix", "bytes=-3"),
        ("range beyond", "bytes=10-"),
    ] {
        let got = c.get_object().bucket(b).key("k").range(range).send().await;
        t.note(step, told(&got));
        if let Ok(got) = got {
            t.fact("content range", (got.content_range(), got.content_length()));
            let body = got.body.collect().await.map(|all| all.into_bytes());
            t.fact("its bytes", body.ok());
        }
    }
    for n in 0..12 {
        let put = c.put_object().bucket(b).key(format!("d/{}/{n:02}", n % 3));
        put.body(bytes("x")).send().await.unwrap();
    }
    let (mut names, mut pages, mut token) = (Vec::new(), 0, None);
    loop {
        let page = c.list_objects_v2().bucket(b).prefix("d/").max_keys(5);
        let page = page.set_continuation_token(token).send().await.unwrap();
        let key = |o: &Object| Some((o.key()?.to_owned(), o.size()));
        names.extend(page.contents().iter().filter_map(key));
        pages += 1;
        token = page.next_continuation_token().map(str::to_owned);
        if token.is_none() {
            break;
        }
    }
    t.fact("pages of a listing", (pages, names));
    let folders = c.list_objects_v2().bucket(b).prefix("d/").delimiter("/");
    let folders = folders.send().await.unwrap();
    let prefixes: Vec<_> = folders
        .common_prefixes()
        .iter()
        .map(|p| p.prefix())
        .collect();
    t.fact("common prefixes", (prefixes, folders.contents().len()));
    let names = ["d/0/00", "d/none"].map(|k| ObjectIdentifier::builder().key(k).build().unwrap());
    let all = Delete::builder()
        .set_objects(Some(names.to_vec()))
        .build()
        .unwrap();
    let many = c.delete_objects().bucket(b).delete(all).send().await;
    t.note("delete many", told(&many));
    t.fact("of which failed", many.map(|m| m.errors().len()).ok());

    let begun = c
        .create_multipart_upload()
        .bucket(b)
        .key("m")
        .send()
        .await
        .unwrap();
    let id = begun.upload_id().unwrap();
    let mut parts = Vec::new();
    for n in 1..=2 {
        let part = c
            .upload_part()
            .bucket(b)
            .key("m")
            .upload_id(id)
            .part_number(n);
        let size = if n == 1 { 5 << 20 } else { 10 };
        let part = part.body(vec![n as u8; size].into()).send().await.unwrap();
        let part = CompletedPart::builder()
            .part_number(n)
            .e_tag(part.e_tag().unwrap());
        parts.push(part.build());
    }
    let listed = c.list_parts().bucket(b).key("m").upload_id(id).send().await;
    t.fact("parts", listed.map(|l| l.parts().len()).ok());
    let complete = |parts: Vec<CompletedPart>, id: &str| {
        let all = CompletedMultipartUpload::builder()
            .set_parts(Some(parts))
            .build();
        let req = c.complete_multipart_upload().bucket(b).key("m");
        req.upload_id(id).multipart_upload(all)
    };
    let turned = parts.iter().rev().cloned().collect();
    t.note(
        "complete out of order",
        told(&complete(turned, id).send().await),
    );
    let done = complete(parts.clone(), id).send().await;
    t.note("complete", told(&done));
    t.fact(
        "etag of parts",
        done.map(|d| d.e_tag().map(str::to_owned)).ok(),
    );
    t.note(
        "complete an upload that never was",
        told(&complete(parts, "no-such-upload").send().await),
    );
    let begun = c
        .create_multipart_upload()
        .bucket(b)
        .key("m")
        .send()
        .await
        .unwrap();
    let abort = || {
        let req = c.abort_multipart_upload().bucket(b).key("m");
        req.upload_id(begun.upload_id().unwrap()).send()
    };
    t.note("abort", told(&abort().await));
    t.note("abort again", told(&abort().await));

    t.note(
        "no lock configuration",
        told(&c.get_object_lock_configuration().bucket(b).send().await),
    );
    let made = c
        .create_bucket()
        .bucket(locked)
        .object_lock_enabled_for_bucket(true);
    t.note("create with lock", told(&made.send().await));
    let config = c
        .get_object_lock_configuration()
        .bucket(locked)
        .send()
        .await;
    t.note("lock configuration", told(&config));
    let versioning = c
        .get_bucket_versioning()
        .bucket(locked)
        .send()
        .await
        .unwrap();
    t.fact("versioning", versioning.status());
    let now = std::time::SystemTime::now();
    let until = |s| DateTime::from(now + Duration::from_secs(s));
    let put = |bucket, mode: &str| {
        let req = c.put_object().bucket(bucket).key("k").body(bytes("x"));
        req.object_lock_mode(mode.into())
            .object_lock_retain_until_date(until(3600))
            .send()
    };
    t.note("lock in a plain bucket", told(&put(b, "COMPLIANCE").await));
    let stored = put(locked, "COMPLIANCE").await.unwrap();
    let version = stored.version_id().unwrap().to_owned();
    let named = |id: &str| {
        c.delete_object()
            .bucket(locked)
            .key("k")
            .version_id(id)
            .send()
    };
    t.note("destroy a locked version", told(&named(&version).await));
    let plain = c.delete_object().bucket(locked).key("k").send().await;
    t.note("delete without a version", told(&plain));
    let plain = plain.unwrap();
    t.fact("is a marker", plain.delete_marker());
    t.note(
        "get behind a marker",
        told(&c.get_object().bucket(locked).key("k").send().await),
    );
    let old = c
        .get_object()
        .bucket(locked)
        .key("k")
        .version_id(&version)
        .send()
        .await;
    t.note("get the version", told(&old));
    let all = c
        .list_object_versions()
        .bucket(locked)
        .send()
        .await
        .unwrap();
    t.fact(
        "versions and markers",
        (all.versions().len(), all.delete_markers().len()),
    );
    t.note(
        "remove the marker",
        told(&named(plain.version_id().unwrap()).await),
    );
    t.note(
        "get again",
        told(&c.get_object().bucket(locked).key("k").send().await),
    );
    let retain = |s| {
        let new = ObjectLockRetention::builder()
            .mode(ObjectLockRetentionMode::Compliance)
            .retain_until_date(until(s));
        let req = c.put_object_retention().bucket(locked).key("k");
        req.retention(new.build()).send()
    };
    t.note("shorten a lock", told(&retain(1800).await));
    t.note("lengthen a lock", told(&retain(7200).await));
    // the status only: versitygw 1.8.0 calls the root element of its answer ObjectLockRetention, which the SDK does not read
    let is = c
        .get_object_retention()
        .bucket(locked)
        .key("k")
        .send()
        .await;
    t.note("get a lock", told(&is).status());
    let stored = put(locked, "GOVERNANCE").await.unwrap();
    let id = stored.version_id().unwrap();
    t.note("destroy under governance", told(&named(id).await));
    let req = c.delete_object().bucket(locked).key("k").version_id(id);
    t.note(
        "with the bypass",
        told(&req.bypass_governance_retention(true).send().await),
    );
    t
}

/// Only the status, where there is no body.
trait Status {
    fn status(self) -> (u16, String);
}

impl Status for (u16, String) {
    fn status(self) -> (u16, String) {
        (self.0, String::new())
    }
}

#[tokio::test]
async fn our_server_answers_as_a_real_one() {
    let Some(real) = RealServer::start("versitygw") else {
        return;
    };
    let ours = Server::plain().unwrap();
    let (endpoint, region) = (ours.endpoint(), ours.region().to_owned());
    let at = |endpoint: &str, region: &str, key: &str, secret: &str| {
        Caller {
            endpoint,
            region,
            access_key: key,
            secret_key: secret,
            token: None,
            patience: Duration::from_secs(60),
        }
        .client()
    };
    let our = |key: Option<&str>, secret: Option<&str>| {
        let (key, secret) = (
            key.unwrap_or(ours.access_key()),
            secret.unwrap_or(ours.secret_key()),
        );
        at(&endpoint, &region, key, secret)
    };
    let their = |key: Option<&str>, secret: Option<&str>| {
        let key = key.unwrap_or(real.text("access_key"));
        let secret = secret.unwrap_or(real.text("secret_key"));
        at(real.text("endpoint"), real.text("region"), key, secret)
    };
    let told_by_ours = battery(&our(None, None), &our).await.0;
    let told_by_theirs = battery(&their(None, None), &their).await.0;
    assert!(told_by_ours.len() > 60);
    assert_eq!(
        told_by_ours.len(),
        told_by_theirs.len(),
        "the same steps were taken"
    );
    let mut wrong = Vec::new();
    for (a, b) in told_by_ours.iter().zip(&told_by_theirs) {
        let known = DIFFER.iter().any(|d| d.0 == a.0);
        if (a == b) == known {
            wrong.push(format!("{}: ours {}, theirs {}", a.0, a.1, b.1));
        }
    }
    let name = format!("{} {}", real.text("name"), real.text("version"));
    assert!(wrong.is_empty(), "against {name}:\n{}", wrong.join("\n"));
}
