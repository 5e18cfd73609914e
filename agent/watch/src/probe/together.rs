//! The group check: other checks taken together: all of them, any of them, or so many.
//!
//! Nothing is asked; the states of the members are counted. When it depends on members that are unknown, there is no result,
//! and the group becomes unknown as any check that does not run.

use keepwatch_model::check::{CheckName, Reason, State};
use serde::{Deserialize, Serialize};

use super::SettingsError;
use crate::outcome::{Outcome, Quantity};

/// How many members must be up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Need {
    /// All.
    #[default]
    All,
    /// One.
    Any,
    /// So many.
    AtLeast(usize),
}

/// A group.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupSettings {
    /// The checks in it.
    pub members: Vec<CheckName>,
    /// How many must be up.
    #[serde(default)]
    pub need: Need,
}

impl GroupSettings {
    /// Whether it makes sense.
    ///
    /// # Errors
    /// No members, or more needed than there are.
    pub fn check(&self) -> Result<(), SettingsError> {
        if self.members.is_empty() || self.members.len() > 256 {
            return Err(SettingsError::new(
                "members",
                "a group has 1 to 256 members",
            ));
        }
        match self.need {
            Need::AtLeast(n) if n == 0 || n > self.members.len() => Err(SettingsError::new(
                "need",
                "more members are needed than there are, or none",
            )),
            _ => Ok(()),
        }
    }
}

/// The result, from the names and states of the members; none when it cannot be told.
pub fn judge<'a>(
    need: Need,
    members: impl Iterator<Item = (&'a CheckName, State)>,
) -> Option<Outcome> {
    let (mut up, mut unknown, mut all) = (0, 0, 0);
    let mut down = Vec::new();
    let mut degraded = Vec::new();
    for (name, state) in members {
        all += 1;
        match state {
            State::Healthy => up += 1,
            State::Degraded => {
                up += 1;
                degraded.push(name.as_str());
            }
            State::Unhealthy => down.push(name.as_str()),
            State::Unknown => unknown += 1,
        }
    }
    let needed = match need {
        Need::All => all,
        Need::Any => 1,
        Need::AtLeast(n) => n,
    };
    let mut outcome = Outcome::success();
    outcome.measure(Quantity::GroupMembersUp, up as f64);
    if up >= needed {
        if !down.is_empty() {
            outcome.warn(format!("down: {}", down.join(", ")));
        }
        if !degraded.is_empty() {
            outcome.warn(format!("degraded: {}", degraded.join(", ")));
        }
        return Some(outcome);
    }
    if up + unknown >= needed {
        return None;
    }
    outcome.fail(
        Reason::Assertion,
        format!(
            "{up} of {all} are up, {needed} are needed; down: {}",
            down.join(", ")
        ),
    );
    Some(outcome)
}

#[cfg(test)]
mod tests {
    use super::*;
    use State::{Degraded, Healthy, Unhealthy, Unknown};

    #[test]
    fn by_table() {
        for (need, states, expected) in [
            (Need::All, &[Healthy, Healthy][..], Some((true, 0))),
            (Need::All, &[Healthy, Degraded], Some((true, 1))),
            (Need::All, &[Healthy, Unhealthy], Some((false, 0))),
            (Need::All, &[Healthy, Unknown], None),
            (Need::All, &[Unhealthy, Unknown], Some((false, 0))),
            (Need::Any, &[Healthy, Unhealthy], Some((true, 1))),
            (Need::Any, &[Unknown, Unhealthy], None),
            (Need::Any, &[Unhealthy, Unhealthy], Some((false, 0))),
            (
                Need::AtLeast(2),
                &[Healthy, Healthy, Unknown],
                Some((true, 0)),
            ),
            (Need::AtLeast(2), &[Healthy, Unhealthy, Unknown], None),
            (
                Need::AtLeast(2),
                &[Healthy, Unhealthy, Unhealthy],
                Some((false, 0)),
            ),
        ] {
            let names: Vec<CheckName> = (0..3).map(|n| format!("m{n}").parse().unwrap()).collect();
            let o = judge(need, names.iter().zip(states.iter().copied()));
            let got = o.as_ref().map(|o| (o.failure.is_none(), o.warnings.len()));
            assert_eq!(got, expected, "{need:?} {states:?}");
        }
        let group = |members: usize, need| GroupSettings {
            members: vec!["a".parse().unwrap(); members],
            need,
        };
        assert!(group(0, Need::All).check().is_err());
        assert!(group(2, Need::AtLeast(3)).check().is_err());
        assert!(group(2, Need::AtLeast(0)).check().is_err());
        assert!(group(2, Need::AtLeast(2)).check().is_ok());
    }
}
