//! Reading secrets: identities, passphrases and writer keys, from files that only their owner can read; and asking a person on the terminal.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use keepwatch_engine::ids::{OwnerKey, RepositoryId};
use keepwatch_engine::keys::WriterKey;
use keepwatch_engine::limits::KEY_FILE_BYTES;
use keepwatch_engine::seal::{Ask, ReaderIdentity, ReaderRecipient};
use keepwatch_engine::secret::SecretText;
use keepwatch_engine::store::KeyName;
use zeroize::Zeroizing;

use crate::errors::{Exit, Failure};
use crate::output::{escape, tell};

/// Below this a passphrase is called weak.
const PASSPHRASE_CHARS: usize = 20;
/// Work factor of passphrase slots, as a power of two: about a second.
pub const SCRYPT_LOG_N: u8 = 18;

/// The systemd credential of this name, when there is one.
pub fn credential(name: &str) -> Option<PathBuf> {
    let path = PathBuf::from(std::env::var_os("CREDENTIALS_DIRECTORY")?).join(name);
    path.exists().then_some(path)
}

fn is_credential(path: &Path) -> bool {
    // systemd mounts these for the unit alone; their mode (0440) says less than the mount does.
    std::env::var_os("CREDENTIALS_DIRECTORY").is_some_and(|d| !d.is_empty() && path.starts_with(d))
}

/// Reads a secret file, after a look at who else can.
pub fn read_secret_file(path: &Path, what: &str) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let file =
        File::open(path).map_err(|e| Failure::file(&format!("read the {what}"), path, &e))?;
    let meta = file
        .metadata()
        .map_err(|e| Failure::file(&format!("read the {what}"), path, &e))?;
    if meta.is_dir() {
        return Err(Failure::failed(format!(
            "cannot read the {what} {}: it is a directory",
            path.display()
        )));
    }
    if meta.is_file() && meta.permissions().mode() & 0o077 != 0 && !is_credential(path) {
        return Err(Failure::new(
            Exit::Refused,
            format!("the {what} {} can be read or changed by other users (mode {:04o}); it was not used", path.display(), meta.permissions().mode() & 0o7777),
        )
        .advice(format!("chmod 600 {}, and consider whether somebody has read it already", path.display())));
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(4096));
    file.take(KEY_FILE_BYTES as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| Failure::file(&format!("read the {what}"), path, &e))?;
    if bytes.len() > KEY_FILE_BYTES {
        return Err(Failure::failed(format!(
            "the {what} {} is far too long to be one",
            path.display()
        )));
    }
    Ok(bytes)
}

