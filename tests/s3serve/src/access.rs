//! Who may call what: secrets for the signature check, then expired accounts, session tokens and denied groups. The signature itself is checked by s3s.

use std::sync::Arc;

use s3s::access::{S3Access, S3AccessContext};
use s3s::auth::{S3Auth, SecretKey};
use s3s::{S3Result, s3_error};

use crate::server::State;
use crate::settings::{Account, Group};

/// The accounts of a server.
pub struct Gate(pub Arc<State>);

fn denied() -> s3s::S3Error {
    s3_error!(AccessDenied, "Access Denied")
}

#[async_trait::async_trait]
impl S3Auth for Gate {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        let account = self.0.account(access_key);
        account.map(|a| a.secret_key.into()).ok_or_else(|| {
            s3_error!(
                InvalidAccessKeyId,
                "The AWS Access Key Id you provided does not exist in our records."
            )
        })
    }
}

#[async_trait::async_trait]
impl S3Access for Gate {
    async fn check(&self, cx: &mut S3AccessContext<'_>) -> S3Result<()> {
        let account = cx
            .credentials()
            .and_then(|c| self.0.account(&c.access_key))
            .ok_or_else(denied)?;
        if account.expired {
            return Err(s3_error!(ExpiredToken, "The provided token has expired."));
        }
        let token = cx.headers().get("x-amz-security-token");
        let token = token.and_then(|t| t.to_str().ok());
        if account.session_token.as_deref() != token {
            return Err(s3_error!(
                InvalidToken,
                "The provided token is malformed or otherwise invalid."
            ));
        }
        let operation = cx.s3_op().name();
        let names_version = cx.uri().query().is_some_and(names_version);
        // DeleteObjects answers for each key
        if operation != "DeleteObjects" && !allowed(&self.0, &account, operation, names_version) {
            return Err(denied());
        }
        if cx
            .headers()
            .contains_key("x-amz-bypass-governance-retention")
            && account.denied.contains(&Group::Lock)
        {
            return Err(denied());
        }
        Ok(())
    }
}

/// Does the query string name a version?
pub fn names_version(query: &str) -> bool {
    query.split('&').any(|p| p.starts_with("versionId="))
}

/// May this account call this?
pub fn allowed(state: &State, account: &Account, operation: &str, names_version: bool) -> bool {
    let group = Group::of(operation, names_version);
    let denied = state.switches().denied;
    !account
        .denied
        .iter()
        .chain(&denied)
        .any(|d| d.covers(group))
}
