//! What a failure means: may it pass, and if not, what kind is it.
//!
//! Codes: <https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html>. Other servers use a subset, sometimes with other statuses, so the code decides and the
//! status only where there is none (answers to HEAD have no body). What is not known and not the client's fault (5xx, broken connections) may pass; what is, does not.

use std::time::{Duration, SystemTime};

use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_types::DateTime;
use aws_smithy_types::date_time::Format;
use aws_smithy_types::error::display::DisplayErrorContext;
use keepwatch_engine::store::Fault;

use crate::retry::Again;

/// The longest text of a failure that is shown; servers may send anything.
const TEXT_BYTES: usize = 400;

/// What to do about a failure.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// It will not pass by itself.
    Permanent(Fault),
    /// It may pass.
    Again(Again),
    /// Our clock and the server's are too far apart.
    Skewed(Option<SystemTime>),
    /// The credentials are not accepted, but others might be there by now.
    Credentials,
    /// The server does not know this kind of request or header.
    Unsupported,
}

/// A failure, ready to be told.
#[derive(Clone, Debug)]
pub struct Failure {
    /// What to do about it.
    pub kind: Kind,
    /// Why, for people: one line, bounded.
    pub text: String,
    /// The server's status, if it answered.
    pub status: Option<u16>,
    /// The server gave a code of S3: it is an answer of S3, and not of something between us and it.
    pub coded: bool,
}

impl Failure {
    /// One that may pass.
    pub fn again(text: impl Into<String>) -> Self {
        Failure {
            kind: Kind::Again(Again::default()),
            text: clean(&text.into()),
            status: None,
            coded: false,
        }
    }
    /// One that does not.
    pub fn permanent(fault: Fault, text: impl Into<String>) -> Self {
        Failure {
            kind: Kind::Permanent(fault),
            text: clean(&text.into()),
            status: None,
            coded: false,
        }
    }
    /// Where an answer has a body, only S3 itself can say that there is no such object: a page of a proxy with status 404 must not make a snapshot vanish.
    pub fn unless_said(self) -> Self {
        if self.is(Fault::Missing) && !self.coded {
            return Failure {
                kind: Kind::Again(Again::default()),
                ..self
            };
        }
        self
    }
    /// True for this permanent fault.
    pub fn is(&self, fault: Fault) -> bool {
        self.kind == Kind::Permanent(fault)
    }
}

/// One line, without control characters, of bounded length.
pub fn clean(text: &str) -> String {
    let mut out: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    if out.len() > TEXT_BYTES {
        let mut end = TEXT_BYTES;
        while !out.is_char_boundary(end) {
            end -= 1;
        }
        out.truncate(end);
        out.push('…');
    }
    out
}

/// What an error answer means.
pub fn service(status: u16, code: Option<&str>, after: Option<Duration>) -> Kind {
    let again = |throttled| Kind::Again(Again { throttled, after });
    match code.unwrap_or_default() {
        "NoSuchKey" | "NotFound" | "NoSuchVersion" => Kind::Permanent(Fault::Missing),
        "NoSuchBucket"
        | "PermanentRedirect"
        | "AuthorizationHeaderMalformed"
        | "IllegalLocationConstraintException"
        | "InvalidBucketName" => Kind::Permanent(Fault::Other),
        "PreconditionFailed" => Kind::Permanent(Fault::Exists),
        "RequestTimeTooSkewed" => Kind::Skewed(None),
        "ExpiredToken"
        | "TokenRefreshRequired"
        | "InvalidToken"
        | "ExpiredTokenException"
        | "InvalidAccessKeyId"
        | "SignatureDoesNotMatch"
        | "InvalidSecurity"
        | "NotSignedUp"
        | "RequestExpired" => Kind::Credentials,
        "AccessDenied" | "AllAccessDisabled" | "AccountProblem" | "UnauthorizedAccess"
        | "Forbidden" => Kind::Permanent(Fault::Denied),
        "ObjectLocked" | "InvalidRetentionPeriod" => Kind::Permanent(Fault::Locked),
        "QuotaExceeded"
        | "EntityTooLarge"
        | "InsufficientStorage"
        | "XMinioStorageFull"
        | "StorageFull" => Kind::Permanent(Fault::Full),
        "SlowDown"
        | "ServiceUnavailable"
        | "Throttling"
        | "ThrottlingException"
        | "TooManyRequests"
        | "RequestLimitExceeded"
        | "BandwidthLimitExceeded"
        | "RequestThrottled"
        | "Busy" => again(true),
        // Something happened to the bytes on their way, or to another request for the same name.
        "BadDigest"
        | "InvalidDigest"
        | "XAmzContentSHA256Mismatch"
        | "XAmzContentChecksumMismatch"
        | "IncompleteBody"
        | "RequestTimeout"
        | "ConditionalRequestConflict"
        | "OperationAborted"
        | "InternalError"
        | "RequestTimeoutException" => again(false),
        "NotImplemented" | "UnsupportedOperation" => Kind::Unsupported,
        _ => match status {
            404 | 405 => Kind::Permanent(Fault::Missing),
            401 => Kind::Credentials,
            403 => Kind::Permanent(Fault::Denied),
            409 | 408 | 425 => again(false),
            412 => Kind::Permanent(Fault::Exists),
            429 | 503 => again(true),
            501 => Kind::Unsupported,
            507 => Kind::Permanent(Fault::Full),
            500.. => again(false),
            _ => Kind::Permanent(Fault::Other),
        },
    }
}

