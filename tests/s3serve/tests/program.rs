//! The command, as tests in other languages use it.

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{Caller, told};
use serde_json::{Value, json};

struct Program {
    child: Child,
    said: Value,
}

impl Program {
    fn start(args: &[&str]) -> Program {
        let mut child = Command::new(env!("CARGO_BIN_EXE_keepwatch-s3serve"))
            .args(args)
            .arg("--until-eof")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let said = serde_json::from_str(&line).unwrap();
        Program { child, said }
    }
    fn text(&self, name: &str) -> &str {
        self.said[name].as_str().unwrap()
    }
    /// One request to the control endpoint.
    fn control(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let at = self.text("control").strip_prefix("http://").unwrap();
        let mut stream = TcpStream::connect(at).unwrap();
        let body = body.to_string();
        let length = body.len();
        let head = "host: x\r\nconnection: close\r\n";
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\n{head}content-length: {length}\r\n\r\n{body}"
        )
        .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, serde_json::from_str(body).unwrap())
    }
    /// Ends it by the end of its input.
    fn end(mut self) {
        drop(self.child.stdin.take());
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                assert!(status.success());
                return;
            }
            assert!(began.elapsed() < Duration::from_secs(10), "it does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn it_serves_is_controlled_and_ends() {
    let rule =
        r#"{"on":["list"],"times":1,"action":{"do":"answer","status":500,"code":"InternalError"}}"#;
    let lock = "compliance:2";
    let program = Program::start(&[
        "--bucket",
        "bucket-1",
        "--object-lock",
        lock,
        "--rule",
        rule,
    ]);
    let c = Caller {
        endpoint: program.text("endpoint"),
        region: program.text("region"),
        access_key: program.text("access_key"),
        secret_key: program.text("secret_key"),
        token: None,
        patience: Duration::from_secs(10),
    }
    .client();
    let put = || {
        c.put_object()
            .bucket("bucket-1")
            .key("k")
            .body(b"xyz".to_vec().into())
            .send()
    };
    let list = || c.list_objects_v2().bucket("bucket-1").send();
    assert_eq!(told(&put().await).0, 200);
    assert_eq!(told(&list().await), (500, "InternalError".into()));
    assert_eq!(told(&list().await).0, 200);
    let denied = json!({ "denied": ["put"] });
    assert_eq!(program.control("PATCH", "/switches", &denied).0, 200);
    assert_eq!(told(&put().await), (403, "AccessDenied".into()));
    let (_, switches) = program.control("GET", "/switches", &Value::Null);
    assert_eq!(
        (&switches["max_keys"], &switches["denied"]),
        (&json!(1000), &json!(["put"]))
    );
    let rule = json!([{ "on": ["GetObject"], "action": { "do": "lose-answer" } }]);
    assert_eq!(program.control("POST", "/rules", &rule).0, 200);
    let get = c.get_object().bucket("bucket-1").key("k").send().await;
    assert_eq!(told(&get), (0, "connection".into()));
    let (_, rules) = program.control("GET", "/rules", &Value::Null);
    assert_eq!(rules.as_array().unwrap().len(), 2);
    assert_eq!(rules[1]["fired"], 1);
    let (_, objects) = program.control("GET", "/objects", &Value::Null);
    assert_eq!(
        (&objects[0]["key"], &objects[0]["size"]),
        (&json!("k"), &json!(3))
    );
    assert!(objects[0]["locked_until"].as_i64().unwrap() > 0);
    let (_, stats) = program.control("GET", "/stats", &Value::Null);
    assert_eq!(stats["requests"]["PutObject"], 2);
    let (_, done) = program.control("POST", "/objects/corrupt", &json!({ "key": "k" }));
    assert_eq!(done, json!(true));
    assert_eq!(
        program
            .control("PATCH", "/switches", &json!({ "dinied": [] }))
            .0,
        400
    );
    assert_eq!(program.control("GET", "/nothing", &Value::Null).0, 404);
    program.end();
}

#[tokio::test]
async fn the_proxy_is_a_program_too() {
    let server = Program::start(&["serve"]);
    let at = server
        .text("endpoint")
        .strip_prefix("http://")
        .unwrap()
        .to_owned();
    let proxy = Program::start(&["proxy", "--upstream", &at]);
    let list = async || {
        let c = Caller {
            endpoint: proxy.text("endpoint"),
            region: server.text("region"),
            access_key: server.text("access_key"),
            secret_key: server.text("secret_key"),
            token: None,
            patience: Duration::from_secs(10),
        }
        .client();
        told(&c.list_objects_v2().bucket("keepwatch").send().await)
    };
    assert_eq!(list().await.0, 200);
    let rule = json!({ "times": 1, "fault": { "side": "down", "after": 5, "cause": "reset" } });
    assert_eq!(proxy.control("POST", "/rules", &rule).0, 200);
    assert_eq!(list().await.0, 0);
    assert_eq!(list().await.0, 200);
    let (_, stats) = proxy.control("GET", "/stats", &Value::Null);
    assert_eq!(
        (&stats["connections"], &stats["faults"]),
        (&json!(3), &json!(1))
    );
    proxy.end();
    server.end();
}
