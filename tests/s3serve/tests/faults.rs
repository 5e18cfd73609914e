//! The server as a bad service: each action, seen from aws-sdk-s3 without retries.

mod common;

use std::time::{Duration, Instant};

use aws_sdk_s3::Client;
use common::{Caller, client, told};
use keepwatch_s3serve::{Action, Config, Rule, Server};

const B: &str = "keepwatch";
const TEN: &[u8] = b"0123456789";

async fn put(c: &Client, key: &str) -> (u16, String) {
    told(
        &c.put_object()
            .bucket(B)
            .key(key)
            .body(TEN.to_vec().into())
            .send()
            .await,
    )
}

/// The body, or how far it came.
async fn get(c: &Client, key: &str) -> Result<Vec<u8>, String> {
    let got = c.get_object().bucket(B).key(key).send().await;
    let said = told(&got);
    match got {
        Err(_) => Err(format!("{} {}", said.0, said.1)),
        Ok(answer) => match answer.body.collect().await {
            Ok(all) => Ok(all.into_bytes().to_vec()),
            Err(_) => Err("body".into()),
        },
    }
}

fn impatient(server: &Server) -> Client {
    Caller {
        endpoint: &server.endpoint(),
        region: server.region(),
        access_key: server.access_key(),
        secret_key: server.secret_key(),
        token: None,
        patience: Duration::from_millis(700),
    }
    .client()
}

#[tokio::test]
async fn error_answers_come_as_often_as_told_and_nothing_is_done() {
    let server = Server::plain().unwrap();
    let c = client(&server);
    for (action, status, code) in [
        (Action::slow_down(None), 503, "SlowDown"),
        (Action::slow_down(Some(7)), 503, "SlowDown"),
        (Action::internal_error(), 500, "InternalError"),
        (Action::conflict(), 409, "ConditionalRequestConflict"),
        (Action::too_many(None), 429, "TooManyRequests"),
        (Action::skewed(), 403, "RequestTimeTooSkewed"),
        (Action::expired(), 400, "ExpiredToken"),
        (Action::error(501, "NotImplemented"), 501, "NotImplemented"),
    ] {
        server.rule(Rule::new(action.clone()).on("put").times(2));
        for _ in 0..2 {
            assert_eq!(put(&c, "k").await, (status, code.into()));
        }
        assert!(server.keys().is_empty(), "{action:?}");
        assert_eq!(put(&c, "k").await.0, 200);
        server.erase("k");
        server.clear_rules();
    }
    server.rule(Rule::new(Action::slow_down(Some(7))));
    let answer = c.get_object().bucket(B).key("k").send().await;
    let error = answer.unwrap_err();
    let raw = error.raw_response().unwrap();
    assert_eq!(raw.headers().get("retry-after"), Some("7"));
}

#[tokio::test]
async fn a_page_that_is_not_s3() {
    let server = Server::plain().unwrap();
    let c = client(&server);
    let page = |status| Action::Page {
        status,
        body: "<html>Please log in</html>".into(),
    };
    server.rule(Rule::new(page(200)).on("list"));
    let list = c.list_objects_v2().bucket(B).send().await;
    assert_ne!(told(&list).0, 0, "an answer came");
    assert!(list.is_err() || list.is_ok_and(|l| l.contents().is_empty()));
    server.rule(Rule::new(page(502)).on("get"));
    assert!(get(&c, "k").await.unwrap_err().starts_with("502"));
}

#[tokio::test]
async fn an_answer_can_be_lost_before_or_after_the_work() {
    let server = Server::plain().unwrap();
    let c = client(&server);
    server.rule(Rule::new(Action::Refuse).on("PutObject").times(1));
    assert_eq!(put(&c, "k").await, (0, "connection".into()));
    assert!(server.keys().is_empty());
    server.clear_rules();
    server.rule(Rule::new(Action::LoseAnswer).on("changing").times(2));
    assert_eq!(put(&c, "k").await, (0, "connection".into()));
    assert_eq!(server.keys(), ["k"]);
    let gone = c.delete_object().bucket(B).key("k").send().await;
    assert_eq!(told(&gone), (0, "connection".into()));
    assert!(server.keys().is_empty());
    assert_eq!(server.stats().statuses[&0], 3);
}

#[tokio::test]
async fn bodies_are_wrong_short_or_slow() {
    let server = Server::plain().unwrap();
    let c = client(&server);
    server.plant("k", TEN).unwrap();
    let with = async |action: Action| {
        server.clear_rules();
        server.rule(Rule::new(action).on("get"));
        let began = Instant::now();
        (get(&c, "k").await, began.elapsed())
    };
    assert_eq!(
        with(Action::Flip { at: 3, bytes: 1 }).await.0.unwrap(),
        b"012\x13456789"
    );
    assert_eq!(with(Action::Shorten { by: 4 }).await.0.unwrap(), b"012345");
    assert_eq!(with(Action::Repeat).await.0.unwrap(), [TEN, TEN].concat());
    for after in [0, 4, 9] {
        assert!(with(Action::Cut { after }).await.0.is_err(), "{after}");
    }
    let (body, time) = with(Action::Stall {
        after: 4,
        ms: Some(300),
    })
    .await;
    assert_eq!(body.unwrap(), TEN);
    assert!(time >= Duration::from_millis(300));
    let (body, time) = with(Action::Slow {
        bytes_per_second: 20,
    })
    .await;
    assert_eq!(body.unwrap(), TEN);
    assert!(time >= Duration::from_millis(400), "{time:?}");
    let (body, time) = with(Action::Delay { ms: 300 }).await;
    assert_eq!(body.unwrap(), TEN);
    assert!(time >= Duration::from_millis(300));
}

