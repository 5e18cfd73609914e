//! `key`: who may read a repository, and who may write to it.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use keepwatch_engine::ids::WriterId;
use keepwatch_engine::seal::{Identity, ReaderRecipient};
use keepwatch_engine::store::KeyName;
use serde_json::{Value, json};

use super::init::{identity_text, writer_name};
use super::sheet::{self, SheetArgs};
use crate::clock;
use crate::context::{Context, host_name};
use crate::errors::{Exit, Failure, Outcome};
use crate::keys::{self, SCRYPT_LOG_N};
use crate::output::{Align, Out, Table, print_after, print_json, print_json_after};
use crate::places::write_secret;

/// Manage who may read and who may write
#[derive(Args)]
#[command(
    long_about = "Manage who may read and who may write.\n\nReaders hold an identity; the repository's key is sealed to each of them in a small file, so adding or removing one never touches the data. Writers hold a writer key, one for each host; it adds backups and cannot read them.",
    after_help = "Examples:
  keepwatch key list
  keepwatch key add --name bob --recipient age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p
  keepwatch key writer --label web1 --out web1.key
  keepwatch key sheet --html sheet.html"
)]
pub struct KeyArgs {
    #[command(subcommand)]
    pub what: What,
}

/// What to do with keys.
#[derive(Subcommand)]
pub enum What {
    /// Make a new identity and print its public half
    #[command(
        long_about = "Make a new identity (an age identity) and print its public half, the recipient.",
        after_help = "Examples:\n  keepwatch key generate -o key.txt\n  keepwatch init --repo R --recipient \"$(keepwatch key generate -o key.txt)\""
    )]
    Generate {
        /// The file for the identity
        #[arg(short, long, value_name = "FILE")]
        out: PathBuf,
    },
    /// List readers' keys and writers
    #[command(after_help = "Examples:\n  keepwatch key list\n  keepwatch key list --json")]
    List,
    /// Let somebody else read
    #[command(
        long_about = "Let somebody else read: seals the repository's key to a recipient or a passphrase. Needs an identity that opens the repository.",
        after_help = "Examples:\n  keepwatch key add --identity key.txt --name bob --recipient age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p\n  keepwatch key add --identity key.txt --name phrase --new-passphrase-file phrase.txt"
    )]
    Add {
        /// The new reader: age1…, 'ssh-ed25519 …', or a file with one such line
        #[arg(long, value_name = "KEY|FILE")]
        recipient: Option<String>,
        /// File with the new passphrase
        #[arg(long, value_name = "FILE", conflicts_with = "recipient")]
        new_passphrase_file: Option<PathBuf>,
        /// What to call the key
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
    },
    /// Take the right to read, or to write, away
    #[command(
        long_about = "Take the right to read away from a key, or the right to write from a writer.\n\nWhat a reader has copied before stays readable to him. The snapshots of a revoked writer are marked as such and never taken as the latest; what else it signed is no longer believed. Revoking a writer needs an identity.",
        after_help = "Examples:\n  keepwatch key remove bob\n  keepwatch key remove --identity key.txt 4f1d0a6be2c39a55"
    )]
    Remove {
        /// The name of a key, or the id of a writer, as 'key list' shows them
        #[arg(value_name = "NAME|WRITER")]
        name: String,
    },
    /// Issue a writer key for a host
    #[command(
        long_about = "Issue a writer key: for another host, or for this one when its key is lost. Needs an identity.\n\nWithout --out the key becomes this host's own, at the usual place.",
        after_help = "Examples:\n  keepwatch key writer --identity key.txt --label web1 --out web1.key\n  keepwatch key writer --identity key.txt"
    )]
    Writer {
        /// The host's name [default: this host's]
        #[arg(long, value_name = "HOST")]
        label: Option<String>,
        /// The file for the writer key [default: the usual place]
        #[arg(short, long, value_name = "FILE")]
        out: Option<PathBuf>,
        /// It may also forget snapshots of other hosts, and prune
        #[arg(long)]
        maintain: bool,
    },
    /// Prove that an identity still opens the repository, and record when
    #[command(
        long_about = "Prove that an identity, such as the one on paper, still opens the repository: it is opened, and a piece of the newest snapshot is read with it. When it succeeded last is kept beside what this host knows of the repository.\n\nOnly the identity that is named is tried.",
        after_help = "Examples:\n  keepwatch key verify --repo R --identity typed-from-paper.txt --name paper\n  keepwatch key verify --repo R --passphrase-file phrase.txt"
    )]
    Verify {
        /// What to call the key in records
        #[arg(long, value_name = "NAME", default_value = "recovery")]
        name: String,
    },
    /// A page to print: what is needed to restore
    Sheet(SheetArgs),
}

