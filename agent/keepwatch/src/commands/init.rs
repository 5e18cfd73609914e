//! `init`: makes a repository, and what its first host needs.

use std::path::{Path, PathBuf};

use clap::Args;
use keepwatch_engine::ids::{OwnerKey, RepositoryId, WriterId};
use keepwatch_engine::repository::{AccessError, CHUNKER, Repository};
use keepwatch_engine::seal::{Identity, ReaderRecipient, recipients_of_identity_file};
use keepwatch_engine::store::{Area, KeyName};
use serde_json::json;
use zeroize::Zeroizing;

use super::copy::SourceKeys;
use crate::clock;
use crate::context::{Context, host_name};
use crate::errors::{Exit, Failure, Outcome, plain_io};
use crate::keys::{self, SCRYPT_LOG_N, Terminal};
use crate::output::{print_json_after, tell};
use crate::places::{make_private_dir, write_secret};
use crate::stores::{self, Leftover};

/// Make a repository
#[derive(Args)]
#[command(
    long_about = "Make a repository.\n\nIts key is sealed to the recipients, who alone can restore. Without a recipient, the identity at $XDG_CONFIG_HOME/keepwatch/identity.txt is used, and made if there is none. This host gets a writer key, which can add backups and cannot read them.",
    after_help = "Examples:
  keepwatch init --repo /mnt/disk/backup
  keepwatch init --repo /mnt/disk/backup --recipient age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p
  keepwatch init --repo /mnt/disk/backup --recipient ~/.ssh/id_ed25519.pub --passphrase-file phrase.txt
  keepwatch init --repo /mnt/far/backup --from /mnt/disk/backup --from-identity me.txt"
)]
pub struct InitArgs {
    /// Who may restore: age1…, 'ssh-ed25519 …', or a file with such lines (repeatable)
    #[arg(long = "recipient", value_name = "KEY|FILE")]
    pub recipients: Vec<String>,
    /// The name under which this host is enrolled as a writer [default: the host's name]
    #[arg(long, value_name = "HOST")]
    pub label: Option<String>,
    /// Where to put the writer key [default: under $XDG_CONFIG_HOME/keepwatch/writer-keys]
    #[arg(long, value_name = "FILE")]
    pub writer_key_out: Option<PathBuf>,
    /// Make a new identity in this file
    #[arg(long, value_name = "FILE", conflicts_with = "recipients")]
    pub identity_out: Option<PathBuf>,
    /// Make a twin of this repository, with its keys: snapshots are then copied between the two in their encrypted form, and 'copy' needs no identity. Needs the identity of that repository
    #[arg(long, value_name = "REPOSITORY", conflicts_with = "identity_out")]
    pub from: Option<PathBuf>,
    /// Where there is a repository already, change nothing and succeed
    #[arg(long)]
    pub if_absent: bool,
    #[command(flatten)]
    pub source: SourceKeys,
}

/// What was made.
pub struct Made {
    /// The repository, opened as writer.
    pub repository: Repository,
    /// Its place.
    pub place: String,
    /// The identity's file, with whether it is new, when one of ours is used.
    pub identity: Option<(PathBuf, bool)>,
    /// The writer key's file.
    pub writer_key: PathBuf,
    /// Names of the key files.
    pub slots: Vec<String>,
}

/// The verb.
pub fn run(context: &Context, args: &InitArgs) -> Outcome {
    if args.if_absent && is_there(context)? {
        context.note("There is a repository already; nothing was changed.");
        if context.json() {
            print_json_after(&json!({ "repository": context.target()?.location() }))?;
        }
        return Ok(Exit::Done);
    }
    let made = make(context, args)?;
    announce(context, &made);
    if context.json() {
        print_json_after(&made.json())?;
    }
    Ok(Exit::Done)
}

fn is_there(context: &Context) -> Result<bool, Failure> {
    let target = context.target()?;
    Ok(match target.path() {
        Some(path) => path.join("config").exists(),
        None => {
            let store = target.open(&context.cancel)?;
            matches!(stores::leftover(&*store)?, Some(Leftover::Whole))
        }
    })
}

