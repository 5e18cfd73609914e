//! The keys of a repository in memory, and the *writer key* file that a writing host keeps.
//!
//! Who holds what, and what follows from it: FORMAT.md, sections 2 and 10. A writer key lets a host add backups, find out what is already stored, and forget;
//! it does not open what was backed up.

use ed25519_dalek::{SigningKey, VerifyingKey};
use minicbor::{Decode, Encode};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::ids::{ChunkId, ChunkKind, OwnerKey, RepositoryId, WalCluster, WriterId, hex};
use crate::seal::{Identity, KeyTextError, Recipient};
use crate::secret::{Secret32, SecretText};

/// Keys derived from the hash secret: one per kind of chunk, and the chunker's table.
pub struct HashKeys {
    data: Secret32,
    manifest: Secret32,
    list: Secret32,
    secret: Secret32,
}

impl HashKeys {
    /// From the hash secret.
    pub fn new(secret: Secret32) -> Self {
        HashKeys {
            data: secret.derive("keepwatch v1 chunk id data"),
            manifest: secret.derive("keepwatch v1 chunk id manifest"),
            list: secret.derive("keepwatch v1 chunk id list"),
            secret,
        }
    }
    /// The id of a chunk.
    pub fn id(&self, kind: ChunkKind, plain: &[u8]) -> ChunkId {
        let key = match kind {
            ChunkKind::Data => &self.data,
            ChunkKind::Manifest => &self.manifest,
            ChunkKind::List => &self.list,
        };
        ChunkId(*blake3::keyed_hash(key.expose(), plain).as_bytes())
    }
    /// The name of a PostgreSQL cluster with this system identifier.
    pub fn cluster(&self, system: u64) -> WalCluster {
        let key = self.secret.derive("keepwatch v1 wal cluster");
        let hash = blake3::keyed_hash(key.expose(), &system.to_le_bytes());
        WalCluster(hash.as_bytes()[..8].try_into().expect("eight bytes"))
    }
    /// The keyed hash of the content of a WAL file.
    pub fn wal(&self, content: &[u8]) -> [u8; 32] {
        let key = self.secret.derive("keepwatch v1 wal content");
        *blake3::keyed_hash(key.expose(), content).as_bytes()
    }
    /// 2048 secret bytes for the gear table.
    pub fn chunker_table(&self) -> [u8; 2048] {
        let mut table = [0; 2048];
        blake3::Hasher::new_derive_key("keepwatch v1 chunker table")
            .update(self.secret.expose())
            .finalize_xof()
            .fill(&mut table);
        table
    }
    /// A key for one purpose of the local cache.
    pub fn local(&self, purpose: &[u8]) -> [u8; 32] {
        *blake3::keyed_hash(
            self.secret.derive("keepwatch v1 local cache").expose(),
            purpose,
        )
        .as_bytes()
    }
    /// The hash secret itself, to hand it to another writer.
    pub fn secret(&self) -> &Secret32 {
        &self.secret
    }
}

/// The owner's signing key, derived from the repository identity.
pub fn owner_signing_key(repository: &Identity) -> SigningKey {
    let text = repository.text();
    let mut seed = blake3::derive_key("keepwatch v1 owner signing key", text.expose().as_bytes());
    let key = SigningKey::from_bytes(&seed);
    seed.zeroize();
    key
}

/// A public key from stored bytes.
pub fn verifying_key(bytes: &[u8; 32]) -> Option<VerifyingKey> {
    VerifyingKey::from_bytes(bytes)
        .ok()
        .filter(|k| !k.is_weak())
}

/// What a writing host holds. No `Debug`.
pub struct WriterKey {
    /// The repository it is for.
    pub repository: RepositoryId,
    /// Pinned: the only recipient this host ever seals content to.
    pub recipient: Recipient,
    /// Pinned: who may describe the repository and enrol writers.
    pub owner: OwnerKey,
    /// The hash secret.
    pub hash_secret: Secret32,
    /// Opens index, snapshot heads and lists.
    pub host: Identity,
    /// Its name.
    pub id: WriterId,
    /// Its signature.
    pub signing: SigningKey,
}

#[derive(Encode, Decode, Zeroize, ZeroizeOnDrop)]
#[cbor(map)]
struct WriterKeyBody {
    #[n(0)]
    version: u32,
    #[cbor(n(1), with = "minicbor::bytes")]
    repository: [u8; 16],
    #[n(2)]
    recipient: String,
    #[cbor(n(3), with = "minicbor::bytes")]
    owner: [u8; 32],
    #[cbor(n(4), with = "minicbor::bytes")]
    hash_secret: [u8; 32],
    #[n(5)]
    host: String,
    #[cbor(n(6), with = "minicbor::bytes")]
    id: [u8; 8],
    #[cbor(n(7), with = "minicbor::bytes")]
    seed: [u8; 32],
}

const PREFIX: &str = "KEEPWATCH-WRITER-KEY-1-";

