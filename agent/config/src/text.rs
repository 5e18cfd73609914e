//! Formats of texts: names, paths, durations, calendars, places. Each has one check, one pattern for the schema, one title for people.
//!
//! A text that may hold a secret by mistake is never repeated in an error: those of [`Text::Secret`], and any text that looks
//! like a private key or like a URL with a password ([`betrayed`]).

use std::time::Duration;

use keepwatch_model::duration::{CalendarSpan, parse_duration};
use keepwatch_model::size::parse_size;
use keepwatch_watch::calendar::Calendar;
use keepwatch_watch::net::{Target, is_host};
use keepwatch_watch::systemd::UnitName;

/// The longest text, in bytes.
pub const LONGEST: usize = 8192;
/// The longest line for people, in characters.
const LINE: usize = 512;
/// The longest name.
const NAME: usize = 64;
/// The longest name of a bucket, in bytes.
const BUCKET: usize = 63;
/// The longest prefix, in bytes.
const PREFIX: usize = 512;

/// A format of texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Text {
    /// Anything, also of several lines.
    Any,
    /// One line, not empty.
    Line,
    /// One line or nothing.
    Note,
    /// A name: it becomes a label, a field of logs and a part of file names.
    Name,
    /// An absolute path.
    Path,
    /// Where a secret lies: an absolute path, or `credential:NAME`.
    Secret,
    /// A length of time between these, in milliseconds.
    Duration(u64, u64),
    /// A size.
    Size,
    /// A span of the calendar.
    Span,
    /// A calendar expression of systemd.
    Calendar,
    /// A zone of the time zone database.
    Zone,
    /// A name of a systemd unit.
    Unit,
    /// `host:port` or `unix:/path`.
    Target,
    /// `host:port`.
    Server,
    /// `http://` or `https://`.
    Url,
    /// `postgres://`.
    PostgresUrl,
    /// An IP address.
    Address,
    /// A name of a host or an address.
    Host,
    /// A reader of backups: a public key of age or SSH.
    Recipient,
    /// An address for mail.
    Mail,
    /// A name of a label.
    Label,
    /// A bucket of S3: AWS's rule, and what older and other servers allow beyond it.
    Bucket,
    /// What stands before the names of objects in a bucket.
    Prefix,
    /// The name of an entry of this section of the file.
    Ref(&'static str),
}

const SECOND: u64 = 1000;
const DAY: u64 = 86_400 * SECOND;

impl Text {
    /// Any duration from a second to a year.
    pub const DURATION: Self = Self::Duration(SECOND, 366 * DAY);

    /// What it is, for people.
    pub fn title(&self) -> String {
        match self {
            Self::Any => "a text".into(),
            Self::Line | Self::Note => "a line of text".into(),
            Self::Name => "a name of letters, digits, '.', '_' and '-'".into(),
            Self::Path => "an absolute path".into(),
            Self::Secret => {
                "a file that holds a secret: an absolute path or credential:NAME".into()
            }
            Self::Duration(min, max) => {
                format!("a duration from {} to {}", brief(*min), brief(*max))
            }
            Self::Size => "a size such as 10M or 1.5GiB".into(),
            Self::Span => "a span such as 7d or 1y6m (m: months)".into(),
            Self::Calendar => {
                "a calendar expression of systemd, such as daily or Mon..Fri 22:30".into()
            }
            Self::Zone => "a time zone such as UTC or Europe/Berlin".into(),
            Self::Unit => "a systemd unit such as nginx.service".into(),
            Self::Target => "host:port or unix:/path".into(),
            Self::Server => "host:port".into(),
            Self::Url => "a URL that begins with http:// or https://".into(),
            Self::PostgresUrl => "a URL such as postgres://user@host/database".into(),
            Self::Address => "an IP address".into(),
            Self::Host => "a name of a host, or an address".into(),
            Self::Recipient => "a public key: age1…, ssh-ed25519 … or ssh-rsa …".into(),
            Self::Mail => "an address for mail".into(),
            Self::Label => "a name of a label: lower-case letters, digits and '_'".into(),
            Self::Bucket => "a name of a bucket: 3 to 63 letters, digits, '.', '_' and '-'".into(),
            Self::Prefix => "a prefix such as hosts/web1: parts between single slashes, none of them '.' or '..'".into(),
            Self::Ref(section) => format!("a name from [{section}]"),
        }
    }

