//! The verb: runs a job of the configuration from its lock to its last record.

use std::time::{Duration, Instant};

use keepwatch_catalog::process;
use keepwatch_config::Credentials;
use keepwatch_model::ids::RunId;
use keepwatch_model::runs::{ErrorClass, RunKind, RunRecord, Stage, Trigger};
use serde_json::{Value, json};

use super::argv::Setting;
use super::backoff;
use super::book::{self, Book};
use super::hooks;
use super::lock::{self, Refused};
use super::place;
use super::report::{self, Ending, Rules, Verdict};
use super::say;
use super::stop::Stop;
use super::task::{Task, Work, tasks};
use super::units::Units;
use super::wanted::Wanted;
use super::work::{Worker, before};
use crate::clock;
use crate::context::{Context, host_name};
use crate::errors::{Exit, Failure, Outcome, plain_io};
use crate::logs;
use crate::output::{count, escape, print_after, print_json_after, tell};
use crate::told;

/// How often a pause looks for a request to stop.
const NAP: Duration = Duration::from_millis(100);

/// The verb.
pub fn run(context: &Context, wanted: &Wanted) -> Outcome {
    let stop = Stop::default();
    stop.listen();
    let loaded = keepwatch_config::load(&wanted.config).map_err(|faults| {
        Failure::usage(faults.to_string()).advice(format!(
            "mend it; 'keepwatch config check --config {}' reads it without doing anything",
            wanted.config.display()
        ))
    })?;
    let config = &loaded.config;
    let credentials = Credentials::of_this_process();
    let host = config.host.clone().unwrap_or_else(host_name);
    let tasks = tasks(wanted, config)?;
    let setting = Setting {
        config,
        credentials: &credentials,
        host: &host,
    };
    if wanted.dry_run {
        return rehearse(context, wanted, &setting, &tasks, &stop);
    }
    book::make_state(&config.state_directory);
    let mut book = None;
    let mut done = Done::default();
    for task in &tasks {
        let path = config.state_directory.join(&task.lock);
        let _lock = match lock::take(&path, clock::now()) {
            Ok(lock) => Some(lock),
            Err(Refused::Held(who)) => {
                done.exits.push(Exit::Refused);
                done.trouble(format!(
                    "{} is being run by {who}; it was not run a second time",
                    task.title
                ));
                continue;
            }
            Err(Refused::Unable(e)) => {
                tell(&format!(
                    "keepwatch: warning: cannot take the lock {}: {}; that {} is run twice at once is not prevented",
                    path.display(),
                    plain_io(&e),
                    task.title
                ));
                None
            }
        };
        let book = book.get_or_insert_with(|| {
            let book = Book::open(config, &credentials, &host);
            book.reconcile();
            book
        });
        let supervisor = Supervisor {
            context,
            worker: worker(context, wanted, &setting, &stop),
            book,
            trigger: trigger(std::env::var("TRIGGER_UNIT").ok().as_deref()),
        };
        supervisor.task(task, &mut done);
    }
    if let Some(book) = book {
        book.close();
    }
    done.end(context)
}

fn worker<'a>(
    context: &Context,
    wanted: &'a Wanted,
    setting: &'a Setting<'a>,
    stop: &'a Stop,
) -> Worker<'a> {
    Worker {
        setting,
        stop,
        passed: &wanted.passed,
        verbose: context.globals.verbose.min(3),
        json: context.json(),
    }
}

/// systemd says which unit triggered ours.
fn trigger(unit: Option<&str>) -> Trigger {
    match unit.is_some_and(|u| u.ends_with(".timer")) {
        true => Trigger::Timer,
        false => Trigger::Manual,
    }
}

/// What was done so far.
#[derive(Default)]
struct Done {
    runs: Vec<RunRecord>,
    exits: Vec<Exit>,
    troubles: Vec<String>,
}

impl Done {
    fn trouble(&mut self, text: String) {
        tell(&format!("keepwatch: {}", escape(&text)));
        self.troubles.push(text);
    }

    fn end(self, context: &Context) -> Outcome {
        let exit = worst(&self.exits);
        if context.json() {
            print_json_after(&json!({
                "runs": self.runs,
                "troubles": self.troubles,
                "exit_code": exit as u8,
            }))?;
        }
        match exit {
            Exit::Done | Exit::Partial => Ok(exit),
            _ => {
                let is_bad = |e: &&Exit| !matches!(e, Exit::Done | Exit::Partial);
                let bad = self.exits.iter().filter(is_bad).count() as u64;
                let what = match self.exits.len() {
                    1 => "it failed".to_owned(),
                    all => format!(
                        "{bad} of {} failed",
                        count(all as u64, "part", "parts of it")
                    ),
                };
                Err(
                    Failure::new(exit, format!("{what}; what was backed up before is safe"))
                        .advice("the lines above say why; 'keepwatch history' keeps them"),
                )
            }
        }
    }
}

