//! The server as a good service: what aws-sdk-s3 gets from it, and what it refuses.

mod common;

use std::time::{Duration, SystemTime};

use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::{ByteStream, DateTime};
use aws_sdk_s3::types::*;
use common::{Caller, client, told};
use keepwatch_s3serve::{
    Account, Checksums, Conditions, Config, Group, LockMode, Retention, Server,
};

const B: &str = "keepwatch";

fn bytes(text: &str) -> ByteStream {
    ByteStream::from(text.as_bytes().to_vec())
}

async fn read(c: &Client, key: &str) -> Result<Vec<u8>, (u16, String)> {
    let got = c.get_object().bucket(B).key(key).send().await;
    let said = told(&got);
    match got {
        Ok(answer) => match answer.body.collect().await {
            Ok(all) => Ok(all.into_bytes().to_vec()),
            Err(e) => Err((0, e.to_string())),
        },
        Err(_) => Err(said),
    }
}

async fn put(c: &Client, key: &str, text: &str) -> (u16, String) {
    told(
        &c.put_object()
            .bucket(B)
            .key(key)
            .body(bytes(text))
            .send()
            .await,
    )
}

#[tokio::test]
async fn signatures_are_checked() {
    let server = Server::plain().unwrap();
    let endpoint = server.endpoint();
    let mut who = Caller {
        endpoint: &endpoint,
        region: server.region(),
        access_key: server.access_key(),
        secret_key: server.secret_key(),
        token: None,
        patience: Duration::from_secs(10),
    };
    assert_eq!(put(&who.client(), "a", "x").await.0, 200);
    who.secret_key = "wrong";
    let said = put(&who.client(), "b", "x").await;
    assert_eq!(said, (403, "SignatureDoesNotMatch".into()));
    who.access_key = "AKIANOBODY";
    let said = put(&who.client(), "b", "x").await;
    assert_eq!(said, (403, "InvalidAccessKeyId".into()));
    assert_eq!(server.keys(), ["a"]);
}

#[tokio::test]
async fn accounts_expire_rotate_and_are_limited() {
    let server = Server::plain().unwrap();
    let c = client(&server);
    let mut account = Account::test().without(&[Group::Delete, Group::Lock]);
    server.account(account.clone());
    assert_eq!(put(&c, "a", "x").await.0, 200);
    let denied = (403, "AccessDenied".to_owned());
    let gone = c.delete_object().bucket(B).key("a").send().await;
    assert_eq!(told(&gone), denied);
    let one = ObjectIdentifier::builder().key("a").build().unwrap();
    let all = Delete::builder().objects(one).build().unwrap();
    let many = c.delete_objects().bucket(B).delete(all).send().await;
    assert_eq!(many.unwrap().errors()[0].code(), Some("AccessDenied"));
    assert_eq!(server.keys(), ["a"]);
    server.switch(|s| s.denied.extend([Group::Put, Group::List]));
    assert_eq!(put(&c, "b", "x").await, denied);
    let list = c.list_objects_v2().bucket(B).send().await;
    assert_eq!(told(&list), denied);
    assert_eq!(read(&c, "a").await.unwrap(), b"x");
    account.expired = true;
    server.account(account.clone());
    assert_eq!(read(&c, "a").await, Err((400, "ExpiredToken".into())));
    account.expired = false;
    account.session_token = Some("new".into());
    server.account(account);
    assert_eq!(read(&c, "a").await, Err((400, "InvalidToken".into())));
    let endpoint = server.endpoint();
    let renewed = Caller {
        endpoint: &endpoint,
        region: server.region(),
        access_key: server.access_key(),
        secret_key: server.secret_key(),
        token: Some("new"),
        patience: Duration::from_secs(10),
    };
    assert_eq!(read(&renewed.client(), "a").await.unwrap(), b"x");
    server.remove_account(server.access_key());
    let said = read(&renewed.client(), "a").await;
    assert_eq!(said, Err((403, "InvalidAccessKeyId".into())));
}

