//! The http probe: status, headers, body and JSON of an answer, over TCP, TLS or a unix socket.

use std::collections::BTreeMap;
use std::path::PathBuf;

use hyper::Method;
use hyper::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use keepwatch_model::check::{CheckKind, Reason};
use regex::bytes::{Regex, RegexBuilder};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::exchange::{Answer, Endpoint, Question, exchange};
use super::json::JsonRule;
use super::{Asking, Probe, SettingsError};
use crate::clock::At;
use crate::net::Net;
use crate::net::tls::TlsSettings;
use crate::outcome::{Failure, Outcome, Quantity};
use crate::secret::{Secret, SecretFile, read_optional, without};

/// Memory that one compiled expression may take.
const REGEX_SIZE: usize = 1 << 20;
/// Expressions, JSON rules and headers of one check, each.
const RULES_MAX: usize = 16;

/// What is asked and expected.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HttpSettings {
    /// `http://…` or `https://…`, without user and password.
    pub url: String,
    /// Connect to this socket instead of the URL's host.
    pub unix_socket: Option<PathBuf>,
    /// `GET` by default; also `HEAD`, `POST`, `PUT`, `OPTIONS`.
    pub method: Option<String>,
    /// Headers that are no secret.
    pub headers: BTreeMap<String, String>,
    /// Body to send.
    pub body: Option<String>,
    /// Codes that are right: `"200"`, `"200-299"`; by default 200–299.
    pub status: Vec<String>,
    /// Expressions that must match the body.
    pub body_matches: Vec<String>,
    /// Expressions that must not.
    pub body_does_not_match: Vec<String>,
    /// Expressions that headers of the answer must match.
    pub header_matches: BTreeMap<String, String>,
    /// What the body must say in JSON.
    pub json: Vec<JsonRule>,
    /// User for basic authentication, with `password_file`.
    pub basic_user: Option<String>,
    /// Its password.
    pub password_file: Option<SecretFile>,
    /// A bearer token.
    pub bearer_token_file: Option<SecretFile>,
    /// Whom to trust.
    pub tls: TlsSettings,
}

/// The probe.
pub struct Http {
    net: Net,
    endpoint: Endpoint,
    method: Method,
    headers: HeaderMap,
    status: Vec<(u16, u16)>,
    matches: Vec<Regex>,
    does_not_match: Vec<Regex>,
    header_matches: Vec<(HeaderName, Regex)>,
    settings: HttpSettings,
}

impl Http {
    /// Checks the settings and prepares.
    ///
    /// # Errors
    /// The first setting that makes no sense.
    pub fn new(settings: HttpSettings, net: Net) -> Result<Self, SettingsError> {
        let endpoint = Endpoint::parse(
            &settings.url,
            settings.unix_socket.as_deref(),
            &settings.tls,
        )?;
        let method = match settings.method.as_deref().unwrap_or("GET") {
            "GET" => Method::GET,
            "HEAD" => Method::HEAD,
            "POST" => Method::POST,
            "PUT" => Method::PUT,
            "OPTIONS" => Method::OPTIONS,
            other => {
                return Err(SettingsError::new(
                    "method",
                    format!("{other:?} is none of GET, HEAD, POST, PUT, OPTIONS"),
                ));
            }
        };
        let counts = [
            settings.body_matches.len(),
            settings.body_does_not_match.len(),
            settings.header_matches.len(),
            settings.json.len(),
            settings.headers.len(),
            settings.status.len(),
        ];
        if counts.iter().any(|n| *n > RULES_MAX) {
            return Err(SettingsError::new(
                "http",
                format!("more than {RULES_MAX} rules of a kind"),
            ));
        }
        if settings.basic_user.is_some() != settings.password_file.is_some() {
            return Err(SettingsError::new(
                "basic_user",
                "it goes together with password_file",
            ));
        }
        if settings.basic_user.is_some() && settings.bearer_token_file.is_some() {
            return Err(SettingsError::new(
                "bearer_token_file",
                "use either it or basic_user",
            ));
        }
        settings.json.iter().try_for_each(JsonRule::check)?;
        let mut headers = HeaderMap::new();
        for (name, value) in &settings.headers {
            let wrong = |why: String| SettingsError::new("headers", why);
            let header = HeaderName::from_bytes(name.as_bytes())
                .map_err(|_| wrong(format!("{name:?} is not a name of a header")))?;
            if header == AUTHORIZATION {
                return Err(wrong(
                    "secrets are read from files: use bearer_token_file or password_file".into(),
                ));
            }
            let value = HeaderValue::from_str(value)
                .map_err(|_| wrong(format!("{name}: not a value of a header")))?;
            headers.insert(header, value);
        }
        let status = match &settings.status[..] {
            [] => vec![(200, 299)],
            list => list.iter().map(|s| codes(s)).collect::<Result<_, _>>()?,
        };
        let many = |setting, list: &[String]| {
            list.iter()
                .map(|r| expression(setting, r))
                .collect::<Result<Vec<_>, _>>()
        };
        let header_matches = settings
            .header_matches
            .iter()
            .map(|(name, r)| {
                let header = HeaderName::from_bytes(name.as_bytes()).map_err(|_| {
                    SettingsError::new(
                        "header_matches",
                        format!("{name:?} is not a name of a header"),
                    )
                })?;
                Ok((header, expression("header_matches", r)?))
            })
            .collect::<Result<_, SettingsError>>()?;
        Ok(Self {
            net,
            endpoint,
            method,
            headers,
            status,
            matches: many("body_matches", &settings.body_matches)?,
            does_not_match: many("body_does_not_match", &settings.body_does_not_match)?,
            header_matches,
            settings,
        })
    }

