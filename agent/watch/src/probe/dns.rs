//! The dns probe: a name must resolve, as this host does it or at a given server.
//!
//! Without a server the host's own resolver is asked: the promise is then "programs of this host find that name". With one, a
//! question is sent to it in the DNS protocol (RFC 1035), over UDP and, when the answer is cut, over TCP: the promise is "that
//! server answers". The few records that are understood are decoded here; the answer is foreign and every offset is checked.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use keepwatch_model::check::{CheckKind, Reason};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{Instant, timeout};

use super::{Asking, Probe, SettingsError};
use crate::net::{Net, is_host};
use crate::outcome::{Failure, Outcome, Quantity};

/// A lost datagram is sent again after this.
const RESEND: Duration = Duration::from_secs(2);
/// Records of an answer that are looked at.
const RECORDS_MAX: usize = 64;

/// The type of record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Record {
    /// IPv4 addresses.
    #[default]
    A,
    /// IPv6 addresses.
    #[serde(rename = "AAAA")]
    Aaaa,
    /// Mail servers.
    #[serde(rename = "MX")]
    Mx,
    /// Texts.
    #[serde(rename = "TXT")]
    Txt,
    /// Name servers.
    #[serde(rename = "NS")]
    Ns,
    /// Another name.
    #[serde(rename = "CNAME")]
    Cname,
    /// Start of authority.
    #[serde(rename = "SOA")]
    Soa,
}

impl Record {
    fn code(self) -> u16 {
        match self {
            Self::A => 1,
            Self::Ns => 2,
            Self::Cname => 5,
            Self::Soa => 6,
            Self::Mx => 15,
            Self::Txt => 16,
            Self::Aaaa => 28,
        }
    }
}

/// What is asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DnsSettings {
    /// The name.
    pub name: String,
    /// Ask this server, an address with or without a port, instead of the host's resolver.
    #[serde(default)]
    pub server: Option<String>,
    /// The type; only with a server.
    #[serde(default)]
    pub record: Record,
    /// Addresses of which at least one must be in the answer.
    #[serde(default)]
    pub expect: Vec<IpAddr>,
}

/// The probe.
pub struct Dns {
    net: Net,
    settings: DnsSettings,
    server: Option<SocketAddr>,
}

/// An answer of a server.
#[derive(Debug, Default, PartialEq)]
struct Reply {
    code: u8,
    cut: bool,
    /// Records of the type that was asked for.
    records: usize,
    addresses: Vec<IpAddr>,
}