impl WriterKey {
    /// The file's text: comments, then one line.
    pub fn to_text(&self) -> SecretText {
        let body = WriterKeyBody {
            version: 1,
            repository: self.repository.0,
            recipient: self.recipient.to_string(),
            owner: self.owner.0,
            hash_secret: *self.hash_secret.expose(),
            host: self.host.text().expose().to_owned(),
            id: self.id.0,
            seed: self.signing.to_bytes(),
        };
        let mut bytes = minicbor::to_vec(&body).expect("encoding into memory does not fail");
        let check = blake3::hash(&bytes);
        let mut text = format!(
            "# Keepwatch writer key of repository {}, writer {}.\n\
             # It writes backups and cannot read them. Keep it on this host only; a lost one is issued anew with an identity: keepwatch key writer.\n\
             {PREFIX}{}{}\n",
            self.repository,
            self.id,
            hex(&bytes),
            hex(&check.as_bytes()[..4]),
        );
        bytes.zeroize();
        let out = SecretText::new(text.clone());
        text.zeroize();
        out
    }

    /// Reads the file's text; `what` names the file in errors, which never repeat its content.
    pub fn parse(text: &SecretText, what: &str) -> Result<Self, KeyTextError> {
        let bad = |why: &str| KeyTextError::Invalid {
            what: format!("writer key {what}"),
            why: why.to_owned(),
        };
        let line = text
            .expose()
            .lines()
            .map(str::trim)
            .find(|l| !l.is_empty() && !l.starts_with('#'))
            .ok_or_else(|| bad("it holds no key"))?;
        let digits = line
            .strip_prefix(PREFIX)
            .ok_or_else(|| bad("it is not a Keepwatch writer key (version 1)"))?;
        let mut bytes = unhex_vec(digits)
            .filter(|b| b.len() > 4)
            .ok_or_else(|| bad("its key line is damaged"))?;
        let check = bytes.split_off(bytes.len() - 4);
        if blake3::hash(&bytes).as_bytes()[..4] != check[..] {
            bytes.zeroize();
            return Err(bad("its key line is damaged (checksum)"));
        }
        let body: Result<WriterKeyBody, _> = minicbor::decode(&bytes);
        bytes.zeroize();
        let body = body.map_err(|_| bad("its content is not understood"))?;
        if body.version != 1 {
            return Err(bad("it was written by a newer Keepwatch"));
        }
        Ok(WriterKey {
            repository: RepositoryId(body.repository),
            recipient: body
                .recipient
                .parse()
                .map_err(|_| bad("its recipient is damaged"))?,
            owner: OwnerKey(body.owner),
            hash_secret: Secret32::new(body.hash_secret),
            host: Identity::parse(&SecretText::new(body.host.clone()), what)
                .map_err(|_| bad("its host identity is damaged"))?,
            id: WriterId(body.id),
            signing: SigningKey::from_bytes(&body.seed),
        })
    }
}

fn unhex_vec(text: &str) -> Option<Vec<u8>> {
    let t = text.as_bytes();
    if t.len() % 2 != 0 || t.len() > 64 << 10 {
        return None;
    }
    t.chunks_exact(2)
        .map(|p| {
            let d = |c: u8| (c as char).to_digit(16).map(|d| d as u8);
            Some(d(p[0])? << 4 | d(p[1])?)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_writer_key_survives_its_file_and_damage_is_named() {
        let host = Identity::generate();
        let key = WriterKey {
            repository: RepositoryId([3; 16]),
            recipient: Identity::generate().recipient(),
            owner: OwnerKey([4; 32]),
            hash_secret: Secret32::new([5; 32]),
            host: host.clone(),
            id: WriterId([6; 8]),
            signing: SigningKey::from_bytes(&[7; 32]),
        };
        let text = key.to_text();
        let back = WriterKey::parse(&text, "f").unwrap();
        assert_eq!(back.repository, key.repository);
        assert_eq!(back.host.text().expose(), host.text().expose());
        let damaged = SecretText::new(text.expose().replacen("-1-a", "-1-b", 1));
        let Err(e) = WriterKey::parse(&damaged, "f") else {
            panic!("taken")
        };
        assert!(e.to_string().contains("writer key f"), "{e}");
        for junk in [
            "",
            "# only\n",
            "KEEPWATCH-WRITER-KEY-1-",
            "KEEPWATCH-WRITER-KEY-1-zz",
            "AGE-SECRET-KEY-1",
        ] {
            assert!(WriterKey::parse(&SecretText::new(junk.into()), "f").is_err());
        }
    }

    #[test]
    fn kinds_have_separate_ids() {
        let k = HashKeys::new(Secret32::new([1; 32]));
        assert_ne!(k.id(ChunkKind::Data, b"x"), k.id(ChunkKind::List, b"x"));
        assert_ne!(
            k.id(ChunkKind::Data, b"x"),
            HashKeys::new(Secret32::new([2; 32])).id(ChunkKind::Data, b"x")
        );
    }
}