    /// Whether the text has this format. References are checked when the whole file is known.
    ///
    /// # Errors
    /// A sentence, without the text where it may hold a secret.
    pub fn check(&self, text: &str) -> Result<(), String> {
        if text.len() > LONGEST {
            return Err(format!("it is longer than {LONGEST} bytes"));
        }
        if text.contains('\0') {
            return Err("it holds a zero byte".into());
        }
        if let Some(why) = betrayed(text) {
            return Err(why.into());
        }
        if *self != Self::Any && text.chars().any(char::is_control) {
            return Err("it holds a line break or another control character".into());
        }
        let is = |good: bool| {
            if good {
                Ok(())
            } else {
                Err(format!("{} is not {}", shown(text), self.title()))
            }
        };
        match self {
            Self::Any => Ok(()),
            Self::Line if text.trim().is_empty() => Err("it is empty".into()),
            Self::Line | Self::Note if text.chars().count() > LINE => {
                Err(format!("it is longer than {LINE} characters"))
            }
            Self::Line | Self::Note => Ok(()),
            Self::Name | Self::Ref(_) => name(text),
            Self::Path => path(text),
            Self::Secret => secret(text),
            Self::Duration(min, max) => duration(text, *min, *max),
            Self::Size => parse_size(text).map(|_| ()).map_err(|e| e.to_string()),
            Self::Span => text
                .parse::<CalendarSpan>()
                .map(|_| ())
                .map_err(|e| e.to_string()),
            Self::Calendar => Calendar::parse(text).map(|_| ()),
            Self::Zone => is(jiff::tz::TimeZone::get(text).is_ok()),
            Self::Unit => text.parse::<UnitName>().map(|_| ()),
            Self::Target => text.parse::<Target>().map(|_| ()),
            Self::Server => match text.parse::<Target>() {
                Ok(Target::Unix(_)) => is(false),
                other => other.map(|_| ()),
            },
            Self::Url => url(text, &["http://", "https://"]),
            Self::PostgresUrl => url(text, &["postgres://", "postgresql://"]),
            Self::Address => is(text.parse::<std::net::IpAddr>().is_ok()),
            Self::Host => is(text.starts_with('/')
                || is_host(text)
                || text.parse::<std::net::IpAddr>().is_ok()),
            Self::Recipient => recipient(text),
            Self::Mail => is(mail(text)),
            Self::Label => label(text),
            Self::Bucket => is(text.len() <= BUCKET && text.len() >= 3 && name(text).is_ok()),
            Self::Prefix => is(prefix(text)),
        }
    }

    /// A regular expression for the schema. It never refuses what [`Self::check`] takes.
    pub fn pattern(&self) -> Option<&'static str> {
        Some(match self {
            Self::Name | Self::Ref(_) => "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$",
            Self::Path => "^/",
            Self::Secret => "^(/|credential:[A-Za-z0-9])",
            Self::Duration(..) => "^\\s*[0-9]",
            Self::Size => "^\\s*[0-9]",
            Self::Span => "^\\s*[0-9]",
            Self::Unit => "^[A-Za-z0-9:_.\\\\@-]+\\.[a-z]+$",
            Self::Target => "^(unix:/.*|.*:[0-9]+)$",
            Self::Server => ":[0-9]+$",
            Self::Url => "^https?://",
            Self::PostgresUrl => "^postgres(ql)?://",
            Self::Recipient => "^\\s*(age1|ssh-)",
            Self::Mail => "@",
            Self::Label => "^[a-z][a-z0-9_]{0,63}$",
            Self::Bucket => "^[A-Za-z0-9][A-Za-z0-9._-]{2,62}$",
            Self::Prefix => "^([^/].*)?$",
            Self::Line => "\\S",
            Self::Any | Self::Note | Self::Calendar | Self::Zone | Self::Address | Self::Host => {
                return None;
            }
        })
    }

    /// A text that has this format, for tests of the description itself.
    #[cfg(test)]
    pub(crate) fn sample(&self) -> &'static str {
        match self {
            Self::Any | Self::Line | Self::Note => "text",
            Self::Name | Self::Ref(_) => "main",
            Self::Path => "/srv/data",
            Self::Secret => "credential:token",
            Self::Duration(min, max) if *min <= 60 * SECOND && *max >= 60 * SECOND => "1m",
            Self::Duration(min, _) if *min <= 3600 * SECOND => "1h",
            Self::Duration(..) => "1d",
            Self::Size => "10M",
            Self::Span => "7d",
            Self::Calendar => "daily",
            Self::Zone => "Europe/Berlin",
            Self::Unit => "nginx.service",
            Self::Target | Self::Server => "localhost:80",
            Self::Url => "https://example.org/x",
            Self::PostgresUrl => "postgres://keepwatch@db.example.org/keepwatch",
            Self::Address => "127.0.0.1",
            Self::Host => "db.example.org",
            Self::Recipient => "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p",
            Self::Mail => "ops@example.org",
            Self::Label => "team",
            Self::Bucket => "backups",
            Self::Prefix => "hosts/web1",
        }
    }
}

