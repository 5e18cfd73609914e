//! What happened.
mod fault;
mod place;
mod sql;
mod text;
