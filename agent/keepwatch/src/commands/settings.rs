//! What commands about the agent share: the configuration file, the catalog behind it, and the daemon's control socket.

use std::future::Future;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use keepwatch_catalog::{Catalog, CatalogError, Place};
use keepwatch_config::{Config, Credentials, Faults, Loaded};

use crate::context::Context;
use crate::errors::{Exit, Failure, Outcome, plain_io};
use crate::output::print_json;
use crate::serve::control::{LINE_MAX, Question, RESTARTING, Reply, path};
use crate::serve::{catalog_options, host_name, random};

/// The daemon answers within this; it waits for systemd itself.
const ANSWER: Duration = Duration::from_secs(90);

/// A report needs nobody but the watcher.
const NOTING: Duration = Duration::from_secs(10);

// Which configuration. No doc comment: it would become the help of whatever verb flattens it.
#[derive(Args, Clone)]
pub struct ConfigArgs {
    /// The configuration file
    #[arg(
        long,
        value_name = "FILE",
        env = "KEEPWATCH_CONFIG_FILE",
        hide_env_values = true,
        default_value = keepwatch_config::DEFAULT_PATH
    )]
    pub config: PathBuf,
}

impl ConfigArgs {
    /// Reads it.
    pub fn load(&self) -> Result<Loaded, Failure> {
        keepwatch_config::load(&self.config).map_err(|faults| self.failure(&faults))
    }

    /// What is wrong with it, as the end of a command.
    pub fn failure(&self, faults: &Faults) -> Failure {
        Failure::usage(format!(
            "the configuration {} cannot be used:\n{faults}",
            self.config.display()
        ))
        .advice("mend what is named; 'keepwatch config schema' says what there can be")
    }
}

/// Asks the catalog of this configuration.
pub fn with_catalog<T, F>(
    config: &Config,
    ask: impl FnOnce(Catalog, String) -> F,
) -> Result<T, Failure>
where
    F: Future<Output = Result<T, CatalogError>>,
{
    let host = host_name(config);
    let options = catalog_options(config, &host, &Credentials::of_this_process())?;
    if let Place::Sqlite(file) = &options.place {
        // Opening would make it, for the user who happens to ask.
        if !file.exists() {
            return Err(Failure::new(
                Exit::NothingFound,
                format!("nothing was recorded yet: there is no {}", file.display()),
            )
            .advice(
                "'keepwatch serve' and backups write it; a file of another user may need sudo",
            ));
        }
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::failed(format!("cannot start a runtime: {e}")))?;
    runtime.block_on(async move {
        let catalog = Catalog::open(options, Arc::new(crate::clock::now), random())
            .await
            .map_err(away)?;
        let found = ask(catalog.clone(), host).await.map_err(away);
        catalog.close().await;
        found
    })
}

fn away(e: CatalogError) -> Failure {
    let advice = match e {
        CatalogError::Newer { .. } => {
            "a newer keepwatch has used it: run that version; backups and checks go on without it"
        }
        _ => "backups and checks go on without it; look whether its database runs and may be read",
    };
    Failure::failed(e.to_string()).advice(advice)
}

/// Asks the daemon of this configuration.
pub fn ask(config: &Config, question: &Question) -> Result<Reply, Failure> {
    ask_at(&path(&config.state_directory), question)
}

/// Reports to the daemon of this configuration: on the socket for it where there is one, if the other is not for us.
pub fn report(config: &Config, question: &Question) -> Result<Reply, Failure> {
    let control = path(&config.state_directory);
    match &config.beats_socket {
        Some(beats) if UnixStream::connect(&control).is_err() => ask_at(beats, question),
        _ => ask_at(&control, question),
    }
}

/// Asks the daemon that listens on this socket.
pub fn ask_at(place: &Path, question: &Question) -> Result<Reply, Failure> {
    let failed = |e: &std::io::Error| {
        Failure::failed(format!(
            "cannot ask the daemon at {}: {}; nothing was done",
            place.display(),
            plain_io(e)
        ))
        .advice("is 'keepwatch serve' running, and are you its user or root? See 'systemctl status keepwatch'")
    };
    let patience = match question {
        Question::Restart { wait: true, .. } => ANSWER + RESTARTING,
        // A job waits for it.
        Question::Beat { .. } => NOTING,
        _ => ANSWER,
    };
    let asked = || -> std::io::Result<UnixStream> {
        let mut stream = UnixStream::connect(place)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience.min(ANSWER)))?;
        let mut line = serde_json::to_vec(question)?;
        line.push(b'\n');
        stream.write_all(&line)?;
        Ok(stream)
    };
    let stream = asked().map_err(|e| failed(&e))?;
    // From here on the daemon may have done it.
    let unheard = |e: std::io::Error| {
        Failure::failed(format!(
            "the daemon at {} was asked, and its answer did not come: {}; what was asked may have been done",
            place.display(),
            plain_io(&e)
        ))
        .advice("'keepwatch status' and 'keepwatch history' show what is known")
    };
    let mut answer = Vec::new();
    BufReader::new(stream.take(LINE_MAX))
        .read_until(b'\n', &mut answer)
        .map_err(unheard)?;
    serde_json::from_slice(&answer).map_err(|e| unheard(e.into()))
}

/// Ends a command with the daemon's answer.
pub fn end(context: &Context, reply: Reply) -> Outcome {
    let exit = match reply.exit {
        0 => Exit::Done,
        2 => Exit::WrongUse,
        4 => Exit::NothingFound,
        5 => Exit::Refused,
        _ => Exit::Failed,
    };
    if !reply.ok {
        let failure = Failure::new(exit, reply.message);
        return Err(match reply.advice {
            Some(advice) => failure.advice(advice),
            None => failure,
        });
    }
    if context.json() {
        print_json(&reply)?;
    } else {
        context.note(&reply.message);
    }
    Ok(exit)
}