/// Of several ends: one that all failures have, else "failed"; partial when none failed.
fn worst(exits: &[Exit]) -> Exit {
    let mut failures = exits
        .iter()
        .filter(|e| !matches!(e, Exit::Done | Exit::Partial));
    match failures.next() {
        Some(first) if failures.all(|e| e == first) => *first,
        Some(_) => Exit::Failed,
        None if exits.contains(&Exit::Partial) => Exit::Partial,
        None => Exit::Done,
    }
}

struct Supervisor<'a> {
    context: &'a Context,
    worker: Worker<'a>,
    book: &'a Book,
    trigger: Trigger,
}

impl Supervisor<'_> {
    /// All of a job: its hooks, and its repositories one after the other.
    fn task(&self, task: &Task<'_>, done: &mut Done) {
        let begun = Instant::now();
        let first = done.runs.len();
        let state = &self.worker.setting.config.state_directory;
        let mut units = Units::new(state.join(task.lock.with_extension("stopped")));
        units.recover();
        let job = task.job.unwrap_or_default();
        let pre = match task.pre_hook {
            Some(argv) => {
                let told = hooks::before(job, &task.repositories);
                hooks::run("pre_hook", argv, told, task.timeout, Some(self.worker.stop))
            }
            None => Ok(()),
        };
        for (n, repository) in task.repositories.iter().enumerate() {
            // What is asked for before anything was done stands in the record of the first.
            if n > 0 && self.worker.stop.asked() {
                done.exits.push(Exit::Failed);
                done.trouble(format!(
                    "{} was stopped before it came to {repository}",
                    task.title
                ));
                continue;
            }
            let exit = match &pre {
                Ok(()) => self.attempts(task, repository, &mut units, done),
                Err(why) => {
                    let (record, verdict) = self.attempt(task, repository, 1, |_| {
                        let text = format!("{why}; so nothing was backed up");
                        (before(ErrorClass::Source, text), None)
                    });
                    self.say(task, &record, 1, None);
                    done.runs.push(record);
                    verdict.exit
                }
            };
            done.exits.push(exit);
        }
        if let Some(argv) = task.post_hook {
            let runs = done.runs.get(first..).unwrap_or_default();
            let told = hooks::after(job, &task.repositories, runs, begun.elapsed());
            let deadline = match self.worker.stop.asked() {
                true => hooks::STOPPED_WAIT.min(task.timeout),
                false => task.timeout,
            };
            let since = Instant::now();
            if let Err(why) = hooks::run("post_hook", argv, told, deadline, None) {
                let last = done.runs.get(first..).and_then(<[_]>::last).cloned();
                self.aftermath(
                    task,
                    last.as_ref(),
                    ("post_hook", since.elapsed()),
                    why,
                    done,
                );
            }
        }
        self.retain(task, first, done);
    }

    /// What the job's policy no longer keeps is dropped where a backup was made, so that a policy that is declared is also applied.
    fn retain(&self, task: &Task<'_>, first: usize, done: &mut Done) {
        let Work::Backup(backup) = task.work else {
            return;
        };
        if backup.retention.is_empty() || self.worker.stop.asked() {
            return;
        }
        let made = done.runs.get(first..).unwrap_or_default().iter();
        let made = made.filter(|r| r.kind == RunKind::Backup && r.outcome.is_success());
        let made: Vec<&str> = made.filter_map(|r| r.repository.as_deref()).collect();
        let forget = task.forget(backup, &made);
        let mut records = Vec::new();
        for repository in &forget.repositories {
            let (record, verdict) = self.attempt(&forget, repository, 1, |record| {
                let mut units = Units::new(std::path::PathBuf::new());
                self.work(&forget, repository, &mut units, record, &mut None)
            });
            if !record.outcome.is_success() || self.worker.verbose > 0 {
                self.say(&forget, &record, 1, None);
            }
            done.exits.push(verdict.exit);
            records.push(record);
        }
        done.runs.extend(records);
    }

    /// One repository, tried again as long as that may help.
    fn attempts(
        &self,
        task: &Task<'_>,
        repository: &str,
        units: &mut Units,
        done: &mut Done,
    ) -> Exit {
        let (retries, delay) = task.retry;
        let mut number = 1;
        loop {
            let mut trouble = None;
            let (record, verdict) = self.attempt(task, repository, number, |record| {
                self.work(task, repository, units, record, &mut trouble)
            });
            let again = (verdict.may_pass && number <= retries && !self.worker.stop.asked())
                .then(|| backoff::pause(delay, number, lot()));
            self.say(task, &record, retries + 1, again);
            done.runs.push(record);
            if let Some((why, took)) = trouble {
                let last = done.runs.last().cloned();
                self.aftermath(task, last.as_ref(), ("start_units", took), why, done);
            }
            let Some(pause) = again else {
                return verdict.exit;
            };
            let since = Instant::now();
            while since.elapsed() < pause && !self.worker.stop.asked() {
                std::thread::sleep(NAP.min(pause.saturating_sub(since.elapsed())));
            }
            if self.worker.stop.asked() {
                return verdict.exit;
            }
            number += 1;
        }
    }

    /// What failed after a run. The record of that run stays as it is: whether data was stored is one thing, and a service that stays down another. This
    /// one is written down as a run that failed, so that history, metrics and alerts tell of it until the next run is well.
    fn aftermath(
        &self,
        task: &Task<'_>,
        last: Option<&RunRecord>,
        (stage, took): (&str, Duration),
        why: String,
        done: &mut Done,
    ) {
        let stored = last.filter(|r| r.outcome.is_success());
        let stored = stored.and_then(|r| r.snapshot.clone());
        let text = match &stored {
            Some(id) => format!("{why}; snapshot {id} is stored"),
            None => why,
        };
        let repository = last.and_then(|r| r.repository.as_deref());
        let repository = repository.or(task.repositories.first().copied());
        let said = text.clone();
        if let Some(repository) = repository {
            let (record, _) = self.attempt(task, repository, 1, |record| {
                record.trigger = Trigger::Run;
                record.snapshot = stored;
                record.stages.push(Stage {
                    name: stage.to_owned(),
                    duration: took,
                });
                (before(ErrorClass::Source, text), None)
            });
            told::ended(&record, &say::line(task, &record, 1, None));
            done.runs.push(record);
        }
        done.exits.push(Exit::Failed);
        done.trouble(format!("{}: {said}", task.title));
    }

    /// One run with its record.
    fn attempt(
        &self,
        task: &Task<'_>,
        repository: &str,
        number: u32,
        work: impl FnOnce(&mut RunRecord) -> (Ending, Option<Value>),
    ) -> (RunRecord, Verdict) {
        let mut random = [0; 10];
        book::fill(&mut random);
        let started = clock::now();
        let trigger = match number {
            1 => self.trigger,
            _ => Trigger::Retry,
        };
        let id = RunId::new(started, random);
        let mut record =
            RunRecord::begin(id, task.kind(), self.worker.setting.host, started, trigger);
        record.job = task.job.map(str::to_owned);
        record.repository = Some(repository.to_owned());
        record.attempt = number;
        record.process = process::current();
        record.path = say::path(task);
        self.book.write(&record);
        let begun = Instant::now();
        let (ending, document) = work(&mut record);
        let rules = Rules {
            fail_on_warnings: task.fail_on_warnings,
            timeout: task.timeout,
        };
        let took = begun.elapsed();
        let verdict = report::finish(
            &mut record,
            &ending,
            document.as_ref(),
            &rules,
            clock::now(),
            took,
        );
        self.book.write(&record);
        self.note(&record, repository, document.as_ref());
        (record, verdict)
    }

    /// What the run says of its repository.
    fn note(&self, run: &RunRecord, repository: &str, document: Option<&Value>) {
        let setting = self.worker.setting;
        let Some(declared) = setting.config.repositories.get(repository) else {
            return;
        };
        let before = self.book.size(repository);
        let state = place::state(setting.host, repository, declared, run, document, before);
        if let Some(state) = state {
            self.book.note(state);
        }
    }

    /// What stands between the two writings of the record.
    fn work(
        &self,
        task: &Task<'_>,
        repository: &str,
        units: &mut Units,
        record: &mut RunRecord,
        trouble: &mut Option<(String, Duration)>,
    ) -> (Ending, Option<Value>) {
        if task.kind() == RunKind::Backup {
            if let Err(ending) = place::make(&self.worker, task, repository, self.book) {
                return (ending, None);
            }
        }
        let argv = match self.worker.prepare(task, repository) {
            Ok(argv) => argv,
            Err(ending) => return (ending, None),
        };
        let mut clock = Instant::now();
        let mut stage = |name: &str| {
            record.stages.push(Stage {
                name: name.to_owned(),
                duration: clock.elapsed(),
            });
            clock = Instant::now();
        };
        let stopped = match task.stop_units.is_empty() {
            true => Ok(()),
            false => {
                let stopped = units.stop(task.stop_units, self.worker.stop);
                stage("stop_units");
                stopped
            }
        };
        let ended = match stopped {
            Ok(()) => self.worker.child(task, &argv, false),
            Err(why) => Err(before(
                ErrorClass::Source,
                format!("{why}; so nothing was backed up"),
            )),
        };
        stage(match task.kind() {
            RunKind::Backup | RunKind::Copy => "upload",
            other => other.as_str(),
        });
        let since = Instant::now();
        if let Err(why) = units.start() {
            *trouble = Some((why, since.elapsed()));
        }
        if !task.stop_units.is_empty() {
            stage("start_units");
        }
        match ended {
            Ok((ending, output)) => {
                let document = serde_json::from_slice(&output).ok();
                if document.is_none() {
                    tracing::info!(run = %record.id, "the child printed no document");
                }
                (ending, document)
            }
            Err(ending) => (ending, None),
        }
    }

    /// One line for people.
    fn say(&self, task: &Task<'_>, run: &RunRecord, of: u32, again: Option<Duration>) {
        let line = say::line(task, run, of, again);
        told::ended(run, &line);
        // The journal has it, with its fields.
        if logs::is_journal("2") {
            return;
        }
        if !run.outcome.is_success() {
            tell(&format!("keepwatch: {}", escape(&line)));
        } else if !self.context.globals.quiet && !self.context.json() {
            let _ = print_after(&format!("{}\n", escape(&line)));
        }
    }
}