#[tokio::test]
async fn objects_come_back_whole_and_in_ranges() {
    for dir in [false, true] {
        let scratch = std::env::temp_dir().join(format!("s3serve-{}", std::process::id()));
        std::fs::create_dir_all(&scratch).unwrap();
        let server = Server::start(Config {
            dir: dir.then(|| scratch.clone()),
            ..Config::default()
        })
        .unwrap();
        let c = client(&server);
        let long: Vec<u8> = (0..1_000_000u32).map(|n| (n * 7 / 3) as u8).collect();
        for (key, body) in [("long", long.clone()), ("empty", Vec::new())] {
            let put = c.put_object().bucket(B).key(key);
            put.body(body.clone().into()).send().await.unwrap();
            assert_eq!(read(&c, key).await.unwrap(), body);
            let head = c.head_object().bucket(B).key(key).send().await.unwrap();
            assert_eq!(head.content_length(), Some(body.len() as i64));
        }
        for (range, part) in [
            ("bytes=0-0", &long[..1]),
            ("bytes=10-19", &long[10..20]),
            ("bytes=999990-2000000", &long[999_990..]),
            ("bytes=-5", &long[999_995..]),
        ] {
            let got = c
                .get_object()
                .bucket(B)
                .key("long")
                .range(range)
                .send()
                .await;
            let got = got.unwrap();
            assert!(got.content_range().is_some());
            assert_eq!(got.content_length(), Some(part.len() as i64));
            let body = got.body.collect().await.unwrap().into_bytes();
            assert_eq!(&body[..], part, "{range}");
        }
        let beyond = c.get_object().bucket(B).key("long").range("bytes=1000000-");
        assert_eq!(told(&beyond.send().await), (416, "InvalidRange".into()));
        assert_eq!(read(&c, "none").await, Err((404, "NoSuchKey".into())));
        let head = c.head_object().bucket(B).key("none").send().await;
        assert_eq!(told(&head).0, 404);
        let other = c.get_object().bucket("other").key("long").send().await;
        assert_eq!(told(&other), (404, "NoSuchBucket".into()));
        for _ in 0..2 {
            c.delete_object()
                .bucket(B)
                .key("long")
                .send()
                .await
                .unwrap();
        }
        assert_eq!(server.keys(), ["empty"]);
        let left = std::fs::read_dir(&scratch).unwrap().count();
        assert_eq!(
            left,
            usize::from(dir),
            "the body of what was deleted is gone"
        );
        drop(server);
        std::fs::remove_dir_all(&scratch).unwrap();
    }
}

#[tokio::test]
async fn odd_names_are_kept() {
    let server = Server::plain().unwrap();
    let c = client(&server);
    let names = ["a b", "a+b", "a%2Fb", "..", "a//b", "ä/ö", "x'\"<&>", "s/"];
    for name in names {
        assert_eq!(put(&c, name, name).await.0, 200, "{name}");
        assert_eq!(read(&c, name).await.unwrap(), name.as_bytes(), "{name}");
    }
    let list = c.list_objects_v2().bucket(B).send().await.unwrap();
    let mut listed: Vec<_> = list.contents().iter().filter_map(|o| o.key()).collect();
    let mut sorted = names;
    sorted.sort();
    assert_eq!(listed, sorted);
    listed.clear();
    let list = c.list_objects_v2().bucket(B);
    let list = list.encoding_type(EncodingType::Url).send().await.unwrap();
    listed.extend(list.contents().iter().filter_map(|o| o.key()));
    assert!(
        listed.contains(&"a%20b") && listed.contains(&"a%252Fb"),
        "{listed:?}"
    );
}

