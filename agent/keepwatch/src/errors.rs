//! How a command ends: exit codes, and failures that say what could not be done, because of what, what is safe, and what to do.

use std::fmt;
use std::io;

use keepwatch_engine::object::{ContentError, ObjectError};
use keepwatch_engine::patterns::PatternError;
use keepwatch_engine::progress::Cancelled;
use keepwatch_engine::repository::{AccessError, PutError};
use keepwatch_engine::seal::KeyTextError;
use keepwatch_engine::snapshots::SelectError;
use keepwatch_engine::store::{Fault, StoreError};

/// The interface to scripts and units: what each exit status means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Exit {
    /// Everything that was asked for.
    Done = 0,
    /// It could not be done.
    Failed = 1,
    /// The command line is wrong; nothing was tried.
    WrongUse = 2,
    /// Done except for some files, which were named.
    Partial = 3,
    /// Nothing fits what was asked for.
    NothingFound = 4,
    /// Refused for safety, or somebody else is at work.
    Refused = 5,
    /// Only of `wal fetch`: something is broken, and a recovery must stop rather than believe that the log ends here.
    Broken = 126,
    /// Only of `wal fetch`: it was asked to stop, which PostgreSQL takes as its own stopping.
    Terminated = 143,
}

/// For `--help`.
pub const EXIT_CODES: &str = "\
Exit status: 0 done, 1 failed, 2 wrong use, 3 partial (some files could not be read or restored; they are named), \
4 nothing found, 5 refused for safety or locked.";

/// Why a command did not do what was asked.
#[derive(Debug)]
pub struct Failure {
    /// The exit status.
    pub exit: Exit,
    /// One sentence.
    pub message: String,
    /// What to do.
    pub advice: Option<String>,
    /// True when there is nobody left to tell: the reader of our output went away.
    pub quiet: bool,
}

/// What commands return.
pub type Outcome = Result<Exit, Failure>;

impl Failure {
    /// With an exit status.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Failure {
            exit,
            message: message.into(),
            advice: None,
            quiet: false,
        }
    }
    /// It could not be done.
    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(Exit::Failed, message)
    }
    /// The command line asks for something impossible.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::WrongUse, message)
    }
    /// What to do about it.
    pub fn advice(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }
    /// Puts what was tried in front: `cannot <what>: <cause>`.
    pub fn during(mut self, what: impl fmt::Display) -> Self {
        if !self.quiet {
            self.message = format!(
                "cannot {what}: {}",
                self.message
                    .strip_prefix("cannot ")
                    .map_or_else(|| self.message.clone(), |m| format!("could not {m}"))
            );
        }
        self
    }
    /// Says what is not harmed.
    pub fn safe(mut self, what: &str) -> Self {
        self.message = format!("{}; {what}", self.message);
        self
    }
    /// About a local file.
    pub fn file(verb: &str, path: &std::path::Path, e: &io::Error) -> Self {
        let failure = Failure::failed(format!("cannot {verb} {}: {}", path.display(), plain_io(e)));
        match io_advice(e) {
            Some(a) => failure.advice(a),
            None => failure,
        }
    }
    /// The reader of our standard output went away.
    pub fn closed_pipe() -> Self {
        Failure {
            exit: Exit::Done,
            message: String::new(),
            advice: None,
            quiet: true,
        }
    }
    /// Writing to standard output failed.
    pub fn stdout(e: io::Error) -> Self {
        if e.kind() == io::ErrorKind::BrokenPipe {
            return Self::closed_pipe();
        }
        Failure::failed(format!("cannot write to standard output: {}", plain_io(&e)))
    }
}

/// The cause without the number that Rust appends.
pub fn plain_io(e: &io::Error) -> String {
    let text = e.to_string();
    match text.rfind(" (os error ") {
        Some(at) => text[..at].to_lowercase_first(),
        None => text,
    }
}

trait LowercaseFirst {
    fn to_lowercase_first(&self) -> String;
}