#[tokio::test]
async fn a_cut_body_arrives_up_to_the_cut() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let server = Server::plain().unwrap();
    server.rule(Rule::new(Action::Cut { after: 30 }));
    // unsigned, so an error page is cut; what counts is how
    let mut raw = tokio::net::TcpStream::connect(server.address())
        .await
        .unwrap();
    raw.write_all(b"GET /keepwatch/k HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    let mut text = Vec::new();
    raw.read_to_end(&mut text).await.unwrap();
    let text = String::from_utf8(text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 403"), "{head}");
    assert_eq!(body.len(), 30, "{body}");
    let length = head
        .lines()
        .find_map(|l| l.strip_prefix("content-length: "));
    assert!(length.unwrap().parse::<usize>().unwrap() > 30);
}

#[tokio::test]
async fn nothing_comes_any_more() {
    let server = Server::plain().unwrap();
    let c = impatient(&server);
    server.plant("k", TEN).unwrap();
    server.rule(Rule::new(Action::Deaf { after: 2 }).on("put"));
    assert_eq!(put(&c, "new").await, (0, "timeout".into()));
    let stall = Action::Stall { after: 4, ms: None };
    server.rule(Rule::new(stall).on("get"));
    // the head is there, the body never ends
    let answer = c.get_object().bucket(B).key("k").send().await.unwrap();
    let body = tokio::time::timeout(Duration::from_millis(500), answer.body.collect());
    assert!(body.await.is_err());
    assert_eq!(server.keys(), ["k"]);
    let began = Instant::now();
    drop(server);
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "stalled requests do not hold the end up"
    );
}

#[tokio::test]
async fn a_clock_that_is_off_is_told_apart() {
    let server = Server::plain().unwrap();
    let c = client(&server);
    for offset in [-3600, -1000, 1000, 3600] {
        server.switch(|s| s.clock_offset_seconds = offset);
        assert_eq!(
            put(&c, "k").await,
            (403, "RequestTimeTooSkewed".into()),
            "{offset}"
        );
    }
    server.switch(|s| s.clock_offset_seconds = 600);
    // a client that learns from the server's date would have been off by then
    let c = client(&server);
    assert_eq!(put(&c, "k").await.0, 200);
    let head = c.head_object().bucket(B).key("k").send().await.unwrap();
    let ahead = head.last_modified().unwrap().secs()
        - std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap()
            .as_secs() as i64;
    assert!((595..=605).contains(&ahead), "{ahead}");
}

#[tokio::test]
async fn stored_bytes_rot() {
    let server = Server::plain().unwrap();
    let c = client(&server);
    put(&c, "k").await;
    assert!(server.corrupt("k", 3));
    // the checksum that was stored with the object gives it away
    assert_eq!(get(&c, "k").await, Err("body".into()));
    server.plant("n", TEN).unwrap();
    server.corrupt("n", 3);
    assert_eq!(
        get(&c, "n").await.unwrap(),
        b"0122456789",
        "without one, nothing does"
    );
    assert!(!server.corrupt("none", 0));
}

#[tokio::test]
async fn chance_repeats_with_the_seed() {
    let run = async |seed| {
        let server = Server::start(Config {
            seed,
            rules: vec![
                Rule::new(Action::slow_down(None))
                    .on("put")
                    .probability(0.4),
            ],
            ..Config::default()
        })
        .unwrap();
        let c = client(&server);
        let mut said = Vec::new();
        for n in 0..40 {
            said.push(put(&c, &n.to_string()).await.0);
        }
        assert_eq!(
            server.fired() as usize,
            said.iter().filter(|s| **s == 503).count()
        );
        said
    };
    let first = run(1).await;
    assert!(first.contains(&503) && first.contains(&200));
    assert_eq!(first, run(1).await);
    assert_ne!(first, run(2).await);
}

#[tokio::test]
async fn an_answer_before_the_body_was_read() {
    let server = Server::plain().unwrap();
    let c = client(&server);
    server.rule(Rule::new(Action::Answer {
        status: 503,
        code: "SlowDown".into(),
        retry_after: None,
        early: true,
    }));
    let req = c
        .put_object()
        .bucket(B)
        .key("k")
        .body(vec![1; 8 << 20].into());
    let said = told(&req.send().await);
    // whoever still writes may see the reset of the connection before the answer
    assert!(
        said == (503, "SlowDown".into()) || said == (0, "connection".into()),
        "{said:?}"
    );
    assert!(server.keys().is_empty());
    assert_eq!(server.requests()[0].bytes_in, 0);
}