/// The verb.
pub fn run(context: &Context, args: &KeyArgs) -> Outcome {
    match &args.what {
        What::Generate { out } => generate(context, out),
        What::List => list(context),
        What::Add {
            recipient,
            new_passphrase_file,
            name,
        } => add(
            context,
            recipient.as_deref(),
            new_passphrase_file.as_deref(),
            name.as_deref(),
        ),
        What::Remove { name } => remove(context, name),
        What::Writer {
            label,
            out,
            maintain,
        } => writer(context, label.as_deref(), out.as_deref(), *maintain),
        What::Verify { name } => verify(context, name),
        What::Sheet(args) => sheet::run(context, args),
    }
}

fn generate(context: &Context, out: &std::path::Path) -> Outcome {
    let identity = Identity::generate();
    write_secret(out, &identity_text(&identity))?;
    let recipient = identity.recipient().to_string();
    if context.json() {
        print_json_after(&json!({ "identity": out, "recipient": recipient }))?;
    } else {
        context.note(&format!(
            "A new identity was made at {}. Keep a copy of it somewhere else: without it nothing that is sealed to it can be restored.",
            out.display()
        ));
        print_after(&format!("{recipient}\n"))?;
    }
    Ok(Exit::Done)
}

fn list(context: &Context) -> Outcome {
    let repository = context.open_any()?;
    let slots = repository.key_slots()?;
    let this = repository.writer().map(|w| w.id);
    if context.json() {
        let keys: Vec<Value> = slots
            .iter()
            .map(|s| json!({ "name": s.name.as_str(), "kind": s.kind, "size": s.size }))
            .collect();
        let writers: Vec<Value> = repository
            .writers()
            .values()
            .map(|w| json!({ "id": w.id, "label": w.label, "created": clock::from_unix(w.created), "maintain": w.maintain, "revoked": w.revoked, "this_host": Some(w.id) == this }))
            .collect();
        print_json(&json!({
            "repository": repository.store().location(),
            "repository_id": repository.id(),
            "owner_key": repository.owner(),
            "recipient": repository.recipient().to_string(),
            "keys": keys,
            "writers": writers,
        }))?;
        return Ok(Exit::Done);
    }
    use Align::{Left, Right};
    let mut out = Out::new();
    out.line(format!(
        "repository {}\nowner key  {}\nrecipient  {}\n",
        repository.id(),
        repository.owner(),
        repository.recipient()
    ))?;
    let mut table = Table::new(&[("READER", Left), ("KIND", Left), ("SIZE", Right)]);
    for s in &slots {
        table.row(&[s.name.as_str(), s.kind.as_str(), &format!("{} B", s.size)]);
    }
    out.table(&table)?;
    out.line("")?;
    let mut table = Table::new(&[
        ("WRITER", Left),
        ("HOST", Left),
        ("SINCE", Left),
        ("RIGHTS", Left),
    ]);
    for w in repository.writers().values() {
        let mut rights = vec![if w.revoked { "revoked" } else { "write" }];
        if w.maintain && !w.revoked {
            rights.push("maintain");
        }
        if Some(w.id) == this {
            rights.push("this host");
        }
        table.row(&[
            w.id.to_string(),
            w.label.clone(),
            clock::from_unix(w.created)
                .map(|m| m.short())
                .unwrap_or_default(),
            rights.join(", "),
        ]);
    }
    out.table(&table)?;
    out.flush()?;
    Ok(Exit::Done)
}

fn key_name(text: &str) -> Result<KeyName, Failure> {
    KeyName::new(text).ok_or_else(|| {
        Failure::usage(format!(
            "'{}' cannot be the name of a key",
            crate::output::escape(text)
        ))
        .advice("use 1 to 64 letters, digits, '.', '_' or '-', not beginning with a dot")
    })
}

fn add(
    context: &Context,
    recipient: Option<&str>,
    passphrase: Option<&std::path::Path>,
    name: Option<&str>,
) -> Outcome {
    let (reader, usual) = match (recipient, passphrase) {
        (Some(text), _) => {
            let mut readers = keys::read_recipients(&[text.to_owned()])?;
            match (readers.pop(), readers.is_empty()) {
                (Some((_, reader)), true) => (reader, None),
                _ => {
                    return Err(
                        Failure::usage("several recipients were given; a key is for one")
                            .advice("add them one by one, each with its --name"),
                    );
                }
            }
        }
        (None, Some(file)) => (
            ReaderRecipient::passphrase(&keys::read_new_passphrase(file)?, SCRYPT_LOG_N),
            Some("passphrase"),
        ),
        (None, None) => {
            return Err(Failure::usage("no new reader was given")
                .advice("give --recipient or --new-passphrase-file"));
        }
    };
    let name = name.map(key_name).transpose()?;
    let repository = context.open_reader()?;
    let name = match (name, usual) {
        (Some(name), _) => name,
        (None, Some(usual)) => key_name(usual)?,
        (None, None) => {
            let slots = repository.key_slots()?;
            let free = (1u32..)
                .map(|n| format!("recipient-{n}"))
                .find(|n| !slots.iter().any(|s| s.name.as_str() == n))
                .expect("numbers do not end");
            key_name(&free)?
        }
    };
    repository.add_key(&name, &reader)?;
    if context.json() {
        print_json_after(&json!({ "added": name.as_str() }))?;
    } else {
        context.note(&format!(
            "key '{}' was added; its holder can read all snapshots",
            name.as_str()
        ));
    }
    Ok(Exit::Done)
}