/// The passphrase in a file: its text without the line end.
pub fn read_passphrase(path: &Path) -> Result<SecretText, Failure> {
    let bytes = read_secret_file(path, "passphrase file")?;
    let text = std::str::from_utf8(&bytes).map_err(|_| {
        Failure::failed(format!(
            "the passphrase file {} is not text",
            path.display()
        ))
    })?;
    let text = text.strip_suffix('\n').unwrap_or(text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    if text.is_empty() {
        return Err(Failure::failed(format!(
            "the passphrase file {} is empty",
            path.display()
        )));
    }
    if text.contains('\n') {
        return Err(Failure::failed(format!(
            "the passphrase file {} has several lines; a passphrase is one line",
            path.display()
        )));
    }
    Ok(SecretText::new(text.to_owned()))
}

/// A passphrase that will protect a repository; a short one is warned about.
pub fn read_new_passphrase(path: &Path) -> Result<SecretText, Failure> {
    let phrase = read_passphrase(path)?;
    if phrase.expose().chars().count() < PASSPHRASE_CHARS {
        tell(&format!(
            "keepwatch: warning: the passphrase is shorter than {PASSPHRASE_CHARS} characters: who can read the repository can try guesses at home. Six random words are better."
        ));
    }
    Ok(phrase)
}

/// Reads a writer key file.
pub fn read_writer_key(path: &Path) -> Result<WriterKey, Failure> {
    let bytes = read_secret_file(path, "writer key")?;
    let name = path.display().to_string();
    let text = std::str::from_utf8(&bytes)
        .map_err(|_| Failure::failed(format!("the writer key {name} is not text")))?;
    Ok(WriterKey::parse(&SecretText::new(text.to_owned()), &name)?)
}

/// An identity, with the repositories that its file's comments pin.
pub struct GivenIdentity {
    /// What opens.
    pub identity: ReaderIdentity,
    /// For messages: "the identity F", "the passphrase".
    pub name: String,
    /// It opens passphrase slots alone.
    pub is_passphrase: bool,
    /// Repositories and their owner keys, as remembered in comments.
    pub pins: Vec<(RepositoryId, OwnerKey)>,
}

impl GivenIdentity {
    /// A passphrase.
    pub fn passphrase(phrase: &SecretText) -> Self {
        GivenIdentity {
            identity: ReaderIdentity::passphrase(phrase),
            name: "the passphrase".into(),
            is_passphrase: true,
            pins: Vec::new(),
        }
    }
}

/// Reads an identity file.
pub fn read_identity(path: &Path) -> Result<GivenIdentity, Failure> {
    let bytes = read_secret_file(path, "identity")?;
    let name = path.display().to_string();
    let identity = ReaderIdentity::parse(&bytes, &name, &Terminal)?;
    let pins = std::str::from_utf8(&bytes).map(pins_of).unwrap_or_default();
    Ok(GivenIdentity {
        identity,
        name: format!("the identity {name}"),
        is_passphrase: false,
        pins,
    })
}

const PIN_REPOSITORY: &str = "# keepwatch-repository: ";
const PIN_OWNER: &str = "# keepwatch-owner: ";

/// The pins in the comments of an identity file.
pub fn pins_of(text: &str) -> Vec<(RepositoryId, OwnerKey)> {
    let mut pins = Vec::new();
    let mut repository = None;
    for line in text.lines() {
        if let Some(id) = line.strip_prefix(PIN_REPOSITORY) {
            repository = id.trim().parse().ok();
        } else if let (Some(owner), Some(id)) = (line.strip_prefix(PIN_OWNER), repository) {
            pins.extend(owner.trim().parse().ok().map(|o| (id, o)));
        }
    }
    pins
}

/// The comment lines that pin a repository.
pub fn pin_lines(id: RepositoryId, owner: OwnerKey) -> String {
    format!("{PIN_REPOSITORY}{id}\n{PIN_OWNER}{owner}\n")
}

/// Reads recipients: each text is one, or names a file with one a line. Names are `recipient-1`, `recipient-2`…
pub fn read_recipients(texts: &[String]) -> Result<Vec<(KeyName, ReaderRecipient)>, Failure> {
    let mut lines = Vec::new();
    for text in texts {
        let text = text.trim();
        if text.starts_with("age1") || text.starts_with("ssh-") {
            lines.push(text.to_owned());
            continue;
        }
        if text.starts_with("AGE-SECRET-KEY-") || text.starts_with("AGE-PLUGIN-") {
            return Err(Failure::usage("the recipient is an identity, which is secret and should not stand on a command line")
                .advice("give its public half (age1…): 'age-keygen -y FILE' prints it; consider the identity known to others by now"));
        }
        let path = Path::new(text);
        let bytes = fs::read(path).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => Failure::usage(format!(
                "the recipient '{}' is neither a public key nor a file",
                escape(text)
            ))
            .advice("give age1…, 'ssh-ed25519 …', or a file that holds such lines"),
            _ => Failure::file("read the recipients", path, &e),
        })?;
        let content = Zeroizing::new(
            String::from_utf8_lossy(&bytes[..bytes.len().min(KEY_FILE_BYTES)]).into_owned(),
        );
        if content.contains("AGE-SECRET-KEY-")
            || content.contains("PRIVATE KEY-----")
            || content.contains("AGE-PLUGIN-")
        {
            return Err(Failure::usage(format!("{} holds an identity, which is secret; a repository is made for its public half", path.display()))
                .advice("'age-keygen -y FILE' (or the .pub file beside an ssh key) gives the public half; 'keepwatch key generate' prints it as it makes a new one"));
        }
        let before = lines.len();
        lines.extend(
            content
                .lines()
                .map(str::trim)
                .filter(|l| !l.is_empty() && !l.starts_with('#'))
                .map(str::to_owned),
        );
        if lines.len() == before {
            return Err(Failure::failed(format!(
                "the recipients file {} holds no recipient",
                path.display()
            )));
        }
    }
    let mut seen = std::collections::BTreeSet::new();
    lines.retain(|l| seen.insert(l.clone()));
    lines
        .iter()
        .enumerate()
        .map(|(i, line)| {
            let name = KeyName::new(&format!("recipient-{}", i + 1)).expect("a valid name");
            Ok((name, ReaderRecipient::parse(line, &Terminal)?))
        })
        .collect()
}

/// Asks on the controlling terminal, whatever standard input and output are.
#[derive(Clone, Copy)]
pub struct Terminal;

impl Terminal {
    fn open() -> Option<File> {
        OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/tty")
            .ok()
    }
    /// Whether there is somebody to ask.
    pub fn is_there() -> bool {
        Self::open().is_some()
    }
    fn line(tty: &File) -> Option<Zeroizing<String>> {
        let mut line = Zeroizing::new(String::with_capacity(256));
        let n = BufReader::new(tty.take(4096)).read_line(&mut line).ok()?;
        if n == 0 {
            return None;
        }
        while line.ends_with(['\n', '\r']) {
            line.pop();
        }
        Some(line)
    }
}

