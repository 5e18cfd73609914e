//! Progress for people on a terminal; silent otherwise. Problems are named on standard error as they happen.

use std::io::{IsTerminal, stderr};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use keepwatch_engine::progress::{Event, Progress};

use crate::output::{escape, escape_bytes, plain, tell};

/// Shows what a verb tells.
pub struct Bar {
    bar: Option<ProgressBar>,
    quiet: bool,
    problems: bool,
}

/// While it is not known how much there is.
const SPINNING: &str = "{spinner} {prefix}  {bytes}  {binary_bytes_per_sec}  {elapsed}  {wide_msg}";
/// When it is.
const COUNTING: &str =
    "{prefix}  {bar:24}  {bytes}/{total_bytes}  {binary_bytes_per_sec}  {eta} left  {wide_msg}";

impl Bar {
    /// `quiet`: only problems are told. `problems`: whether they are printed as they happen.
    pub fn new(quiet: bool, problems: bool) -> Self {
        let bar = (!quiet && stderr().is_terminal()).then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(8));
            bar.set_style(
                ProgressStyle::with_template(SPINNING)
                    .unwrap_or_else(|_| ProgressStyle::default_spinner()),
            );
            bar.enable_steady_tick(Duration::from_millis(125));
            bar
        });
        Bar {
            bar,
            quiet,
            problems,
        }
    }
    /// Whether there is somebody to look at it.
    pub fn is_visible(&self) -> bool {
        self.bar.is_some()
    }
    /// So many bytes there are in all.
    pub fn expect(&self, bytes: u64) {
        let Some(bar) = &self.bar else { return };
        bar.set_length(bytes);
        if let Ok(style) = ProgressStyle::with_template(COUNTING) {
            bar.set_style(style);
        }
    }
    /// Takes the bar off the screen.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
    fn tell(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| tell(line)),
            None => tell(line),
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.finish();
    }
}

impl Progress for Bar {
    fn event(&self, event: Event<'_>) {
        match event {
            Event::Problem(p) if self.problems => {
                let what = escape(&plain(&p.what));
                // Without a path it is about the whole.
                self.tell(&match p.path.is_empty() {
                    true => format!("keepwatch: {what}"),
                    false => format!("keepwatch: {}: {what}", escape_bytes(&p.path)),
                });
            }
            Event::Note(note) if !self.quiet => self.tell(&format!("keepwatch: {}", escape(note))),
            event => {
                let Some(bar) = &self.bar else { return };
                match event {
                    Event::Phase(name) => bar.set_prefix(name),
                    Event::Total { bytes, .. } if bytes > 0 => self.expect(bytes),
                    Event::Item(path) => bar.set_message(escape_bytes(path)),
                    Event::Done { bytes, .. } => bar.inc(bytes),
                    Event::Total { .. } | Event::Problem(_) | Event::Note(_) => {}
                }
            }
        }
    }
}
