//! What the agent counts itself, as it happens: requests, durations, log lines.
//!
//! The recorder belongs to this value, not to the process: nothing is installed globally, so two servers in a test do not see
//! each other's numbers. Samples of histograms are only queued when they are recorded; [`Counters::upkeep`] folds them into
//! buckets and must be called every few seconds even if nobody scrapes, or they pile up ([`crate::server`] does).

use std::time::Duration;

use keepwatch_model::check::CheckKind;
use metrics::{Key, Label, Level, Metadata, Recorder as _};
use metrics_exporter_prometheus::{
    BuildError, Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
};

use crate::names::{self, Kind, Metric};

static META: Metadata<'static> = Metadata::new(module_path!(), Level::INFO, None);

/// Operations of the state database, as the metrics know them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DbOperation {
    /// Rows were read.
    Read,
    /// Rows were written.
    Write,
    /// Tables were changed to a new version.
    Migrate,
    /// Old rows were deleted or rolled up.
    Upkeep,
}

impl DbOperation {
    /// All of them.
    pub const ALL: &'static [Self] = &[Self::Read, Self::Write, Self::Migrate, Self::Upkeep];

    /// The label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Migrate => "migrate",
            Self::Upkeep => "upkeep",
        }
    }
}

/// The numbers.
pub struct Counters {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
    legacy: bool,
    per_check: bool,
}

impl Counters {
    /// All at zero; with `legacy` durations of checks are also counted under their other name.
    ///
    /// # Errors
    /// None in practice: the library refuses empty lists of buckets, and ours are constants.
    pub fn new(legacy: bool) -> Result<Self, BuildError> {
        let mut builder = PrometheusBuilder::new();
        for m in names::ALL.iter().filter(|m| m.kind == Kind::Histogram) {
            builder = builder.set_buckets_for_metric(Matcher::Full(m.name.into()), m.buckets)?;
        }
        let recorder = builder.build_recorder();
        for m in names::ALL.iter().filter(|m| m.from == names::From::Counted) {
            match m.kind {
                Kind::Counter => recorder.describe_counter(m.name.into(), None, m.help.into()),
                Kind::Histogram => recorder.describe_histogram(m.name.into(), None, m.help.into()),
                Kind::Gauge => recorder.describe_gauge(m.name.into(), None, m.help.into()),
            }
        }
        let new = Self {
            handle: recorder.handle(),
            recorder,
            legacy,
            per_check: false,
        };
        // What can be seen from the start is there at 0, so that its first increase is seen.
        for op in DbOperation::ALL {
            for m in [&names::DB_OPERATIONS, &names::DB_ERRORS] {
                new.add(
                    m,
                    vec![Label::from_static_parts("operation", op.as_str())],
                    0,
                );
            }
        }
        for level in ["error", "warn"] {
            new.add(
                &names::LOG_MESSAGES,
                vec![Label::from_static_parts("level", level)],
                0,
            );
        }
        Ok(new)
    }

    /// A histogram of durations for each check, and not only for each kind: about 14 series more for each.
    #[must_use]
    pub fn per_check(self, per_check: bool) -> Self {
        Self { per_check, ..self }
    }

    fn add(&self, metric: &Metric, labels: Vec<Label>, by: u64) {
        let key = Key::from_parts(metric.name, labels);
        self.recorder.register_counter(&key, &META).increment(by);
    }

    fn observe(&self, metric: &Metric, labels: Vec<Label>, duration: Duration) {
        let key = Key::from_parts(metric.name, labels);
        self.recorder
            .register_histogram(&key, &META)
            .record(duration.as_secs_f64());
    }

    /// A run of a check ended.
    pub fn check_finished(&self, check: &str, kind: CheckKind, duration: Duration) {
        let labels = || vec![Label::from_static_parts("kind", kind.as_str())];
        let mut own = labels();
        if self.per_check {
            own.push(Label::new("check", check.to_owned()));
        }
        self.observe(&names::CHECK_DURATION, own, duration);
        if self.legacy {
            self.observe(&names::LEGACY_CHECK_DURATION, labels(), duration);
        }
    }

    /// The state database did something.
    pub fn database(&self, operation: DbOperation, duration: Duration, ok: bool) {
        let labels = || vec![Label::from_static_parts("operation", operation.as_str())];
        self.add(&names::DB_OPERATIONS, labels(), 1);
        if !ok {
            self.add(&names::DB_ERRORS, labels(), 1);
        }
        self.observe(&names::DB_OPERATION_DURATION, labels(), duration);
    }

    /// Something was logged.
    pub fn logged(&self, level: &tracing::Level) {
        let level = match *level {
            tracing::Level::ERROR => "error",
            tracing::Level::WARN => "warn",
            tracing::Level::INFO => "info",
            tracing::Level::DEBUG => "debug",
            tracing::Level::TRACE => "trace",
        };
        self.add(
            &names::LOG_MESSAGES,
            vec![Label::from_static_parts("level", level)],
            1,
        );
    }

