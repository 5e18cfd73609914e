//! Restarts: when ([`policy`], pure) and by whom ([`executor`]).

pub mod executor;
pub mod policy;

pub use executor::{Done, Executor, SystemdExecutor};
pub use policy::{
    Asker, Attempt, Decision, Facts, HostState, Phase, Refusal, SavedRestarts, Step, UnitRules,
    UnitState,
};

#[cfg(test)]
mod tests;
