//! Typed ids: a chunk id can never be passed as the name of a pack. All print as lower-case hex.
//!
//! [`ChunkId`] is a keyed hash of plaintext (a MAC); [`ObjectId`] is the BLAKE3 of stored bytes.

use std::fmt;
use std::str::FromStr;

/// Text that is not an id of the wanted kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is not {what}: expected {digits} hexadecimal digits")]
pub struct ParseIdError {
    text: String,
    what: &'static str,
    digits: usize,
}

/// Writes `bytes` as lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut out = String::with_capacity(bytes.len() * 2);
    for b in bytes {
        out.push(DIGITS[(b >> 4) as usize] as char);
        out.push(DIGITS[(b & 15) as usize] as char);
    }
    out
}

/// Reads lower-case hex of exactly `N` bytes.
pub fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let text = text.as_bytes();
    if text.len() != N * 2 {
        return None;
    }
    let mut out = [0u8; N];
    for (o, pair) in out.iter_mut().zip(text.chunks_exact(2)) {
        let digit = |c: u8| match c {
            b'0'..=b'9' => Some(c - b'0'),
            b'a'..=b'f' => Some(c - b'a' + 10),
            _ => None,
        };
        *o = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(out)
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $n:expr, $what:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $n]);

        impl $name {
            /// The first eight hex digits, for people.
            pub fn short(&self) -> String {
                hex(&self.0[..4])
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex(&self.0))
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), hex(&self.0))
            }
        }
        impl FromStr for $name {
            type Err = ParseIdError;
            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                unhex::<$n>(text).map($name).ok_or_else(|| ParseIdError {
                    text: text.chars().take(100).collect(),
                    what: $what,
                    digits: $n * 2,
                })
            }
        }
        impl<C> minicbor::Encode<C> for $name {
            fn encode<W: minicbor::encode::Write>(
                &self,
                e: &mut minicbor::Encoder<W>,
                _: &mut C,
            ) -> Result<(), minicbor::encode::Error<W::Error>> {
                e.bytes(&self.0)?;
                Ok(())
            }
        }
        impl<'b, C> minicbor::Decode<'b, C> for $name {
            fn decode(d: &mut minicbor::Decoder<'b>, _: &mut C) -> Result<Self, minicbor::decode::Error> {
                let at = d.position();
                let bytes = d.bytes()?;
                <[u8; $n]>::try_from(bytes)
                    .map($name)
                    .map_err(|_| minicbor::decode::Error::message(concat!("wrong length for ", $what)).at(at))
            }
        }
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.serialize_str(&hex(&self.0))
            }
        }
    };
}

id!(
    /// Keyed BLAKE3 of a chunk's plaintext. Without the hash secret nobody can craft other content for an id.
    ChunkId, 32, "a chunk id"
);
id!(
    /// BLAKE3 of an object's stored bytes; names packs, indexes, snapshots, tombstones and marks.
    ObjectId, 32, "an object id"
);
id!(
    /// Random name of a repository; part of everything that is signed in it.
    RepositoryId, 16, "a repository id"
);
id!(
    /// Random name of a writing host's key.
    WriterId, 8, "a writer id"
);
id!(
    /// A PostgreSQL cluster in the names of its WAL: a keyed hash of its system identifier.
    WalCluster, 8, "a cluster"
);
id!(
    /// Ed25519 public key of a repository's owner: the fingerprint that readers pin.
    OwnerKey, 32, "an owner key"
);

impl ObjectId {
    /// The name that `bytes` must have.
    pub fn of(bytes: &[u8]) -> Self {
        ObjectId(*blake3::hash(bytes).as_bytes())
    }
}

/// The signer of `config` and of writers' records.
pub const OWNER: WriterId = WriterId([0; 8]);

/// What a chunk holds; part of its id, so that content of one kind can never pass as another.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum ChunkKind {
    /// Content of files and streams.
    Data = 0,
    /// Entries of a manifest.
    Manifest = 1,
    /// Ids of other chunks; the writing host can read these.
    List = 2,
}

impl ChunkKind {
    /// From its stored number.
    pub fn from_u8(n: u8) -> Option<Self> {
        match n {
            0 => Some(Self::Data),
            1 => Some(Self::Manifest),
            2 => Some(Self::List),
            _ => None,
        }
    }
    /// The class of pack that holds it: 0 for readers, 1 for hosts.
    pub fn class(self) -> PackClass {
        match self {
            Self::Data | Self::Manifest => PackClass::Content,
            Self::List => PackClass::Lists,
        }
    }
}

/// To whom the envelopes of a pack are sealed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum PackClass {
    /// To the repository recipient: readers only.
    Content = 0,
    /// To the host recipient: writers and readers.
    Lists = 1,
}

impl PackClass {
    /// From its stored number.
    pub fn from_u8(n: u8) -> Option<Self> {
        match n {
            0 => Some(Self::Content),
            1 => Some(Self::Lists),
            _ => None,
        }
    }
}