impl Dns {
    /// Checks the settings.
    ///
    /// # Errors
    /// A name that is none, a server that is no address, expectations that cannot be met.
    pub fn new(settings: DnsSettings, net: Net) -> Result<Self, SettingsError> {
        let name = settings.name.trim_end_matches('.');
        if !is_host(name) || name.split('.').any(|l| l.is_empty() || l.len() > 63) {
            return Err(SettingsError::new(
                "name",
                "it is not a name that can be resolved",
            ));
        }
        let server = settings.server.as_ref().map(|s| {
            s.parse::<SocketAddr>()
                .or_else(|_| s.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 53)))
                .map_err(|_| {
                    SettingsError::new("server", "write an address, with or without a port")
                })
        });
        if settings.server.is_none() && settings.record != Record::A {
            return Err(SettingsError::new("record", "it needs a server"));
        }
        if !settings.expect.is_empty() && !matches!(settings.record, Record::A | Record::Aaaa) {
            return Err(SettingsError::new(
                "expect",
                "it takes addresses, so record must be A or AAAA",
            ));
        }
        Ok(Self {
            net,
            server: server.transpose()?,
            settings,
        })
    }

    async fn run(&self) -> Result<Outcome, Failure> {
        let s = &self.settings;
        let (count, addresses) = match self.server {
            None => {
                let found = self.net.resolve(&s.name).await?;
                (found.len(), found)
            }
            Some(server) => {
                let reply = self.ask_server(server).await?;
                match reply.code {
                    0 => {}
                    3 => {
                        return Err(Failure::new(
                            Reason::Dns,
                            format!("{server} says that {} does not exist", s.name),
                        ));
                    }
                    code => {
                        return Err(Failure::new(
                            Reason::Status,
                            format!("{server} answers with code {code}"),
                        ));
                    }
                }
                (reply.records, reply.addresses)
            }
        };
        let mut outcome = Outcome::success();
        outcome.measure(Quantity::DnsRecords, count as f64);
        if count == 0 {
            outcome.fail(
                Reason::Dns,
                format!("{} has no record of this type", s.name),
            );
        }
        if !s.expect.is_empty() && !s.expect.iter().any(|ip| addresses.contains(ip)) {
            let found: Vec<String> = addresses.iter().take(4).map(IpAddr::to_string).collect();
            outcome.fail(
                Reason::Assertion,
                format!("{} resolves to {}", s.name, found.join(", ")),
            );
        }
        Ok(outcome)
    }

    async fn ask_server(&self, server: SocketAddr) -> Result<Reply, Failure> {
        let fail = |e: std::io::Error| {
            Failure::because(Reason::Connect, &format!("cannot ask {server}"), &e)
        };
        let mut id = [0; 2];
        getrandom::fill(&mut id)
            .map_err(|e| Failure::new(Reason::Internal, format!("no randomness: {e}")))?;
        let question = question(id, &self.settings.name, self.settings.record.code());
        let local: IpAddr = match server {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind(SocketAddr::new(local, 0))
            .await
            .map_err(fail)?;
        // Connected: datagrams from elsewhere are dropped by the kernel.
        socket.connect(server).await.map_err(fail)?;
        let mut buffer = [0; 4096];
        loop {
            socket.send(&question).await.map_err(fail)?;
            // Until the deadline of the run; what is not an answer to this question is dropped.
            let received = timeout(RESEND, async {
                loop {
                    let n = socket.recv(&mut buffer).await?;
                    if buffer[..n].starts_with(&id) {
                        return Ok::<_, std::io::Error>(n);
                    }
                }
            });
            if let Ok(received) = received.await {
                let n = received.map_err(fail)?;
                let reply = self.parse(&buffer[..n], &question, server)?;
                return if reply.cut {
                    self.ask_tcp(server, &question).await
                } else {
                    Ok(reply)
                };
            }
        }
    }

    async fn ask_tcp(&self, server: SocketAddr, question: &[u8]) -> Result<Reply, Failure> {
        let fail = |e: std::io::Error| {
            Failure::because(
                Reason::Connect,
                &format!("cannot ask {server} over TCP"),
                &e,
            )
        };
        let mut stream = TcpStream::connect(server).await.map_err(fail)?;
        let mut framed = u16::try_from(question.len())
            .unwrap_or(0)
            .to_be_bytes()
            .to_vec();
        framed.extend_from_slice(question);
        stream.write_all(&framed).await.map_err(fail)?;
        let length = stream.read_u16().await.map_err(fail)?;
        let mut answer = vec![0; usize::from(length)];
        stream.read_exact(&mut answer).await.map_err(fail)?;
        self.parse(&answer, question, server)
    }

    fn parse(&self, answer: &[u8], question: &[u8], server: SocketAddr) -> Result<Reply, Failure> {
        reply(answer, question, self.settings.record.code()).ok_or_else(|| {
            Failure::new(
                Reason::Protocol,
                format!("the answer of {server} is not DNS"),
            )
        })
    }
}

/// One question, recursion desired.
fn question(id: [u8; 2], name: &str, record: u16) -> Vec<u8> {
    let mut out = id.to_vec();
    out.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.trim_end_matches('.').split('.') {
        out.push(u8::try_from(label.len()).unwrap_or(0));
        out.extend_from_slice(label.as_bytes());
    }
    out.push(0);
    out.extend(record.to_be_bytes());
    out.extend([0, 1]);
    out
}

