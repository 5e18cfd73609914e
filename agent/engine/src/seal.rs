//! Everything that has to do with age, and the only module that names the `age` crate.
//!
//! Three uses: [`Recipient`]/[`Identity`], the X25519 pairs made by us (repository key, host key), which seal every stored envelope and record;
//! [`ReaderRecipient`], a user's public key of any kind, to which the repository identity is wrapped; and [`ReaderIdentity`], what the user
//! opens it with. Format: <https://c2sp.org/age>. age proves nothing about the sender: meaning is given by signatures (`record`) and keyed ids.

use std::io::{BufReader, Read, Write};
use std::str::FromStr;

use crate::limits;
use crate::secret::SecretText;

/// Why sealed bytes could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Sealed to somebody else.
    #[error("it is sealed to another key")]
    WrongKey,
    /// A passphrase slot that this passphrase does not open.
    #[error("the passphrase is wrong")]
    WrongPassphrase,
    /// Damaged, cut or forged.
    #[error("the sealed bytes are damaged: {0}")]
    Damaged(String),
    /// Beyond what we are willing to compute or hold.
    #[error("{0}")]
    Excessive(String),
    /// A helper program or a passphrase is missing.
    #[error("{0}")]
    Helper(String),
}

/// Why a key given by the user was not taken.
#[derive(Debug, thiserror::Error)]
pub enum KeyTextError {
    /// The text is not a key of a known kind.
    #[error("{what}: {why}")]
    Invalid {
        /// Where it came from; never the secret itself.
        what: String,
        /// What is wrong.
        why: String,
    },
}

/// Asks the person, for passphrases and plugins. The engine itself never prompts.
pub trait Ask: Clone + Send + Sync + 'static {
    /// Shows a message ("touch your key").
    fn show(&self, message: &str);
    /// A secret answer, or `None` when nobody can be asked.
    fn secret(&self, question: &str) -> Option<SecretText>;
    /// A public answer, or `None`.
    fn text(&self, question: &str) -> Option<String>;
    /// Yes or no, or `None`.
    fn confirm(&self, question: &str, yes: &str, no: Option<&str>) -> Option<bool>;
}

/// For unattended use: nobody can be asked.
#[derive(Clone, Copy)]
pub struct AskNobody;

impl Ask for AskNobody {
    fn show(&self, _: &str) {}
    fn secret(&self, _: &str) -> Option<SecretText> {
        None
    }
    fn text(&self, _: &str) -> Option<String> {
        None
    }
    fn confirm(&self, _: &str, _: &str, _: Option<&str>) -> Option<bool> {
        None
    }
}

#[derive(Clone)]
struct Callbacks<A: Ask>(A);

impl<A: Ask> age::Callbacks for Callbacks<A> {
    fn display_message(&self, message: &str) {
        self.0.show(message)
    }
    fn confirm(&self, message: &str, yes: &str, no: Option<&str>) -> Option<bool> {
        self.0.confirm(message, yes, no)
    }
    fn request_public_string(&self, description: &str) -> Option<String> {
        self.0.text(description)
    }
    fn request_passphrase(&self, description: &str) -> Option<age::secrecy::SecretString> {
        self.0
            .secret(description)
            .map(|s| age::secrecy::SecretString::from(s.expose().to_owned()))
    }
}

/// The public half of an X25519 pair of ours.
#[derive(Clone)]
pub struct Recipient(age::x25519::Recipient);

impl Recipient {
    /// Seals `plain` as one binary age file.
    pub fn seal(&self, plain: &[u8]) -> Vec<u8> {
        seal_with(&self.0, plain).expect("an X25519 recipient seals into memory without fail")
    }
}

impl std::fmt::Display for Recipient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl PartialEq for Recipient {
    fn eq(&self, other: &Self) -> bool {
        self.to_string() == other.to_string()
    }
}

impl FromStr for Recipient {
    type Err = KeyTextError;
    fn from_str(text: &str) -> Result<Self, KeyTextError> {
        age::x25519::Recipient::from_str(text)
            .map(Recipient)
            .map_err(|e| KeyTextError::Invalid {
                what: format!("'{}'", clip(text)),
                why: e.to_string(),
            })
    }
}

