//! What happens to which request: a list of rules, of which the first that fires decides.

use serde::{Deserialize, Serialize};

use crate::chance;
use crate::settings::Group;

/// One rule. A request that matches `on` and `key` counts; of those that count, the first `skip` pass; then the rule fires `times` often, each time with
/// `probability`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// AWS names (`PutObject`) or groups (`put`, `get`, `list`, `delete`, `delete-version`, `lock`, `bucket`, `changing`). Empty: every request.
    #[serde(default)]
    pub on: Vec<String>,
    /// A part of the key (for listings: of the prefix).
    #[serde(default)]
    pub key: Option<String>,
    /// So many matching requests pass first.
    #[serde(default)]
    pub skip: u64,
    /// It fires so often; `None`: always.
    #[serde(default)]
    pub times: Option<u64>,
    /// And with this probability.
    #[serde(default)]
    pub probability: Option<f64>,
    /// What then happens.
    pub action: Action,
}

impl Rule {
    /// For every request, always.
    pub fn new(action: Action) -> Self {
        Rule {
            on: Vec::new(),
            key: None,
            skip: 0,
            times: None,
            probability: None,
            action,
        }
    }
    /// Only for this operation or group; may be repeated.
    pub fn on(mut self, what: &str) -> Self {
        self.on.push(what.into());
        self
    }
    /// Only when the key contains this.
    pub fn key(mut self, part: &str) -> Self {
        self.key = Some(part.into());
        self
    }
    /// After so many matching requests.
    pub fn skip(mut self, n: u64) -> Self {
        self.skip = n;
        self
    }
    /// So often.
    pub fn times(mut self, n: u64) -> Self {
        self.times = Some(n);
        self
    }
    /// The n-th matching request only, counted from 0.
    pub fn nth(self, n: u64) -> Self {
        self.skip(n).times(1)
    }
    /// With this probability.
    pub fn probability(mut self, p: f64) -> Self {
        self.probability = Some(p);
        self
    }
}

/// What happens to a request. Offsets and lengths are bytes of the answer's body unless said otherwise.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Action {
    /// Nothing is done; an S3 error is answered.
    Answer {
        /// The HTTP status.
        status: u16,
        /// The S3 error code.
        code: String,
        /// `Retry-After`, in seconds.
        #[serde(default)]
        retry_after: Option<u64>,
        /// Before the request's body is read.
        #[serde(default)]
        early: bool,
    },
    /// Nothing is done; a page that is not S3 is answered (a captive portal, a proxy's error).
    Page {
        /// The HTTP status.
        status: u16,
        /// The body, of type `text/html`.
        body: String,
    },
    /// Nothing is done; the connection is closed after the request was read.
    Refuse,
    /// The work is done; the connection is closed without an answer.
    LoseAnswer,
    /// Only so many bytes of the request's body are read, then nothing happens any more.
    Deaf {
        /// Bytes of the request's body.
        after: u64,
    },
    /// The work begins so much later.
    Delay {
        /// Milliseconds.
        ms: u64,
    },
    /// Bytes are flipped.
    Flip {
        /// From here; beyond the end: the last byte.
        #[serde(default)]
        at: u64,
        /// So many.
        #[serde(default = "one")]
        bytes: u64,
    },
    /// The connection is closed in the body; `Content-Length` announced all of it.
    Cut {
        /// After so many bytes.
        after: u64,
    },
    /// The body ends early, and `Content-Length` agrees.
    Shorten {
        /// By so many bytes.
        by: u64,
    },
    /// The body comes twice, and `Content-Length` agrees.
    Repeat,
    /// Nothing comes any more.
    Stall {
        /// After so many bytes.
        after: u64,
        /// For so many milliseconds, then the rest; `None`: for ever.
        #[serde(default)]
        ms: Option<u64>,
    },
    /// The body comes slowly.
    Slow {
        /// Bytes in each second.
        bytes_per_second: u64,
    },
}

fn one() -> u64 {
    1
}

impl Action {
    /// An S3 error.
    pub fn error(status: u16, code: &str) -> Action {
        Action::Answer {
            status,
            code: code.into(),
            retry_after: None,
            early: false,
        }
    }
    /// 503 `SlowDown`.
    pub fn slow_down(retry_after: Option<u64>) -> Action {
        Action::Answer {
            status: 503,
            code: "SlowDown".into(),
            retry_after,
            early: false,
        }
    }
    /// 500 `InternalError`.
    pub fn internal_error() -> Action {
        Action::error(500, "InternalError")
    }
    /// 409 `ConditionalRequestConflict`.
    pub fn conflict() -> Action {
        Action::error(409, "ConditionalRequestConflict")
    }
    /// 429 `TooManyRequests`.
    pub fn too_many(retry_after: Option<u64>) -> Action {
        Action::Answer {
            status: 429,
            code: "TooManyRequests".into(),
            retry_after,
            early: false,
        }
    }
    /// 403 `RequestTimeTooSkewed`.
    pub fn skewed() -> Action {
        Action::error(403, "RequestTimeTooSkewed")
    }
    /// 400 `ExpiredToken`.
    pub fn expired() -> Action {
        Action::error(400, "ExpiredToken")
    }
    /// The name in records.
    pub fn name(&self) -> String {
        match self {
            Action::Answer { status, code, .. } => format!("answer {status} {code}"),
            Action::Page { status, .. } => format!("page {status}"),
            Action::Refuse => "refuse".into(),
            Action::LoseAnswer => "lose-answer".into(),
            Action::Deaf { .. } => "deaf".into(),
            Action::Delay { .. } => "delay".into(),
            Action::Flip { .. } => "flip".into(),
            Action::Cut { .. } => "cut".into(),
            Action::Shorten { .. } => "shorten".into(),
            Action::Repeat => "repeat".into(),
            Action::Stall { .. } => "stall".into(),
            Action::Slow { .. } => "slow".into(),
        }
    }
}

