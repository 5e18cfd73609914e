//! Secrets: tokens, passwords, and URLs that hold one (a Telegram URL, the address of a webhook, of a dead-man switch).
//!
//! They are named by a file (a systemd credential is one) and read for each delivery, so a rotated one works without a restart.
//! The type cannot be printed, is not copied, and is wiped when dropped.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt as _;
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::limits::SECRET;

/// A secret text in memory.
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

/// Where a secret lies. It is only a path, so it may be printed and stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SecretFile(pub PathBuf);

impl SecretFile {
    /// Reads the file's text without white space at its ends.
    ///
    /// # Errors
    /// It cannot be read, everybody on the host may read it, is empty, longer than 4096 bytes, or holds what is not printable ASCII. The text names the path,
    /// never the content.
    pub async fn read(&self) -> Result<Secret, String> {
        read(&self.0).await.map_err(|why| {
            format!(
                "cannot read the secret file {} because {why}",
                self.0.display()
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
    let mut bytes = Vec::with_capacity(SECRET + 1);
    let result = file
        .take(SECRET as u64 + 1)
        .read_to_end(&mut bytes)
        .await
        .map_err(|e| e.to_string())
        .and_then(|_| text(&bytes));
    bytes.zeroize();
    result
}

fn text(bytes: &[u8]) -> Result<Secret, String> {
    if bytes.len() > SECRET {
        return Err(format!("it is longer than {SECRET} bytes"));
    }
    let trimmed = bytes.trim_ascii();
    if trimmed.is_empty() {
        return Err("it is empty".into());
    }
    if !trimmed.iter().all(|b| (b' '..=b'~').contains(b)) {
        return Err("it holds more than printable ASCII".into());
    }
    Ok(Secret::new(String::from_utf8_lossy(trimmed).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt as _;

    #[tokio::test]
    async fn reads_what_people_write_and_refuses_the_rest() {
        let dir = tempfile::tempdir().unwrap();
        let put = |bytes: &[u8]| {
            let path = dir.path().join("s");
            std::fs::write(&path, bytes).unwrap();
            std::fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
            SecretFile(path)
        };
        for (bytes, expected) in [
            (&b"geheim"[..], "geheim"),
            (b"geheim\r\n", "geheim"),
            (b"a b\n", "a b"),
        ] {
            assert_eq!(put(bytes).read().await.ok().unwrap().expose(), expected);
        }
        for (bytes, why) in [
            (&b""[..], "is empty"),
            (b" \n", "is empty"),
            (b"a\nb", "printable"),
            (b"\xff", "printable"),
            (&[b'x'; 5000], "longer"),
        ] {
            let e = put(bytes).read().await.err().unwrap();
            assert!(e.contains(why), "{e}");
        }
        let open = put(b"geheim");
        std::fs::set_permissions(&open.0, Permissions::from_mode(0o604)).unwrap();
        assert!(open.read().await.err().unwrap().contains("everybody"));
        assert!(
            SecretFile(dir.path().join("none"))
                .read()
                .await
                .err()
                .unwrap()
                .contains("none")
        );
    }
}