impl LowercaseFirst for str {
    fn to_lowercase_first(&self) -> String {
        let mut chars = self.chars();
        match chars.next() {
            Some(c) => c.to_lowercase().chain(chars).collect(),
            None => String::new(),
        }
    }
}

fn io_advice(e: &io::Error) -> Option<&'static str> {
    Some(match e.kind() {
        io::ErrorKind::PermissionDenied => "run it as a user who may, or change the permissions",
        io::ErrorKind::NotFound => "check the path for a slip of the pen",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "free some space there and run the command again"
        }
        io::ErrorKind::ReadOnlyFilesystem => {
            "mount the file system writable, or choose another place"
        }
        _ => return None,
    })
}

impl From<StoreError> for Failure {
    fn from(e: StoreError) -> Self {
        let message = format!(
            "cannot {} {} in {}: {}",
            e.verb,
            e.object,
            e.store,
            plain_io(&e.cause)
        );
        match e.fault {
            Fault::Missing if e.verb == "open" => Failure::failed(format!("there is no repository at {}: {}", e.store, plain_io(&e.cause)))
                .advice("check --repo, or make a repository there with 'keepwatch init'"),
            Fault::Missing if e.verb == "create" => Failure::failed(message).advice("check the path for a slip of the pen"),
            Fault::Missing => Failure::failed(message).advice(
                "an object of the repository is gone: 'keepwatch verify' says what it affects; put back a copy of the object if you have one, or run 'keepwatch repair'",
            ),
            Fault::Exists => Failure::new(Exit::Refused, message).advice("nothing stored is ever overwritten; choose another name or place"),
            Fault::Full => Failure::failed(message).safe("snapshots committed before are safe").advice(
                "free some space where the repository lies ('keepwatch forget' and 'prune' need a little room themselves), then run the command again: what was stored is reused",
            ),
            Fault::ReadOnly => Failure::failed(message)
                .safe("nothing was changed")
                .advice("the repository can be read ('restore', 'verify'), not written: mount it writable first"),
            Fault::Denied => {
                Failure::failed(message).safe("nothing was changed").advice("run it as the user who owns the repository, or change its permissions")
            }
            Fault::Locked => Failure::new(Exit::Refused, message)
                .safe("nothing was lost")
                .advice("it can be removed when its lock has ended; run it again then"),
            Fault::Other => Failure::failed(message).advice("run it again; if it persists, look after the disk or the network of the repository"),
        }
    }
}

impl From<ObjectError> for Failure {
    fn from(e: ObjectError) -> Self {
        match e {
            ObjectError::Store(e) => e.into(),
            ObjectError::Content { cause: ContentError::NeedsIdentity, object } => {
                Failure::failed(format!("{object} can only be opened with an identity")).advice(IDENTITY_ADVICE)
            }
            ObjectError::Content { cause: cause @ ContentError::Cache(_), .. } => Failure::failed(cause.to_string())
                .advice("give another place with --cache-dir, or use --no-cache; the cache can be deleted at any time"),
            ObjectError::Content { .. } => {
                Failure::failed(e.to_string()).advice("'keepwatch verify' says what is damaged and what it affects; undamaged files still restore")
            }
        }
    }
}

/// How to give an identity.
pub const IDENTITY_ADVICE: &str = "give the identity that belongs to the repository: --identity FILE (age or ssh private key), or --passphrase-file FILE";