#[tokio::test]
async fn wrong_checksums_are_refused_and_nothing_is_stored() {
    let server = Server::plain().unwrap();
    let c = client(&server);
    let req = || c.put_object().bucket(B).key("k").body(bytes("content"));
    let all = || {
        [
            req().checksum_sha256("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="),
            req().checksum_crc32("AAAAAA=="),
            req().checksum_crc64_nvme("AAAAAAAAAAA="),
            req().content_md5("AAAAAAAAAAAAAAAAAAAAAA=="),
        ]
    };
    for wrong in all() {
        assert_eq!(told(&wrong.send().await), (400, "BadDigest".into()));
    }
    assert!(server.keys().is_empty());
    server.switch(|s| s.checksums = Checksums::StoreThenRefuse);
    let [first, ..] = all();
    assert_eq!(told(&first.send().await), (400, "BadDigest".into()));
    assert_eq!(server.keys(), ["k"]);
    server.switch(|s| s.checksums = Checksums::Ignored);
    for wrong in all() {
        assert_eq!(told(&wrong.send().await).0, 200);
    }
    server.switch(|s| s.checksums = Checksums::RefuseSha256);
    let sha = req()
        .checksum_algorithm(ChecksumAlgorithm::Sha256)
        .send()
        .await;
    assert_eq!(told(&sha), (400, "InvalidRequest".into()));
    assert_eq!(
        told(&req().send().await).0,
        200,
        "crc32 is the SDK's default"
    );
}

#[tokio::test]
async fn right_checksums_of_every_kind_come_back() {
    let server = Server::plain().unwrap();
    let c = client(&server);
    for kind in [
        ChecksumAlgorithm::Crc32,
        ChecksumAlgorithm::Crc64Nvme,
        ChecksumAlgorithm::Sha256,
    ] {
        let key = kind.as_str();
        let req = c.put_object().bucket(B).key(key).body(bytes("content"));
        req.checksum_algorithm(kind.clone()).send().await.unwrap();
        let head = c.head_object().bucket(B).key(key);
        let head = head
            .checksum_mode(ChecksumMode::Enabled)
            .send()
            .await
            .unwrap();
        let sums = [
            head.checksum_crc32(),
            head.checksum_crc64_nvme(),
            head.checksum_sha256(),
        ];
        assert_eq!(sums.iter().flatten().count(), 1, "{key}");
        // the SDK checks them as it reads
        assert_eq!(read(&c, key).await.unwrap(), b"content");
    }
}

#[tokio::test]
async fn conditional_writes_have_one_winner() {
    let server = Server::start(Config {
        versioned: true,
        ..Config::default()
    })
    .unwrap();
    let c = client(&server);
    let new = |key: String, text: String| {
        let req = c.put_object().bucket(B).key(key).if_none_match("*");
        req.body(bytes(&text)).send()
    };
    let mut most = Vec::new();
    for (how, rounds) in [
        (Conditions::Honoured, 10),
        (Conditions::Racy, 2),
        (Conditions::Ignored, 2),
    ] {
        server.switch(|s| s.conditions = how);
        let mut winners = Vec::new();
        for round in 0..rounds {
            let key = format!("{how:?}-{round}");
            let all: Vec<_> = (0..16)
                .map(|n| tokio::spawn(new(key.clone(), n.to_string())))
                .collect();
            let mut won = 0;
            for one in all {
                match told(&one.await.unwrap()) {
                    (200, _) => won += 1,
                    other => assert_eq!(other, (412, "PreconditionFailed".into())),
                }
            }
            winners.push(won);
        }
        most.push(winners);
    }
    assert_eq!(most[0], [1; 10]);
    assert!(most[1].iter().all(|w| *w > 1), "{most:?}");
    assert_eq!(most[2], [16; 2]);
    server.switch(|s| s.conditions = Conditions::Refused);
    let refused = new("r".into(), "x".into()).await;
    assert_eq!(told(&refused), (501, "NotImplemented".into()));
    assert_eq!(put(&c, "r", "x").await.0, 200);
    server.switch(|s| s.conditions = Conditions::Honoured);
    let stale = c.put_object().bucket(B).key("r").if_match("\"stale\"");
    let stale = told(&stale.body(bytes("y")).send().await);
    assert_eq!(stale, (412, "PreconditionFailed".into()));
    assert_eq!(server.body("r").unwrap(), b"x");
}

