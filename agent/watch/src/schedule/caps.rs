//! How many checks run at once, and who is next.
//!
//! Three limits: [`OVERALL`], and less for what is dear to the host or to a database. Within each limit some places are kept
//! from checks whose last run ran into its deadline, and some from those that were not asked yet: however many targets hang,
//! those that are known to answer find a place at once. Who waits is served in order of arrival, slow ones behind the others; waiting is not part of the
//! measured duration of a run. A first run may so have to wait for others, at most until they run into their deadline.

use std::collections::VecDeque;

use keepwatch_model::check::CheckKind;

/// Checks that run at once. A run costs about 100 KiB (buffers, TLS, and a body of 1 MiB at worst): 16 MiB at worst.
pub const OVERALL: usize = 16;
/// Commands that run at once: each is a process.
pub const COMMANDS: usize = 2;
/// Questions to databases that run at once: each is a connection.
pub const DATABASES: usize = 4;
/// Of [`OVERALL`], places that checks whose last run timed out may not take.
const KEPT_OVERALL: usize = 4;
/// Of the smaller limits; neither they nor checks that were not asked yet may take it.
const KEPT: usize = 1;
/// Of [`OVERALL`], places that neither those nor checks that were not asked yet may take: after a start nobody knows who hangs.
const KEPT_FROM_NEW: usize = 2;

/// What is known of how long a check takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Not asked yet.
    New,
    /// Its last run ended before its deadline.
    Answers,
    /// Its last run ran into its deadline.
    Slow,
}

/// What a check costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Counts towards the overall limit only.
    Light,
    /// A process.
    Command,
    /// A connection to a database.
    Database,
}

impl From<CheckKind> for Class {
    fn from(kind: CheckKind) -> Self {
        match kind {
            CheckKind::Command | CheckKind::Sqlite => Self::Command,
            CheckKind::Postgresql | CheckKind::Mysql | CheckKind::Redis => Self::Database,
            _ => Self::Light,
        }
    }
}

/// Someone who wants to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// Who; at most one ticket each.
    pub check: usize,
    /// What it costs.
    pub class: Class,
    /// What to expect of it.
    pub trust: Trust,
}

/// Who runs and who waits.
#[derive(Debug, Default)]
pub struct Caps {
    running: Vec<Ticket>,
    /// At most one entry for each check.
    waiting: VecDeque<Ticket>,
}

impl Caps {
    /// Asks for a place. One who runs or waits already is not added again.
    pub fn enqueue(&mut self, ticket: Ticket) {
        if !self.holds(ticket.check) {
            self.waiting.push_back(ticket);
        }
    }

    /// Whether this check runs or waits.
    pub fn holds(&self, check: usize) -> bool {
        self.running
            .iter()
            .chain(&self.waiting)
            .any(|t| t.check == check)
    }

    /// The first who may run now; it has its place until [`Self::done`].
    pub fn start_next(&mut self) -> Option<Ticket> {
        // New ones come before slow ones: else those, asked again and again, would keep them waiting.
        let first = |slow: bool| {
            let mut waiting = self.waiting.iter();
            waiting.position(|t| (t.trust == Trust::Slow) == slow && self.admits(t))
        };
        let at = first(false).or_else(|| first(true))?;
        let ticket = self.waiting.remove(at)?;
        self.running.push(ticket);
        Some(ticket)
    }

    fn admits(&self, t: &Ticket) -> bool {
        let room = |limit: usize, kept: usize, class: Option<Class>| {
            let mine = |r: &&Ticket| class.is_none_or(|c| r.class == c);
            let count = |of: &dyn Fn(&Ticket) -> bool| {
                self.running.iter().filter(mine).filter(|r| of(r)).count()
            };
            let unproven = || count(&|r| r.trust != Trust::Answers);
            count(&|_| true) < limit
                && match t.trust {
                    Trust::Answers => true,
                    Trust::New if class.is_none() => unproven() < limit - KEPT_FROM_NEW,
                    Trust::New => unproven() < limit - kept,
                    Trust::Slow => unproven() < limit - kept,
                }
        };
        room(OVERALL, KEPT_OVERALL, None)
            && match t.class {
                Class::Light => true,
                Class::Command => room(COMMANDS, KEPT, Some(Class::Command)),
                Class::Database => room(DATABASES, KEPT, Some(Class::Database)),
            }
    }

    /// Gives the place back.
    pub fn done(&mut self, check: usize) {
        self.running.retain(|t| t.check != check);
    }

    /// Takes a check out of the queue, when it waits.
    pub fn withdraw(&mut self, check: usize) {
        self.waiting.retain(|t| t.check != check);
    }

    /// How many run.
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }
}

#[cfg(test)]
mod tests {
    use super::Trust::{Answers, New, Slow};
    use super::*;
    use proptest::prelude::*;

    fn ticket(check: usize, class: Class, trust: Trust) -> Ticket {
        Ticket {
            check,
            class,
            trust,
        }
    }

    fn admitted(caps: &mut Caps) -> Vec<usize> {
        std::iter::from_fn(|| caps.start_next().map(|t| t.check)).collect()
    }

