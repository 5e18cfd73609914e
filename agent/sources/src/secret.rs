//! Passwords: where they lie, and what they are, for as short as possible.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use zeroize::{Zeroize as _, ZeroizeOnDrop, Zeroizing};

use crate::fault::{Fault, Reason};

/// The longest secret, in bytes.
const LONGEST: u64 = 64 << 10;

/// A password or key in memory. It cannot be printed or copied, and is wiped when dropped.
#[derive(ZeroizeOnDrop)]
pub struct Secret(String);

impl Secret {
    /// Takes text over.
    pub fn new(text: String) -> Self {
        Secret(text)
    }
    /// The text, for the one operation that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

/// The file that holds a secret. It is no secret itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretFile(pub PathBuf);

impl SecretFile {
    /// Reads it: the file's text without line breaks at its end.
    ///
    /// # Errors
    /// It cannot be read, is open to everybody on the host, is empty, longer than 64 KiB, holds several lines or is not UTF-8.
    pub fn read(&self) -> Result<Secret, Fault> {
        let path: &Path = &self.0;
        let wrong = |why: &str| {
            Fault::new(
                Reason::Parameter,
                format!("cannot use the secret in {}: {why}", path.display()),
            )
        };
        let unread = |e: std::io::Error| Fault::file("read the secret in", path, &e);
        let file = File::open(path).map_err(unread)?;
        let about = file.metadata().map_err(unread)?;
        if !about.is_file() {
            return Err(wrong("it is not a file"));
        }
        if about.mode() & 0o007 != 0 {
            return Err(wrong(
                "everybody on the host may open it; take that away with chmod o= and change the secret",
            ));
        }
        let mut bytes = Zeroizing::new(Vec::with_capacity(LONGEST as usize + 1));
        file.take(LONGEST + 1)
            .read_to_end(&mut bytes)
            .map_err(unread)?;
        if bytes.len() as u64 > LONGEST {
            return Err(wrong("it is longer than 64 KiB"));
        }
        let text = std::str::from_utf8(&bytes).map_err(|_| wrong("it is not UTF-8"))?;
        let text = text.trim_end_matches(['\n', '\r']);
        if text.is_empty() {
            return Err(wrong("it is empty"));
        }
        if text.contains(['\n', '\r', '\0']) {
            return Err(wrong("it has several lines"));
        }
        let secret = Secret(text.to_owned());
        bytes.zeroize();
        Ok(secret)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_secret_is_read_from_a_guarded_file_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let file = SecretFile(path.clone());
        assert_eq!(file.read().err().unwrap().reason, Reason::NotThere);
        let put = |text: &[u8], mode| {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        put(b"pw\n", 0o600);
        assert_eq!(file.read().ok().unwrap().expose(), "pw");
        for (text, mode) in [
            (&b"pw"[..], 0o644),
            (b"", 0o600),
            (b"a\nb", 0o600),
            (b"\xff", 0o600),
        ] {
            put(text, mode);
            assert_eq!(file.read().err().unwrap().reason, Reason::Parameter);
        }
        put(&[b'x'; 70_000], 0o600);
        assert!(file.read().is_err());
    }
}