/// A lot between 0 and 1.
fn lot() -> f64 {
    let mut bytes = [0x80, 0];
    book::fill(&mut bytes);
    f64::from(u16::from_be_bytes(bytes)) / f64::from(u16::MAX)
}

/// Shows what would be done: the child does, and nothing is written down.
fn rehearse(
    context: &Context,
    wanted: &Wanted,
    setting: &Setting<'_>,
    tasks: &[Task<'_>],
    stop: &Stop,
) -> Outcome {
    let worker = worker(context, wanted, setting, stop);
    let mut done = Done::default();
    for task in tasks {
        for repository in &task.repositories {
            let prepared = worker.prepare(task, repository);
            let ended = prepared.and_then(|argv| worker.child(task, &argv, true));
            let exit = match ended {
                Ok((Ending::Child { status, .. }, _)) => match status.code() {
                    Some(0) => Exit::Done,
                    Some(2) => Exit::WrongUse,
                    Some(3) => Exit::Partial,
                    Some(4) => Exit::NothingFound,
                    Some(5) => Exit::Refused,
                    _ => Exit::Failed,
                },
                Ok((Ending::Before { text, exit, .. }, _))
                | Err(Ending::Before { text, exit, .. }) => {
                    done.trouble(format!("{}: {text}", task.title));
                    exit
                }
                Err(Ending::Child { .. }) => Exit::Failed,
            };
            done.exits.push(exit);
        }
    }
    match worst(&done.exits) {
        exit @ (Exit::Done | Exit::Partial) => Ok(exit),
        exit => Err(Failure::new(
            exit,
            "the job could not be rehearsed; nothing was changed",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_end_counts() {
        use Exit::{Done as D, Failed as F, Partial as P, Refused as R};
        for (exits, want) in [
            (vec![], D),
            (vec![D, D], D),
            (vec![D, P], P),
            (vec![P, R], R),
            (vec![R, R], R),
            (vec![R, F], F),
            (vec![F, D], F),
        ] {
            assert_eq!(worst(&exits), want, "{exits:?}");
        }
    }

    #[test]
    fn a_timer_is_told_by_systemd() {
        for (unit, want) in [
            (Some("keepwatch-backup-home.timer"), Trigger::Timer),
            (Some("x.path"), Trigger::Manual),
            (None, Trigger::Manual),
        ] {
            assert_eq!(trigger(unit), want);
        }
    }

    #[test]
    fn lots_lie_between_nothing_and_all() {
        assert!((0..1000).all(|_| (0.0..=1.0).contains(&lot())));
    }
}
