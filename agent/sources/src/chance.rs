//! Names and keys that nobody can guess and nobody else has.

use zeroize::{Zeroize as _, Zeroizing};

use crate::fault::{Fault, Reason};
use crate::text::hex;

/// So many random bytes of the system, as hexadecimal digits.
///
/// # Errors
/// The system gives none.
pub fn digits<const BYTES: usize>() -> Result<Zeroizing<String>, Fault> {
    let mut random = [0; BYTES];
    getrandom::fill(&mut random).map_err(|e| {
        Fault::new(
            Reason::Failed,
            format!("the system gives no random bytes: {e}"),
        )
    })?;
    let text = Zeroizing::new(hex(&random));
    random.zeroize();
    Ok(text)
}