fn prefix(text: &str) -> bool {
    let text = text.strip_suffix('/').unwrap_or(text);
    let is_part = |part: &str| !matches!(part, "" | "." | "..");
    text.len() <= PREFIX && (text.is_empty() || text.split('/').all(is_part))
}

/// A private key, or a URL with a password: what must not stand in the file wherever it stands.
pub fn betrayed(text: &str) -> Option<&'static str> {
    if text.contains("AGE-SECRET-KEY-")
        || text.contains("PRIVATE KEY-----")
        || text.contains("AGE-PLUGIN-")
    {
        return Some(
            "it holds a private key, which must not stand in the configuration: put it into a file of its own and name that (…_file)",
        );
    }
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        rest = &rest[at + 3..];
        let end = rest
            .find(|c: char| c.is_whitespace() || c == '"' || c == '\'')
            .unwrap_or(rest.len());
        // A password with a slash in it ends the authority early, so all up to the last @ is looked at.
        let head = rest[..end].split(['?', '#']).next().unwrap_or("");
        if head
            .rsplit_once('@')
            .is_some_and(|(user, _)| user.contains(':') && !user.contains("://"))
        {
            return Some(
                "it holds a URL with a password in it, which must not stand in the configuration: take it out, and name a file that holds it (…_file)",
            );
        }
    }
    None
}

/// A text as an error may show it: quoted, shortened, without control characters.
pub fn shown(text: &str) -> String {
    let mut out = String::from("'");
    let mut rest = text.chars();
    for c in rest.by_ref().take(60) {
        if c.is_control() {
            out.extend(c.escape_debug())
        } else {
            out.push(c)
        }
    }
    if rest.next().is_some() {
        out.push('…');
    }
    out.push('\'');
    out
}

