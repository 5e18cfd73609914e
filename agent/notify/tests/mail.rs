//! Mail: against a server written here that behaves well or badly, and against Debian's aiosmtpd.

mod common;

use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::*;
use keepwatch_model::check::Severity;
use keepwatch_notify::alert::Alert;
use keepwatch_notify::fault::Fault;
use keepwatch_notify::http::Net;
use keepwatch_notify::medium::Medium;
use keepwatch_notify::medium::mail::{Security, Settings};
use keepwatch_notify::plan::{Message, Next, Plan, State};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

const PASSWORD: &str = "canary-password-0123";

fn message_of(alerts: &[Alert]) -> Message {
    let mut p = Plan::new([("a".to_owned(), hasty())].into(), State::default());
    p.observe(now(), alerts);
    match p.next("a", now()) {
        Next::Send(m) => *m,
        other => panic!("{other:?}"),
    }
}

fn settings(port: u16, security: Security) -> Settings {
    Settings {
        server: "localhost".into(),
        port: Some(port),
        security,
        from: "Keepwatch <agent@example.org>".into(),
        to: vec!["a@example.org".into(), "b@example.org".into()],
        username: None,
        password_file: None,
    }
}

async fn send(s: Settings, net: &Net, m: &Message) -> Result<(), Fault> {
    tokio::time::timeout(
        Duration::from_secs(15),
        Medium::Mail(s).send(net, "h1", m, now()),
    )
    .await
    .expect("it ends")
}

/// How the server behaves.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Manner {
    Good,
    NoStarttls,
    InjectsBeforeTls,
    WrongPassword,
    RefusesRecipient,
    BusyAtData,
    EndlessLine,
    Silent,
    Garbage,
    EchoesPassword,
    HangsUpAfterData,
}

/// A mail server of one conversation at a time; what it heard, line by line.
struct Server {
    port: u16,
    heard: Arc<Mutex<Vec<String>>>,
    net: Net,
    _dir: tempfile::TempDir,
}

impl Server {
    async fn new(manner: Manner, security: Security) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ca_key = KeyPair::generate().unwrap();
        let mut ca = CertificateParams::new(vec![]).unwrap();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        std::fs::write(
            dir.path().join("ca.pem"),
            ca.self_signed(&ca_key).unwrap().pem(),
        )
        .unwrap();
        let key = KeyPair::generate().unwrap();
        let cert = CertificateParams::new(vec!["localhost".into()])
            .unwrap()
            .signed_by(&key, &Issuer::new(ca, ca_key))
            .unwrap();
        let config = rustls::ServerConfig::builder_with_provider(Arc::new(
            rustls::crypto::ring::default_provider(),
        ))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![cert.der().clone()],
            rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        )
        .unwrap();
        let tls = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let heard: Arc<Mutex<Vec<String>>> = Arc::default();
        let ears = Arc::clone(&heard);
        tokio::spawn(async move {
            loop {
                let Ok((s, _)) = listener.accept().await else {
                    return;
                };
                let (tls, ears) = (tls.clone(), Arc::clone(&ears));
                tokio::spawn(async move {
                    match security {
                        Security::Tls => {
                            if let Ok(s) = tls.accept(s).await {
                                let _ = converse(s, manner, false, &ears, true).await;
                            }
                        }
                        Security::None => {
                            let _ = converse(s, manner, false, &ears, true).await;
                        }
                        Security::Starttls => {
                            let Ok(Some(s)) = converse(s, manner, true, &ears, true).await else {
                                return;
                            };
                            if let Ok(s) = tls.accept(s).await {
                                ears.lock().unwrap().push("<TLS>".into());
                                let _ = converse(s, manner, false, &ears, false).await;
                            }
                        }
                    }
                });
            }
        });
        let net = Net::new(Some(dir.path().join("ca.pem")));
        Self {
            port,
            heard,
            net,
            _dir: dir,
        }
    }

    fn heard(&self) -> Vec<String> {
        self.heard.lock().unwrap().clone()
    }
}