impl Made {
    /// For `--json`.
    pub fn json(&self) -> serde_json::Value {
        json!({
            "repository": self.place,
            "repository_id": self.repository.id(),
            "owner_key": self.repository.owner(),
            "recipient": self.repository.recipient().to_string(),
            "keys": self.slots,
            "identity": self.identity.as_ref().map(|(p, _)| p),
            "identity_is_new": self.identity.as_ref().is_some_and(|(_, new)| *new),
            "writer": self.repository.writer().map(|w| w.id),
            "writer_key": self.writer_key,
        })
    }
}

/// Says what was made, and what a person must do about it. Not even `--quiet` leaves out that an identity was made.
pub fn announce(context: &Context, made: &Made) {
    context.note(&format!(
        "A new repository was made at {}\n  id         {}\n  owner key  {}\n  writer key {}",
        made.place,
        made.repository.id(),
        made.repository.owner(),
        made.writer_key.display()
    ));
    match &made.identity {
        Some((path, true)) => tell(&format!(
            "A new identity was made at {}\n\n\
             \x20   KEEP A COPY OF THIS IDENTITY SOMEWHERE ELSE, away from this machine:\n\
             \x20   on a stick in a drawer, in a password manager, printed on paper.\n\
             \x20   Without it nothing can ever be restored from this repository, by anybody.\n\
             \x20   Who has it can read the backups: keep it secret.\n",
            path.display()
        )),
        Some((path, false)) => context.note(&format!("It is sealed to your identity {}: keep a copy of that somewhere else.", path.display())),
        None => context.note("It is sealed to the recipients given; without one of their identities nothing can ever be restored from it."),
    }
}

/// Makes the repository that the options name.
pub fn make(context: &Context, args: &InitArgs) -> Result<Made, Failure> {
    let target = context.target()?;
    let now = clock::now();
    let label = args.label.clone().unwrap_or_else(host_name);
    let mut readers = keys::read_recipients(&args.recipients)?;
    if let Some(file) = &context.globals.passphrase_file {
        let phrase = keys::read_new_passphrase(file)?;
        readers.push((
            KeyName::new("passphrase").expect("a valid name"),
            ReaderRecipient::passphrase(&phrase, SCRYPT_LOG_N),
        ));
    }
    let place = target.location();
    match target.path() {
        Some(path) => refuse_foreign_directory(path)?,
        None => {
            let store = target.open(&context.cancel)?;
            if let Some(left) = stores::leftover(&*store)? {
                return Err(refusal(left, &place));
            }
        }
    }
    // Where the writer key goes is seen to before anything is made: a repository without one could not be written to.
    let key_dir = match &args.writer_key_out {
        Some(file) if file.exists() => {
            return Err(Failure::new(
                Exit::Refused,
                format!("{} exists already; nothing was made", file.display()),
            )
            .advice("name another file with --writer-key-out"));
        }
        Some(file) => file.parent().map(Path::to_owned),
        None => context
            .places
            .writer_key(RepositoryId([0; 16]))
            .and_then(|p| p.parent().map(Path::to_owned)),
    };
    let Some(key_dir) = key_dir else {
        return Err(Failure::usage("there is no usual place for the writer key, because neither XDG_CONFIG_HOME nor HOME is set").advice("name one with --writer-key-out FILE"));
    };
    if !key_dir.as_os_str().is_empty() {
        make_private_dir(&key_dir)?;
    }
    let mut identity = None;
    let twin = match &args.from {
        None => None,
        Some(from) => {
            let source = args.source.context(context, from);
            let opened = source.open_reader()?;
            if readers.is_empty() {
                let (reader, file) = reader_of(&source)?;
                readers.push((KeyName::new("me").expect("a valid name"), reader));
                identity = Some((file, false));
            }
            Some(opened)
        }
    };
    if readers.is_empty() || args.identity_out.is_some() {
        let (reader, file, new) = own_identity(context, args)?;
        readers.push((KeyName::new("me").expect("a valid name"), reader));
        identity = Some((file, new));
    }
    let made = target
        .create(&context.cancel)
        .map_err(Failure::from)
        .and_then(|store| {
            let chunker = twin.as_ref().map_or(CHUNKER, |t| t.config().chunker);
            let twin = twin.as_ref();
            Ok(Repository::init_with(
                store, &readers, &label, chunker, now, twin,
            )?)
        });
    let (repository, key) = match made {
        Ok(made) => made,
        Err(f) => {
            // An identity that opens nothing would only confuse; it is as new as this call.
            if let Some((file, true)) = &identity {
                let _ = std::fs::remove_file(file);
            }
            return Err(f);
        }
    };
    if let Some((file, _)) = &identity {
        pin(file, repository.id(), repository.owner());
    }
    let key_file = args
        .writer_key_out
        .clone()
        .or_else(|| context.places.writer_key(repository.id()))
        .expect("seen to above");
    write_secret(&key_file, key.to_text().expose()).map_err(|f| {
        f.safe("the repository was made")
            .advice("issue a writer key: keepwatch key writer --repo R --identity F --out FILE")
    })?;
    context.places.remember(
        &repository.store().location(),
        repository.id(),
        repository.owner(),
    );
    let slots = readers.iter().map(|(n, _)| n.as_str().to_owned()).collect();
    Ok(Made {
        repository,
        place,
        identity,
        writer_key: key_file,
        slots,
    })
}