/// A sentence of somebody else in one line, without control characters.
pub fn line(text: &str) -> String {
    let clean: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    clean.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn brief(millis: u64) -> String {
    for (unit, size) in [
        ("d", DAY),
        ("h", 3600 * SECOND),
        ("m", 60 * SECOND),
        ("s", SECOND),
    ] {
        if millis >= size && millis % size == 0 {
            return format!("{}{unit}", millis / size);
        }
    }
    format!("{millis}ms")
}

/// The rule of names, shared by every section.
pub(crate) fn name(text: &str) -> Result<(), String> {
    let good = (1..=NAME).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        && text.starts_with(|c: char| c.is_ascii_alphanumeric());
    if good {
        return Ok(());
    }
    Err(format!(
        "{} is not a name: use 1 to {NAME} letters, digits, '.', '_' and '-', with a letter or digit first",
        shown(text)
    ))
}

fn path(text: &str) -> Result<(), String> {
    if !text.starts_with('/') {
        return Err(format!(
            "{} is not an absolute path: it must begin with /",
            shown(text)
        ));
    }
    if text.split('/').any(|part| part == "..") {
        return Err(format!(
            "{} goes up with '..': write where it leads to",
            shown(text)
        ));
    }
    Ok(())
}

fn secret(text: &str) -> Result<(), String> {
    if let Some(credential) = text.strip_prefix("credential:") {
        return name(credential)
            .map_err(|_| "what follows credential: is not a name of a systemd credential".into());
    }
    if !text.starts_with('/') {
        // The text is not repeated: it may be the secret itself.
        return Err("it must name a file, by an absolute path or as credential:NAME; the secret itself must not stand here".into());
    }
    if text.starts_with("/nix/store/") {
        return Err("everybody on the host can read the Nix store: no secret can lie there".into());
    }
    path(text)
}

fn duration(text: &str, min: u64, max: u64) -> Result<(), String> {
    let found = parse_duration(text).map_err(|e| e.to_string())?;
    if found < Duration::from_millis(min) || found > Duration::from_millis(max) {
        return Err(format!(
            "{} is not between {} and {}",
            shown(text),
            brief(min),
            brief(max)
        ));
    }
    Ok(())
}

fn url(text: &str, schemes: &[&str]) -> Result<(), String> {
    let Some(rest) = schemes.iter().find_map(|s| text.strip_prefix(s)) else {
        return Err(format!(
            "{} does not begin with {}",
            shown(text),
            schemes.join(" or ")
        ));
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or("");
    let host = authority.rsplit('@').next().unwrap_or("");
    if host.is_empty() || text.chars().any(char::is_whitespace) {
        return Err(format!(
            "{} is not a URL: it names no host, or holds a space",
            shown(text)
        ));
    }
    let query = rest
        .split_once('?')
        .map_or("", |q| q.1)
        .to_ascii_lowercase();
    if query
        .split('&')
        .any(|pair| betraying_name(pair.split('=').next().unwrap_or("")).is_some())
    {
        return Err("its query holds a password or token, which must not stand in the configuration: name a file that holds it (…_file)".into());
    }
    Ok(())
}

fn recipient(text: &str) -> Result<(), String> {
    let text = text.trim();
    let age = text.strip_prefix("age1").is_some_and(|rest| {
        rest.len() >= 20
            && rest
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
    });
    let ssh = ["ssh-ed25519 ", "ssh-rsa "].iter().any(|s| {
        text.strip_prefix(s).is_some_and(|rest| {
            let key = rest.split(' ').next().unwrap_or("");
            key.len() >= 40
                && key
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"+/=".contains(&b))
        })
    });
    if age || ssh {
        Ok(())
    } else {
        Err(format!(
            "{} is not {}",
            shown(text),
            Text::Recipient.title()
        ))
    }
}

fn mail(text: &str) -> bool {
    let address = match text.split_once('<') {
        Some((_, rest)) => rest.strip_suffix('>').unwrap_or(""),
        None => text,
    };
    address.rsplit_once('@').is_some_and(|(local, host)| {
        !local.is_empty()
            && is_host(host)
            && !local
                .chars()
                .any(|c| c.is_whitespace() || "<>@,;\"".contains(c))
    })
}

/// Labels that metrics, Prometheus or alerts need for themselves.
const TAKEN: &[&str] = &[
    "alertname",
    "backup",
    "check",
    "env",
    "group",
    "instance",
    "job",
    "kind",
    "le",
    "quantile",
    "repository",
    "service",
    "severity",
    "state",
    "type",
    "unit",
];

fn label(text: &str) -> Result<(), String> {
    if TAKEN.contains(&text) {
        return Err(format!(
            "the label {} is taken; choose another name",
            shown(text)
        ));
    }
    let good = (1..=NAME).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    if good {
        Ok(())
    } else {
        Err(format!("{} is not {}", shown(text), Text::Label.title()))
    }
}

/// Whether this is a name under which people write secrets; then the name without what makes it one of a file.
pub(crate) fn betraying_name(name: &str) -> Option<&'static str> {
    let flat: String = name
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .map(|c| c.to_ascii_lowercase())
        .collect();
    if flat.ends_with("file") || flat.ends_with("path") || flat.ends_with("dir") {
        return None;
    }
    const WORDS: &[&str] = &[
        "password",
        "passwd",
        "passphrase",
        "secret",
        "token",
        "apikey",
        "accesskey",
        "secretkey",
        "privatekey",
        "credential",
        "credentials",
        "authorization",
        "cookie",
        "identity",
        "writerkey",
        "accesskeyid",
        "secretaccesskey",
        "pgpassword",
        "mysqlpwd",
    ];
    WORDS.iter().find(|w| flat.ends_with(**w)).copied()
}
