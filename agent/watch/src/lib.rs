//! Health checks: probes, judgement, incidents, scheduling, restarts.
//!
//! The crate watches and acts; it does not record. What it finds leaves as [`event::Event`]s and as an
//! [`conductor::Overview`] in memory, and whoever uses it feeds them to a catalog, to metrics, to the journal and to people.
//!
//! Start reading at [`conductor`]: one task that starts runs and takes their results. What it decides it asks of pure parts:
//!
//! | layer | modules |
//! |---|---|
//! | words | [`alarm`], [`clock`], [`text`], [`outcome`], [`secret`], [`calendar`] |
//! | judging, pure | [`judge`], [`maintenance`], [`dependencies`], [`score`], [`schedule`] |
//! | reaching out | [`net`], [`process`], [`systemd`] |
//! | asking and acting | [`probe`], [`restart`] |
//! | events | [`event`] |
//! | conducting | [`conductor`] |
//!
//! A module uses only modules of its own layer or of layers above it in this table. The pure parts read no clock, draw no
//! random number and wait for nothing: moments and random numbers are arguments, so years pass in a test in a moment.
//!
//! Everything that comes from a service is foreign: what is read is bounded, what is said of it is cleaned and shortened
//! ([`text`]), and no text of it ever becomes a label. Secrets are read for a run and wiped after it ([`secret`]).

pub mod alarm;
pub mod calendar;
pub mod clock;
pub mod conductor;
pub mod dependencies;
pub mod event;
pub mod judge;
pub mod maintenance;
pub mod net;
pub mod outcome;
pub mod probe;
pub mod process;
pub mod restart;
pub mod schedule;
pub mod score;
pub mod secret;
pub mod systemd;
pub mod text;
