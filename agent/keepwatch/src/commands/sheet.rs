//! `key sheet`: a page to print and put into a drawer. With it and an identity the backups come back, with or without Keepwatch. It holds no identity.

use std::path::PathBuf;

use clap::Args;
use keepwatch_engine::limits;
use keepwatch_engine::repository::Repository;
use keepwatch_engine::seal::is_passphrase_file;
use keepwatch_engine::store::{Area, Name, list_all};
use qrcode::{Color, EcLevel, QrCode};
use serde_json::{Value, json};

use crate::clock;
use crate::context::Context;
use crate::errors::{Exit, Failure, Outcome};
use crate::output::{escape, print_after, print_json, tell};

/// A page to print: what is needed to restore
#[derive(Args)]
#[command(
    long_about = "A page to print: where the repository lies, how it is recognised, its sealed key files as text and QR code, and the commands that bring the files back, with Keepwatch and without. It holds no identity: keep that elsewhere.",
    after_help = "Examples:
  keepwatch key sheet
  keepwatch key sheet --html sheet.html --location 's3://bucket/backup' --location 'disk in the safe'"
)]
pub struct SheetArgs {
    /// Write a page for printing, complete in itself
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Where else the repository lies (repeatable)
    #[arg(long = "location", value_name = "TEXT")]
    pub locations: Vec<String>,
    /// No QR codes in the text
    #[arg(long)]
    pub no_qr: bool,
}

struct KeyFile {
    name: String,
    passphrase: bool,
    armored: String,
}

struct Sheet {
    date: String,
    locations: Vec<String>,
    id: String,
    owner: String,
    recipient: String,
    writers: Vec<(String, String)>,
    keys: Vec<KeyFile>,
}

/// The verb.
pub fn run(context: &Context, args: &SheetArgs) -> Outcome {
    let repository = context.open_any()?;
    let sheet = Sheet::of(&repository, &args.locations)?;
    if let Some(file) = &args.html {
        std::fs::write(file, sheet.html())
            .map_err(|e| Failure::file("write the sheet to", file, &e))?;
        context.note(&format!(
            "the sheet was written to {}; print it, and keep it away from this machine",
            file.display()
        ));
    }
    if context.json() {
        print_json(&sheet.json())?;
    } else if args.html.is_none() {
        print_after(&sheet.text(!args.no_qr))?;
    }
    Ok(Exit::Done)
}

impl Sheet {
    fn of(repository: &Repository, more: &[String]) -> Result<Self, Failure> {
        let store = repository.store();
        let mut keys = Vec::new();
        for listed in list_all(&**store, Area::Keys)? {
            let Name::Key(name) = &listed.name else {
                continue;
            };
            let sealed = store.get(&listed.name, limits::KEY_FILE_BYTES as u64)?;
            keys.push(KeyFile {
                name: name.as_str().to_owned(),
                passphrase: is_passphrase_file(&sealed),
                armored: armor(&sealed),
            });
        }
        let mut locations = vec![store.location()];
        locations.extend(more.iter().cloned());
        Ok(Sheet {
            date: clock::now().short(),
            locations: locations.iter().map(|l| escape(l)).collect(),
            id: repository.id().to_string(),
            owner: repository.owner().to_string(),
            recipient: repository.recipient().to_string(),
            writers: repository
                .writers()
                .values()
                .filter(|w| !w.revoked)
                .map(|w| (w.id.to_string(), escape(&w.label)))
                .collect(),
            keys,
        })
    }

    /// The key file for the commands: one that an identity opens, where there is one.
    fn first_key(&self) -> Option<&KeyFile> {
        self.keys
            .iter()
            .find(|k| !k.passphrase)
            .or(self.keys.first())
    }

    /// Headings and commands, the same for text and HTML.
    fn steps(&self) -> Vec<(&'static str, Vec<String>)> {
        let place = self
            .locations
            .first()
            .map(String::as_str)
            .unwrap_or_default();
        let key = self.first_key().map_or("me", |k| k.name.as_str());
        let (identity, script, open) = match self.first_key() {
            Some(k) if k.passphrase => ("", " --passphrase", ""),
            _ => (
                " --identity IDENTITY",
                " --identity IDENTITY",
                " -i IDENTITY",
            ),
        };
        vec![
            (
                "With Keepwatch",
                vec![
                    format!("keepwatch snapshots --repo {place}{identity} --owner-key {}", self.owner),
                    format!("keepwatch restore   --repo {place}{identity} --owner-key {} --target DIRECTORY latest", self.owner),
                ],
            ),
            (
                "Without Keepwatch: age, zstd and Python 3, and the script tests/recover/recover.py of its source",
                vec![
                    format!("python3 recover.py --repo {place}{script} --target DIRECTORY"),
                    format!("age -d{open} -o R.txt {place}/keys/{key}.age    # by hand: the repository's key, or from the text below"),
                    "age -d -i R.txt ENVELOPE | zstd -d               # one envelope of a pack; FORMAT.md says the rest".to_owned(),
                    "shred -u R.txt                                   # it opens everything".to_owned(),
                ],
            ),
        ]
    }