/// Reads an answer; none when it is not one to this question.
fn reply(answer: &[u8], question: &[u8], record: u16) -> Option<Reply> {
    let u16_at = |at: usize| Some(u16::from_be_bytes(answer.get(at..at + 2)?.try_into().ok()?));
    let flags = u16_at(2)?;
    if answer.get(..2)? != question.get(..2)? || flags & 0x8000 == 0 {
        return None;
    }
    let mut out = Reply {
        code: u8::try_from(flags & 0xf).unwrap_or(0),
        cut: flags & 0x200 != 0,
        ..Reply::default()
    };
    let mut at = 12;
    for _ in 0..u16_at(4)?.min(4) {
        at = skip_name(answer, at)? + 4;
    }
    for _ in 0..usize::from(u16_at(6)?).min(RECORDS_MAX) {
        if out.cut && at >= answer.len() {
            break;
        }
        at = skip_name(answer, at)?;
        let (kind, class) = (u16_at(at)?, u16_at(at + 2)?);
        let length = usize::from(u16_at(at + 8)?);
        let data = answer.get(at + 10..at + 10 + length)?;
        at += 10 + length;
        if kind == record && class == 1 {
            out.records += 1;
        }
        match (kind, data.len()) {
            (1, 4) => out
                .addresses
                .push(IpAddr::from(<[u8; 4]>::try_from(data).ok()?)),
            (28, 16) => out
                .addresses
                .push(IpAddr::from(<[u8; 16]>::try_from(data).ok()?)),
            _ => {}
        }
    }
    Some(out)
}

/// Where a name ends. A pointer ends it, so there is no loop to follow.
fn skip_name(answer: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *answer.get(at)? {
            0 => return Some(at + 1),
            n if n & 0xc0 == 0xc0 => return (at + 2 <= answer.len()).then_some(at + 2),
            n if n & 0xc0 == 0 => at += usize::from(n) + 1,
            _ => return None,
        }
    }
}

