//! The bearer token for what maps the host, from a file.
//!
//! The file is read by a task, never while a question is answered: at the start, when its modification time, size or inode
//! changes, and when the daemon is told to reload. A file that cannot be read closes the door (nobody is let in) rather than
//! leaving an old token valid. In memory only the token's SHA-256 is kept; comparing two hashes in constant time tells an
//! attacker neither content nor length.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use tokio::io::AsyncReadExt as _;
use zeroize::Zeroize as _;

use crate::limits::TOKEN_MAX;

/// How often the file is looked at, unless the daemon is told to reload.
pub const LOOK: Duration = Duration::from_secs(60);
/// Shorter tokens could be guessed.
const SHORTEST: usize = 16;

/// The hash of the token that is valid now. Not printable.
#[derive(Clone, Default)]
pub struct Token {
    hash: Arc<Mutex<Option<[u8; 32]>>>,
}

impl Token {
    /// Whether this is the token. Without a valid file nothing is.
    pub fn is(&self, given: &[u8]) -> bool {
        let known = *self.hash.lock().unwrap_or_else(PoisonError::into_inner);
        let given: [u8; 32] = Sha256::digest(given).into();
        known.is_some_and(|known| bool::from(known.ct_eq(&given)))
    }

    fn set(&self, hash: Option<[u8; 32]>) {
        *self.hash.lock().unwrap_or_else(PoisonError::into_inner) = hash;
    }
}

/// What tells that the file is another one.
type Stamp = (Option<SystemTime>, u64, u64);

/// The file, and what of it is known.
pub struct TokenFile {
    path: PathBuf,
    stamp: Option<Stamp>,
    token: Token,
    /// What was last said, so that it is said once.
    said: Option<String>,
}

impl TokenFile {
    /// Of this file. Nothing is read yet.
    pub fn new(path: PathBuf) -> Self {
        Self {
            path,
            stamp: None,
            token: Token::default(),
            said: None,
        }
    }

    /// The token, for those who compare.
    pub fn token(&self) -> Token {
        self.token.clone()
    }

    /// Reads the file when it changed since the last look, or in any case with `anyway`. Says in the log, once, what is wrong.
    pub async fn look(&mut self, anyway: bool) {
        let stamp = match tokio::fs::metadata(&self.path).await {
            Ok(meta) => {
                use std::os::unix::fs::MetadataExt as _;
                Some((meta.modified().ok(), meta.len(), meta.ino()))
            }
            Err(_) => None,
        };
        if !anyway && stamp.is_some() && stamp == self.stamp {
            return;
        }
        self.stamp = stamp;
        match read(&self.path).await {
            Ok(hash) => {
                self.token.set(Some(hash));
                self.said = None;
            }
            Err(why) => {
                self.token.set(None);
                if self.said.as_ref() != Some(&why) {
                    tracing::warn!(
                        file = %self.path.display(),
                        "cannot use the token file because {why}; nobody is let in to what needs a token"
                    );
                    self.said = Some(why);
                }
            }
        }
    }
}

async fn read(path: &std::path::Path) -> Result<[u8; 32], String> {
    let file = tokio::fs::File::open(path)
        .await
        .map_err(|e| e.to_string())?;
    let mut bytes = Vec::with_capacity(TOKEN_MAX + 1);
    let result = file
        .take(TOKEN_MAX as u64 + 1)
        .read_to_end(&mut bytes)
        .await
        .map_err(|e| e.to_string())
        .and_then(|_| hash(&bytes));
    bytes.zeroize();
    result
}

fn hash(bytes: &[u8]) -> Result<[u8; 32], String> {
    let text = bytes.trim_ascii_end();
    if bytes.len() > TOKEN_MAX {
        return Err(format!("it is longer than {TOKEN_MAX} bytes"));
    }
    if text.len() < SHORTEST {
        return Err(format!("it holds fewer than {SHORTEST} characters"));
    }
    if !text.iter().all(u8::is_ascii_graphic) {
        return Err("it holds characters that an HTTP header cannot have".into());
    }
    Ok(Sha256::digest(text).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn read_again_when_it_changes_and_closed_when_it_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let mut file = TokenFile::new(path.clone());
        let token = file.token();
        assert!(!token.is(b""));
        file.look(false).await;
        assert!(!token.is(b""));
        std::fs::write(&path, "0123456789abcdef\n").unwrap();
        file.look(false).await;
        assert!(token.is(b"0123456789abcdef"));
        for wrong in [
            &b""[..],
            b"0123456789abcde",
            b"0123456789abcdef\n",
            b"0123456789abcdeF",
        ] {
            assert!(!token.is(wrong));
        }
        // Rotation by renaming.
        std::fs::write(dir.path().join("new"), "another-token-0123\n").unwrap();
        std::fs::rename(dir.path().join("new"), &path).unwrap();
        file.look(false).await;
        assert!(!token.is(b"0123456789abcdef") && token.is(b"another-token-0123"));
        for bad in [
            &b"short"[..],
            b"",
            b"has a space in it ...",
            &[b'x'; 5000],
            b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        ] {
            std::fs::write(&path, bad).unwrap();
            file.look(true).await;
            assert!(!token.is(bad) && !token.is(b"another-token-0123"));
        }
        std::fs::write(&path, "another-token-0123").unwrap();
        file.look(true).await;
        assert!(token.is(b"another-token-0123"));
        std::fs::remove_file(&path).unwrap();
        file.look(false).await;
        assert!(!token.is(b"another-token-0123"));
    }
}
