//! From a question to an answer: paths, methods, who may ask what, and the form of answers.
//!
//! Nothing here waits. Who may ask what depends on the door that a question came through:
//!
//! | | unix socket | loopback | another address, with a token file | another address, without |
//! |---|---|---|---|---|
//! | `/health/detailed`, `/resources/status`, `/restart/status` | all | token | token | nobody |
//! | `/metrics` | all | all | token | all |
//! | `/health`, `/health/{live,ready,startup}` | all | all | all, and checks are named with the token only | all |
//!
//! What maps the host needs the bearer token, or the unix socket, whose permissions say who may open it. On loopback a Prometheus and
//! the probes of an orchestrator need none; that other hosts may ask without one is warned of when the configuration is read. It is the
//! address that is listened on that counts, not that of who asks: a proxy on this host would make all strangers neighbours. There is
//! nothing that changes anything: GET and HEAD are all.
//!
//! **One page for all.** The text of `/metrics` is long, and a client may take it slowly. While somebody still reads one that is not
//! older than [`SHARED`], it is given to others who ask, so that many slow readers hold one page and not one each.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{
    ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER,
    WWW_AUTHENTICATE,
};
use hyper::{Method, Response, StatusCode};
use keepwatch_model::check::CheckName;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::counters::Counters;
use crate::facts::{Clock, Facts};
use crate::limits::{EXCLUDES, SHARED, TARGET_MAX};
use crate::probes::{self, Options, Shown};
use crate::text::{self, Page};
use crate::token::Token;
use crate::{render, summary};

/// What is answered. The word of each is a label, so the set is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Metrics.
    Metrics,
    /// The older flat form.
    Health,
    /// Liveness.
    Live,
    /// Readiness.
    Ready,
    /// Startup.
    Startup,
    /// Everything.
    Detailed,
    /// Memory, processors, disks, recommendations.
    Resources,
    /// Restarts.
    Restarts,
    /// Nothing is here.
    Other,
}

impl Place {
    /// Of a path.
    pub fn of(path: &str) -> Self {
        match path {
            "/metrics" => Self::Metrics,
            "/health" => Self::Health,
            "/health/live" => Self::Live,
            "/health/ready" => Self::Ready,
            "/health/startup" => Self::Startup,
            "/health/detailed" => Self::Detailed,
            "/resources/status" => Self::Resources,
            "/restart/status" => Self::Restarts,
            _ => Self::Other,
        }
    }

    /// The label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Metrics => "/metrics",
            Self::Health => "/health",
            Self::Live => "/health/live",
            Self::Ready => "/health/ready",
            Self::Startup => "/health/startup",
            Self::Detailed => "/health/detailed",
            Self::Resources => "/resources/status",
            Self::Restarts => "/restart/status",
            Self::Other => "other",
        }
    }

    /// It maps the host.
    const fn is_guarded(self) -> bool {
        matches!(self, Self::Detailed | Self::Resources | Self::Restarts)
    }
}

/// What a question came through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// A unix socket.
    Unix,
    /// A port on a loopback address.
    Loopback,
    /// A port that other hosts may reach.
    Network,
}

/// A question, without its transport.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// The method.
    pub method: &'a Method,
    /// The path.
    pub path: &'a str,
    /// What stands behind `?`.
    pub query: Option<&'a str>,
    /// The `Authorization` header.
    pub authorization: Option<&'a [u8]>,
    /// A body comes with it.
    pub has_body: bool,
    /// Where it came in.
    pub door: Door,
}

/// What answers are made from.
pub struct Desk {
    facts: watch::Receiver<Arc<Facts>>,
    clock: Arc<dyn Clock>,
    counters: Arc<Counters>,
    token: Option<Token>,
    legacy: bool,
    started: AtomicBool,
    draining: AtomicBool,
    page: Mutex<Option<Written>>,
}

/// A page of metrics that was written. It lives as long as somebody reads it.
struct Written {
    at: Duration,
    of: Weak<Facts>,
    text: Weak<str>,
}

