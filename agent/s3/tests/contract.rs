//! The contract of a store, against the test server as it should be and as servers are; and against a real server, versitygw, which `tests/s3/server` installs.

mod common;
#[path = "../../engine/tests/conformance/mod.rs"]
mod conformance;

use common::{of, open, options};
use conformance::{Traits, check};
use keepwatch_s3::Checksum;
use keepwatch_s3serve::{Checksums, Conditions, Config, RealServer, Server};

fn run(config: Config, creates_only: bool, checksum: Checksum, many: usize) {
    let server = Server::start(config).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut o = of(dir.path(), &server);
    o.checksum = checksum;
    check(&open(&o), Traits { creates_only, many });
}

#[test]
fn a_server_that_keeps_all_promises() {
    run(Config::default(), true, Checksum::Auto, 2_300);
}

#[test]
fn pages_of_a_few() {
    let mut c = Config::default();
    c.switches.max_keys = 7;
    run(c, true, Checksum::Auto, 100);
}

#[test]
fn conditions_ignored_refused_and_racy() {
    for conditions in [Conditions::Ignored, Conditions::Refused, Conditions::Racy] {
        let mut c = Config::default();
        c.switches.conditions = conditions;
        run(c, false, Checksum::Auto, 20);
    }
}

#[test]
fn all_kinds_of_checksums() {
    for (checksums, wanted) in [
        (Checksums::Ignored, Checksum::Auto),
        (Checksums::RefuseSha256, Checksum::Auto),
        (Checksums::RefuseTrailers, Checksum::Auto),
        (Checksums::StoreThenRefuse, Checksum::Auto),
        (Checksums::Verified, Checksum::Sha256),
        (Checksums::Verified, Checksum::Crc64Nvme),
        (Checksums::Verified, Checksum::None),
    ] {
        let mut c = Config::default();
        c.switches.checksums = checksums;
        run(c, true, wanted, 10);
    }
}

#[test]
fn the_checksum_that_is_sent() {
    for (wanted, header) in [
        (Checksum::Auto, Some("x-amz-checksum-sha256")),
        (Checksum::Crc64Nvme, Some("x-amz-checksum-crc64nvme")),
        (Checksum::None, None),
    ] {
        let server = Server::plain().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let mut o = of(dir.path(), &server);
        o.checksum = wanted;
        let store = open(&o);
        use keepwatch_engine::store::{Name, Store};
        store.put(&Name::Config, b"x").unwrap();
        let put = server
            .requests()
            .into_iter()
            .find(|r| r.operation == "PutObject")
            .unwrap();
        assert_eq!(put.condition.as_deref(), Some("*"));
        assert!(
            put.checksums.iter().map(String::as_str).eq(header),
            "{:?}",
            put.checksums
        );
    }
}

/// Against a real server, when there is one.
#[test]
fn a_real_server() {
    let Some(real) = RealServer::start("versitygw") else {
        return;
    };
    let creates_only = real.fact("conditional_atomic") == Some(true);
    let dir = tempfile::tempdir().unwrap();
    let mut o = options(
        dir.path(),
        real.text("endpoint"),
        real.text("bucket"),
        real.text("access_key"),
        real.text("secret_key"),
    );
    o.region = Some(real.text("region").to_owned());
    o.idle_timeout = std::time::Duration::from_secs(20);
    check(
        &open(&o),
        Traits {
            creates_only,
            many: 1_050,
        },
    );
    // Wrong credentials and a missing bucket are told apart.
    use keepwatch_engine::store::{Fault, Name, Store};
    let mut wrong = options(
        dir.path(),
        real.text("endpoint"),
        real.text("bucket"),
        real.text("access_key"),
        "not the secret",
    );
    wrong.region = o.region.clone();
    let e = open(&wrong).put(&Name::Config, b"x").unwrap_err();
    if real.fact("wrong_credentials") != Some(false) {
        assert_eq!(e.fault, Fault::Denied, "{e}");
    }
    let absent = options(
        dir.path(),
        real.text("endpoint"),
        "keepwatch-no-such-bucket",
        real.text("access_key"),
        real.text("secret_key"),
    );
    let e = open(&absent).put(&Name::Config, b"x").unwrap_err();
    assert!(e.fault != Fault::Missing, "{e}");
}
