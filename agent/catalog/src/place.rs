//! Where the catalog lies: a file of SQLite, or a database of PostgreSQL by URL.
//!
//! A URL with a password in it is refused: it would stand in the configuration, in `ps` and in errors. The password comes
//! from a file, which is read anew for each new connection, so that it can be changed without a restart. Parameters of the
//! URL that are not known are refused, too, because a driver may know more names for a password than we do.
//!
//! A server on another host is spoken to only by TLS with a checked certificate, unless the URL says otherwise (`sslmode`).

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use sqlx::postgres::PgConnectOptions;
use zeroize::Zeroizing;

use crate::fault::CatalogError;

/// Bytes of a password file that are read.
const PASSWORD_MAX: u64 = 4096;
/// Parameters of a URL that are passed on.
const PARAMETERS: &[&str] = &[
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "host",
    "port",
    "dbname",
    "user",
];

/// Where the catalog lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A file.
    Sqlite(PathBuf),
    /// A database on a server.
    Postgres(Server),
}

/// A PostgreSQL server and database. It holds no secret, only the name of the file that does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    url: String,
    password_file: Option<PathBuf>,
}

impl Place {
    /// Reads a place as it is configured: `postgres://user@host/database?sslmode=…`, `sqlite:/path` or `/path`.
    ///
    /// # Errors
    /// A URL with a password or an unknown parameter, one that is no URL, a password file beside SQLite. No error repeats the text,
    /// which may hold a secret.
    pub fn parse(text: &str, password_file: Option<PathBuf>) -> Result<Self, CatalogError> {
        let refuse = |why: &str| {
            Err(CatalogError::Unusable {
                place: "what is configured".to_owned(),
                why: why.to_owned(),
            })
        };
        let rest = ["postgres://", "postgresql://"]
            .iter()
            .find_map(|s| text.strip_prefix(s));
        let Some(rest) = rest else {
            let path = text.strip_prefix("sqlite:").unwrap_or(text);
            if path.is_empty() || path.contains("://") {
                return refuse("it is neither a path nor a URL that begins with postgres://");
            }
            if path.contains('\0') {
                return refuse("a path cannot hold a NUL");
            }
            if password_file.is_some() {
                return refuse("SQLite has no password; remove the password file");
            }
            return Ok(Self::Sqlite(PathBuf::from(path)));
        };
        let (main, query) = rest.split_once('?').unwrap_or((rest, ""));
        let authority = main.split('/').next().unwrap_or("");
        // A password with a slash in it ends the authority early, so the whole is looked at.
        if let Some((user, _)) = main.rsplit_once('@') {
            if user.contains(':') {
                return refuse(
                    "the URL holds a password; put it into a file of its own (password_file)",
                );
            }
        }
        if main.contains('#') || authority.contains(char::is_whitespace) {
            return refuse("the URL is not valid");
        }
        for pair in query.split('&').filter(|p| !p.is_empty()) {
            let key = pair.split('=').next().unwrap_or("");
            if !PARAMETERS.contains(&key) {
                return refuse(
                    "the URL has a parameter that is not known; use sslmode, sslrootcert, sslcert, sslkey, host, port, dbname or user",
                );
            }
        }
        if PgConnectOptions::from_str(text).is_err() {
            return refuse("the URL is not valid");
        }
        Ok(Self::Postgres(Server {
            url: text.to_owned(),
            password_file,
        }))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => path.display().fmt(f),
            Self::Postgres(server) => f.write_str(&server.url),
        }
    }
}

impl Server {
    /// What the driver needs to connect, with the password as its file has it now.
    pub(crate) fn options(&self) -> Result<PgConnectOptions, CatalogError> {
        let unusable = |why: String| CatalogError::Unusable {
            place: self.url.clone(),
            why,
        };
        let mut options = PgConnectOptions::from_str(&self.url)
            .map_err(|_| unusable("the URL is not valid".to_owned()))?;
        let local = options.get_socket().is_some()
            || matches!(
                options.get_host(),
                "localhost" | "127.0.0.1" | "::1" | "[::1]"
            )
            || options.get_host().starts_with('/');
        if !local && !self.url.contains("sslmode=") {
            options = options.ssl_mode(sqlx::postgres::PgSslMode::VerifyFull);
        }
        // An empty password overrules one from the environment, which is no place for a secret.
        let password = match &self.password_file {
            Some(path) => password(path).map_err(|why| CatalogError::Away {
                place: self.url.clone(),
                why,
            })?,
            None => Zeroizing::new(String::new()),
        };
        Ok(options.password(&password))
    }
}