    fn text(&self, qr: bool) -> String {
        let mut out = format!("KEEPWATCH RECOVERY SHEET\n{}\n\n", self.date);
        for (what, value) in self.facts() {
            out += &format!("{what:<12} {value}\n");
        }
        out += "\nThis sheet opens nothing by itself: the identity is needed as well. Keep the two apart, and neither on the host that is backed up.\n";
        for (title, commands) in self.steps() {
            out += &format!("\n{title}:\n");
            for c in commands {
                out += &format!("  {c}\n");
            }
        }
        for k in &self.keys {
            out += &format!(
                "\nKey file keys/{}.age ({}):\n\n{}",
                k.name,
                k.opened_by(),
                k.armored
            );
            if qr {
                match code(&k.armored) {
                    Some(code) => out += &format!("\n{}", blocks(&code)),
                    None => tell(&format!(
                        "keepwatch: the key file '{}' is too long for a QR code",
                        k.name
                    )),
                }
            }
        }
        out
    }

    fn facts(&self) -> Vec<(&'static str, String)> {
        let mut facts: Vec<_> = self
            .locations
            .iter()
            .map(|l| ("repository", l.clone()))
            .collect();
        facts.push(("id", self.id.clone()));
        facts.push(("owner key", self.owner.clone()));
        facts.push(("recipient", self.recipient.clone()));
        facts.extend(
            self.writers
                .iter()
                .map(|(id, label)| ("writer", format!("{id}  {label}"))),
        );
        facts
    }

    fn html(&self) -> String {
        let mut out = String::from(
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Keepwatch recovery sheet</title><style>\n\
             body{font:11pt/1.35 serif;max-width:46em;margin:2em auto;color:#000;background:#fff}\n\
             pre,code,td{font:9pt/1.3 monospace;white-space:pre-wrap;overflow-wrap:anywhere}\n\
             td:first-child{padding-right:1em;white-space:nowrap}\n\
             h1{font-size:16pt}h2{font-size:12pt;margin-bottom:.2em}\n\
             section{break-inside:avoid}svg{width:9cm;height:9cm}\n\
             @media print{body{margin:0}}\n</style></head><body>\n<h1>Keepwatch recovery sheet</h1>\n",
        );
        out += &format!("<p>{}</p>\n<table>\n", entities(&self.date));
        for (what, value) in self.facts() {
            out += &format!("<tr><td>{what}</td><td>{}</td></tr>\n", entities(&value));
        }
        out += "</table>\n<p><b>This sheet opens nothing by itself: the identity is needed as well.</b> Keep the two apart, and neither on the host that is backed up.</p>\n";
        for (title, commands) in self.steps() {
            out += &format!(
                "<h2>{}</h2>\n<pre>{}</pre>\n",
                entities(title),
                entities(&commands.join("\n"))
            );
        }
        for k in &self.keys {
            out += &format!(
                "<section><h2>Key file keys/{}.age ({})</h2>\n<pre>{}</pre>\n",
                entities(&k.name),
                k.opened_by(),
                entities(&k.armored)
            );
            if let Some(code) = code(&k.armored) {
                out += &svg(&code);
            }
            out += "</section>\n";
        }
        out + "</body></html>\n"
    }

    fn json(&self) -> Value {
        json!({
            "date": self.date,
            "locations": self.locations,
            "repository_id": self.id,
            "owner_key": self.owner,
            "recipient": self.recipient,
            "writers": self.writers.iter().map(|(id, label)| json!({ "id": id, "label": label })).collect::<Vec<_>>(),
            "keys": self.keys.iter().map(|k| json!({ "name": k.name, "passphrase": k.passphrase, "armored": k.armored })).collect::<Vec<_>>(),
        })
    }
}

impl KeyFile {
    fn opened_by(&self) -> &'static str {
        if self.passphrase {
            "opened by its passphrase"
        } else {
            "opened by its reader's identity"
        }
    }
}

/// The text form of an age file, as `age -d` takes it: base64 in lines of 64.
fn armor(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::from("-----BEGIN AGE ENCRYPTED FILE-----\n");
    for line in bytes.chunks(48) {
        for group in line.chunks(3) {
            let n =
                group.iter().fold(0u32, |n, b| n << 8 | u32::from(*b)) << (8 * (3 - group.len()));
            for i in 0..4 {
                out.push(if i <= group.len() {
                    char::from(DIGITS[(n >> (18 - 6 * i)) as usize & 63])
                } else {
                    '='
                });
            }
        }
        out.push('\n');
    }
    out + "-----END AGE ENCRYPTED FILE-----\n"
}