/// The private half of an X25519 pair of ours.
#[derive(Clone)]
pub struct Identity(age::x25519::Identity);

impl Identity {
    /// A new pair.
    pub fn generate() -> Self {
        Identity(age::x25519::Identity::generate())
    }
    /// `AGE-SECRET-KEY-1…`
    pub fn text(&self) -> SecretText {
        use age::secrecy::ExposeSecret;
        SecretText::new(self.0.to_string().expose_secret().to_owned())
    }
    /// Reads `AGE-SECRET-KEY-1…`; the error never repeats the text.
    pub fn parse(text: &SecretText, what: &str) -> Result<Self, KeyTextError> {
        age::x25519::Identity::from_str(text.expose().trim())
            .map(Identity)
            .map_err(|e| KeyTextError::Invalid {
                what: what.to_owned(),
                why: e.to_owned(),
            })
    }
    /// The public half.
    pub fn recipient(&self) -> Recipient {
        Recipient(self.0.to_public())
    }
    /// Opens a binary age file of at most `limit` bytes of plaintext.
    pub fn open(&self, sealed: &[u8], limit: usize) -> Result<Vec<u8>, OpenError> {
        open_with(&[&self.0], sealed, limit)
    }
}

/// A user's public key: `age1…`, `age1<plugin>1…`, `ssh-ed25519 …`, `ssh-rsa …`, or a passphrase.
pub enum ReaderRecipient {
    /// Anything that can be shared.
    Public {
        /// As given.
        text: String,
        /// What seals.
        inner: Box<dyn age::Recipient + Send + Sync>,
    },
    /// A passphrase; stands alone in its file.
    Passphrase(age::scrypt::Recipient),
}

struct PluginRecipient<A: Ask> {
    recipient: age::plugin::Recipient,
    ask: A,
}

impl<A: Ask> age::Recipient for PluginRecipient<A> {
    fn wrap_file_key(
        &self,
        file_key: &age_core_types::FileKey,
    ) -> Result<
        (
            Vec<age_core_types::Stanza>,
            std::collections::HashSet<String>,
        ),
        age::EncryptError,
    > {
        let plugin = age::plugin::RecipientPluginV1::new(
            self.recipient.plugin(),
            std::slice::from_ref(&self.recipient),
            &[],
            Callbacks(self.ask.clone()),
        )?;
        plugin.wrap_file_key(file_key)
    }
}

/// The types of age's one joint, which `age` does not re-export.
mod age_core_types {
    pub use age_core::format::{FileKey, Stanza};
}

impl ReaderRecipient {
    /// Reads one recipient. `ask` serves plugins that want a touch.
    pub fn parse<A: Ask>(text: &str, ask: &A) -> Result<Self, KeyTextError> {
        let text = text.trim();
        let bad = |why: String| KeyTextError::Invalid {
            what: format!("recipient '{}'", clip(text)),
            why,
        };
        if text.starts_with("AGE-SECRET-KEY-")
            || text.starts_with("AGE-PLUGIN-")
            || text.contains("PRIVATE KEY")
        {
            return Err(KeyTextError::Invalid {
                what: "the recipient".into(),
                why: "that is an identity, which is secret; give its public half (age1…), see 'age-keygen -y'".into(),
            });
        }
        let inner: Box<dyn age::Recipient + Send + Sync> =
            if let Ok(r) = age::x25519::Recipient::from_str(text) {
                Box::new(r)
            } else if text.starts_with("ssh-") {
                Box::new(
                    age::ssh::Recipient::from_str(text)
                        .map_err(|e| bad(format!("not a usable ssh public key ({e:?})")))?,
                )
            } else if let Ok(recipient) = age::plugin::Recipient::from_str(text) {
                Box::new(PluginRecipient {
                    recipient,
                    ask: ask.clone(),
                })
            } else {
                return Err(bad("expected age1…, ssh-ed25519 … or ssh-rsa …".into()));
            };
        Ok(ReaderRecipient::Public {
            text: text.to_owned(),
            inner,
        })
    }
    /// A passphrase slot; scrypt with the crate's calibrated work factor, at least 2^18.
    pub fn passphrase(phrase: &SecretText, log_n: u8) -> Self {
        let mut r = age::scrypt::Recipient::new(age::secrecy::SecretString::from(
            phrase.expose().to_owned(),
        ));
        r.set_work_factor(log_n);
        ReaderRecipient::Passphrase(r)
    }
    /// Seals `plain` for this reader alone.
    pub fn seal(&self, plain: &[u8]) -> Result<Vec<u8>, KeyTextError> {
        let (what, r): (String, &dyn age::Recipient) = match self {
            Self::Public { text, inner } => (format!("recipient '{}'", clip(text)), inner.as_ref()),
            Self::Passphrase(r) => ("the passphrase".into(), r),
        };
        seal_with(r, plain).map_err(|why| KeyTextError::Invalid { what, why })
    }
}

