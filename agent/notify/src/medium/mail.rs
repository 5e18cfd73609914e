//! Mail by SMTP. lettre writes the message and speaks the protocol; the stream is ours, so what is read is bounded, TLS is that
//! of the rest of the agent, and nothing of lettre is ever logged (its `tracing` feature would log credentials).
//!
//! With STARTTLS the conversation before TLS is ours too: greeting, EHLO, STARTTLS. A server that does not offer it ends the
//! attempt, and so does a byte that comes with the last answer before TLS (injected by who sits between). lettre then gets the
//! secure stream, behind a greeting, which it expects and servers do not repeat.
//!
//! Header injection: subject and names are one line since the alert was made, addresses are parsed when the configuration is
//! checked, and lettre encodes what is not ASCII.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use lettre::message::header::{ContentTransferEncoding, ContentType, HeaderName, HeaderValue};
use lettre::message::{Mailbox, MessageBuilder, SinglePart};
use lettre::transport::smtp::authentication::{Credentials, Mechanism};
use lettre::transport::smtp::client::{AsyncSmtpConnection, AsyncTokioStream};
use lettre::transport::smtp::extension::ClientId;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use zeroize::Zeroizing;

use super::{more, note, plain, title};
use crate::fault::{Fault, of_io, without};
use crate::http::{Io, Net, Wire, is_loopback};
use crate::limits::{MAIL, SMTP_READ};
use crate::plan::Message;
use crate::secret::{Secret, SecretFile};
use crate::text::fit;
use crate::time::At;

/// What a server may say in one answer before TLS, in bytes.
const ANSWER: usize = 4096;

/// How the connection is secured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Security {
    /// Plain, then TLS before anything is said (port 587). A server without it gets nothing.
    #[default]
    Starttls,
    /// TLS at once (port 465).
    Tls,
    /// None; only to this host itself.
    None,
}

/// Where to.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The server.
    pub server: String,
    /// Its port; by default that of the kind of security.
    #[serde(default)]
    pub port: Option<u16>,
    /// TLS.
    #[serde(default)]
    pub security: Security,
    /// Who sends: `Keepwatch <agent@example.org>` or the bare address.
    pub from: String,
    /// Who gets it.
    pub to: Vec<String>,
    /// To log in with.
    #[serde(default)]
    pub username: Option<String>,
    /// The file with the password.
    #[serde(default)]
    pub password_file: Option<SecretFile>,
}

/// What is wrong with the settings.
pub(super) fn check(s: &Settings) -> Result<(), String> {
    mailbox(&s.from)?;
    if s.to.is_empty() || s.to.len() > 20 {
        return Err("a mail needs 1 to 20 recipients".into());
    }
    for to in &s.to {
        mailbox(to)?;
    }
    if s.security == Security::None && !is_loopback(&s.server) {
        return Err(format!(
            "mail without TLS goes to this host only, not to {:?}",
            s.server
        ));
    }
    if s.username.is_some() != s.password_file.is_some() {
        return Err("a mail server wants both, a user name and a password file, or neither".into());
    }
    let name = |b: u8| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b);
    if s.server.is_empty() || s.server.len() > 253 || !s.server.bytes().all(name) {
        return Err(format!("{:?} is no mail server", s.server));
    }
    Ok(())
}

fn mailbox(text: &str) -> Result<Mailbox, String> {
    let fits = text.len() <= 320 && !text.chars().any(crate::text::is_hidden);
    text.parse::<Mailbox>()
        .ok()
        .filter(|_| fits)
        .ok_or_else(|| format!("{text:?} is no mail address"))
}

/// The text, at most [`MAIL`] bytes.
pub fn write(host: &str, message: &Message) -> String {
    let blocks: Vec<String> = message
        .lines
        .iter()
        .map(|l| plain(l, message.kind))
        .collect();
    let head = title(message, host);
    let note = note(message);
    let room = MAIL - head.len() - note.len() - 64;
    format!(
        "{head}\n\n{note}{}\n\n-- \nKeepwatch on {host}\n",
        fit(
            &blocks,
            "\n\n",
            room.saturating_sub(host.len()),
            str::len,
            more
        )
    )
}