    fn question(
        &self,
        password: Option<&Secret>,
        token: Option<&Secret>,
    ) -> Result<Question<'_>, Failure> {
        let mut question = Question {
            method: self.method.clone(),
            headers: self.headers.clone(),
            body: self.settings.body.as_deref().unwrap_or("").as_bytes(),
        };
        if let (Some(user), Some(password)) = (&self.settings.basic_user, password) {
            question.basic(user, password)?;
        }
        if let Some(token) = token {
            question.secret(AUTHORIZATION, "Bearer ", token)?;
        }
        Ok(question)
    }

    async fn run(&self) -> Result<Outcome, Failure> {
        let s = &self.settings;
        let password = read_optional(s.password_file.as_ref()).await?;
        let token = read_optional(s.bearer_token_file.as_ref()).await?;
        let secrets: Vec<&Secret> = password.iter().chain(&token).collect();
        let asked = async {
            let question = self.question(password.as_ref(), token.as_ref())?;
            exchange(&self.net, &self.endpoint, question).await
        };
        let judged = asked
            .await
            .map(|answer| self.judge(&answer, self.net.now()));
        without(&secrets, judged)
    }

    fn judge(&self, answer: &Answer, now: At) -> Outcome {
        let mut outcome = Outcome::success();
        let code = answer.status.as_u16();
        outcome.measure(Quantity::HttpStatus, f64::from(code));
        measure_end(&mut outcome, answer.not_after, now);
        if !self.status.iter().any(|(a, b)| (*a..=*b).contains(&code)) {
            // Refused credentials are told apart from a service that is not well.
            let reason = if matches!(code, 401 | 403 | 407) {
                Reason::Auth
            } else {
                Reason::Status
            };
            outcome.fail(reason, format!("the status is {code}"));
            return outcome;
        }
        for (name, expected) in &self.header_matches {
            match answer.headers.get(name) {
                None => outcome.fail(Reason::Assertion, format!("the header {name} is missing")),
                Some(value) if !expected.is_match(value.as_bytes()) => outcome.fail(
                    Reason::Assertion,
                    format!("the header {name} does not match {expected}"),
                ),
                Some(_) => &mut outcome,
            };
        }
        let part = if answer.cut {
            " (of which 1 MiB was read)"
        } else {
            ""
        };
        for r in &self.matches {
            if !r.is_match(&answer.body) {
                outcome.fail(
                    Reason::Assertion,
                    format!("the body{part} does not match {r}"),
                );
            }
        }
        for r in &self.does_not_match {
            if r.is_match(&answer.body) {
                outcome.fail(Reason::Assertion, format!("the body{part} matches {r}"));
            }
        }
        if answer.cut && !self.settings.json.is_empty() {
            outcome.fail(
                Reason::Assertion,
                "the body is longer than 1 MiB, too long to be read as JSON",
            );
        } else {
            for rule in &self.settings.json {
                if let Err(why) = rule.apply(&answer.body) {
                    outcome.fail(Reason::Assertion, why);
                }
            }
        }
        outcome
    }
}