/// What a user opens a repository with.
pub struct ReaderIdentity {
    identities: Vec<Box<dyn age::Identity>>,
    /// True when the identities include a passphrase: only then scrypt slots are tried, which cost seconds.
    passphrase: bool,
}

impl ReaderIdentity {
    /// Reads an identity file: age identities (native or plugin, one a line), an OpenSSH or PEM private key, or an age file encrypted by passphrase.
    pub fn parse<A: Ask>(bytes: &[u8], what: &str, ask: &A) -> Result<Self, KeyTextError> {
        let bad = |why: String| KeyTextError::Invalid {
            what: format!("identity {what}"),
            why,
        };
        if bytes.len() > limits::KEY_FILE_BYTES {
            return Err(bad("it is far too long for an identity file".into()));
        }
        let callbacks = Callbacks(ask.clone());
        let is_armored = bytes.starts_with(b"-----BEGIN AGE ENCRYPTED FILE-----");
        if is_armored || bytes.starts_with(b"age-encryption.org/") {
            let question = format!("Passphrase of {what}");
            let phrase = ask.secret(&question).ok_or_else(|| {
                bad("it is encrypted and nobody can be asked for its passphrase".into())
            })?;
            let mut plain = Vec::new();
            age::Decryptor::new_buffered(BufReader::new(age::armor::ArmoredReader::new(bytes)))
                .and_then(|d| {
                    let mut id = age::scrypt::Identity::new(age::secrecy::SecretString::from(
                        phrase.expose().to_owned(),
                    ));
                    id.set_max_work_factor(limits::SCRYPT_LOG_N);
                    d.decrypt(std::iter::once(&id as &dyn age::Identity))
                })
                .and_then(|r| {
                    Ok(r.take(limits::KEY_FILE_BYTES as u64)
                        .read_to_end(&mut plain)?)
                })
                .map_err(|e| bad(passphrase_error(e).to_string()))?;
            let plain = zeroize::Zeroizing::new(plain);
            if plain.starts_with(b"age-encryption.org/") {
                return Err(bad("it is encrypted twice".into()));
            }
            return Self::parse(&plain, what, ask);
        }
        let text = std::str::from_utf8(bytes).map_err(|_| bad("it is not text".into()))?;
        if text.contains("PRIVATE KEY-----") {
            let key = age::ssh::Identity::from_buffer(BufReader::new(bytes), Some(what.to_owned()))
                .map_err(|e| bad(e.to_string()))?;
            if let age::ssh::Identity::Unsupported(_) = key {
                return Err(bad("this kind of ssh key cannot be used; use an ed25519 or rsa key in OpenSSH format".into()));
            }
            return Ok(ReaderIdentity {
                identities: vec![Box::new(key.with_callbacks(callbacks))],
                passphrase: false,
            });
        }
        let file = age::IdentityFile::from_buffer(BufReader::new(bytes)).map_err(|_| {
            bad("a line of it is neither a comment nor an age identity (AGE-SECRET-KEY-1… or AGE-PLUGIN-…)".into())
        })?;
        let identities = file
            .with_callbacks(callbacks)
            .into_identities()
            .map_err(|e| bad(e.to_string()))?;
        if identities.is_empty() {
            return Err(bad("it holds no identity".into()));
        }
        Ok(ReaderIdentity {
            identities,
            passphrase: false,
        })
    }
    /// A passphrase.
    pub fn passphrase(phrase: &SecretText) -> Self {
        let mut id = age::scrypt::Identity::new(age::secrecy::SecretString::from(
            phrase.expose().to_owned(),
        ));
        id.set_max_work_factor(limits::SCRYPT_LOG_N);
        ReaderIdentity {
            identities: vec![Box::new(id)],
            passphrase: true,
        }
    }
    /// A plain X25519 identity.
    pub fn native(identity: &Identity) -> Self {
        ReaderIdentity {
            identities: vec![Box::new(identity.0.clone())],
            passphrase: false,
        }
    }
    /// Opens a key file.
    pub fn open(&self, sealed: &[u8], limit: usize) -> Result<Vec<u8>, OpenError> {
        if is_passphrase_file(sealed) != self.passphrase {
            return Err(OpenError::WrongKey);
        }
        let all: Vec<&dyn age::Identity> = self.identities.iter().map(|i| i.as_ref()).collect();
        open_with(&all, sealed, limit)
    }
}