/// The mail as it is sent.
///
/// # Errors
/// An address that is none.
pub fn compose(
    s: &Settings,
    host: &str,
    message: &Message,
    now: At,
) -> Result<lettre::Message, String> {
    let from = mailbox(&s.from)?;
    let mut hash = Sha256::new();
    hash.update(host);
    hash.update(now.0.to_be_bytes());
    hash.update(&message.group);
    let id: String = hash.finalize()[..16]
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    let date = SystemTime::UNIX_EPOCH + Duration::from_millis(u64::try_from(now.0).unwrap_or(0));
    let mut builder = MessageBuilder::new()
        .message_id(Some(format!("<{id}@{}>", from.email.domain())))
        .date(date)
        .subject(title(message, host))
        .from(from)
        // So that nobody's vacation program answers (RFC 3834).
        .raw_header(HeaderValue::new(
            HeaderName::new_from_ascii_str("Auto-Submitted"),
            "auto-generated".into(),
        ));
    for to in &s.to {
        builder = builder.to(mailbox(to)?);
    }
    let part = SinglePart::builder()
        .header(ContentType::TEXT_PLAIN)
        .header(ContentTransferEncoding::QuotedPrintable)
        .body(write(host, message));
    builder
        .singlepart(part)
        .map_err(|_| "the mail cannot be put together".to_owned())
}

pub(super) async fn send(
    s: &Settings,
    net: &Net,
    host: &str,
    message: &Message,
    now: At,
) -> Result<(), Fault> {
    check(s).map_err(Fault::later)?;
    let mail = compose(s, host, message, now).map_err(Fault::later)?;
    let port = s.port.unwrap_or(match s.security {
        Security::Starttls => 587,
        Security::Tls => 465,
        Security::None => 25,
    });
    let server = s.server.trim_matches(['[', ']']);
    let mut tcp = net.connect(server, port).await?;
    let (wire, greeting): (Wire, &[u8]) = match s.security {
        Security::None => (Box::new(tcp), b""),
        Security::Tls => (Box::new(net.secure(tcp, server).await?), b""),
        Security::Starttls => {
            starttls(&mut tcp).await?;
            (Box::new(net.secure(tcp, server).await?), b"220 TLS\r\n")
        }
    };
    let password = match &s.password_file {
        Some(file) => Some(file.read().await.map_err(Fault::later)?),
        None => None,
    };
    let hidden = forms(s.username.as_deref(), password.as_ref());
    let secrets: Vec<&str> = hidden.iter().map(Secret::expose).collect();
    let fault = |e: lettre::transport::smtp::Error| smtp_fault(&e, &secrets);
    let stream = Stream {
        wire,
        greeting,
        left: SMTP_READ,
    };
    let mut smtp = AsyncSmtpConnection::connect_with_transport(
        Box::new(stream),
        &ClientId::Domain("localhost".into()),
    )
    .await
    .map_err(fault)?;
    if let Some((user, password)) = s.username.as_ref().zip(password.as_ref()) {
        let credentials = Credentials::new(user.clone(), password.expose().to_owned());
        smtp.auth(&[Mechanism::Plain, Mechanism::Login], &credentials)
            .await
            .map_err(|e| match fault(e) {
                // Who may log in can be put right; the message is not to blame.
                Fault::Refused { why } | Fault::Later { why, .. } => {
                    Fault::later(format!("cannot log in: {why}"))
                }
            })?;
    }
    smtp.send(mail.envelope(), &mail.formatted())
        .await
        .map_err(fault)?;
    let _ = smtp.quit().await;
    Ok(())
}

/// The password as it is sent, which servers repeat: by itself, and as AUTH PLAIN (RFC 4616) and AUTH LOGIN encode it.
fn forms(user: Option<&str>, password: Option<&Secret>) -> Vec<Secret> {
    let Some(password) = password.map(Secret::expose) else {
        return Vec::new();
    };
    let encoded = |text: &str| {
        let whole = base64::engine::general_purpose::STANDARD.encode(text);
        Secret::new(whole.trim_end_matches('=').to_owned())
    };
    let plain = Zeroizing::new(format!("\0{}\0{password}", user.unwrap_or_default()));
    vec![
        Secret::new(password.to_owned()),
        encoded(&plain),
        encoded(password),
    ]
}