/// Why no repository is made where there is one already, or a part of one.
fn refusal(left: Leftover, place: &str) -> Failure {
    match left {
        Leftover::Whole => AccessError::AlreadyExists(place.to_owned()).into(),
        Leftover::Robbed => Failure::new(Exit::Refused, format!("{place} holds the data of a repository whose 'config' is gone; nothing was changed"))
            .advice("put 'config' back from another copy: without it nothing there can be restored; do not make a new repository over it"),
        Leftover::Begun => Failure::new(Exit::Refused, format!("{place} holds what an interrupted 'init' left behind; nothing was changed"))
            .advice(format!("there is no backup in it: remove {} and run 'init' again", if place.starts_with("s3://") { "its objects" } else { "the directory" })),
    }
}

fn refuse_foreign_directory(path: &Path) -> Result<(), Failure> {
    let mut entries = match std::fs::read_dir(path) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(Failure::file("make a repository at", path, &e)),
    };
    if path.join("config").exists() {
        return Err(refusal(Leftover::Whole, &path.display().to_string()));
    }
    // Bare areas are ours, too: an 'init' that stopped even earlier.
    let is_bare = entries.all(|e| {
        e.is_ok_and(|e| {
            e.file_name() == "tmp" || Area::ALL.iter().any(|a| e.file_name() == a.prefix())
        })
    });
    let holds =
        |area: &str| std::fs::read_dir(path.join(area)).is_ok_and(|mut d| d.next().is_some());
    if ["packs", "snapshots", "index", "tombstones", "marks"]
        .into_iter()
        .any(holds)
    {
        return Err(refusal(Leftover::Robbed, &path.display().to_string()));
    }
    if holds("keys") || holds("writers") {
        return Err(refusal(Leftover::Begun, &path.display().to_string()));
    }
    if is_bare {
        return Ok(());
    }
    Err(Failure::new(
        Exit::Refused,
        format!(
            "cannot make a repository at {}: the directory is not empty; nothing was changed",
            path.display()
        ),
    )
    .advice("name a directory that is empty or does not exist yet"))
}

/// To whom a twin is sealed when nobody is named: to the identity that opened the first.
fn reader_of(source: &Context) -> Result<(ReaderRecipient, PathBuf), Failure> {
    let nobody = || {
        Failure::usage("to whom the new repository is to be sealed cannot be told from what opened the first one; nothing was made")
            .advice("name who may restore with --recipient")
    };
    let file = source.identity_file().ok_or_else(nobody)?;
    let bytes = keys::read_secret_file(&file, "identity")?;
    let recipient = recipients_of_identity_file(&bytes).into_iter().next();
    let recipient = recipient.ok_or_else(nobody)?;
    Ok((ReaderRecipient::parse(&recipient, &Terminal)?, file))
}