/// Bytes of a page, shared by all answers that consist of it.
struct Whole(Arc<str>);

impl AsRef<[u8]> for Whole {
    fn as_ref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

/// An answer.
pub type Answer = Response<Full<Bytes>>;

impl Desk {
    /// From the newest facts of this channel. `legacy` adds the other names of three metrics.
    pub fn new(
        facts: watch::Receiver<Arc<Facts>>,
        clock: Arc<dyn Clock>,
        counters: Arc<Counters>,
        token: Option<Token>,
        legacy: bool,
    ) -> Self {
        Self {
            facts,
            clock,
            counters,
            token,
            legacy,
            started: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            page: Mutex::new(None),
        }
    }

    /// From now on not ready, whatever the facts say.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// The counters.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The monotonic clock.
    pub fn monotonic(&self) -> Duration {
        self.clock.monotonic()
    }

    /// Startup is done, now or once before.
    fn has_started(&self, facts: &Facts, monotonic: Duration) -> bool {
        if !self.started.load(Ordering::Relaxed)
            && probes::awaited(facts, monotonic, Shown::Numbers).is_empty()
        {
            self.started.store(true, Ordering::Relaxed);
        }
        self.started.load(Ordering::Relaxed)
    }

    /// Answers and counts.
    pub fn answer(&self, question: &Question<'_>) -> Answer {
        let begun = self.clock.monotonic();
        let place = Place::of(question.path);
        let answer = self.decide(place, question, begun);
        let took = self.clock.monotonic().saturating_sub(begun);
        self.counters
            .request(place.as_str(), answer.status().as_u16(), took);
        answer
    }

