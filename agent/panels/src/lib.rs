//! The dashboards for Grafana, written from the agent's own metric declarations; and what finds a mistake in rules and dashboards.
//!
//! Nothing here runs on a host. The tests compare what is written here with `dashboards/*.json`, which are committed, so that a
//! renamed metric fails to compile and a changed panel shows in a review:
//!
//! ```text
//! KEEPWATCH_WRITE_DASHBOARDS=1 cargo test -p keepwatch-panels
//! ```
//!
//! | layer | modules |
//! |---|---|
//! | words | [`query`] (series of a metric, as PromQL), [`promql`] (which metrics and labels an expression names), [`json`] (text in one fixed form) |
//! | pieces | [`panel`], [`dashboard`] |
//! | saying | [`boards`] (what is shown), [`lint`] (the rules that every dashboard keeps) |
//!
//! **Form.** Grafana's classic model, schema version 42, core panels only: it is imported and provisioned everywhere. A user's
//! data source is a variable, so the files are used as they are.

pub mod boards;
pub mod dashboard;
pub mod json;
pub mod lint;
pub mod panel;
pub mod promql;
pub mod query;