/// The user's own identity: the one at the usual place, made if there is none.
fn own_identity(
    context: &Context,
    args: &InitArgs,
) -> Result<(ReaderRecipient, PathBuf, bool), Failure> {
    let file = match &args.identity_out {
        Some(file) => file.clone(),
        None => context.places.identity().ok_or_else(|| {
            Failure::usage("there is no usual place for a new identity, because neither XDG_CONFIG_HOME nor HOME is set")
                .advice("name a file for it with --identity-out, or who may restore with --recipient")
        })?,
    };
    if args.identity_out.is_none() && file.exists() {
        let bytes = keys::read_secret_file(&file, "identity")?;
        let recipient = recipients_of_identity_file(&bytes)
            .into_iter()
            .next()
            .ok_or_else(|| {
                Failure::failed(format!(
                    "the identity {} does not show its public half",
                    file.display()
                ))
                .advice("give its public half with --recipient")
            })?;
        return Ok((ReaderRecipient::parse(&recipient, &Terminal)?, file, false));
    }
    let identity = Identity::generate();
    write_secret(&file, &identity_text(&identity))?;
    Ok((
        ReaderRecipient::parse(&identity.recipient().to_string(), &Terminal)?,
        file,
        true,
    ))
}

/// The content of a new identity file, as `age-keygen` writes it.
pub fn identity_text(identity: &Identity) -> Zeroizing<String> {
    Zeroizing::new(format!(
        "# Keepwatch identity (an age identity). Without it nothing can be restored; who has it can read the backups.\n\
         # created: {}\n# public key: {}\n{}\n",
        clock::now(),
        identity.recipient(),
        identity.text().expose()
    ))
}

/// Notes in the identity's comments which repository it belongs to, so that an exchanged one is noticed. Bookkeeping: a failure is told, nothing else.
fn pin(file: &Path, id: RepositoryId, owner: OwnerKey) {
    // Replaced as a whole: an append that a power loss tears could take the identity with it.
    let note = || -> std::io::Result<()> {
        let file = file.canonicalize()?;
        let mut text = Zeroizing::new(std::fs::read_to_string(&file)?);
        text.push_str(&keys::pin_lines(id, owner));
        crate::places::replace_private(&file, &text)
    };
    if let Err(e) = note() {
        tracing::warn!(
            "the owner key could not be noted in {}: {}",
            file.display(),
            plain_io(&e)
        );
    }
}

/// For messages that name a writer.
pub fn writer_name(id: WriterId, label: &str) -> String {
    format!("{id} ({label})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_with_anything_in_it_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let put = |name: &str| {
            std::fs::create_dir_all(at(name).parent().unwrap()).unwrap();
            std::fs::write(at(name), "x").unwrap();
        };
        assert!(refuse_foreign_directory(&at("absent")).is_ok());
        std::fs::create_dir_all(at("empty")).unwrap();
        assert!(refuse_foreign_directory(&at("empty")).is_ok());
        std::fs::create_dir_all(at("bare/tmp")).unwrap();
        std::fs::create_dir_all(at("bare/keys")).unwrap();
        assert!(refuse_foreign_directory(&at("bare")).is_ok());
        put("made/config");
        put("robbed/packs/00/x");
        put("interrupted/keys/me.age");
        put("foreign/notes.txt");
        for (name, says) in [
            ("made", "already holds"),
            ("robbed", "'config' is gone"),
            ("interrupted", "interrupted"),
            ("foreign", "not empty"),
        ] {
            let e = refuse_foreign_directory(&at(name)).unwrap_err();
            assert!(
                e.exit == Exit::Refused && e.message.contains(says),
                "{name}: {}",
                e.message
            );
        }
    }

    #[test]
    fn a_new_identity_is_one_that_age_and_we_read() {
        let identity = Identity::generate();
        let text = identity_text(&identity);
        assert_eq!(
            recipients_of_identity_file(text.as_bytes()),
            [identity.recipient().to_string()]
        );
        let pinned = format!(
            "{}{}",
            text.as_str(),
            keys::pin_lines(RepositoryId([1; 16]), OwnerKey([2; 32]))
        );
        assert_eq!(recipients_of_identity_file(pinned.as_bytes()).len(), 1);
        assert_eq!(
            keys::pins_of(&pinned),
            [(RepositoryId([1; 16]), OwnerKey([2; 32]))]
        );
    }
}