/// Returns the stream when TLS is to begin.
async fn converse<S: AsyncRead + AsyncWrite + Unpin>(
    s: S,
    manner: Manner,
    starttls: bool,
    ears: &Mutex<Vec<String>>,
    greet: bool,
) -> std::io::Result<Option<S>> {
    let mut s = BufReader::new(s);
    if greet {
        match manner {
            Manner::Silent => tokio::time::sleep(Duration::from_secs(600)).await,
            Manner::Garbage => {
                s.write_all(&[0xff; 3000]).await?;
                s.write_all(b"\r\n").await?;
            }
            _ => s.write_all(b"220-hello\r\n220 there\r\n").await?,
        }
    }
    let mut data = false;
    loop {
        let mut line = String::new();
        if s.read_line(&mut line).await? == 0 {
            return Ok(None);
        }
        let line = line.trim_end_matches("\r\n").to_owned();
        ears.lock().unwrap().push(line.clone());
        if data {
            if line == "." {
                data = false;
                match manner {
                    Manner::HangsUpAfterData => return Ok(None),
                    _ => s.write_all(b"250 taken\r\n").await?,
                }
            }
            continue;
        }
        let word = line
            .split(' ')
            .next()
            .unwrap_or_default()
            .to_ascii_uppercase();
        let reply: Vec<u8> = match word.as_str() {
            "EHLO" if manner == Manner::EndlessLine => {
                let flood = vec![b'x'; 64 << 10];
                loop {
                    s.write_all(&flood).await?;
                }
            }
            "EHLO" if starttls && manner != Manner::NoStarttls => {
                b"250-localhost\r\n250-STARTTLS\r\n250 8BITMIME\r\n".to_vec()
            }
            "EHLO" if starttls => b"250-localhost\r\n250 8BITMIME\r\n".to_vec(),
            "EHLO" => b"250-localhost\r\n250-8BITMIME\r\n250 AUTH PLAIN LOGIN\r\n".to_vec(),
            "STARTTLS" if manner == Manner::InjectsBeforeTls => {
                b"220 go\r\n250 injected\r\n".to_vec()
            }
            "STARTTLS" => {
                s.write_all(b"220 go\r\n").await?;
                return Ok(Some(s.into_inner()));
            }
            "AUTH" if manner == Manner::WrongPassword => b"535 5.7.8 wrong\r\n".to_vec(),
            "AUTH" if manner == Manner::EchoesPassword => {
                format!("535 5.7.8 {PASSWORD} is not\r\n").into_bytes()
            }
            "AUTH" => b"235 welcome\r\n".to_vec(),
            "RCPT" if manner == Manner::RefusesRecipient => {
                b"550 5.1.1 nobody\x1b[31m here\r\n".to_vec()
            }
            "DATA" if manner == Manner::BusyAtData => b"451 4.3.0 later\r\n".to_vec(),
            "DATA" => {
                data = true;
                b"354 go on\r\n".to_vec()
            }
            "QUIT" => {
                s.write_all(b"221 bye\r\n").await?;
                return Ok(None);
            }
            _ => b"250 ok\r\n".to_vec(),
        };
        s.write_all(&reply).await?;
    }
}

#[tokio::test]
async fn delivered_in_each_kind_of_security() {
    let dir = tempfile::tempdir().unwrap();
    // A line that begins with a dot, and one that would end the data.
    let m = message_of(&[alert("web").description(".\r\n.\r\nMAIL FROM:<x@y>")]);
    for security in [Security::None, Security::Tls, Security::Starttls] {
        let server = Server::new(Manner::Good, security).await;
        let mut s = settings(server.port, security);
        s.username = Some("agent".into());
        s.password_file = Some(secret(&dir, "password", PASSWORD));
        send(s, &server.net, &m)
            .await
            .unwrap_or_else(|e| panic!("{security:?}: {e}"));
        let heard = server.heard();
        let find = |what: &str| {
            heard
                .iter()
                .position(|l| l.starts_with(what))
                .unwrap_or_else(|| panic!("{what} in {heard:?}"))
        };
        assert!(find("AUTH PLAIN ") < find("MAIL FROM:<agent@example.org>"));
        assert!(find("RCPT TO:<a@example.org>") < find("RCPT TO:<b@example.org>"));
        assert!(find("Subject: FIRING critical: KeepwatchCheckDown on h1") > find("DATA"));
        assert_eq!(
            heard.iter().filter(|l| l.starts_with("MAIL FROM:")).count(),
            1
        );
        assert_eq!(heard.iter().filter(|l| *l == ".").count(), 1);
        if security == Security::Starttls {
            let tls = find("<TLS>");
            assert!(find("STARTTLS") < tls && tls < find("AUTH"));
            assert_eq!(heard[..tls], ["EHLO localhost", "STARTTLS"]);
        }
    }
}