    /// The answer to one who asks too often; the connection is closed.
    pub fn too_often(&self, path: &str, wait: Duration) -> Answer {
        self.counters
            .request(Place::of(path).as_str(), 429, Duration::ZERO);
        let mut answer = refusal(
            StatusCode::TOO_MANY_REQUESTS,
            "too many requests: ask less often",
        );
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        answer
            .headers_mut()
            .insert(RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        closing(answer)
    }

    fn decide(&self, place: Place, q: &Question<'_>, begun: Duration) -> Answer {
        if q.path.len() + q.query.map_or(0, str::len) > TARGET_MAX {
            return closing(refusal(StatusCode::URI_TOO_LONG, "the path is too long"));
        }
        if q.method != Method::GET && q.method != Method::HEAD {
            let mut answer = refusal(StatusCode::METHOD_NOT_ALLOWED, "use GET or HEAD");
            answer
                .headers_mut()
                .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return closing(answer);
        }
        if q.has_body {
            return closing(refusal(
                StatusCode::PAYLOAD_TOO_LARGE,
                "a question has no body",
            ));
        }
        let open = q.door != Door::Network || self.token.is_none();
        let knows = q.door == Door::Unix || self.knows(q.authorization);
        if !knows && (place.is_guarded() || place == Place::Metrics && !open) {
            return self.refuse();
        }
        let shown = if open || knows {
            Shown::Names
        } else {
            Shown::Numbers
        };
        let facts = Arc::clone(&self.facts.borrow());
        let started = self.has_started(&facts, begun);
        let draining = self.draining.load(Ordering::Relaxed);
        let now = self.clock.wall();
        let took = || self.clock.monotonic().saturating_sub(begun);
        let verdict = match place {
            Place::Metrics => return self.metrics(&facts, begun),
            Place::Other => return refusal(StatusCode::NOT_FOUND, "nothing is here"),
            Place::Health => {
                let (code, body) = probes::health(&facts, started, draining, shown);
                return reply(code, &body);
            }
            Place::Resources => return reply(200, &summary::resources(&facts, now)),
            Place::Restarts => return reply(200, &summary::restarts(&facts, now)),
            Place::Live => probes::live(&facts, begun),
            Place::Startup => probes::startup(&facts, begun, started, shown),
            Place::Ready => match options(q.query) {
                Ok(options) => probes::ready(&facts, started, draining, &options, shown),
                Err(why) => return refusal(StatusCode::BAD_REQUEST, why),
            },
            Place::Detailed => summary::detailed(&facts, now, begun, started, draining),
        };
        reply(verdict.status.code(), &verdict.body(now, took()))
    }

    fn metrics(&self, facts: &Arc<Facts>, now: Duration) -> Answer {
        // Held while it is written: who asks meanwhile gets the same.
        let mut page = self.page.lock().unwrap_or_else(PoisonError::into_inner);
        let known = page
            .as_ref()
            .filter(|p| std::ptr::eq(p.of.as_ptr(), Arc::as_ptr(facts)))
            .filter(|p| now.saturating_sub(p.at) < SHARED)
            .and_then(|p| p.text.upgrade());
        let text = known.unwrap_or_else(|| {
            let text: Arc<str> = self.write(facts).into();
            *page = Some(Written {
                at: now,
                of: Arc::downgrade(facts),
                text: Arc::downgrade(&text),
            });
            text
        });
        drop(page);
        let body = Bytes::from_owner(Whole(text));
        form(StatusCode::OK, text::CONTENT_TYPE, body)
    }

    fn write(&self, facts: &Facts) -> String {
        let mut page = Page::default();
        render::facts(&mut page, facts, self.legacy);
        let mut out = page.finish();
        let is_check = |name: &str| facts.checks.iter().any(|c| c.name.as_str() == name);
        out.push_str(&self.counters.render(is_check));
        out
    }

    /// Whether who asks has the token.
    fn knows(&self, authorization: Option<&[u8]>) -> bool {
        let given = authorization.and_then(bearer);
        self.token
            .as_ref()
            .zip(given)
            .is_some_and(|(token, given)| token.is(given))
    }

    fn refuse(&self) -> Answer {
        if self.token.is_none() {
            return refusal(
                StatusCode::FORBIDDEN,
                "this maps the host: set a token file, or ask over the unix socket",
            );
        }
        let mut answer = refusal(StatusCode::UNAUTHORIZED, "a bearer token is needed");
        answer.headers_mut().insert(
            WWW_AUTHENTICATE,
            HeaderValue::from_static("Bearer realm=\"keepwatch\""),
        );
        answer
    }
}

/// The token of an `Authorization` header.
fn bearer(header: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = header.split_at_checked(7)?;
    scheme
        .eq_ignore_ascii_case(b"bearer ")
        .then(|| rest.trim_ascii())
}

/// Options of a readiness question. Unknown ones are left alone, as probes of some orchestrators add their own.
///
/// # Errors
/// What is wrong with them.
fn options(query: Option<&str>) -> Result<Options, &'static str> {
    let mut out = Options::default();
    for pair in query
        .unwrap_or_default()
        .split('&')
        .filter(|p| !p.is_empty())
    {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        match key {
            "verbose" => out.verbose = !matches!(value, "false" | "0" | "no"),
            "exclude" => {
                for name in value.split(',').filter(|n| !n.is_empty()) {
                    let name = name
                        .parse::<CheckName>()
                        .map_err(|_| "exclude names something that no check can be called")?;
                    out.exclude.insert(name);
                    if out.exclude.len() > EXCLUDES {
                        return Err("exclude names too many checks");
                    }
                }
            }
            _ => {}
        }
    }
    Ok(out)
}

fn refusal(code: StatusCode, message: &str) -> Answer {
    form(
        code,
        "application/json",
        json!({ "status": "error", "message": message })
            .to_string()
            .into(),
    )
}

fn reply(code: u16, body: &Value) -> Answer {
    let code = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    form(code, "application/json", body.to_string().into())
}

fn form(code: StatusCode, kind: &'static str, body: Bytes) -> Answer {
    let mut answer = Response::new(Full::new(body));
    *answer.status_mut() = code;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(
        HeaderName::from_static("x-content-type-options"),
        HeaderValue::from_static("nosniff"),
    );
    answer
}

fn closing(mut answer: Answer) -> Answer {
    answer
        .headers_mut()
        .insert(CONNECTION, HeaderValue::from_static("close"));
    answer
}
