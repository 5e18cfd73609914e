//! `backup --source`: dumps as the streams of a snapshot.

use std::io::{self, Read};
use std::sync::{Arc, Mutex};

use keepwatch_engine::backup::{BackupError, Input, Report, Stream};
use keepwatch_sources::dump::{Body, Dumping};
use keepwatch_sources::fault::Fault;
use keepwatch_sources::setting::Setting;
use keepwatch_sources::source::Source;

use super::source_args::failure;
use crate::errors::Failure;

type Shared<T> = Arc<Mutex<T>>;

fn lock<T>(shared: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(|e| e.into_inner())
}

/// Backs up all of them into one snapshot, or none.
pub fn run(
    sources: &[Source],
    setting: &Setting,
    backup: impl FnOnce(Input<'_>) -> Result<Report, BackupError>,
) -> Result<Report, Failure> {
    let during = |source: &Source, fault: Fault| {
        failure(fault)
            .during(format!("back up the source '{}'", source.label))
            .safe("no snapshot was made")
    };
    // What can be known of the last one should not be found out after hours.
    for source in sources.iter().skip(1) {
        source.dump(setting).map_err(|e| during(source, e))?;
    }
    // The first fault, with its source: what the run says of its own ending is its effect.
    let verdict: Shared<Option<(usize, Fault)>> = Arc::default();
    let mut notes: Vec<Shared<Vec<String>>> = Vec::new();
    let mut at = 0;
    let mut current: Option<Dumping> = None;
    let told = verdict.clone();
    let collected = &mut notes;
    let next = Box::new(move || {
        loop {
            let mut step = || -> Result<Option<keepwatch_sources::dump::Stream>, Fault> {
                if current.is_none() {
                    let Some(source) = sources.get(at) else {
                        return Ok(None);
                    };
                    let dumping = source.dump(setting)?;
                    collected.push(dumping.notes());
                    current = Some(dumping);
                }
                match &mut current {
                    Some(dumping) => dumping.next_stream(),
                    None => Ok(None),
                }
            };
            match step() {
                Ok(Some(stream)) => return Ok(Some(joined(stream, at, &told))),
                Ok(None) if at < sources.len() => {
                    at += 1;
                    current = None;
                }
                Ok(None) => return Ok(None),
                Err(fault) => {
                    let text = fault.text.clone();
                    lock(&told).get_or_insert((at, fault));
                    return Err(text);
                }
            }
        }
    });
    let names = sources.iter().map(|s| s.label.clone()).collect();
    let result = backup(Input::Streams { names, next });
    let fault = lock(&verdict).take();
    match (result, fault) {
        (Ok(mut report), None) => {
            for of_one in &notes {
                report.warnings.append(&mut lock(of_one));
            }
            Ok(report)
        }
        (_, Some((at, fault))) if !setting.stop.is_asked() => {
            Err(during(&sources[at.min(sources.len() - 1)], fault))
        }
        (result, _) => Ok(result?),
    }
}

/// The engine takes a reader and a verdict apart; here they are one thing.
fn joined<'a>(
    stream: keepwatch_sources::dump::Stream,
    at: usize,
    verdict: &Shared<Option<(usize, Fault)>>,
) -> Stream<'a> {
    let body: Shared<Option<Box<dyn Body>>> = Arc::new(Mutex::new(Some(stream.body)));
    let reader = Half {
        body: body.clone(),
        at,
        verdict: verdict.clone(),
    };
    let verdict = verdict.clone();
    Stream {
        name: stream.name,
        reader: Box::new(reader),
        finish: Box::new(move || {
            let Some(body) = lock(&body).take() else {
                return Ok(());
            };
            body.finish().map_err(|fault| {
                let text = fault.text.clone();
                lock(&verdict).get_or_insert((at, fault));
                text
            })
        }),
    }
}

struct Half {
    body: Shared<Option<Box<dyn Body>>>,
    at: usize,
    verdict: Shared<Option<(usize, Fault)>>,
}

impl Read for Half {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut body = lock(&self.body);
        let Some(inner) = body.as_mut() else {
            return Ok(0);
        };
        match inner.read(buffer) {
            Err(e) if e.kind() != io::ErrorKind::Interrupted => {
                // Its program is ended at once.
                *body = None;
                let fault = Fault::from_io(e);
                let again = fault.clone().into_io();
                lock(&self.verdict).get_or_insert((self.at, fault));
                Err(again)
            }
            other => other,
        }
    }
}
