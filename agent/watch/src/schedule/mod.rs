//! When checks run and how many at once: pure parts, driven by [`crate::conductor`].

pub mod caps;
pub mod grid;

pub use caps::{Caps, Class, Ticket, Trust};
pub use grid::{Beat, FIRST_WITHIN, Grid, spread};
