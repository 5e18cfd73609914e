//! Reading and writing single objects of an open repository, with errors that name the object.

use crate::envelope::EnvelopeError;
use crate::ids::ChunkId;
use crate::list::ListError;
use crate::manifest::EntryError;
use crate::record::RecordError;
use crate::seal::OpenError;
use crate::store::StoreError;

/// An object of the repository could not be used.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    /// The store did not give or take it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It is there, but not what it should be.
    #[error("{object}: {cause}")]
    Content {
        /// Its name.
        object: String,
        /// What is wrong.
        cause: ContentError,
    },
}

/// What is wrong with an object's content.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    /// Bit rot, truncation, or an exchange.
    #[error("its bytes do not have the hash that is its name: it is damaged or was exchanged")]
    Hash,
    /// The signed frame.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The sealed content.
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    /// CBOR.
    #[error("its content is not understood: {0}")]
    Decode(String),
    /// A chunk that no index names.
    #[error("no index names it")]
    NotIndexed,
    /// The index says one thing, the pack another.
    #[error("the envelope does not hold what the index says")]
    Misindexed,
    /// The content of a chunk does not have its id.
    #[error("its content does not have its id: it was exchanged or damaged before it was sealed")]
    ChunkId,
    /// Only a reader can open it.
    #[error("it can only be opened with an identity")]
    NeedsIdentity,
    /// A manifest entry.
    #[error(transparent)]
    Entry(#[from] EntryError),
    /// A list.
    #[error("{0}")]
    List(&'static str),
    /// The local copy of the index.
    #[error("the local cache of the index cannot be used: {0}")]
    Cache(String),
}

impl ObjectError {
    /// About a named object.
    pub fn content(object: impl ToString, cause: impl Into<ContentError>) -> Self {
        ObjectError::Content {
            object: object.to_string(),
            cause: cause.into(),
        }
    }
    /// About a chunk.
    pub fn chunk(id: &ChunkId, cause: impl Into<ContentError>) -> Self {
        Self::content(format!("chunk {}", id.short()), cause)
    }
    /// True when the store said that it is not there.
    pub fn is_missing(&self) -> bool {
        matches!(self, ObjectError::Store(e) if e.is_missing())
    }
    /// True for a record whose signer was revoked and whose word no longer counts.
    pub fn is_revoked(&self) -> bool {
        matches!(
            self,
            ObjectError::Content {
                cause: ContentError::Record(RecordError::RevokedSigner(_)),
                ..
            }
        )
    }
    /// True for content that was read and is not right, which a second read may mend; not for what the store said.
    pub fn may_be_transient(&self) -> bool {
        matches!(
            self,
            ObjectError::Content {
                cause: ContentError::Envelope(_) | ContentError::ChunkId | ContentError::Misindexed,
                ..
            }
        )
    }
    /// True when an identity would help.
    pub fn needs_identity(&self) -> bool {
        matches!(
            self,
            ObjectError::Content {
                cause: ContentError::NeedsIdentity,
                ..
            }
        )
    }
}

impl From<OpenError> for ContentError {
    fn from(e: OpenError) -> Self {
        ContentError::Envelope(EnvelopeError::Open(e))
    }
}

impl From<ListError<ObjectError>> for ObjectError {
    fn from(e: ListError<ObjectError>) -> Self {
        match e {
            ListError::Chunk(e) => e,
            ListError::Malformed(why) => ObjectError::content("a list", ContentError::List(why)),
        }
    }
}