/// The wait that a server asks for: seconds or a date (RFC 9110, section 10.2.3).
pub fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse::<u32>() {
        return Some(Duration::from_secs(seconds.into()));
    }
    http_date(value)?.duration_since(now).ok()
}

/// A date of a header.
pub fn http_date(value: &str) -> Option<SystemTime> {
    let date = DateTime::from_str(value, Format::HttpDate).ok()?;
    SystemTime::try_from(date).ok()
}

/// Servers refuse requests whose time is further than 15 minutes from theirs.
const SKEW: Duration = Duration::from_secs(14 * 60);

fn apart(a: SystemTime, b: SystemTime) -> Duration {
    a.duration_since(b).unwrap_or_else(|e| e.duration())
}

/// What an error of the SDK means. `now`: the time that requests are signed with, to judge dates.
pub fn sdk<E>(error: SdkError<E, HttpResponse>, now: SystemTime) -> Failure
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    match &error {
        SdkError::ServiceError(inner) => {
            let raw = inner.raw();
            let status = raw.status().as_u16();
            let code = inner.err().code();
            let after = raw
                .headers()
                .get("retry-after")
                .and_then(|v| retry_after(v, now));
            let mut kind = service(status, code, after);
            let date = raw.headers().get("date").and_then(http_date);
            // The answer to HEAD has no body and so no code: a refusal by a server whose clock is far from the one we sign with is about that.
            let bare = status == 403 && code.is_none_or(|c| c == "Forbidden" || c == "NotFound");
            if kind == Kind::Skewed(None) || (bare && date.is_some_and(|d| apart(d, now) > SKEW)) {
                kind = Kind::Skewed(date);
            }
            let said = inner.err().message().filter(|m| !m.is_empty());
            let text = match (code, said) {
                (Some(c), Some(m)) => format!("the server says {c}: {m}"),
                (Some(c), None) => format!("the server says {c}"),
                (None, Some(m)) => format!("the server says {status}: {m}"),
                (None, None) => format!("the server answers with status {status}"),
            };
            Failure {
                kind,
                text: clean(&text),
                status: Some(status),
                coded: code.is_some(),
            }
        }
        SdkError::TimeoutError(_) => Failure::again("the server did not answer in time"),
        SdkError::ResponseError(e) => {
            let status = e.raw().status().as_u16();
            let text = format!("the answer (status {status}) is not understood");
            Failure {
                kind: match status {
                    200..=299 => Kind::Again(Again::default()),
                    _ => service(status, None, None),
                },
                text,
                status: Some(status),
                coded: false,
            }
        }
        SdkError::DispatchFailure(e) => {
            let text = chain(&error);
            if e.is_user() {
                return Failure::permanent(Fault::Other, text);
            }
            let lower = text.to_ascii_lowercase();
            // A certificate does not become better by asking again, and neither do credentials that are not there.
            if lower.contains("certificate") || lower.contains("tls handshake eof") {
                return Failure::permanent(
                    Fault::Other,
                    format!("the server cannot be trusted: {text}"),
                );
            }
            if !e.is_io() && !e.is_timeout() && lower.contains("credential") {
                return Failure::permanent(
                    Fault::Denied,
                    format!("there are no usable credentials: {text}"),
                );
            }
            Failure::again(text)
        }
        _ => {
            let text = chain(&error);
            let fault = if text.to_ascii_lowercase().contains("credential") {
                Fault::Denied
            } else {
                Fault::Other
            };
            Failure::permanent(fault, text)
        }
    }
}