/// What a rule looks at.
pub struct Asked<'a> {
    /// The operation's AWS name.
    pub operation: &'a str,
    /// Its group.
    pub group: Group,
    /// The key, or the prefix of a listing.
    pub key: &'a str,
}

struct Counted {
    rule: Rule,
    /// Its stream of chance.
    stream: u64,
    matched: u64,
    fired: u64,
}

/// The rules and how often each was asked.
#[derive(Default)]
pub struct Rules {
    seed: u64,
    next: u64,
    rules: Vec<Counted>,
}

impl Rules {
    /// None yet.
    pub fn new(seed: u64) -> Self {
        Rules {
            seed,
            ..Rules::default()
        }
    }
    /// Adds one behind the others.
    pub fn add(&mut self, rule: Rule) {
        self.next += 1;
        self.rules.push(Counted {
            rule,
            stream: self.next,
            matched: 0,
            fired: 0,
        });
    }
    /// Removes all.
    pub fn clear(&mut self) {
        self.rules.clear();
    }
    /// The rules, each with how often it matched and fired.
    pub fn all(&self) -> Vec<(Rule, u64, u64)> {
        let row = |c: &Counted| (c.rule.clone(), c.matched, c.fired);
        self.rules.iter().map(row).collect()
    }
    /// What happens to this request. Every rule that matches counts it; the first that fires decides.
    pub fn decide(&mut self, asked: &Asked<'_>) -> Option<Action> {
        let seed = self.seed;
        let mut decided = None;
        for c in &mut self.rules {
            if !matches(&c.rule, asked) {
                continue;
            }
            let n = c.matched;
            c.matched += 1;
            if decided.is_some()
                || n < c.rule.skip
                || c.rule.times.is_some_and(|t| c.fired >= t)
                || c.rule
                    .probability
                    .is_some_and(|p| !chance::happens(p, seed, c.stream, n))
            {
                continue;
            }
            c.fired += 1;
            decided = Some(c.rule.action.clone());
        }
        decided
    }
}

fn matches(rule: &Rule, asked: &Asked<'_>) -> bool {
    let on = rule.on.is_empty()
        || rule.on.iter().any(|o| {
            o == asked.operation
                || o == asked.group.name()
                || (o == "delete" && asked.group == Group::DeleteVersion)
                || (o == "changing" && asked.group.changes())
        });
    on && rule.key.as_ref().is_none_or(|k| asked.key.contains(k))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked<'a>(operation: &'a str, key: &'a str) -> Asked<'a> {
        Asked {
            operation,
            group: Group::of(operation, false),
            key,
        }
    }

    #[test]
    fn the_first_rule_that_fires_decides_and_all_count() {
        let mut rules = Rules::new(1);
        rules.add(Rule::new(Action::Refuse).on("put").skip(1).times(2));
        rules.add(Rule::new(Action::LoseAnswer).on("PutObject").key("packs/"));
        let mut put = |key| rules.decide(&asked("PutObject", key));
        assert_eq!(put("packs/1"), Some(Action::LoseAnswer));
        assert_eq!(put("packs/2"), Some(Action::Refuse));
        assert_eq!(put("config"), Some(Action::Refuse));
        assert_eq!(put("config"), None);
        assert_eq!(put("packs/3"), Some(Action::LoseAnswer));
        assert_eq!(rules.decide(&asked("GetObject", "packs/3")), None);
        let counts: Vec<_> = rules.all().iter().map(|r| (r.1, r.2)).collect();
        assert_eq!(counts, [(5, 2), (3, 2)]);
    }

    #[test]
    fn chance_depends_on_the_rule_and_its_own_count() {
        let hits = |others: bool| {
            let mut rules = Rules::new(9);
            rules.add(Rule::new(Action::Refuse).on("list"));
            rules.add(Rule::new(Action::LoseAnswer).on("get").probability(0.3));
            (0..100)
                .map(|_| {
                    if others {
                        rules.decide(&asked("ListObjectsV2", ""));
                    }
                    rules.decide(&asked("GetObject", "x")).is_some()
                })
                .collect::<Vec<_>>()
        };
        assert_eq!(hits(false), hits(true));
        let n = hits(false).iter().filter(|h| **h).count();
        assert!((15..45).contains(&n), "{n}");
    }

    #[test]
    fn rules_are_written_as_json() {
        let text = r#"{"on":["put"],"times":2,"action":{"do":"answer","status":503,"code":"SlowDown","retry_after":1}}"#;
        let rule: Rule = serde_json::from_str(text).unwrap();
        assert_eq!(rule.action, Action::slow_down(Some(1)));
        let flip: Rule = serde_json::from_str(r#"{"action":{"do":"flip"}}"#).unwrap();
        assert_eq!(flip.action, Action::Flip { at: 0, bytes: 1 });
        assert!(serde_json::from_str::<Rule>(r#"{"action":{"do":"refuse"},"nht":1}"#).is_err());
    }
}