#[tokio::test]
async fn listings_come_in_pages_and_late() {
    let server = Server::plain().unwrap();
    server.switch(|s| s.max_keys = 100);
    let c = client(&server);
    for n in 0..1050 {
        server.plant(&format!("p/{n:04}"), b"x").unwrap();
    }
    server.plant("q", b"x").unwrap();
    let (mut keys, mut pages, mut token) = (Vec::new(), 0, None);
    loop {
        let page = c.list_objects_v2().bucket(B).prefix("p/");
        let page = page.set_continuation_token(token).send().await.unwrap();
        keys.extend(
            page.contents()
                .iter()
                .filter_map(|o| o.key().map(str::to_owned)),
        );
        pages += 1;
        token = page.next_continuation_token().map(str::to_owned);
        assert_eq!(page.is_truncated(), Some(token.is_some()));
        if token.is_none() {
            break;
        }
    }
    assert_eq!((pages, keys.len()), (11, 1050));
    assert!(keys.is_sorted());
    let own = c.list_objects_v2().bucket(B).continuation_token("p/0100");
    assert_eq!(told(&own.send().await), (400, "InvalidArgument".into()));
    let top = c
        .list_objects_v2()
        .bucket(B)
        .delimiter("/")
        .send()
        .await
        .unwrap();
    assert_eq!(top.common_prefixes()[0].prefix(), Some("p/"));
    assert_eq!(top.contents()[0].key(), Some("q"));
    let count = |prefix: &'static str| {
        let list = c.list_objects_v2().bucket(B).prefix(prefix);
        async { list.send().await.unwrap().contents().len() }
    };
    server.switch(|s| s.list_lag = 1);
    assert_eq!(count("q").await, 0, "the newest write is not listed yet");
    server.plant("r", b"x").unwrap();
    assert_eq!((count("q").await, count("r").await), (1, 0));
}

#[tokio::test]
async fn multipart_uploads() {
    let server = Server::start(Config {
        min_part: 1000,
        ..Config::default()
    })
    .unwrap();
    let c = client(&server);
    let begin = || async {
        let made = c.create_multipart_upload().bucket(B).key("m").send().await;
        made.unwrap().upload_id().unwrap().to_owned()
    };
    let part = |id: String, n: i32, size: usize| {
        let req = c.upload_part().bucket(B).key("m").upload_id(id);
        let req = req.part_number(n).body(vec![n as u8; size].into());
        async move {
            let tag = req.send().await.unwrap().e_tag().unwrap().to_owned();
            CompletedPart::builder().part_number(n).e_tag(tag).build()
        }
    };
    let complete = |id: String, parts: Vec<CompletedPart>| {
        let all = CompletedMultipartUpload::builder()
            .set_parts(Some(parts))
            .build();
        let req = c.complete_multipart_upload().bucket(B).key("m");
        req.upload_id(id).multipart_upload(all)
    };
    let id = begin().await;
    let (one, two) = (
        part(id.clone(), 1, 1000).await,
        part(id.clone(), 2, 10).await,
    );
    let listed = c
        .list_parts()
        .bucket(B)
        .key("m")
        .upload_id(&id)
        .send()
        .await;
    assert_eq!(listed.unwrap().parts().len(), 2);
    let open = c.list_multipart_uploads().bucket(B).send().await.unwrap();
    assert_eq!(open.uploads()[0].upload_id(), Some(id.as_str()));
    let turned = complete(id.clone(), vec![two.clone(), one.clone()])
        .send()
        .await;
    assert_eq!(told(&turned), (400, "InvalidPartOrder".into()));
    let wrong = CompletedPart::builder()
        .part_number(2)
        .e_tag("\"0\"")
        .build();
    let wrong = complete(id.clone(), vec![one.clone(), wrong]).send().await;
    assert_eq!(told(&wrong), (400, "InvalidPart".into()));
    complete(id.clone(), vec![one, two]).send().await.unwrap();
    let body = server.body("m").unwrap();
    assert_eq!((body.len(), body[0], body[1000]), (1010, 1, 2));
    assert_eq!(server.uploads(), 0);
    let id = begin().await;
    let (one, two) = (part(id.clone(), 1, 999).await, part(id.clone(), 2, 1).await);
    let small = complete(id.clone(), vec![one.clone(), two]).send().await;
    assert_eq!(told(&small), (400, "EntityTooSmall".into()));
    let again = complete(id.clone(), vec![one])
        .if_none_match("*")
        .send()
        .await;
    assert_eq!(told(&again), (412, "PreconditionFailed".into()));
    let abort = || {
        c.abort_multipart_upload()
            .bucket(B)
            .key("m")
            .upload_id(&id)
            .send()
    };
    assert_eq!(told(&abort().await).0, 200);
    assert_eq!(told(&abort().await), (404, "NoSuchUpload".into()));
    assert_eq!(server.uploads(), 0);
}

