//! Signed records: the frame that gives stored bytes their meaning (FORMAT.md, section 3).
//!
//! age does not say who sealed a file and does not bind it to a place. So each record names its kind, its repository and its signer, and carries
//! an Ed25519 signature over all of it ("keepwatch record v1" as the domain): nobody who merely writes to the bucket can forge one, move one to
//! another repository, or pass one kind as another. The signature is checked before the body is parsed.

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};

use crate::ids::{RepositoryId, WriterId};
use crate::limits;

const MAGIC: &[u8; 4] = b"KWR1";
const DOMAIN: &[u8] = b"keepwatch record v1\0";
const HEAD: usize = 33;
const SIGNATURE: usize = 64;

/// What a record is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum RecordKind {
    /// `config`
    Config = 1,
    /// `writers/…`
    Writer = 2,
    /// `index/…`
    Index = 3,
    /// `snapshots/…`
    Snapshot = 4,
    /// `tombstones/…`
    Tombstone = 5,
    /// `marks/…`
    Marks = 6,
    /// The beginning of `wal/…`
    Wal = 7,
}

/// Why a record was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Not one of ours, or cut.
    #[error("it is not a Keepwatch record, or it is cut short")]
    Frame,
    /// Another kind of record under this name.
    #[error("it is a record of another kind than its place says")]
    Kind,
    /// Signed for another repository.
    #[error("it belongs to another repository ({0})")]
    Repository(RepositoryId),
    /// Signed by somebody who is not enrolled.
    #[error("its signer {0} is not an enrolled writer")]
    UnknownSigner(WriterId),
    /// Signed by a writer whose key was revoked.
    #[error("its signer {0} was revoked")]
    RevokedSigner(WriterId),
    /// The signature is wrong: forged or altered.
    #[error("its signature is wrong: it was forged or altered")]
    Signature,
}

/// A record taken apart, signature not yet checked.
pub struct Record<'a> {
    /// What it says it is.
    pub kind: u8,
    /// Where it belongs.
    pub repository: RepositoryId,
    /// Who signed.
    pub signer: WriterId,
    /// CBOR for `config`, else an age file.
    pub body: &'a [u8],
    signed: &'a [u8],
    signature: [u8; SIGNATURE],
}

/// Makes a record.
pub fn write(
    kind: RecordKind,
    repository: RepositoryId,
    signer: WriterId,
    key: &SigningKey,
    body: &[u8],
) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEAD + body.len() + SIGNATURE);
    out.extend_from_slice(MAGIC);
    out.push(kind as u8);
    out.extend_from_slice(&repository.0);
    out.extend_from_slice(&signer.0);
    out.extend_from_slice(
        &u32::try_from(body.len())
            .expect("records are far smaller than 4 GiB")
            .to_le_bytes(),
    );
    out.extend_from_slice(body);
    let signature = key.sign(&[DOMAIN, &out].concat());
    out.extend_from_slice(&signature.to_bytes());
    out
}

/// The length of the record that `bytes` begin with, as it says.
pub fn length(bytes: &[u8]) -> Option<usize> {
    let n = bytes.get(29..HEAD)?;
    let n = u32::from_le_bytes(n.try_into().ok()?) as usize;
    (&bytes[..4] == MAGIC).then_some(HEAD + n + SIGNATURE)
}

impl<'a> Record<'a> {
    /// Takes the frame apart; checks lengths only.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, RecordError> {
        if bytes.len() < HEAD + SIGNATURE
            || bytes.len() > limits::RECORD_BYTES
            || &bytes[..4] != MAGIC
        {
            return Err(RecordError::Frame);
        }
        let array = |at: usize| -> [u8; 8] { bytes[at..at + 8].try_into().expect("eight bytes") };
        let n = u32::from_le_bytes(bytes[29..33].try_into().expect("four bytes")) as usize;
        if bytes.len() != HEAD + n + SIGNATURE {
            return Err(RecordError::Frame);
        }
        Ok(Record {
            kind: bytes[4],
            repository: RepositoryId(bytes[5..21].try_into().expect("sixteen bytes")),
            signer: WriterId(array(21)),
            body: &bytes[HEAD..HEAD + n],
            signed: &bytes[..HEAD + n],
            signature: bytes[HEAD + n..].try_into().expect("sixty-four bytes"),
        })
    }

    /// Checks kind, repository and signature; only then is the body to be looked at.
    pub fn verify(
        &self,
        kind: RecordKind,
        repository: RepositoryId,
        key: &VerifyingKey,
    ) -> Result<&'a [u8], RecordError> {
        if self.kind != kind as u8 {
            return Err(RecordError::Kind);
        }
        if self.repository != repository {
            return Err(RecordError::Repository(self.repository));
        }
        key.verify_strict(
            &[DOMAIN, self.signed].concat(),
            &Signature::from_bytes(&self.signature),
        )
        .map_err(|_| RecordError::Signature)?;
        Ok(self.body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made() -> (Vec<u8>, SigningKey) {
        let key = SigningKey::from_bytes(&[5; 32]);
        (
            write(
                RecordKind::Marks,
                RepositoryId([1; 16]),
                WriterId([2; 8]),
                &key,
                b"body",
            ),
            key,
        )
    }

    #[test]
    fn round_trip() {
        let (bytes, key) = made();
        let r = Record::parse(&bytes).unwrap();
        assert_eq!(
            r.verify(
                RecordKind::Marks,
                RepositoryId([1; 16]),
                &key.verifying_key()
            )
            .unwrap(),
            b"body"
        );
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_refused() {
        let (bytes, key) = made();
        for bit in 0..bytes.len() * 8 {
            let mut b = bytes.clone();
            b[bit / 8] ^= 1 << (bit % 8);
            let refused = match Record::parse(&b) {
                Err(_) => true,
                Ok(r) => {
                    r.verify(
                        RecordKind::Marks,
                        RepositoryId([1; 16]),
                        &key.verifying_key(),
                    )
                    .is_err()
                        || r.signer != WriterId([2; 8])
                }
            };
            assert!(refused, "bit {bit}");
        }
        for cut in 0..bytes.len() {
            assert!(Record::parse(&bytes[..cut]).is_err());
        }
    }

    #[test]
    fn another_place_is_refused_with_the_reason() {
        let (bytes, key) = made();
        let r = Record::parse(&bytes).unwrap();
        let pk = key.verifying_key();
        assert_eq!(
            r.verify(RecordKind::Index, RepositoryId([1; 16]), &pk),
            Err(RecordError::Kind)
        );
        assert!(matches!(
            r.verify(RecordKind::Marks, RepositoryId([9; 16]), &pk),
            Err(RecordError::Repository(_))
        ));
        let other = SigningKey::from_bytes(&[6; 32]).verifying_key();
        assert_eq!(
            r.verify(RecordKind::Marks, RepositoryId([1; 16]), &other),
            Err(RecordError::Signature)
        );
    }
}
