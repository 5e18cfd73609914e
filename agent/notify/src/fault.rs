//! Why a message was not delivered, and what that means.
//!
//! The text never holds a URL, a token or a password: it is put together from fixed words, numbers, and what a sink said, with
//! everything that looks like our secret taken out. Errors of the libraries below are sorted, not printed: some of them would
//! name the host, and the host of a webhook can be a secret too.

use std::time::Duration;

use crate::text::clean;

/// Characters of what a sink said that are kept.
const SAID: usize = 160;

/// Why a message was not delivered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The sink is away, busy, or does not know us; trying again can help.
    #[error("{why}; it is tried again")]
    Later {
        /// One sentence without its end.
        why: String,
        /// The sink asked for so long.
        after: Option<Duration>,
    },
    /// The sink will not have this message.
    #[error("{why}; this message is not wanted")]
    Refused {
        /// One sentence without its end.
        why: String,
    },
}

impl Fault {
    /// Trying again can help.
    pub fn later(why: impl Into<String>) -> Self {
        Self::Later {
            why: why.into(),
            after: None,
        }
    }

    /// Of the status of an HTTP answer that is no success. `said`: what the answer says, cleaned of secrets already.
    pub fn of_status(status: u16, after: Option<Duration>, said: &str) -> Self {
        let said = clean(said, SAID);
        let said = if said.is_empty() {
            said
        } else {
            format!(": {said}")
        };
        match status {
            300..=399 => Self::later(format!(
                "the sink answered with a redirect ({status}), which is not followed"
            )),
            401 | 403 | 404 => Self::later(format!(
                "the sink does not let us in or is not there ({status}{said})"
            )),
            408 | 425 | 429 => Self::Later {
                why: format!("the sink is busy ({status}{said})"),
                after,
            },
            400..=499 => Self::Refused {
                why: format!("the sink refused the message ({status}{said})"),
            },
            _ => Self::Later {
                why: format!("the sink is not well ({status}{said})"),
                after,
            },
        }
    }
}

/// Of an error of connecting or of a conversation, without what it names.
pub fn of_io(what: &str, error: &std::io::Error) -> Fault {
    use std::io::ErrorKind as K;
    let why = match error.kind() {
        K::ConnectionRefused => "the connection was refused",
        K::ConnectionReset | K::ConnectionAborted | K::BrokenPipe => "the connection was reset",
        K::TimedOut => "it took too long",
        K::UnexpectedEof => "the connection ended early",
        K::NetworkUnreachable | K::HostUnreachable | K::AddrNotAvailable => "there is no way to it",
        K::InvalidData => return of_tls(error),
        _ => "of an input or output error",
    };
    Fault::later(format!("{what} because {why}"))
}

/// Of a TLS handshake, without the names in certificates.
fn of_tls(error: &std::io::Error) -> Fault {
    use rustls::CertificateError as C;
    let why = match error
        .get_ref()
        .and_then(|e| e.downcast_ref::<rustls::Error>())
    {
        Some(rustls::Error::InvalidCertificate(c)) => match c {
            C::Expired | C::ExpiredContext { .. } => "its certificate has ended",
            C::NotValidYet | C::NotValidYetContext { .. } => "its certificate is not valid yet",
            C::NotValidForName | C::NotValidForNameContext { .. } => {
                "its certificate is for another name"
            }
            C::UnknownIssuer | C::BadSignature => {
                "nobody whom this host trusts made its certificate"
            }
            C::Revoked => "its certificate was revoked",
            _ => "its certificate is not valid",
        },
        Some(rustls::Error::AlertReceived(_)) => "it ended the TLS handshake",
        Some(_) => "it does not speak TLS as it should",
        None => "what it said makes no sense",
    };
    Fault::later(format!("cannot talk to the sink safely because {why}"))
}

/// What a sink said, with every occurrence of a secret taken out.
pub fn without(said: &str, secrets: &[&str]) -> String {
    let mut out = said.to_owned();
    for secret in secrets.iter().filter(|s| s.len() >= 4) {
        out = out.replace(secret, "…");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_mean_what_they_mean() {
        let wait = Some(Duration::from_secs(7));
        for (status, later) in [
            (301, true),
            (400, false),
            (401, true),
            (403, true),
            (404, true),
            (408, true),
            (413, false),
            (422, false),
            (429, true),
            (500, true),
            (503, true),
            (100, true),
            (999, true),
        ] {
            let f = Fault::of_status(status, wait, "no\r\nway");
            assert_eq!(matches!(f, Fault::Later { .. }), later, "{status}");
            assert!(f.to_string().contains(&status.to_string()) && !f.to_string().contains('\n'));
        }
        assert!(
            matches!(Fault::of_status(429, wait, ""), Fault::Later { after, .. } if after == wait)
        );
        assert_eq!(
            without("bot123:ABC said 123:ABC", &["123:ABC"]),
            "bot… said …"
        );
    }
}