#[tokio::test]
async fn object_lock_keeps_what_the_writer_cannot_destroy() {
    let server = Server::start(Config {
        object_lock: true,
        retention: Some(Retention {
            mode: LockMode::Compliance,
            days: 1,
        }),
        ..Config::default()
    })
    .unwrap();
    let c = client(&server);
    let state = c
        .get_object_lock_configuration()
        .bucket(B)
        .send()
        .await
        .unwrap();
    let rule = state
        .object_lock_configuration()
        .unwrap()
        .rule()
        .unwrap()
        .clone();
    assert_eq!(rule.default_retention().unwrap().days(), Some(1));
    let versioning = c.get_bucket_versioning().bucket(B).send().await.unwrap();
    assert_eq!(versioning.status(), Some(&BucketVersioningStatus::Enabled));
    let stored = c
        .put_object()
        .bucket(B)
        .key("k")
        .body(bytes("x"))
        .send()
        .await;
    let version = stored.unwrap().version_id().unwrap().to_owned();
    let denied = (403, "AccessDenied".to_owned());
    let named = |id: &str| c.delete_object().bucket(B).key("k").version_id(id).send();
    assert_eq!(told(&named(&version).await), denied);
    // a plain delete "succeeds", by a marker
    let plain = c.delete_object().bucket(B).key("k").send().await.unwrap();
    assert_eq!(plain.delete_marker(), Some(true));
    assert_eq!(read(&c, "k").await, Err((404, "NoSuchKey".into())));
    let old = c
        .get_object()
        .bucket(B)
        .key("k")
        .version_id(&version)
        .send()
        .await;
    assert_eq!(told(&old).0, 200);
    let all = c.list_object_versions().bucket(B).send().await.unwrap();
    assert_eq!((all.versions().len(), all.delete_markers().len()), (1, 1));
    assert_eq!(told(&named(plain.version_id().unwrap()).await).0, 200);
    assert_eq!(read(&c, "k").await.unwrap(), b"x");

    let retention = c
        .get_object_retention()
        .bucket(B)
        .key("k")
        .send()
        .await
        .unwrap();
    let until = retention
        .retention()
        .unwrap()
        .retain_until_date()
        .unwrap()
        .secs();
    let retain = |seconds: i64| {
        let new = ObjectLockRetention::builder()
            .mode(ObjectLockRetentionMode::Compliance)
            .retain_until_date(DateTime::from_secs(seconds))
            .build();
        c.put_object_retention()
            .bucket(B)
            .key("k")
            .retention(new)
            .send()
    };
    assert_eq!(told(&retain(until - 60).await), denied, "shorter");
    assert_eq!(told(&retain(until + 60).await).0, 200, "longer");
    // past its time, by the server's clock, it can go; the client's requests are then skewed, so only the store is asked
    server.switch(|s| s.clock_offset_seconds = 86_400 + 120);
    assert_eq!(
        told(&named(&version).await),
        (403, "RequestTimeTooSkewed".into())
    );
    server.switch(|s| s.clock_offset_seconds = 0);

    let explicit = c.put_object().bucket(B).key("e").body(bytes("x"));
    let at = DateTime::from(SystemTime::now() + Duration::from_secs(86_400 * 3));
    let explicit = explicit
        .object_lock_mode(ObjectLockMode::Governance)
        .object_lock_retain_until_date(at);
    let id = explicit
        .send()
        .await
        .unwrap()
        .version_id()
        .unwrap()
        .to_owned();
    let gone = || c.delete_object().bucket(B).key("e").version_id(&id);
    assert_eq!(told(&gone().send().await), denied);
    let bypass = || gone().bypass_governance_retention(true).send();
    server.account(Account::test().without(&[Group::Lock]));
    assert_eq!(told(&bypass().await), denied);
    server.account(Account::test());
    assert_eq!(told(&bypass().await).0, 200);
}