/// Reports the end of a certificate, absolute and as what is left.
pub(super) fn measure_end(outcome: &mut Outcome, not_after: Option<At>, now: At) {
    if let Some(end) = not_after {
        outcome
            .measure(Quantity::TlsNotAfterSeconds, end.as_secs_f64())
            .measure(
                Quantity::TlsSecondsLeft,
                end.as_secs_f64() - now.as_secs_f64(),
            );
    }
}

impl Probe for Http {
    fn kind(&self) -> CheckKind {
        CheckKind::Http
    }

    fn ask(&self, _: Instant) -> Asking<'_> {
        Box::pin(async { self.run().await.into() })
    }
}

/// `200` or `200-299`.
fn codes(text: &str) -> Result<(u16, u16), SettingsError> {
    let wrong = || {
        SettingsError::new(
            "status",
            format!("{text:?} is not a code such as 200, or a range such as 200-299"),
        )
    };
    let code = |t: &str| {
        t.parse::<u16>()
            .ok()
            .filter(|c| (100..=599).contains(c) && t.len() == 3)
            .ok_or_else(wrong)
    };
    let (a, b) = match text.split_once('-') {
        Some((a, b)) => (code(a)?, code(b)?),
        None => (code(text)?, code(text)?),
    };
    if a <= b { Ok((a, b)) } else { Err(wrong()) }
}

fn expression(setting: &'static str, text: &str) -> Result<Regex, SettingsError> {
    RegexBuilder::new(text)
        .size_limit(REGEX_SIZE)
        .dfa_size_limit(REGEX_SIZE)
        .build()
        .map_err(|e| SettingsError::new(setting, crate::text::clean(&e.to_string())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net() -> Net {
        Net::new(std::sync::Arc::new(crate::clock::HostClock))
    }

    fn settings(url: &str) -> HttpSettings {
        HttpSettings {
            url: url.into(),
            ..HttpSettings::default()
        }
    }

    #[test]
    fn settings_without_sense_are_refused() {
        let with = |change: &dyn Fn(&mut HttpSettings)| {
            let mut s = settings("http://localhost/");
            change(&mut s);
            s
        };
        for (s, key) in [
            (settings(""), "url"),
            (settings("localhost"), "url"),
            (settings("ftp://localhost/"), "url"),
            (settings("http://user:pw@localhost/"), "url"),
            (settings("http://local host/"), "url"),
            (with(&|s| s.method = Some("BREW".into())), "method"),
            (with(&|s| s.status = vec!["2xx".into()]), "status"),
            (with(&|s| s.status = vec!["299-200".into()]), "status"),
            (with(&|s| s.status = vec!["99".into()]), "status"),
            (with(&|s| s.body_matches = vec!["(".into()]), "body_matches"),
            (
                with(&|s| s.body_matches = vec!["(a{1000}){1000}{1000}".into()]),
                "body_matches",
            ),
            (with(&|s| s.body_matches = vec!["a".into(); 17]), "http"),
            (
                with(&|s| drop(s.headers.insert("a b".into(), "c".into()))),
                "headers",
            ),
            (
                with(&|s| drop(s.headers.insert("a".into(), "c\r\nX: y".into()))),
                "headers",
            ),
            (
                with(&|s| drop(s.headers.insert("Authorization".into(), "x".into()))),
                "headers",
            ),
            (with(&|s| s.basic_user = Some("u".into())), "basic_user"),
            (
                with(&|s| {
                    s.json = vec![JsonRule {
                        pointer: "x".into(),
                        ..JsonRule::default()
                    }]
                }),
                "json",
            ),
        ] {
            let e = Http::new(s, net()).err().expect(key);
            assert_eq!(e.setting, key, "{e}");
        }
        assert!(Http::new(settings("https://[::1]:8443/health?x=1"), net()).is_ok());
    }

    #[test]
    fn secrets_in_configuration_are_refused_by_name() {
        let e = serde_json::from_str::<HttpSettings>(r#"{"url":"http://h/","password":"x"}"#)
            .unwrap_err();
        assert!(e.to_string().contains("unknown field `password`"), "{e}");
    }
}