fn smtp_fault(e: &lettre::transport::smtp::Error, secrets: &[&str]) -> Fault {
    use std::error::Error as _;
    let said = crate::text::clean(
        &without(
            &e.source().map(ToString::to_string).unwrap_or_default(),
            secrets,
        ),
        160,
    );
    match e.status() {
        Some(code) if e.is_permanent() => Fault::Refused {
            why: format!("the mail server refused the message ({code}: {said})"),
        },
        Some(code) => Fault::later(format!("the mail server is not ready ({code}: {said})")),
        None if e.is_client() => Fault::later(format!(
            "the mail server lacks what is needed: {}",
            crate::text::clean(&without(&e.to_string(), secrets), 160)
        )),
        None => Fault::later("the conversation with the mail server broke off"),
    }
}

/// Greeting, EHLO, STARTTLS.
async fn starttls(tcp: &mut tokio::net::TcpStream) -> Result<(), Fault> {
    let mut kept = Vec::new();
    expect(tcp, &mut kept, "220").await?;
    say(tcp, b"EHLO localhost\r\n").await?;
    let offer = expect(tcp, &mut kept, "250").await?;
    let offered = offer.lines().any(|l| {
        l.get(4..)
            .is_some_and(|w| w.trim().eq_ignore_ascii_case("STARTTLS"))
    });
    if !offered {
        return Err(Fault::later(
            "the mail server does not offer STARTTLS, so nothing is said to it",
        ));
    }
    say(tcp, b"STARTTLS\r\n").await?;
    expect(tcp, &mut kept, "220").await?;
    if kept.is_empty() {
        Ok(())
    } else {
        Err(Fault::later(
            "somebody sent more than the mail server's answer before TLS",
        ))
    }
}

async fn say(tcp: &mut tokio::net::TcpStream, words: &[u8]) -> Result<(), Fault> {
    tcp.write_all(words)
        .await
        .map_err(|e| of_io("cannot talk to the mail server", &e))
}

/// Reads one answer, all of its lines, which must begin with this code. What comes behind it stays in `kept`.
async fn expect(
    tcp: &mut tokio::net::TcpStream,
    kept: &mut Vec<u8>,
    code: &str,
) -> Result<String, Fault> {
    loop {
        let mut start = 0;
        while let Some(end) = kept[start..]
            .iter()
            .position(|b| *b == b'\n')
            .map(|n| start + n + 1)
        {
            let line = &kept[start..end];
            start = end;
            if line.get(3) != Some(&b'-') {
                let answer = String::from_utf8_lossy(&kept[..end]).into_owned();
                kept.drain(..end);
                return if answer.lines().all(|l| l.starts_with(code)) {
                    Ok(answer)
                } else {
                    let said = crate::text::clean(&answer, 100);
                    Err(Fault::later(format!(
                        "the mail server said {said:?} instead of {code}"
                    )))
                };
            }
        }
        if kept.len() > ANSWER {
            return Err(Fault::later("the mail server says too much"));
        }
        let mut some = [0; 1024];
        let read = tcp
            .read(&mut some)
            .await
            .map_err(|e| of_io("cannot hear the mail server", &e))?;
        if read == 0 {
            return Err(Fault::later("the mail server closed the connection"));
        }
        kept.extend_from_slice(&some[..read]);
    }
}

/// A stream with a greeting before it, from which a bounded number of bytes is read.
struct Stream {
    wire: Box<dyn Io>,
    greeting: &'static [u8],
    left: u64,
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Stream")
    }
}

impl AsyncTokioStream for Stream {
    fn peer_addr(&self) -> io::Result<SocketAddr> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.greeting.is_empty() {
            let n = self.greeting.len().min(buf.remaining());
            buf.put_slice(&self.greeting[..n]);
            self.greeting = &self.greeting[n..];
            return Poll::Ready(Ok(()));
        }
        if self.left == 0 {
            return Poll::Ready(Err(io::Error::other("the mail server says too much")));
        }
        let before = buf.filled().len();
        std::task::ready!(Pin::new(&mut self.wire).poll_read(cx, buf))?;
        let read = (buf.filled().len() - before) as u64;
        self.left = self.left.saturating_sub(read);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.wire).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.wire).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.wire).poll_shutdown(cx)
    }
}
