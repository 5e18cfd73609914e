//! Health checks: probes, judgement, incidents, scheduling, restarts.
pub mod calendar;
pub mod clock;
pub mod dependencies;
pub mod judge;
pub mod maintenance;
pub mod net;
pub mod outcome;
pub mod probe;
pub mod process;
pub mod schedule;
pub mod score;
pub mod secret;
pub mod systemd;
pub mod text;