impl From<AccessError> for Failure {
    fn from(e: AccessError) -> Self {
        let message = e.to_string();
        match e {
            AccessError::Store(e) => e.into(),
            AccessError::NotARepository(_) => Failure::failed(message).advice("check --repo, or make a repository there with 'keepwatch init'"),
            AccessError::AlreadyExists(_) => {
                Failure::new(Exit::Refused, message).advice("use it as it is, or give 'init' another place with --repo")
            }
            AccessError::Newer { .. } => Failure::failed(message).advice("install the newer version that wrote it"),
            AccessError::Untrusted { .. } => Failure::new(Exit::Refused, message).safe("nothing was written").advice(
                "the object is damaged or was forged: put it back from another copy of the repository, and find out who can write there",
            ),
            AccessError::WrongIdentity { .. } => Failure::failed(message).safe("the repository is untouched").advice(
                "look for the identity that was made or given when the repository was made ('keepwatch key list' names the key files, the recovery sheet says whose they are)",
            ),
            AccessError::OtherRepository { .. } => Failure::new(Exit::Refused, message)
                .safe("nothing was written")
                .advice("give the writer key of this repository with --writer-key, or issue one with an identity: 'keepwatch key writer'"),
            AccessError::OtherOwner { .. } => Failure::new(Exit::Refused, message).advice(
                "compare the owner key with your recovery sheet; only if you know that the repository at this place was made anew, give its key with --owner-key",
            ),
            AccessError::Key(e) => e.into(),
            AccessError::NeedsIdentity(_) => Failure::failed(message).advice(IDENTITY_ADVICE),
            AccessError::NeedsWriter(_) => Failure::failed(message).advice(WRITER_ADVICE),
            AccessError::NotEnrolled(_) => {
                Failure::new(Exit::Refused, message).advice("with an identity: keepwatch key writer --repo R --identity F")
            }
            AccessError::Name(_) => Failure::failed(message).safe("nothing was changed"),
            AccessError::Random(_) => Failure::failed(message).safe("nothing was written"),
        }
    }
}

/// How to give a writer key.
pub const WRITER_ADVICE: &str = "give the host's writer key with --writer-key FILE (or KEEPWATCH_WRITER_KEY_FILE); a lost one is issued anew with an identity: 'keepwatch key writer'";

impl From<KeyTextError> for Failure {
    fn from(e: KeyTextError) -> Self {
        Failure::failed(e.to_string())
    }
}

impl From<PutError> for Failure {
    fn from(e: PutError) -> Self {
        match e {
            PutError::Store(e) => e.into(),
            PutError::NeedsWriter => Failure::failed(e.to_string()).advice(WRITER_ADVICE),
        }
    }
}

impl From<SelectError> for Failure {
    fn from(e: SelectError) -> Self {
        match e {
            SelectError::Ambiguous { .. } => Failure::usage(e.to_string()),
            SelectError::None(_) | SelectError::Unknown(_) => {
                Failure::new(Exit::NothingFound, e.to_string())
                    .advice("'keepwatch snapshots' lists what there is")
            }
        }
    }
}

impl From<PatternError> for Failure {
    fn from(e: PatternError) -> Self {
        Failure::usage(e.to_string())
    }
}

impl From<Cancelled> for Failure {
    fn from(_: Cancelled) -> Self {
        Failure::failed(
            "stopped on request before it was finished; snapshots committed before are safe",
        )
        .advice("run the command again: what was stored or restored already is not done twice")
    }
}

impl From<keepwatch_model::ParseError> for Failure {
    fn from(e: keepwatch_model::ParseError) -> Self {
        Failure::usage(e.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_read_as_part_of_a_sentence() {
        let e = io::Error::from_raw_os_error(28);
        let f = Failure::file("write", std::path::Path::new("/x"), &e);
        assert_eq!(f.message, "cannot write /x: no space left on device");
        assert!(f.advice.is_some());
        assert_eq!(
            Failure::failed("cannot read a").during("restore b").message,
            "cannot restore b: could not read a"
        );
    }

    #[test]
    fn faults_map_to_exit_codes() {
        let fault = |fault, verb| StoreError {
            verb,
            object: "config".into(),
            store: "/r".into(),
            fault,
            cause: io::Error::from_raw_os_error(2),
        };
        assert_eq!(
            Failure::from(fault(Fault::Exists, "write")).exit,
            Exit::Refused
        );
        assert!(
            Failure::from(fault(Fault::Missing, "open"))
                .message
                .starts_with("there is no repository")
        );
        assert_eq!(
            Failure::from(SelectError::None(String::new())).exit,
            Exit::NothingFound
        );
    }
}
