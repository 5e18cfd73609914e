//! The text exposition format 0.0.4: families with `# HELP` and `# TYPE`, one line for each series.
//!
//! A [`Page`] takes one family after the other, each once, with the labels that its declaration names and no others; values of
//! labels are shortened, cleaned and escaped, so that a hostile name adds no label and no line. A second series with the same
//! labels (two names that are equal once shortened) is left out: Prometheus would refuse the whole page for it.

use std::collections::HashSet;
use std::fmt::Write as _;

use crate::limits::{LABEL_MAX, TEXT_MAX};
use crate::names::Metric;

/// The content type of a page.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A page in the making.
#[derive(Debug, Default)]
pub struct Page {
    out: String,
    series: usize,
    omitted: usize,
}

impl Page {
    /// Writes one metric: `fill` gets what takes its series. A family without series is not written at all, and one with which
    /// the page would be longer than [`TEXT_MAX`] is left out.
    pub fn family(&mut self, metric: &Metric, fill: impl FnOnce(&mut Family<'_>)) {
        let mut family = Family {
            metric,
            out: String::new(),
            seen: HashSet::new(),
            omitted: 0,
        };
        fill(&mut family);
        let Family {
            out, seen, omitted, ..
        } = family;
        self.omitted += omitted;
        if out.is_empty() {
            return;
        }
        if self.out.len() + out.len() > TEXT_MAX {
            self.omitted += seen.len();
            return;
        }
        let _ = writeln!(self.out, "# HELP {} {}", metric.name, metric.help);
        let _ = writeln!(self.out, "# TYPE {} {}", metric.name, metric.kind.as_str());
        self.out.push_str(&out);
        self.series += seen.len();
    }

    /// Series written so far.
    pub fn series(&self) -> usize {
        self.series
    }

    /// Series left out: doubles, beyond a limit, or not a number of labels that fits.
    pub fn omitted(&self) -> usize {
        self.omitted
    }

    /// The text.
    pub fn finish(self) -> String {
        self.out
    }
}

/// The series of one metric.
#[derive(Debug)]
pub struct Family<'a> {
    metric: &'a Metric,
    out: String,
    seen: HashSet<String>,
    omitted: usize,
}

impl Family<'_> {
    /// One series: values of the labels in the declared order. Empty values are written; Prometheus takes them for absent.
    pub fn add<const N: usize>(&mut self, labels: [&str; N], value: f64) {
        if N != self.metric.labels.len() || !value.is_finite() {
            self.omitted += 1;
            return;
        }
        let mut set = String::new();
        for (name, text) in self.metric.labels.iter().zip(labels) {
            let _ = write!(set, "{}{name}=\"", if set.is_empty() { "" } else { "," });
            escape(&mut set, text);
            set.push('"');
        }
        if self.seen.contains(&set) {
            self.omitted += 1;
            return;
        }
        self.out.push_str(self.metric.name);
        if N > 0 {
            let _ = write!(self.out, "{{{set}}}");
        }
        // The shortest text that reads back as the same number.
        let _ = writeln!(self.out, " {value}");
        self.seen.insert(set);
    }

    /// One series when there is a value.
    pub fn maybe<const N: usize>(&mut self, labels: [&str; N], value: Option<f64>) {
        if let Some(value) = value {
            self.add(labels, value);
        }
    }
}

/// A label's value: at most [`LABEL_MAX`] characters, control characters as U+FFFD, and what the format needs escaped.
pub fn escape(out: &mut String, value: &str) {
    for c in value.chars().take(LABEL_MAX) {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::{BACKUP_INFO, CHECK_UP, HOST_LOAD1};
    use proptest::prelude::*;

    #[test]
    fn families_as_the_format_wants_them() {
        let mut p = Page::default();
        p.family(&CHECK_UP, |f| {
            f.add(["a", "http"], 1.0);
            f.add(["b\"\\\n", "tcp"], 0.0);
            f.add(["a", "http"], 0.0); // a double
            f.add(["too few"], 0.0);
            f.add(["c", "tcp"], f64::NAN);
            f.maybe(["d", "tcp"], None);
        });
        p.family(&HOST_LOAD1, |f| f.add([], 0.25));
        p.family(&BACKUP_INFO, |_| {});
        assert_eq!((p.series(), p.omitted()), (3, 3));
        assert_eq!(
            p.finish(),
            "# HELP keepwatch_check_up Whether the check's debounced state is healthy or degraded.\n\
             # TYPE keepwatch_check_up gauge\n\
             keepwatch_check_up{check=\"a\",kind=\"http\"} 1\n\
             keepwatch_check_up{check=\"b\\\"\\\\\u{fffd}\",kind=\"tcp\"} 0\n\
             # HELP keepwatch_host_load1 Load average over one minute.\n\
             # TYPE keepwatch_host_load1 gauge\n\
             keepwatch_host_load1 0.25\n"
        );
    }

    #[test]
    fn a_page_ends_at_its_limit() {
        let mut p = Page::default();
        let long = "x".repeat(LABEL_MAX - 6);
        for round in 0..3 {
            p.family(&CHECK_UP, |f| {
                for i in 0..10_000 {
                    f.add([&format!("{i:06}{long}"), "http"], f64::from(round));
                }
            });
        }
        assert!(p.omitted() >= 10_000);
        assert!(p.finish().len() <= TEXT_MAX + 1024);
    }

    proptest! {
        #[test]
        fn no_value_of_a_label_adds_a_line_or_a_label(value in "\\PC*|[\\x00-\\x7f]{0,300}", other in ".{0,20}") {
            let mut p = Page::default();
            p.family(&CHECK_UP, |f| f.add([&value, &other], 1.0));
            let text = p.finish();
            let lines: Vec<_> = text.lines().collect();
            prop_assert_eq!(lines.len(), 3);
            // Outside of quotes there is exactly what we wrote.
            let mut bare = String::new();
            let (mut inside, mut escaped) = (false, false);
            for c in lines[2].chars() {
                match c {
                    _ if escaped => escaped = false,
                    '\\' if inside => escaped = true,
                    '"' => { inside = !inside; bare.push('"'); }
                    c if !inside => bare.push(c),
                    _ => {}
                }
            }
            prop_assert_eq!(bare, "keepwatch_check_up{check=\"\",kind=\"\"} 1");
        }
    }
}
