//! What happens to which connection.

use serde::{Deserialize, Serialize};

use crate::chance;

/// The direction of bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Side {
    /// From the client to the server.
    Up,
    /// From the server to the client.
    Down,
}

/// What the line is like for all connections.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Link {
    /// Each byte comes so much later, each way; bandwidth is not less for it.
    pub latency_ms: u64,
    /// Bytes in each second towards the server; 0: no limit.
    pub up_bytes_per_second: u64,
    /// Bytes in each second towards the client; 0: no limit.
    pub down_bytes_per_second: u64,
}

/// What goes wrong.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// Both sides get a reset (RST).
    Reset,
    /// Both sides get an end (FIN), whatever was under way.
    Close,
    /// The receiver gets an end; the other direction goes on.
    HalfClose,
    /// Nothing more in this direction, without a word; for so many milliseconds, or for ever.
    Stall(Option<u64>),
    /// Nothing more in either direction, without a word; what still comes is swallowed.
    BlackHole,
    /// So many bytes are flipped (of what was read at once, here and below).
    Flip(u64),
    /// So many bytes are swallowed.
    Lose(u64),
    /// So many bytes come twice.
    Duplicate(u64),
}

/// Where it goes wrong.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// In which direction bytes are counted (and broken).
    pub side: Side,
    /// After so many bytes; with `until`, after a random number from here to there.
    #[serde(default)]
    pub after: u64,
    /// See `after`.
    #[serde(default)]
    pub until: Option<u64>,
    /// What.
    pub cause: Cause,
}

/// Which connections. They are counted from 0; of those that come after `skip`, the rule takes `times`, each with `probability`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkRule {
    /// So many connections pass first, from when the rule was made.
    #[serde(default)]
    pub skip: u64,
    /// So many are hit; `None`: all.
    #[serde(default)]
    pub times: Option<u64>,
    /// And with this probability.
    #[serde(default)]
    pub probability: Option<f64>,
    /// What happens to them.
    pub fault: Fault,
}

impl LinkRule {
    /// For every connection.
    pub fn new(side: Side, after: u64, cause: Cause) -> Self {
        LinkRule {
            skip: 0,
            times: None,
            probability: None,
            fault: Fault {
                side,
                after,
                until: None,
                cause,
            },
        }
    }
    /// At a random point between `after` and here.
    pub fn until(mut self, bytes: u64) -> Self {
        self.fault.until = Some(bytes);
        self
    }
    /// After so many connections.
    pub fn skip(mut self, n: u64) -> Self {
        self.skip = n;
        self
    }
    /// So many connections.
    pub fn times(mut self, n: u64) -> Self {
        self.times = Some(n);
        self
    }
    /// With this probability.
    pub fn probability(mut self, p: f64) -> Self {
        self.probability = Some(p);
        self
    }
}

struct Counted {
    rule: LinkRule,
    stream: u64,
    matched: u64,
    fired: u64,
}

/// The rules, and how often each was asked.
pub struct LinkRules {
    seed: u64,
    next: u64,
    rules: Vec<Counted>,
}

impl LinkRules {
    /// None yet.
    pub fn new(seed: u64) -> Self {
        LinkRules {
            seed,
            next: 0,
            rules: Vec::new(),
        }
    }
    /// Adds one.
    pub fn add(&mut self, rule: LinkRule) {
        self.next += 2;
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
    /// How often they fired.
    pub fn fired(&self) -> u64 {
        self.rules.iter().map(|c| c.fired).sum()
    }
    /// The rules.
    pub fn all(&self) -> Vec<LinkRule> {
        self.rules.iter().map(|c| c.rule.clone()).collect()
    }
    /// What happens to the next connection: the faults of all rules that fire, with their points fixed (`after`).
    pub fn decide(&mut self) -> Vec<Fault> {
        let seed = self.seed;
        let mut out = Vec::new();
        for c in &mut self.rules {
            let n = c.matched;
            c.matched += 1;
            let chosen = n >= c.rule.skip
                && c.rule.times.is_none_or(|t| c.fired < t)
                && c.rule
                    .probability
                    .is_none_or(|p| chance::happens(p, seed, c.stream, n));
            if !chosen {
                continue;
            }
            c.fired += 1;
            let mut fault = c.rule.fault;
            if let Some(until) = fault.until.take() {
                fault.after = chance::between(fault.after, until, seed, c.stream + 1, n);
            }
            out.push(fault);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_choose_connections_and_fix_points() {
        let mut rules = LinkRules::new(3);
        rules.add(LinkRule::new(Side::Up, 10, Cause::Reset).skip(1).times(2));
        rules.add(LinkRule::new(Side::Down, 100, Cause::Close).until(200));
        let seen: Vec<_> = (0..4).map(|_| rules.decide()).collect();
        assert_eq!(
            seen.iter().map(Vec::len).collect::<Vec<_>>(),
            [1, 2, 2, 1],
            "{seen:?}"
        );
        let points: Vec<_> = seen
            .iter()
            .flatten()
            .filter(|f| f.side == Side::Down)
            .collect();
        assert!(
            points
                .iter()
                .all(|f| (100..=200).contains(&f.after) && f.until.is_none())
        );
        assert!(points.windows(2).any(|w| w[0].after != w[1].after));
        assert_eq!(rules.fired(), 6);
    }

    #[test]
    fn rules_are_written_as_json() {
        let text = r#"{"times":1,"fault":{"side":"down","after":7,"cause":{"stall":null}}}"#;
        let rule: LinkRule = serde_json::from_str(text).unwrap();
        assert_eq!(rule.fault.cause, Cause::Stall(None));
        let text = r#"{"fault":{"side":"up","cause":"black-hole"}}"#;
        let rule: LinkRule = serde_json::from_str(text).unwrap();
        assert_eq!(rule.fault.cause, Cause::BlackHole);
    }
}
