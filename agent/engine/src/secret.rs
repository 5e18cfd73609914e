//! Secrets in memory: no `Debug`, no `Display`, no `Clone` by accident, wiped when dropped.

use zeroize::{Zeroize, ZeroizeOnDrop};

/// 32 secret bytes: the hash secret, a signing seed, a chunk key.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct Secret32([u8; 32]);

impl Secret32 {
    /// Takes bytes over.
    pub fn new(bytes: [u8; 32]) -> Self {
        Secret32(bytes)
    }
    /// Fresh from the operating system's generator.
    pub fn random() -> Result<Self, getrandom::Error> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes)?;
        Ok(Secret32(bytes))
    }
    /// The bytes, for the one operation that needs them.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }
    /// BLAKE3 key derivation: `context` names the purpose and is never reused for another.
    pub fn derive(&self, context: &str) -> Secret32 {
        Secret32(blake3::derive_key(context, &self.0))
    }
}

/// A secret text, such as an age identity or a passphrase.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct SecretText(String);

impl SecretText {
    /// Takes text over.
    pub fn new(text: String) -> Self {
        SecretText(text)
    }
    /// The text, for the one operation that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}