#[tokio::test]
async fn bad_manners() {
    let dir = tempfile::tempdir().unwrap();
    let m = message_of(&[alert("web")]);
    for (manner, security, later, says) in [
        (
            Manner::NoStarttls,
            Security::Starttls,
            true,
            "does not offer STARTTLS",
        ),
        (
            Manner::InjectsBeforeTls,
            Security::Starttls,
            true,
            "more than the mail server's answer",
        ),
        (Manner::WrongPassword, Security::None, true, "cannot log in"),
        (
            Manner::EchoesPassword,
            Security::None,
            true,
            "cannot log in",
        ),
        (
            Manner::RefusesRecipient,
            Security::None,
            false,
            "refused the message (550",
        ),
        (Manner::BusyAtData, Security::None, true, "not ready (451"),
        (Manner::EndlessLine, Security::None, true, ""),
        (
            Manner::EndlessLine,
            Security::Starttls,
            true,
            "says too much",
        ),
        (Manner::Garbage, Security::None, true, ""),
        (Manner::Garbage, Security::Starttls, true, "instead of 220"),
        (Manner::HangsUpAfterData, Security::None, true, ""),
    ] {
        let server = Server::new(manner, security).await;
        let mut s = settings(server.port, security);
        s.username = Some("agent".into());
        s.password_file = Some(secret(&dir, "password", PASSWORD));
        let fault = send(s, &server.net, &m)
            .await
            .expect_err("it is not delivered");
        let text = fault.to_string();
        assert_eq!(matches!(fault, Fault::Later { .. }), later, "{text}");
        assert!(text.contains(says), "{text}");
        assert!(
            !text.contains("canary")
                && !text.contains(|c: char| c.is_control())
                && text.len() < 500,
            "{text}"
        );
        if security == Security::Starttls {
            let heard = server.heard().join("\n");
            assert!(
                !heard.contains("MAIL") && !heard.contains("AUTH"),
                "nothing is said without TLS: {heard}"
            );
        }
    }
    // One that says nothing: given up by whoever set the time.
    let server = Server::new(Manner::Silent, Security::None).await;
    let medium = Medium::Mail(settings(server.port, Security::None));
    assert!(
        tokio::time::timeout(
            Duration::from_millis(500),
            medium.send(&server.net, "h", &m, now())
        )
        .await
        .is_err()
    );
    // A server whose certificate nobody made whom we trust.
    let (server, other) = (
        Server::new(Manner::Good, Security::Tls).await,
        Server::new(Manner::Good, Security::Tls).await,
    );
    let text = send(settings(server.port, Security::Tls), &other.net, &m)
        .await
        .unwrap_err()
        .to_string();
    assert!(text.contains("nobody whom this host trusts"), "{text}");
    assert!(server.heard().is_empty());
}

/// Hostile alerts to a real server: one message, no header and no recipient more than ours.
#[tokio::test]
async fn aiosmtpd_takes_hostile_texts_as_text() {
    // The first may be one that does not see the system's packages.
    let python = ["python3", "/usr/bin/python3"].into_iter().find(|python| {
        Command::new(python)
            .args(["-c", "import aiosmtpd"])
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|s| s.success())
    });
    let Some(python) = python else {
        assert!(
            std::env::var_os("CI").is_none(),
            "aiosmtpd is missing in CI"
        );
        eprintln!("SKIPPED: aiosmtpd is not here; install Debian's python3-aiosmtpd");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let port = {
        let l = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        l.local_addr().unwrap().port()
    };
    let maildir = dir.path().join("mail");
    let mut server = tokio::process::Command::new(python)
        .args([
            "-m",
            "aiosmtpd",
            "-n",
            "-l",
            &format!("127.0.0.1:{port}"),
            "-c",
            "aiosmtpd.handlers.Mailbox",
        ])
        .arg(&maildir)
        .kill_on_drop(true)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    until("aiosmtpd listens", Duration::from_secs(20), || {
        std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
    })
    .await;
    let hostile = [
        "x\r\nBcc: victim@example.org\r\n\r\nbody",
        ".\r\n.\r\nRCPT TO:<victim@example.org>",
        "\x1b[31mred\u{202e}\u{200b}\0",
        "<b>&amp;</b> =?UTF-8?Q?=0D=0ABcc:_v?=",
    ];
    let alerts: Vec<_> = hostile
        .iter()
        .map(|t| {
            Alert::new(t, Severity::Critical, now())
                .label("check", t)
                .summary(t)
                .description(&t.repeat(50))
        })
        .collect();
    let net = Net::new(None);
    for a in &alerts {
        send(
            settings(port, Security::None),
            &net,
            &message_of(std::slice::from_ref(a)),
        )
        .await
        .unwrap();
    }
    let long = Alert::new("Long", Severity::Critical, now()).summary(&"ü".repeat(1 << 20));
    send(settings(port, Security::None), &net, &message_of(&[long]))
        .await
        .unwrap();
    let mails: Vec<String> = std::fs::read_dir(maildir.join("new"))
        .unwrap()
        .map(|f| std::fs::read_to_string(f.unwrap().path()).unwrap())
        .collect();
    assert_eq!(mails.len(), alerts.len() + 1);
    for mail in &mails {
        let (headers, _) = mail.split_once("\n\n").unwrap();
        let mut names: Vec<_> = headers
            .lines()
            .filter(|l| !l.starts_with([' ', '\t']))
            .map(|l| l.split(':').next().unwrap())
            .collect();
        names.retain(|n| !["X-Peer", "X-MailFrom", "X-RcptTo"].contains(n));
        names.sort_unstable();
        assert_eq!(
            names,
            [
                "Auto-Submitted",
                "Content-Transfer-Encoding",
                "Content-Type",
                "Date",
                "From",
                "MIME-Version",
                "Message-ID",
                "Subject",
                "To"
            ]
        );
        assert!(
            !headers
                .lines()
                .any(|l| l.starts_with("X-RcptTo:") && l.contains("victim")),
            "{headers}"
        );
    }
    server.kill().await.unwrap();
}