    /// A request was answered. `path` is a word of a closed set.
    pub(crate) fn request(&self, path: &'static str, code: u16, duration: Duration) {
        let code = match code {
            200 => "200",
            400 => "400",
            401 => "401",
            403 => "403",
            404 => "404",
            405 => "405",
            413 => "413",
            414 => "414",
            429 => "429",
            503 => "503",
            _ => "other",
        };
        let path = Label::from_static_parts("path", path);
        self.add(
            &names::HTTP_REQUESTS,
            vec![path.clone(), Label::from_static_parts("code", code)],
            1,
        );
        self.observe(&names::HTTP_DURATION, vec![path], duration);
    }

    /// A connection was refused or cut off. `reason` is a word of a closed set.
    pub(crate) fn refused(&self, reason: &'static str) {
        self.add(
            &names::HTTP_REFUSED,
            vec![Label::from_static_parts("reason", reason)],
            1,
        );
    }

    /// Folds samples into buckets.
    pub fn upkeep(&self) {
        self.handle.run_upkeep();
    }

    /// All of it in the exposition format. `is_check` tells which checks there are: the histogram of one that was taken out of the
    /// configuration is not shown any more.
    pub fn render(&self, is_check: impl Fn(&str) -> bool) -> String {
        let text = self.handle.render();
        if !self.per_check {
            return text;
        }
        let is_shown = |line: &&str| {
            let of_check = line
                .strip_prefix(names::CHECK_DURATION.name)
                .and_then(|rest| rest.split_once("check=\""));
            // Names of checks hold no quotes.
            let name = of_check.and_then(|(_, rest)| rest.split('"').next());
            name.is_none_or(&is_check)
        };
        let mut out = String::with_capacity(text.len());
        for line in text.split_inclusive('\n').filter(is_shown) {
            out.push_str(line);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_as_declared() {
        let c = Counters::new(true).unwrap();
        c.check_finished("web", CheckKind::Http, Duration::from_millis(30));
        c.check_finished("web", CheckKind::Http, Duration::from_secs(99));
        c.database(DbOperation::Write, Duration::from_micros(700), false);
        c.logged(&tracing::Level::WARN);
        c.request("/metrics", 200, Duration::from_micros(10));
        c.request("/metrics", 599, Duration::from_micros(10));
        c.refused("full");
        c.upkeep();
        let text = c.render(|_| true);
        for line in [
            "# TYPE keepwatch_check_duration_seconds histogram",
            "keepwatch_check_duration_seconds_bucket{kind=\"http\",le=\"0.025\"} 0",
            "keepwatch_check_duration_seconds_bucket{kind=\"http\",le=\"0.05\"} 1",
            "keepwatch_check_duration_seconds_bucket{kind=\"http\",le=\"+Inf\"} 2",
            "keepwatch_check_duration_seconds_count{kind=\"http\"} 2",
            "health_check_duration_seconds_count{kind=\"http\"} 2",
            "keepwatch_state_db_operations_total{operation=\"write\"} 1",
            "keepwatch_state_db_errors_total{operation=\"write\"} 1",
            "keepwatch_state_db_errors_total{operation=\"read\"} 0",
            "keepwatch_log_messages_total{level=\"warn\"} 1",
            "keepwatch_log_messages_total{level=\"error\"} 0",
            "keepwatch_http_requests_total{path=\"/metrics\",code=\"200\"} 1",
            "keepwatch_http_requests_total{path=\"/metrics\",code=\"other\"} 1",
            "keepwatch_http_connections_refused_total{reason=\"full\"} 1",
            "# HELP keepwatch_http_requests_total Requests to the agent by path and status.",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\nnot in\n{text}");
        }
        let declared: Vec<_> = names::ALL
            .iter()
            .filter(|m| m.from == names::From::Counted)
            .map(|m| m.name)
            .collect();
        for name in text.lines().filter_map(|l| l.strip_prefix("# TYPE ")) {
            let name = name.split(' ').next().unwrap();
            assert!(declared.contains(&name), "{name} is not declared");
        }
        // Without the option the other name is not there.
        let c = Counters::new(false).unwrap();
        c.check_finished("web", CheckKind::Http, Duration::from_millis(30));
        assert!(!c.render(|_| true).contains("\nhealth_check_"));
    }

    #[test]
    fn details_vanish_with_their_check() {
        let c = Counters::new(false).unwrap().per_check(true);
        for check in ["web", "gone"] {
            c.check_finished(check, CheckKind::Http, Duration::from_millis(30));
        }
        let text = c.render(|name| name == "web");
        let line = "keepwatch_check_duration_seconds_count{kind=\"http\",check=\"web\"} 1";
        assert!(text.lines().any(|l| l == line), "{text}");
        assert!(!text.contains("gone"), "{text}");
        assert!(text.contains("# TYPE keepwatch_check_duration_seconds histogram"));
    }
}