#[tokio::test]
async fn versions_are_listed_in_pages() {
    let server = Server::start(Config {
        versioned: true,
        ..Config::default()
    })
    .unwrap();
    let c = client(&server);
    for n in 0..3 {
        for key in ["a", "b", "c"] {
            put(&c, key, &n.to_string()).await;
        }
    }
    c.delete_object().bucket(B).key("b").send().await.unwrap();
    server.switch(|s| s.max_keys = 2);
    let (mut seen, mut key, mut id) = (Vec::new(), None, None);
    loop {
        let page = c.list_object_versions().bucket(B);
        let page = page.set_key_marker(key).set_version_id_marker(id);
        let page = page.send().await.unwrap();
        let row = |key: Option<&str>, id: Option<&str>| format!("{key:?} {id:?}");
        assert!(page.versions().len() + page.delete_markers().len() <= 2);
        seen.extend(page.versions().iter().map(|v| row(v.key(), v.version_id())));
        let markers = page.delete_markers().iter();
        seen.extend(markers.map(|v| row(v.key(), v.version_id())));
        key = page.next_key_marker().map(str::to_owned);
        id = page.next_version_id_marker().map(str::to_owned);
        if key.is_none() {
            break;
        }
    }
    assert_eq!(seen.len(), 10);
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 10);
}

#[tokio::test]
async fn it_counts_what_was_asked() {
    let server = Server::plain().unwrap();
    let c = client(&server);
    put(&c, "dir/k", "0123456789").await;
    read(&c, "dir/k").await.unwrap();
    read(&c, "none").await.unwrap_err();
    c.list_objects_v2()
        .bucket(B)
        .prefix("dir/")
        .send()
        .await
        .unwrap();
    let stats = server.stats();
    assert_eq!((stats.total, stats.requests["GetObject"]), (4, 2));
    assert_eq!((stats.statuses[&200], stats.statuses[&404]), (3, 1));
    assert!(stats.bytes_in >= 10 && stats.bytes_out > 10, "{stats:?}");
    assert!(
        stats.wire_in > 1000 && stats.wire_out > stats.bytes_out,
        "{stats:?}"
    );
    assert!(stats.connections >= 1);
    let asked = server.requests();
    assert_eq!(asked[0].key, "dir/k");
    assert_eq!(asked[0].access_key, server.access_key());
    assert!(!asked[0].checksums.is_empty());
    assert_eq!(asked[2].code.as_deref(), Some("NoSuchKey"));
    assert_eq!(
        (asked[3].operation.as_str(), asked[3].key.as_str()),
        ("ListObjectsV2", "dir/")
    );
    server.reset();
    assert_eq!((server.stats().total, server.requests().len()), (0, 0));
}

#[tokio::test]
async fn a_body_from_a_file_comes_in_chunks_with_a_trailer() {
    let server = Server::plain().unwrap();
    let c = client(&server);
    let path = std::env::temp_dir().join(format!("s3serve-chunked-{}", std::process::id()));
    let content: Vec<u8> = (0..300_000u32).map(|n| (n / 11) as u8).collect();
    std::fs::write(&path, &content).unwrap();
    let put = async || {
        let body = ByteStream::from_path(&path).await.unwrap();
        told(&c.put_object().bucket(B).key("k").body(body).send().await)
    };
    assert_eq!(put().await.0, 200);
    assert_eq!(server.body("k").unwrap(), content, "without the framing");
    let asked = server.requests();
    assert!(
        asked[0].checksums.contains(&"x-amz-trailer".to_owned()),
        "{asked:?}"
    );
    assert!(asked[0].bytes_in > content.len() as u64, "with the framing");
    server.switch(|s| s.checksums = Checksums::RefuseTrailers);
    assert_eq!(put().await, (400, "InvalidRequest".into()));
    std::fs::remove_file(&path).unwrap();
}