/// Echo off, and on again however the question ends.
struct NoEcho<'a>(&'a File, rustix::termios::Termios);

impl<'a> NoEcho<'a> {
    fn new(tty: &'a File) -> Option<Self> {
        use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
        let before = tcgetattr(tty).ok()?;
        let mut silent = before.clone();
        silent
            .local_modes
            .remove(LocalModes::ECHO | LocalModes::ECHOE | LocalModes::ECHOK);
        silent.local_modes.insert(LocalModes::ECHONL);
        tcsetattr(tty, OptionalActions::Flush, &silent).ok()?;
        Some(NoEcho(tty, before))
    }
}

impl Drop for NoEcho<'_> {
    fn drop(&mut self) {
        let _ =
            rustix::termios::tcsetattr(self.0, rustix::termios::OptionalActions::Flush, &self.1);
    }
}

impl Ask for Terminal {
    fn show(&self, message: &str) {
        tell(&format!("keepwatch: {}", escape(message)));
    }
    fn secret(&self, question: &str) -> Option<SecretText> {
        let mut tty = Self::open()?;
        write!(tty, "{}: ", escape(question)).ok()?;
        let silent = NoEcho::new(&tty)?;
        let line = Self::line(&tty);
        drop(silent);
        line.map(|l| SecretText::new(l.as_str().to_owned()))
    }
    fn text(&self, question: &str) -> Option<String> {
        let mut tty = Self::open()?;
        write!(tty, "{}: ", escape(question)).ok()?;
        Self::line(&tty).map(|l| l.as_str().to_owned())
    }
    fn confirm(&self, question: &str, yes: &str, no: Option<&str>) -> Option<bool> {
        let mut tty = Self::open()?;
        write!(
            tty,
            "{} [y: {}, n: {}] ",
            escape(question),
            escape(yes),
            escape(no.unwrap_or("no"))
        )
        .ok()?;
        Self::line(&tty)
            .map(|l| l.trim().eq_ignore_ascii_case("y") || l.trim().eq_ignore_ascii_case("yes"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keepwatch_engine::seal::Identity;

    fn file(dir: &Path, name: &str, text: &str, mode: u32) -> PathBuf {
        let path = dir.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    #[test]
    fn a_secret_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let text = Identity::generate().text();
        let open = file(dir.path(), "open", text.expose(), 0o644);
        let Err(e) = read_identity(&open) else {
            panic!("taken")
        };
        assert_eq!(e.exit, Exit::Refused);
        assert!(e.message.contains("0644") && !e.message.contains("AGE-SECRET"));
        assert!(read_identity(&file(dir.path(), "closed", text.expose(), 0o600)).is_ok());
    }

    #[test]
    fn passphrases_are_one_line() {
        let dir = tempfile::tempdir().unwrap();
        let read = |text: &str| read_passphrase(&file(dir.path(), "p", text, 0o600));
        assert_eq!(
            read("correct horse \n")
                .unwrap_or_else(|e| panic!("{}", e.message))
                .expose(),
            "correct horse "
        );
        for bad in ["", "\n", "a\nb\n"] {
            assert!(read(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn recipients_from_text_and_files_but_never_identities() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (Identity::generate(), Identity::generate());
        let list = file(
            dir.path(),
            "list",
            &format!("# us\n{}\n{}\n", a.recipient(), b.recipient()),
            0o644,
        );
        let read = |t: &str| read_recipients(&[t.to_owned()]);
        assert_eq!(
            read(list.to_str().unwrap()).map(|r| r.len()).unwrap_or(0),
            2
        );
        assert_eq!(
            read(&a.recipient().to_string())
                .map(|r| r.len())
                .unwrap_or(0),
            1
        );
        for bad in [
            a.text().expose().to_owned(),
            file(dir.path(), "id", a.text().expose(), 0o600)
                .display()
                .to_string(),
            file(dir.path(), "empty", "# nothing\n", 0o600)
                .display()
                .to_string(),
            "no such thing".to_owned(),
        ] {
            let Err(e) = read(&bad) else { panic!("taken") };
            assert!(!e.message.contains("AGE-SECRET-KEY-1"));
        }
    }

    #[test]
    fn pins_survive_the_comments() {
        let pin = (RepositoryId([7; 16]), OwnerKey([8; 32]));
        let text = format!(
            "# created\n{}AGE…\n{}",
            pin_lines(pin.0, pin.1),
            pin_lines(RepositoryId([9; 16]), OwnerKey([1; 32]))
        );
        assert_eq!(
            pins_of(&text),
            vec![pin, (RepositoryId([9; 16]), OwnerKey([1; 32]))]
        );
        assert_eq!(pins_of("# keepwatch-owner: zz\n"), vec![]);
    }
}