impl Probe for Dns {
    fn kind(&self) -> CheckKind {
        CheckKind::Dns
    }
    fn ask(&self, _: Instant) -> Asking<'_> {
        Box::pin(async { self.run().await.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn probe(server: Option<SocketAddr>, expect: &[&str]) -> Dns {
        let settings = DnsSettings {
            name: "db.example".into(),
            server: server.map(|s| s.to_string()),
            record: Record::A,
            expect: expect.iter().map(|e| e.parse().unwrap()).collect(),
        };
        Dns::new(
            settings,
            Net::new(std::sync::Arc::new(crate::clock::HostClock)),
        )
        .unwrap()
    }

    /// An answer with these flags and A records.
    fn answer(question: &[u8], flags: u16, addresses: &[[u8; 4]]) -> Vec<u8> {
        let mut out = question.to_vec();
        out[2..4].copy_from_slice(&flags.to_be_bytes());
        out[7] = u8::try_from(addresses.len()).unwrap();
        for a in addresses {
            out.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
            out.extend(a);
        }
        out
    }

    /// A server that gives the same answer over UDP, and over TCP without the flag of being cut.
    async fn server(flags: u16, addresses: &'static [[u8; 4]]) -> SocketAddr {
        // A port that is free for both: others may have it for TCP.
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            match tokio::net::TcpListener::bind(udp.local_addr().unwrap()).await {
                Ok(tcp) => break (udp, tcp),
                Err(e) if e.kind() == std::io::ErrorKind::AddrInUse => {}
                Err(e) => panic!("{e}"),
            }
        };
        let address = udp.local_addr().unwrap();
        tokio::spawn(async move {
            let mut b = [0; 512];
            let (n, from) = udp.recv_from(&mut b).await.unwrap();
            udp.send_to(b"\0garbage that is for another question", from)
                .await
                .unwrap();
            udp.send_to(
                &answer(
                    &b[..n],
                    flags,
                    if flags & 0x200 > 0 { &[] } else { addresses },
                ),
                from,
            )
            .await
            .unwrap();
            let (mut s, _) = tcp.accept().await.unwrap();
            let n = s.read_u16().await.unwrap();
            let mut q = vec![0; n.into()];
            s.read_exact(&mut q).await.unwrap();
            let a = answer(&q, flags & !0x200, addresses);
            s.write_u16(a.len() as u16).await.unwrap();
            s.write_all(&a).await.unwrap();
        });
        address
    }

    async fn ask(flags: u16, addresses: &'static [[u8; 4]], expect: &[&str]) -> Outcome {
        let server = server(flags, addresses).await;
        super::super::run(&probe(Some(server), expect), Duration::from_secs(5)).await
    }

    #[tokio::test]
    async fn answers_by_table() {
        let ok = ask(0x8180, &[[10, 0, 0, 1], [10, 0, 0, 2]], &["10.0.0.2"]).await;
        assert_eq!(
            (ok.failure.as_ref(), ok.value(Quantity::DnsRecords)),
            (None, Some(2.0))
        );
        let cut = ask(0x8380, &[[10, 0, 0, 1]], &[]).await;
        assert_eq!(
            (cut.failure.as_ref(), cut.value(Quantity::DnsRecords)),
            (None, Some(1.0))
        );
        for (flags, addresses, expect, reason) in [
            (0x8183, &[][..], &[][..], Reason::Dns),
            (0x8182, &[][..], &[][..], Reason::Status),
            (0x8180, &[][..], &[][..], Reason::Dns),
            (
                0x8180,
                &[[10, 0, 0, 1]][..],
                &["10.0.0.2"][..],
                Reason::Assertion,
            ),
            // A question in place of an answer.
            (0x0180, &[][..], &[][..], Reason::Protocol),
        ] {
            let o = ask(flags, addresses, expect).await;
            assert_eq!(o.failure.as_ref().unwrap().reason, reason, "{o:?}");
        }
    }

    #[tokio::test]
    async fn a_silent_server_is_a_timeout_and_a_closed_port_is_not() {
        let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = silent.local_addr().unwrap();
        let o = super::super::run(&probe(Some(address), &[]), Duration::from_millis(300)).await;
        assert_eq!(o.failure.unwrap().reason, Reason::Timeout);
        drop(silent);
        let o = super::super::run(&probe(Some(address), &[]), Duration::from_secs(5)).await;
        assert_eq!(o.failure.unwrap().reason, Reason::Connect);
    }

    #[tokio::test]
    async fn the_resolver_of_the_host() {
        let mut p = probe(None, &[]);
        p.settings.name = "localhost".into();
        let o = super::super::run(&p, Duration::from_secs(10)).await;
        assert_eq!(o.failure, None);
    }

    #[test]
    fn settings_without_sense_are_refused() {
        for json in [
            r#"{"name":""}"#,
            r#"{"name":"a..b"}"#,
            r#"{"name":"a b"}"#,
            r#"{"name":"a","server":"dns.example"}"#,
            r#"{"name":"a","record":"MX"}"#,
            r#"{"name":"a","server":"::1","record":"MX","expect":["1.2.3.4"]}"#,
        ] {
            let s: DnsSettings = serde_json::from_str(json).unwrap();
            let net = Net::new(std::sync::Arc::new(crate::clock::HostClock));
            assert!(Dns::new(s, net).is_err(), "{json}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(mut bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let q = question([1, 2], "a.example", 1);
            let _ = reply(&bytes, &q, 1);
            let mut head = answer(&q, 0x8180, &[]);
            head[5] = bytes.first().copied().unwrap_or(1);
            head[7] = bytes.last().copied().unwrap_or(1);
            head.append(&mut bytes);
            let _ = reply(&head, &q, 1);
        }
    }
}
