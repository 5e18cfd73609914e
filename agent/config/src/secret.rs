//! Secrets: the configuration says where they lie, never what they are.
//!
//! A key that ends in `_file` names an absolute path, or `credential:NAME`: the file NAME in the directory that systemd gives a
//! unit for its credentials (`$CREDENTIALS_DIRECTORY`, from `LoadCredential=`). The file is read when the secret is needed and
//! not before, so that one that was changed works without a reload. The secret itself cannot be printed and is wiped when dropped.

use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::de::{self, Deserialize, Deserializer};
use serde::{Serialize, Serializer};
use zeroize::{Zeroize as _, ZeroizeOnDrop, Zeroizing};

use crate::text::Text;

/// The longest secret, in bytes.
pub const LONGEST: u64 = 64 << 10;
/// What stands before the name of a credential.
const CREDENTIAL: &str = "credential:";

/// A password, token or key in memory. It cannot be printed or copied.
#[derive(ZeroizeOnDrop)]
pub struct Secret(String);

impl Secret {
    /// The text, for the one operation that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

/// Where a secret lies. It is no secret itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum SecretSource {
    /// In this file, an absolute path.
    File(PathBuf),
    /// In the systemd credential of this name.
    Credential(String),
}

/// The directory of the unit's credentials, when there is one: the value of `$CREDENTIALS_DIRECTORY`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Credentials(pub Option<PathBuf>);

impl Credentials {
    /// As systemd told this process.
    pub fn of_this_process() -> Self {
        Self(
            std::env::var_os("CREDENTIALS_DIRECTORY")
                .map(PathBuf::from)
                .filter(|p| p.is_absolute()),
        )
    }
}

/// Why a secret was not read. It never holds the secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretError {
    source: String,
    why: String,
}

impl fmt::Display for SecretError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot read the secret in {}: {}", self.source, self.why)
    }
}

impl std::error::Error for SecretError {}

impl SecretSource {
    /// The file that holds it.
    ///
    /// # Errors
    /// A credential is named, and this process has none.
    pub fn path(&self, credentials: &Credentials) -> Result<PathBuf, SecretError> {
        match self {
            Self::File(path) => Ok(path.clone()),
            Self::Credential(name) => match &credentials.0 {
                Some(directory) => Ok(directory.join(name)),
                None => Err(self.fail("this process has no credentials; start it by its systemd unit with LoadCredential=, or name a file")),
            },
        }
    }

    /// Reads the secret: the file's text without line breaks at its end.
    ///
    /// # Errors
    /// The file cannot be read, is no file, is readable by everybody on the host, is empty, longer than 64 KiB or not UTF-8.
    pub fn read(&self, credentials: &Credentials) -> Result<Secret, SecretError> {
        let path = self.path(credentials)?;
        let bytes = self.bytes(&path).map_err(|why| self.fail(&why))?;
        let text = std::str::from_utf8(&bytes).map_err(|_| self.fail("it is not UTF-8"))?;
        let text = text.trim_end_matches(['\n', '\r']);
        if text.is_empty() {
            return Err(self.fail("it is empty"));
        }
        Ok(Secret(text.to_owned()))
    }

    fn bytes(&self, path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
        let file = File::open(path).map_err(|e| e.to_string())?;
        let about = file.metadata().map_err(|e| e.to_string())?;
        if !about.is_file() {
            return Err("it is not a file".into());
        }
        // Files in a directory of credentials are guarded by the directory; systemd chooses their modes.
        if matches!(self, Self::File(_)) && about.mode() & 0o007 != 0 {
            return Err(format!(
                "everybody on the host may open it (mode {:04o}); take that away with chmod o= and change the secret",
                about.mode() & 0o7777
            ));
        }
        let mut bytes = Zeroizing::new(Vec::with_capacity(LONGEST as usize + 1));
        file.take(LONGEST + 1)
            .read_to_end(&mut bytes)
            .map_err(|e| e.to_string())?;
        if bytes.len() as u64 > LONGEST {
            bytes.zeroize();
            return Err(format!("it is longer than {LONGEST} bytes"));
        }
        Ok(bytes)
    }

    fn fail(&self, why: &str) -> SecretError {
        SecretError {
            source: self.to_string(),
            why: why.to_owned(),
        }
    }
}

impl FromStr for SecretSource {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Text::Secret.check(text)?;
        Ok(match text.strip_prefix(CREDENTIAL) {
            Some(name) => Self::Credential(name.to_owned()),
            None => Self::File(text.into()),
        })
    }
}

impl fmt::Display for SecretSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Credential(name) => write!(f, "{CREDENTIAL}{name}"),
        }
    }
}

impl Serialize for SecretSource {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SecretSource {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn put(dir: &Path, name: &str, bytes: &[u8], mode: u32) -> PathBuf {
        let path = dir.join(name);
        std::fs::write(&path, bytes).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    fn read(path: &Path) -> Result<String, String> {
        SecretSource::File(path.into())
            .read(&Credentials::default())
            .map(|s| s.expose().to_owned())
            .map_err(|e| e.to_string())
    }

    #[test]
    fn reads_what_people_write_and_refuses_the_rest() {
        let dir = tempfile::tempdir().unwrap();
        for (bytes, expected) in [
            (&b"geheim"[..], "geheim"),
            (b"geheim\n", "geheim"),
            (b"geheim\r\n", "geheim"),
            (b" a b \n", " a b "),
        ] {
            assert_eq!(
                read(&put(dir.path(), "s", bytes, 0o600)).as_deref(),
                Ok(expected)
            );
        }
        for (bytes, mode, why) in [
            (&b""[..], 0o600, "it is empty"),
            (b"\n", 0o600, "it is empty"),
            (b"canary-\xff", 0o600, "it is not UTF-8"),
            (b"canary", 0o604, "everybody on the host"),
            (b"canary", 0o666, "everybody on the host"),
            (
                &vec![b'c'; LONGEST as usize + 1],
                0o600,
                "longer than 65536 bytes",
            ),
        ] {
            let error = read(&put(dir.path(), "s", bytes, mode)).unwrap_err();
            assert!(error.contains(why) && !error.contains("canary"), "{error}");
        }
        assert!(
            read(&dir.path().join("absent"))
                .unwrap_err()
                .contains("No such file")
        );
        assert!(read(dir.path()).unwrap_err().contains("not a file"));
        assert_eq!(
            read(&put(dir.path(), "g", b"x", 0o640)).as_deref(),
            Ok("x"),
            "the group may"
        );
    }

    #[test]
    fn credentials_lie_in_their_directory() {
        let dir = tempfile::tempdir().unwrap();
        put(dir.path(), "token", b"geheim\n", 0o444);
        let source: SecretSource = "credential:token".parse().unwrap();
        let credentials = Credentials(Some(dir.path().to_owned()));
        assert_eq!(source.read(&credentials).unwrap().expose(), "geheim");
        let error = source
            .read(&Credentials(None))
            .map(|_| ())
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("credential:token") && error.contains("LoadCredential"),
            "{error}"
        );
        for bad in [
            "credential:",
            "credential:../x",
            "credential:a/b",
            "relative",
            "",
            "/nix/store/abc/secret",
            "/a/../b",
        ] {
            assert!(bad.parse::<SecretSource>().is_err(), "{bad}");
        }
    }
}