/// The causes of an error, without the technical words at its head.
fn chain<E: std::error::Error>(error: &E) -> String {
    let text = DisplayErrorContext(error).to_string();
    // "dispatch failure: io error: client error (Connect): …: Connection refused (os error 111) (DispatchFailure(…debug…))"
    let plain = text.split(" (DispatchFailure(").next().unwrap_or(&text);
    let plain = plain
        .split(" (ConstructionFailure(")
        .next()
        .unwrap_or(plain)
        .trim_start_matches("dispatch failure: ")
        .trim_start_matches("other: ")
        .trim_start_matches("io error: ");
    clean(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_statuses() {
        let none = Again::default();
        let slow = Again {
            throttled: true,
            after: None,
        };
        for (status, code, kind) in [
            (404, Some("NoSuchKey"), Kind::Permanent(Fault::Missing)),
            (404, None, Kind::Permanent(Fault::Missing)),
            (404, Some("NoSuchBucket"), Kind::Permanent(Fault::Other)),
            (
                405,
                Some("MethodNotAllowed"),
                Kind::Permanent(Fault::Missing),
            ),
            (
                412,
                Some("PreconditionFailed"),
                Kind::Permanent(Fault::Exists),
            ),
            (412, None, Kind::Permanent(Fault::Exists)),
            (409, Some("ConditionalRequestConflict"), Kind::Again(none)),
            (409, Some("OperationAborted"), Kind::Again(none)),
            (403, Some("AccessDenied"), Kind::Permanent(Fault::Denied)),
            (403, None, Kind::Permanent(Fault::Denied)),
            (403, Some("RequestTimeTooSkewed"), Kind::Skewed(None)),
            (403, Some("InvalidAccessKeyId"), Kind::Credentials),
            (403, Some("SignatureDoesNotMatch"), Kind::Credentials),
            (400, Some("ExpiredToken"), Kind::Credentials),
            (400, Some("BadDigest"), Kind::Again(none)),
            (400, Some("IncompleteBody"), Kind::Again(none)),
            (400, Some("RequestTimeout"), Kind::Again(none)),
            (400, Some("InvalidArgument"), Kind::Permanent(Fault::Other)),
            (400, None, Kind::Permanent(Fault::Other)),
            (503, Some("SlowDown"), Kind::Again(slow)),
            (503, None, Kind::Again(slow)),
            (429, None, Kind::Again(slow)),
            (500, Some("InternalError"), Kind::Again(none)),
            (502, None, Kind::Again(none)),
            (504, Some("Weird"), Kind::Again(none)),
            (501, Some("NotImplemented"), Kind::Unsupported),
            (507, None, Kind::Permanent(Fault::Full)),
            (
                301,
                Some("PermanentRedirect"),
                Kind::Permanent(Fault::Other),
            ),
        ] {
            assert_eq!(service(status, code, None), kind, "{status} {code:?}");
        }
    }

    #[test]
    fn retry_after_takes_seconds_and_dates() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        for (text, seconds) in [
            ("7", Some(7)),
            (" 120 ", Some(120)),
            ("Sun, 06 Nov 1994 08:49:57 GMT", Some(20)),
            ("Sun, 06 Nov 1994 08:49:17 GMT", None),
            ("-1", None),
            ("soon", None),
            ("99999999999", None),
        ] {
            assert_eq!(
                retry_after(text, now),
                seconds.map(Duration::from_secs),
                "{text}"
            );
        }
    }

    #[test]
    fn texts_are_one_bounded_line() {
        let text = clean(&format!("a\r\nb\x1b[31m{}", "ü".repeat(1000)));
        assert!(text.starts_with("a  b [31m") && text.len() < 410 && text.ends_with('…'));
    }
}
