//! Telling people without Prometheus: Alertmanager, Telegram, mail, webhooks, ntfy, and a dead-man switch outside.
//!
//! Whoever uses the crate says what fires now ([`post::Post::observe`]), as often as it likes; that never waits. What is said to
//! whom, when and how often is decided by a pure state machine ([`plan`]); a task for each channel sends what it decided, so a
//! sink that hangs hinders neither the checks nor the other channels.
//!
//! | layer | modules |
//! |---|---|
//! | words | [`limits`], [`time`], [`text`] (cleaning, cutting, escaping), [`secret`], [`alert`] |
//! | deciding, pure | [`plan`] (grouping, cooldown, repeats, escalation), [`push`] (what Alertmanager is to know) |
//! | reaching out | [`fault`] (why it failed, and what that means), [`http`] (one exchange) |
//! | media | [`medium`] (Telegram, mail, webhook, ntfy, Alertmanager: how each writes and sends) |
//! | sending | [`post`] (tasks, retries, stopping) |
//!
//! A module uses only modules of its own layer or of layers above it in this table.
//!
//! **Once, in order, and not lost.** There is no queue of finished messages. The state remembers of each alert what was told
//! of it, and a message is written from the state when it is sent; so after an outage of the sink one message says how things
//! stand instead of fifty that say how they stood, memory is bounded by the number of alerts, and what changed while a message
//! was under way is still to be told. The state is a serialisable value ([`plan::State`]); whoever stores it after each
//! change tells nothing twice after a restart, except the one message that was under way in a crash.

pub mod alert;
pub mod fault;
pub mod http;
pub mod limits;
pub mod medium;
pub mod plan;
pub mod post;
pub mod push;
pub mod secret;
pub mod text;
pub mod time;
