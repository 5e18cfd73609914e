//! Secrets of probed services: passwords, tokens, keys.
//!
//! They are named by a file (a systemd credential is one) and read for each run, so that a rotated secret works without a
//! restart and nothing lies in memory between runs. The type cannot be printed, is not copied, and is wiped when dropped.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt as _;
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::outcome::{Failure, Outcome};
use keepwatch_model::check::Reason;

/// The longest secret, in bytes.
const LONGEST: usize = 4096;

/// A password, token or key in memory.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct Secret(String);

impl Secret {
    /// Takes text over.
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The text, for the one operation that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

/// A result in which nothing repeats a secret that was sent: servers say back what they were told, in plain text or as it was encoded.
///
/// # Errors
/// The given one.
pub fn without(secrets: &[&Secret], result: Result<Outcome, Failure>) -> Result<Outcome, Failure> {
    let clean = |failure: &mut Failure| {
        for secret in secrets {
            failure.text = secret.hidden(&failure.text);
        }
    };
    match result {
        Ok(mut outcome) => {
            outcome.failure.iter_mut().for_each(clean);
            for text in &mut outcome.warnings {
                for secret in secrets {
                    *text = secret.hidden(text);
                }
            }
            Ok(outcome)
        }
        Err(mut failure) => {
            clean(&mut failure);
            Err(failure)
        }
    }
}

impl Secret {
    /// A text in which it does not occur.
    fn hidden(&self, text: &str) -> String {
        // Shorter ones occur in anything.
        if self.0.len() < 4 {
            return text.to_owned();
        }
        let mut encoded = base64::engine::general_purpose::STANDARD.encode(&self.0);
        let out = text
            .replace(&self.0, "…")
            .replace(encoded.trim_end_matches('='), "…");
        encoded.zeroize();
        out
    }
}

/// Where a secret lies. It is only a path, so it may be printed and stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SecretFile(pub PathBuf);

impl SecretFile {
    /// Reads the secret: the file's text without line breaks at its end.
    ///
    /// # Errors
    /// [`Reason::Exec`] when the file cannot be read, everybody on the host may read it, it is empty, longer than 4096 bytes, or not UTF-8. The text names the
    /// path, never the content.
    pub async fn read(&self) -> Result<Secret, Failure> {
        read(&self.0).await.map_err(|why| {
            Failure::new(
                Reason::Exec,
                format!("cannot read the secret file {}: {why}", self.0.display()),
            )
        })
    }
}

async fn read(path: &Path) -> Result<Secret, String> {
    let file = tokio::fs::File::open(path)
        .await
        .map_err(|e| e.to_string())?;
    let about = file.metadata().await.map_err(|e| e.to_string())?;
    if about.is_file() && about.mode() & 0o007 != 0 {
        return Err(
            "everybody on the host may open it; take that away with chmod o= and change the secret"
                .to_owned(),
        );
    }
    let mut bytes = Vec::with_capacity(LONGEST + 1);
    let read = file
        .take(LONGEST as u64 + 1)
        .read_to_end(&mut bytes)
        .await
        .map_err(|e| e.to_string());
    let result = read.and_then(|_| text(&bytes));
    bytes.zeroize();
    result
}

fn text(bytes: &[u8]) -> Result<Secret, String> {
    if bytes.len() > LONGEST {
        return Err(format!("it is longer than {LONGEST} bytes"));
    }
    let text = std::str::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned())?;
    let text = text.trim_end_matches(['\n', '\r']);
    if text.is_empty() {
        return Err("it is empty".to_owned());
    }
    Ok(Secret::new(text.to_owned()))
}

/// Reads the secret when one is configured.
///
/// # Errors
/// As [`SecretFile::read`].
pub async fn read_optional(file: Option<&SecretFile>) -> Result<Option<Secret>, Failure> {
    match file {
        Some(file) => file.read().await.map(Some),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn what_a_server_repeats_is_hidden() {
        let secret = Secret::new("geheim-1".into());
        let mut outcome = Outcome::success();
        outcome.fail(Reason::Status, "said geheim-1, Z2VoZWltLTE= and more");
        outcome.warn("geheim-1");
        let seen = without(&[&secret], Ok(outcome)).unwrap();
        assert_eq!(seen.failure.unwrap().text, "said …, …= and more");
        assert_eq!(seen.warnings, ["…"]);
        let failure = Failure::new(Reason::Auth, "no geheim-1");
        let seen = without(&[&secret], Err(failure)).unwrap_err();
        assert_eq!(seen.text, "no …");
    }

    #[tokio::test]
    async fn reads_what_people_write_and_refuses_the_rest() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, bytes: &[u8]| {
            let path = dir.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            std::fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
            SecretFile(path)
        };
        for (bytes, expected) in [
            (&b"geheim"[..], "geheim"),
            (b"geheim\n", "geheim"),
            (b"geheim\r\n", "geheim"),
            (b" with space \n", " with space "),
        ] {
            assert_eq!(
                put("s", bytes).read().await.ok().unwrap().expose(),
                expected
            );
        }
        for (bytes, why) in [
            (&b""[..], "is empty"),
            (b"\n", "is empty"),
            (b"\xff\xfe", "not UTF-8"),
            (&[b'x'; 4097], "longer than 4096"),
        ] {
            let e = put("s", bytes).read().await.err().unwrap();
            assert_eq!(e.reason, Reason::Exec);
            assert!(e.text.contains(why), "{}", e.text);
        }
        let open = put("open", b"geheim");
        std::fs::set_permissions(&open.0, Permissions::from_mode(0o604)).unwrap();
        let e = open.read().await.err().unwrap();
        assert!(e.text.contains("everybody"), "{}", e.text);
        let e = SecretFile(dir.path().join("none"))
            .read()
            .await
            .err()
            .unwrap();
        assert!(e.text.contains("none"), "{}", e.text);
    }
}