/// The public half of an identity file with native identities, for messages and for `init` with a given identity.
pub fn recipients_of_identity_file(bytes: &[u8]) -> Vec<String> {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return Vec::new();
    };
    text.lines()
        .filter_map(|l| age::x25519::Identity::from_str(l.trim()).ok())
        .map(|i| i.to_public().to_string())
        .collect()
}

/// True for an age file that a passphrase opens.
pub fn is_passphrase_file(sealed: &[u8]) -> bool {
    sealed
        .split(|b| *b == b'\n')
        .nth(1)
        .is_some_and(|l| l.starts_with(b"-> scrypt "))
}

fn seal_with(recipient: &dyn age::Recipient, plain: &[u8]) -> Result<Vec<u8>, String> {
    let encryptor =
        age::Encryptor::with_recipients(std::iter::once(recipient)).map_err(|e| e.to_string())?;
    let mut out = Vec::with_capacity(plain.len() + plain.len() / 4096 + 1024);
    let mut writer = encryptor.wrap_output(&mut out).map_err(|e| e.to_string())?;
    writer.write_all(plain).map_err(|e| e.to_string())?;
    writer.finish().map_err(|e| e.to_string())?;
    Ok(out)
}

fn open_with(
    identities: &[&dyn age::Identity],
    sealed: &[u8],
    limit: usize,
) -> Result<Vec<u8>, OpenError> {
    // The header's end is looked for before the parser sees it, so that its size is bounded.
    let head = &sealed[..sealed.len().min(limits::AGE_HEADER_BYTES)];
    if !head.starts_with(b"age-encryption.org/v1\n") {
        return Err(OpenError::Damaged("this is not an age file".into()));
    }
    if !head.windows(5).any(|w| w == b"\n--- ") {
        return Err(OpenError::Damaged(format!(
            "its header does not end within {} bytes",
            limits::AGE_HEADER_BYTES
        )));
    }
    let decryptor = age::Decryptor::new_buffered(sealed).map_err(open_error)?;
    let of_slot: fn(age::DecryptError) -> OpenError = if is_passphrase_file(sealed) {
        passphrase_error
    } else {
        open_error
    };
    let mut reader = decryptor
        .decrypt(identities.iter().copied())
        .map_err(of_slot)?;
    let mut plain = Vec::with_capacity(sealed.len().min(limit));
    reader
        .by_ref()
        .take(limit as u64 + 1)
        .read_to_end(&mut plain)
        .map_err(|e| OpenError::Damaged(e.to_string()))?;
    if plain.len() > limit {
        return Err(OpenError::Excessive(format!(
            "its plaintext is longer than the {limit} bytes allowed here"
        )));
    }
    Ok(plain)
}

fn open_error(e: age::DecryptError) -> OpenError {
    use age::DecryptError as D;
    match e {
        D::NoMatchingKeys => OpenError::WrongKey,
        D::ExcessiveWork { required, .. } => OpenError::Excessive(format!(
            "its passphrase work factor 2^{required} is beyond 2^{}",
            limits::SCRYPT_LOG_N
        )),
        D::KeyDecryptionFailed => {
            OpenError::Helper("the passphrase is wrong or was not given".into())
        }
        D::MissingPlugin { binary_name } => {
            OpenError::Helper(format!("the plugin {binary_name} is not on PATH"))
        }
        D::Plugin(errors) => OpenError::Helper(
            errors
                .iter()
                .map(|e| format!("{e:?}"))
                .collect::<Vec<_>>()
                .join("; "),
        ),
        other => OpenError::Damaged(other.to_string()),
    }
}

