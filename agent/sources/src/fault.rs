//! Why a dump or a restore did not come about.

use std::fmt;
use std::io;
use std::path::Path;

/// The kind of a fault: a fixed set, for records and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// A parameter is wrong, or two contradict each other.
    Parameter,
    /// A program is not installed.
    NoProgram,
    /// Nobody listens, or the way there is barred.
    NoConnection,
    /// A password is wrong, or a right is missing.
    Denied,
    /// There is no such database, collection, file or container.
    NotThere,
    /// Something is there already.
    InTheWay,
    /// Programs and servers that do not fit each other.
    Version,
    /// It is empty, ends early, or is damaged.
    NotWhole,
    /// Nothing moved for too long.
    Stalled,
    /// No space is left.
    NoSpace,
    /// Asked to stop.
    Stopped,
    /// Anything else.
    Failed,
}

impl Reason {
    /// As it is written in records.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Parameter => "parameter",
            Reason::NoProgram => "no_program",
            Reason::NoConnection => "no_connection",
            Reason::Denied => "denied",
            Reason::NotThere => "not_there",
            Reason::InTheWay => "in_the_way",
            Reason::Version => "version",
            Reason::NotWhole => "not_whole",
            Reason::Stalled => "stalled",
            Reason::NoSpace => "no_space",
            Reason::Stopped => "stopped",
            Reason::Failed => "failed",
        }
    }
}

/// What could not be done, because of what. One sentence; it holds no secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Its kind.
    pub reason: Reason,
    /// The sentence.
    pub text: String,
}

impl Fault {
    /// Of a kind.
    pub fn new(reason: Reason, text: impl Into<String>) -> Self {
        Fault {
            reason,
            text: text.into(),
        }
    }

    /// Puts what was tried in front: `cannot <what>: <cause>`.
    #[must_use]
    pub fn during(mut self, what: impl fmt::Display) -> Self {
        self.text = format!("cannot {what}: {}", self.text);
        self
    }

    /// About a file or directory.
    pub fn file(what: &str, path: &Path, e: &io::Error) -> Self {
        let reason = match e.kind() {
            io::ErrorKind::NotFound => Reason::NotThere,
            io::ErrorKind::PermissionDenied => Reason::Denied,
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Reason::NoSpace,
            _ => Reason::Failed,
        };
        Fault::new(
            reason,
            format!("cannot {what} {}: {}", path.display(), plain(e)),
        )
    }

    /// Carries it through an interface that only knows errors of input and output.
    pub fn into_io(self) -> io::Error {
        io::Error::other(self)
    }

    /// Takes it out again.
    pub fn from_io(e: io::Error) -> Self {
        if e.get_ref().is_some_and(|inner| inner.is::<Fault>()) {
            if let Some(fault) = e
                .into_inner()
                .and_then(|inner| inner.downcast::<Fault>().ok())
            {
                return *fault;
            }
            return Fault::new(Reason::Failed, "it failed");
        }
        let reason = match e.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Reason::NoSpace,
            _ => Reason::Failed,
        };
        Fault::new(reason, plain(&e))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Fault {}

/// The cause without the number that Rust appends.
pub(crate) fn plain(e: &io::Error) -> String {
    let text = e.to_string();
    match text.rfind(" (os error ") {
        Some(at) => text[..at].to_owned(),
        None => text,
    }
}
