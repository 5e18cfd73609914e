//! Credentials: from files of one value each, from a profile of an AWS credentials file, or as the SDK finds them.
//!
//! They are kept until they expire, or until the server says that they have: then they are read anew, so that a rotation takes effect in the middle of a run. Files that
//! others may read are refused. The secrets go from the file into the SDK's own type, which prints none of them.

use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use aws_config::profile::ProfileFileCredentialsProvider;
use aws_config::provider_config::ProviderConfig;
use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider, future};
use aws_runtime::env_config::file::{EnvConfigFileKind, EnvConfigFiles};
use zeroize::Zeroizing;

use crate::options::CredentialSource;

/// A file with one part of the credentials is longer than this only by mistake.
const FILE_BYTES: u64 = 16 << 10;
/// Credentials this near to their end are not used any more.
const MARGIN: Duration = Duration::from_secs(60);

/// See the module. Clones share what they keep.
#[derive(Clone)]
pub struct Provider(Arc<Inner>);

struct Inner {
    source: Source,
    kept: Mutex<Option<Credentials>>,
}

enum Source {
    Sdk(SharedCredentialsProvider),
    Files(PathBuf, PathBuf, Option<PathBuf>),
}

impl fmt::Debug for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Provider(..)")
    }
}

impl Provider {
    /// For a source; `config` carries the HTTP client and the region for those that ask a server.
    pub async fn new(source: &CredentialSource, config: &ProviderConfig) -> Self {
        let source = match source {
            CredentialSource::Files {
                access_key,
                secret_key,
                session_token,
            } => Source::Files(
                access_key.clone(),
                secret_key.clone(),
                session_token.clone(),
            ),
            CredentialSource::Profile { file, profile } => {
                let mut builder = ProfileFileCredentialsProvider::builder().configure(config);
                if let Some(file) = file {
                    let files = EnvConfigFiles::builder()
                        .with_file(EnvConfigFileKind::Credentials, file)
                        .build();
                    builder = builder.profile_files(files);
                }
                if let Some(profile) = profile {
                    builder = builder.profile_name(profile);
                }
                Source::Sdk(SharedCredentialsProvider::new(builder.build()))
            }
            CredentialSource::Chain => {
                let chain =
                    aws_config::default_provider::credentials::DefaultCredentialsChain::builder()
                        .configure(config.clone())
                        .build()
                        .await;
                Source::Sdk(SharedCredentialsProvider::new(chain))
            }
        };
        Provider::of(source)
    }

    fn of(source: Source) -> Self {
        Provider(Arc::new(Inner {
            source,
            kept: Mutex::new(None),
        }))
    }

    /// Forgets what is kept: the server says that it is no longer valid.
    pub fn invalidate(&self) {
        *self.0.kept.lock().unwrap_or_else(|e| e.into_inner()) = None;
    }

    async fn load(&self) -> Result<Credentials, CredentialsError> {
        let kept = self
            .0
            .kept
            .lock()
            .unwrap_or_else(|e| e.into_inner())
            .clone();
        if let Some(kept) = kept {
            if kept
                .expiry()
                .is_none_or(|end| end > SystemTime::now() + MARGIN)
            {
                return Ok(kept);
            }
        }
        let new = match &self.0.source {
            Source::Sdk(provider) => provider.provide_credentials().await?,
            Source::Files(access, secret, token) => {
                let access = read(access)?;
                let secret = read(secret)?;
                let token = token.as_deref().map(read).transpose()?;
                Credentials::new(
                    access.as_str(),
                    secret.as_str(),
                    token.as_ref().map(|t| t.to_string()),
                    None,
                    "files",
                )
            }
        };
        *self.0.kept.lock().unwrap_or_else(|e| e.into_inner()) = Some(new.clone());
        Ok(new)
    }
}

impl ProvideCredentials for Provider {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.load())
    }
}

/// One value from a file, without the white space around it.
fn read(path: &Path) -> Result<Zeroizing<String>, CredentialsError> {
    let fail = |why: String| {
        CredentialsError::invalid_configuration(format!(
            "the credential file {} cannot be used: {why}",
            path.display()
        ))
    };
    let meta = std::fs::metadata(path).map_err(|e| fail(e.to_string()))?;
    if meta.permissions().mode() & 0o007 != 0 {
        return Err(fail("others may read or write it (chmod 600)".into()));
    }
    if meta.len() > FILE_BYTES {
        return Err(fail(format!("it is longer than {FILE_BYTES} bytes")));
    }
    let text = Zeroizing::new(std::fs::read_to_string(path).map_err(|e| fail(e.to_string()))?);
    let value = Zeroizing::new(text.trim().to_owned());
    if value.is_empty() {
        return Err(fail("it is empty".into()));
    }
    if value.chars().any(|c| c.is_control()) {
        return Err(fail("it holds more than one line".into()));
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(dir: &Path, name: &str, content: &str, mode: u32) -> PathBuf {
        let path = dir.join(name);
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    fn of(access: PathBuf, secret: PathBuf, token: Option<PathBuf>) -> Provider {
        Provider::of(Source::Files(access, secret, token))
    }

    #[tokio::test]
    async fn files_are_read_anew_only_after_a_refusal() {
        let dir = tempfile::tempdir().unwrap();
        let a = file(dir.path(), "a", "AKIA1\n", 0o600);
        let s = file(dir.path(), "s", "  secret-one \n", 0o400);
        let t = file(dir.path(), "t", "token", 0o640);
        let p = of(a, s.clone(), Some(t));
        let c = p.load().await.unwrap();
        assert_eq!(
            (c.access_key_id(), c.secret_access_key(), c.session_token()),
            ("AKIA1", "secret-one", Some("token"))
        );
        std::fs::remove_file(&s).unwrap();
        file(dir.path(), "s", "secret-two", 0o600);
        assert_eq!(p.load().await.unwrap().secret_access_key(), "secret-one");
        p.invalidate();
        assert_eq!(p.load().await.unwrap().secret_access_key(), "secret-two");
        assert!(!format!("{p:?} {c:?}").contains("secret-"));
    }

    #[tokio::test]
    async fn bad_files_are_named_and_their_content_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let good = file(dir.path(), "good", "AKIA1", 0o600);
        for (name, content, mode, says) in [
            ("open", "s3cr3t", 0o644, "others may"),
            ("empty", " \n", 0o600, "empty"),
            ("lines", "s3cr3t\nmore", 0o600, "more than one line"),
            ("long", &*"s3cr3t".repeat(4000), 0o600, "longer"),
        ] {
            let bad = file(dir.path(), name, content, mode);
            let e = of(good.clone(), bad.clone(), None)
                .load()
                .await
                .unwrap_err();
            let text = format!(
                "{}",
                aws_smithy_types::error::display::DisplayErrorContext(&e)
            );
            assert!(
                text.contains(says) && text.contains(bad.to_str().unwrap()),
                "{text}"
            );
            assert!(!text.contains("s3cr3t"), "{text}");
        }
        let e = of(good, dir.path().join("absent"), None)
            .load()
            .await
            .unwrap_err();
        assert!(
            format!(
                "{}",
                aws_smithy_types::error::display::DisplayErrorContext(&e)
            )
            .contains("absent")
        );
    }
}