    #[test]
    fn limits_by_class() {
        let mut caps = Caps::default();
        for i in 0..10 {
            caps.enqueue(ticket(i, Class::Command, Answers));
            caps.enqueue(ticket(100 + i, Class::Database, Answers));
        }
        assert_eq!(admitted(&mut caps), [0, 100, 1, 101, 102, 103]);
        caps.done(0);
        assert_eq!(admitted(&mut caps), [2]);
        for i in 200..230 {
            caps.enqueue(ticket(i, Class::Light, Answers));
        }
        assert_eq!(admitted(&mut caps), (200..210).collect::<Vec<_>>());
        assert_eq!(caps.running(), OVERALL);
    }

    #[test]
    fn hung_checks_leave_room_for_healthy_ones() {
        let mut caps = Caps::default();
        for i in 0..50 {
            caps.enqueue(ticket(i, Class::Light, Slow));
        }
        assert_eq!(admitted(&mut caps).len(), OVERALL - KEPT_OVERALL);
        caps.enqueue(ticket(90, Class::Light, Answers));
        assert_eq!(admitted(&mut caps), [90], "past 38 that wait");
        let mut caps = Caps::default();
        for i in 0..5 {
            caps.enqueue(ticket(i, Class::Command, Slow));
            caps.enqueue(ticket(10 + i, Class::Database, Slow));
        }
        assert_eq!(admitted(&mut caps), [0, 10, 11, 12]);
        caps.enqueue(ticket(20, Class::Command, Answers));
        caps.enqueue(ticket(21, Class::Database, Answers));
        assert_eq!(admitted(&mut caps), [20, 21]);
    }

    #[test]
    fn after_a_start_those_that_answered_find_a_place_among_unknown_ones() {
        let mut caps = Caps::default();
        for i in 0..50 {
            caps.enqueue(ticket(i, Class::Light, New));
        }
        assert_eq!(admitted(&mut caps).len(), OVERALL - KEPT_FROM_NEW);
        for (check, trust) in [(90, Slow), (91, Answers), (92, Answers), (93, Answers)] {
            caps.enqueue(ticket(check, Class::Light, trust));
        }
        assert_eq!(admitted(&mut caps), [91, 92]);
        caps.done(91);
        assert_eq!(admitted(&mut caps), [93], "and not one of the new");
        caps.done(0);
        assert_eq!(admitted(&mut caps), [14], "and not the slow one");
    }

    #[test]
    fn unknown_commands_and_databases_leave_a_place_to_those_that_answer() {
        let mut caps = Caps::default();
        for i in 0..6 {
            caps.enqueue(ticket(i, Class::Command, New));
            caps.enqueue(ticket(10 + i, Class::Database, New));
        }
        assert_eq!(admitted(&mut caps), [0, 10, 11, 12]);
        caps.enqueue(ticket(20, Class::Command, Answers));
        caps.enqueue(ticket(21, Class::Database, Answers));
        assert_eq!(admitted(&mut caps), [20, 21], "past those that hang");
        // A slow one that came first lets new ones pass.
        let mut caps = Caps::default();
        caps.enqueue(ticket(1, Class::Command, Slow));
        caps.enqueue(ticket(2, Class::Command, New));
        assert_eq!(admitted(&mut caps), [2]);
        caps.done(2);
        assert_eq!(admitted(&mut caps), [1]);
    }

    #[test]
    fn one_place_for_each() {
        let mut caps = Caps::default();
        caps.enqueue(ticket(1, Class::Light, Answers));
        caps.enqueue(ticket(1, Class::Light, Answers));
        assert_eq!(admitted(&mut caps), [1]);
        caps.enqueue(ticket(1, Class::Light, Answers));
        assert_eq!((caps.running(), caps.waiting()), (1, 0));
        caps.done(1);
        caps.enqueue(ticket(1, Class::Light, Answers));
        caps.withdraw(1);
        assert_eq!((caps.running(), caps.waiting()), (0, 0));
    }

    proptest! {
        /// No limit is ever passed, and who can run does not wait.
        #[test]
        fn limits_hold(steps in proptest::collection::vec((0usize..60, 0u8..3, 0u8..3, any::<bool>()), 0..300)) {
            let mut caps = Caps::default();
            for (check, class, trust, end) in steps {
                if end { caps.done(check) } else {
                    let class = [Class::Light, Class::Command, Class::Database][usize::from(class)];
                    let trust = [Answers, New, Slow][usize::from(trust)];
                    caps.enqueue(ticket(check, class, trust));
                }
                while caps.start_next().is_some() {}
                let count = |c: Class| caps.running.iter().filter(|t| t.class == c).count();
                prop_assert!(caps.running.len() <= OVERALL);
                prop_assert!(count(Class::Command) <= COMMANDS && count(Class::Database) <= DATABASES);
                prop_assert!(caps.running.iter().filter(|t| t.trust == Slow).count() <= OVERALL - KEPT_OVERALL);
                prop_assert!(!caps.waiting.iter().any(|t| caps.admits(t)));
            }
        }
    }
}