/// The first line of a password file.
fn password(path: &Path) -> Result<Zeroizing<String>, String> {
    let mut text = Zeroizing::new(String::new());
    File::open(path)
        .and_then(|file| file.take(PASSWORD_MAX).read_to_string(&mut text))
        .map_err(|e| format!("its password file {} cannot be read: {e}", path.display()))?;
    let line = text.split(['\n', '\r']).next().unwrap_or("");
    if line.is_empty() {
        return Err(format!("its password file {} is empty", path.display()));
    }
    Ok(Zeroizing::new(line.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CANARY: &str = "hunter2canary";

    #[test]
    fn passwords_in_urls_are_refused_and_not_repeated() {
        for text in [
            "postgres://kw:hunter2canary@db/keepwatch",
            "postgresql://kw:hunter2canary@db/keepwatch?sslmode=require",
            "postgres://kw@db/keepwatch?password=hunter2canary",
            "postgres://kw@db/keepwatch?sslmode=require&pass%77ord=hunter2canary",
            "postgres://kw:hunter2canary/x@db/keepwatch",
            "postgres://kw:hunter2canary?x@db/keepwatch",
            "postgres://kw:hunter2canary#x@db/keepwatch",
            "postgres://kw:hunter2canary",
            "mysql://kw:hunter2canary@db/keepwatch",
            "postgres://kw@db:hunter2canary/keepwatch",
        ] {
            let error = Place::parse(text, None).expect_err(text);
            assert!(!error.to_string().contains(CANARY), "{error}");
            assert!(!format!("{error:?}").contains(CANARY), "{error:?}");
        }
    }

    #[test]
    fn places_are_told_apart() {
        let place = Place::parse(
            "postgres://kw@db.example:5433/keepwatch?sslmode=require",
            None,
        );
        assert_eq!(
            place.map(|p| p.to_string()).ok().as_deref(),
            Some("postgres://kw@db.example:5433/keepwatch?sslmode=require")
        );
        for text in [
            "/var/lib/keepwatch/catalog.db",
            "sqlite:/var/lib/keepwatch/catalog.db",
        ] {
            assert_eq!(
                Place::parse(text, None),
                Ok(Place::Sqlite("/var/lib/keepwatch/catalog.db".into()))
            );
        }
        for text in ["", "sqlite:", "http://x", "a\0b"] {
            assert!(Place::parse(text, None).is_err(), "{text}");
        }
        assert!(Place::parse("/x", Some("/pw".into())).is_err());
    }

    #[test]
    fn other_hosts_are_spoken_to_by_tls() {
        let mode = |url: &str| match Place::parse(url, None) {
            Ok(Place::Postgres(server)) => {
                format!("{:?}", server.options().expect(url).get_ssl_mode())
            }
            other => panic!("{url}: {other:?}"),
        };
        assert_eq!(mode("postgres://kw@db.example/keepwatch"), "VerifyFull");
        assert_eq!(
            mode("postgres://kw@db.example/keepwatch?sslmode=disable"),
            "Disable"
        );
        assert_eq!(mode("postgres://kw@127.0.0.1/keepwatch"), "Prefer");
        assert_eq!(
            mode("postgres://kw@localhost/keepwatch?host=/run/postgresql"),
            "Prefer"
        );
    }

    #[test]
    fn the_password_file_is_read_when_it_is_needed() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("pw");
        let place =
            Place::parse("postgres://kw@127.0.0.1/keepwatch", Some(path.clone())).expect("a place");
        let Place::Postgres(server) = &place else {
            panic!("{place:?}")
        };
        let missing = server.options().expect_err("no file").to_string();
        assert!(missing.contains("cannot be read"), "{missing}");
        std::fs::write(&path, "\n").expect("written");
        assert!(
            server
                .options()
                .expect_err("empty")
                .to_string()
                .contains("is empty")
        );
        std::fs::write(&path, format!("{CANARY}\n")).expect("written");
        assert!(server.options().is_ok());
        assert!(!format!("{place:?} {place}").contains(CANARY));
    }
}
