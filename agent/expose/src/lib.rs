//! What the agent shows: metrics for Prometheus and probes for orchestrators, over HTTP.
//!
//! The crate watches nothing and asks nobody. Whoever uses it puts down plain [`facts::Facts`] in memory as often as they
//! change; every answer is made from the last ones, so a question never waits for a check, a disk or a database.
//!
//! | layer | modules |
//! |---|---|
//! | words | [`names`] (every metric that exists), [`facts`] (what is known now), [`limits`] |
//! | pieces | [`text`] (the exposition format), [`token`], [`seats`] (who may be connected), [`rate`] (who may ask), [`process`] |
//! | saying | [`counters`] (what the agent counts itself), [`render`] (facts as metrics), [`probes`], [`summary`] (facts as JSON) |
//! | answering | [`answer`] (from a request to a response) |
//! | serving | `connection` (one of them, its deadlines), [`server`] (sockets, seats, stopping) |
//!
//! A module uses only modules of its own layer or of layers above it in this table.
//!
//! **Two sources of one text.** What is counted as it happens (requests, durations) lives in the recorder of
//! `metrics-exporter-prometheus`. What is a fact (the state of a check, the age of a backup) is written from the facts for
//! each scrape: that recorder cannot remove a series, and a series must vanish with its check. Both halves take name, type,
//! help and labels from [`names`], and no metric is in both.

pub mod answer;
mod connection;
pub mod counters;
pub mod facts;
pub mod limits;
pub mod names;
pub mod probes;
pub mod process;
pub mod rate;
pub mod render;
pub mod seats;
pub mod server;
pub mod summary;
pub mod text;
pub mod token;