fn remove(context: &Context, name: &str) -> Outcome {
    let writer: Option<WriterId> = name.parse().ok();
    let mut repository = if writer.is_some() {
        context.open_reader()?
    } else {
        context.open_any()?
    };
    let slots = repository.key_slots()?;
    match writer {
        Some(id) if !slots.iter().any(|s| s.name.as_str() == name) => {
            let label = repository
                .writers()
                .get(&id)
                .map(|w| w.label.clone())
                .unwrap_or_default();
            repository.revoke_writer(id)?;
            context.note(&format!(
                "writer {} was revoked; its snapshots are marked so from now on, and never taken as the latest",
                writer_name(id, &crate::output::escape(&label))
            ));
        }
        _ => {
            repository.remove_key(&key_name(name)?)?;
            context.note(&format!(
                "key '{name}' was removed; what its holder has copied before stays readable to him"
            ));
        }
    }
    if context.json() {
        print_json_after(&json!({ "removed": name }))?;
    }
    Ok(Exit::Done)
}

fn writer(
    context: &Context,
    label: Option<&str>,
    out: Option<&std::path::Path>,
    maintain: bool,
) -> Outcome {
    let mut repository = context.open_reader()?;
    let place = match out {
        Some(file) => file.to_owned(),
        None => context.places.writer_key(repository.id()).ok_or_else(|| {
            Failure::usage("there is no usual place for the writer key, because neither XDG_CONFIG_HOME nor HOME is set").advice("name one with --out FILE")
        })?,
    };
    if place.exists() {
        return Err(Failure::new(
            Exit::Refused,
            format!(
                "{} exists already; no writer key was issued",
                place.display()
            ),
        )
        .advice("name another file with --out, or move this one away"));
    }
    let label = label.map_or_else(host_name, str::to_owned);
    let key = repository.enroll(&label, maintain, clock::now())?;
    if let Err(f) = write_secret(&place, key.to_text().expose()) {
        // A key that nobody holds is no danger, but it is no use either.
        if let Err(e) = repository.revoke_writer(key.id) {
            tracing::warn!(
                "the writer {} that nobody holds could not be revoked: {e}",
                key.id
            );
        }
        return Err(f);
    }
    if context.json() {
        print_json_after(
            &json!({ "writer": key.id, "label": label, "maintain": maintain, "writer_key": place }),
        )?;
    } else {
        context.note(&format!(
            "writer {} was enrolled; its key is {}",
            writer_name(key.id, &crate::output::escape(&label)),
            place.display()
        ));
    }
    Ok(Exit::Done)
}

/// Opens the repository with the identity that is named, and reads a piece of the newest snapshot with it.
fn verify(context: &Context, name: &str) -> Outcome {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.len() > 64 || !name.chars().all(is_plain) {
        return Err(Failure::usage(
            "the name of a key has at most 64 of a-z, A-Z, 0-9, '-', '_' and '.'",
        ));
    }
    if context.globals.identity.is_none() && context.globals.passphrase_file.is_none() {
        return Err(Failure::usage("it must be said which key is to be proved")
            .advice("give --identity FILE, or --passphrase-file FILE; type the one on paper into a file in memory, such as beneath /run"));
    }
    let repository = context.open_reader()?;
    let set = context.snapshots(&repository)?;
    let newest = set
        .live
        .iter()
        .filter(|s| !s.revoked)
        .max_by_key(|s| (s.start, s.id));
    let mut entries = 0u64;
    if let Some(snapshot) = newest {
        let lookup = context.lookup(&repository)?;
        const ENOUGH: u64 = 16;
        let listed =
            keepwatch_engine::browse::list(&repository, &lookup, snapshot, &[], &mut |_| {
                entries += 1;
                match entries < ENOUGH {
                    true => Ok(()),
                    false => Err(std::io::ErrorKind::Interrupted.into()),
                }
            });
        match listed {
            Err(keepwatch_engine::browse::BrowseError::Io(_)) if entries >= ENOUGH => {}
            other => {
                if let Some(e) = other?.into_iter().next() {
                    return Err(Failure::from(e).during("read what the newest snapshot holds"));
                }
            }
        }
    }
    let now = clock::now();
    let kept = context
        .places
        .remember_proof(repository.id(), name, &now.to_string());
    if context.json() {
        print_json_after(&json!({
            "key": name,
            "repository": repository.id().to_string(),
            "time": now.to_string(),
            "snapshot": newest.map(|s| s.id),
            "recorded": kept.is_some(),
        }))?;
    } else if !context.globals.quiet {
        let read = match newest {
            Some(s) => format!("and reads snapshot {}", s.id.short()),
            None => "which holds no snapshot yet".to_owned(),
        };
        print_after(&format!(
            "the key '{name}' opens the repository {}, {read}\n",
            repository.store().location()
        ))?;
    }
    Ok(Exit::Done)
}