fn code(text: &str) -> Option<QrCode> {
    [EcLevel::M, EcLevel::L]
        .iter()
        .find_map(|level| QrCode::with_error_correction_level(text, *level).ok())
}

/// Whether the module is dark; outside is the quiet zone.
fn is_dark(code: &QrCode, x: i64, y: i64) -> bool {
    let n = code.width() as i64;
    (0..n).contains(&x) && (0..n).contains(&y) && code[(x as usize, y as usize)] == Color::Dark
}

/// Two rows of modules in a line of text, for terminals with light text on dark ground: light modules are drawn.
fn blocks(code: &QrCode) -> String {
    let n = code.width() as i64;
    let mut out = String::new();
    for y in (-2..n + 2).step_by(2) {
        for x in -2..n + 2 {
            out.push(match (is_dark(code, x, y), is_dark(code, x, y + 1)) {
                (false, false) => '█',
                (false, true) => '▀',
                (true, false) => '▄',
                (true, true) => ' ',
            });
        }
        out.push('\n');
    }
    out
}

fn svg(code: &QrCode) -> String {
    let n = code.width() as i64;
    let mut path = String::new();
    for y in 0..n {
        let mut x = 0;
        while x < n {
            let run = (x..n).take_while(|x| is_dark(code, *x, y)).count() as i64;
            if run > 0 {
                path += &format!("M{x} {y}h{run}v1h-{run}z");
            }
            x += run.max(1);
        }
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"-4 -4 {0} {0}\" shape-rendering=\"crispEdges\"><rect x=\"-4\" y=\"-4\" width=\"{0}\" height=\"{0}\" fill=\"#fff\"/><path d=\"{path}\"/></svg>\n",
        n + 8
    )
}

fn entities(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
        .replace('\'', "&#39;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use keepwatch_engine::seal::{AskNobody, Identity, ReaderIdentity, ReaderRecipient};
    use keepwatch_engine::secret::SecretText;

    fn sheet() -> Sheet {
        Sheet {
            date: "2026-11-22".into(),
            locations: vec!["/r<x>".into()],
            id: "0f".into(),
            owner: "aa".into(),
            recipient: "age1x".into(),
            writers: vec![("01".into(), "h&k".into())],
            keys: vec![KeyFile {
                name: "me".into(),
                passphrase: false,
                armored: armor(b"age-encryption.org/v1\n"),
            }],
        }
    }

    #[test]
    fn armor_is_strict_base64() {
        assert_eq!(
            armor(b"Ma"),
            "-----BEGIN AGE ENCRYPTED FILE-----\nTWE=\n-----END AGE ENCRYPTED FILE-----\n"
        );
        assert!(armor(b"M").contains("\nTQ==\n"));
        assert!(armor(b"Man").contains("\nTWFu\n"));
        assert!(
            armor(&[0; 96])
                .lines()
                .skip(1)
                .take(2)
                .all(|l| l.len() == 64)
        );
    }

    /// What is printed is what age opens: an identity file sealed by passphrase, armored by us, is read by the engine's armor reader.
    #[test]
    fn armored_text_opens_again() {
        let identity = Identity::generate();
        let phrase = SecretText::new("p".into());
        let sealed = ReaderRecipient::passphrase(&phrase, 2)
            .seal(identity.text().expose().as_bytes())
            .unwrap_or_else(|e| panic!("{e}"));
        #[derive(Clone)]
        struct Knows;
        impl keepwatch_engine::seal::Ask for Knows {
            fn show(&self, _: &str) {}
            fn secret(&self, _: &str) -> Option<SecretText> {
                Some(SecretText::new("p".into()))
            }
            fn text(&self, _: &str) -> Option<String> {
                None
            }
            fn confirm(&self, _: &str, _: &str, _: Option<&str>) -> Option<bool> {
                None
            }
        }
        let text = armor(&sealed);
        assert!(ReaderIdentity::parse(text.as_bytes(), "f", &Knows).is_ok());
        assert!(ReaderIdentity::parse(text.as_bytes(), "f", &AskNobody).is_err());
    }

    #[test]
    fn the_page_is_complete_in_itself_and_escaped() {
        let html = sheet().html();
        assert!(
            html.contains("/r&lt;x&gt;")
                && html.contains("h&amp;k")
                && html.contains("<svg")
                && !html.contains("<x>")
        );
        assert!(!html.contains("src=") && !html.contains("href="));
        let text = sheet().text(true);
        assert!(
            text.contains("BEGIN AGE") && text.contains("--owner-key aa") && text.contains('█')
        );
        assert!(!sheet().text(false).contains('█'));
    }
}