/// Of the header of a passphrase slot: a wrong passphrase shows as a file key that does not decrypt. (So does a stanza whose body was damaged in all its lengths; the passphrase is the
/// likelier cause by far, and a person can only try another.)
fn passphrase_error(e: age::DecryptError) -> OpenError {
    match e {
        age::DecryptError::DecryptionFailed => OpenError::WrongPassphrase,
        other => open_error(other),
    }
}

fn clip(text: &str) -> String {
    text.chars().take(60).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seals_and_opens() {
        let id = Identity::generate();
        for n in [0, 1, 65535, 65536, 65537, 200_000] {
            let plain = vec![7u8; n];
            let sealed = id.recipient().seal(&plain);
            assert_eq!(id.open(&sealed, n).unwrap(), plain);
            if n > 0 {
                assert!(matches!(
                    id.open(&sealed, n - 1),
                    Err(OpenError::Excessive(_))
                ));
            }
        }
    }

    #[test]
    fn another_key_is_told_from_damage() {
        let (a, b) = (Identity::generate(), Identity::generate());
        let sealed = a.recipient().seal(b"x");
        assert!(matches!(b.open(&sealed, 10), Err(OpenError::WrongKey)));
        assert!(matches!(
            a.open(b"nonsense", 10),
            Err(OpenError::Damaged(_))
        ));
    }

    /// H4: every truncation, and a padding byte, of a file with a header and three payload chunks is refused.
    #[test]
    fn every_truncation_is_refused() {
        let id = Identity::generate();
        let sealed = id.recipient().seal(&vec![3u8; 64 * 1024 * 2 + 100]);
        let header = sealed.windows(5).position(|w| w == b"\n--- ").unwrap() + 64;
        let cuts = (0..header + 100)
            .chain((header..sealed.len()).step_by(997))
            .chain(sealed.len() - 200..sealed.len());
        for cut in cuts {
            assert!(id.open(&sealed[..cut], 1 << 20).is_err(), "cut at {cut}");
        }
        let mut padded = sealed.clone();
        padded.push(0);
        assert!(id.open(&padded, 1 << 20).is_err());
    }

    #[test]
    fn an_endless_header_is_refused_early() {
        let id = Identity::generate();
        let mut bomb = b"age-encryption.org/v1\n".to_vec();
        for _ in 0..1_000_000 {
            bomb.extend_from_slice(b"-> x y\n\n");
        }
        assert!(matches!(id.open(&bomb, 10), Err(OpenError::Damaged(_))));
    }

    #[test]
    fn an_identity_is_not_taken_as_recipient_nor_repeated() {
        let id = Identity::generate();
        let text = id.text();
        let Err(e) = ReaderRecipient::parse(text.expose(), &AskNobody) else {
            panic!("taken")
        };
        assert!(!e.to_string().contains("AGE-SECRET-KEY-1"));
        assert!(e.to_string().contains("secret"));
    }

    #[test]
    fn passphrase_slots() {
        let phrase = SecretText::new("correct horse".into());
        let sealed = ReaderRecipient::passphrase(&phrase, 10)
            .seal(b"inner")
            .unwrap();
        assert!(is_passphrase_file(&sealed));
        assert_eq!(
            ReaderIdentity::passphrase(&phrase)
                .open(&sealed, 100)
                .unwrap(),
            b"inner"
        );
        let wrong = ReaderIdentity::passphrase(&SecretText::new("battery".into()));
        assert!(matches!(
            wrong.open(&sealed, 100),
            Err(OpenError::WrongPassphrase)
        ));
        // Damage behind the stanza is damage, whatever the passphrase.
        let mut damaged = sealed.clone();
        *damaged.last_mut().unwrap() ^= 1;
        assert!(matches!(
            ReaderIdentity::passphrase(&phrase).open(&damaged, 100),
            Err(OpenError::Damaged(_))
        ));
        let native = ReaderIdentity::native(&Identity::generate());
        assert!(matches!(
            native.open(&sealed, 100),
            Err(OpenError::WrongKey)
        ));
    }
}
