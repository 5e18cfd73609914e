//! Multipart uploads: parts that become one object when the upload is completed.

use std::collections::BTreeMap;
use std::time::SystemTime;

use s3s::{S3Error, S3Result, s3_error};

use crate::blob::Blob;
use crate::objects::{Bucket, Content, Lock};

/// A part.
#[derive(Clone)]
pub struct Part {
    /// Its bytes.
    pub body: Blob,
    /// Its MD5.
    pub md5: [u8; 16],
    /// When it came.
    pub modified: SystemTime,
}

/// An upload that is neither completed nor aborted.
pub struct Upload {
    /// The key that it will have.
    pub key: String,
    /// When it began.
    pub began: SystemTime,
    /// What the object will have besides its bytes.
    pub like: Content,
    /// Its lock and legal hold.
    pub lock: (Option<Lock>, bool),
    /// Parts by number.
    pub parts: BTreeMap<i32, Part>,
}

/// `NoSuchUpload`.
pub fn no_such_upload() -> S3Error {
    s3_error!(
        NoSuchUpload,
        "The specified upload does not exist. The upload ID may be invalid, or the upload may have been aborted or completed."
    )
}

impl Bucket {
    /// An upload of a key.
    pub fn upload(&mut self, key: &str, id: &str) -> S3Result<&mut Upload> {
        self.uploads
            .get_mut(id)
            .filter(|u| u.key == key)
            .ok_or_else(no_such_upload)
    }
}

impl Upload {
    /// The parts that a completion names (number, entity tag), in order; each but the last has at least `least` bytes.
    pub fn chosen(&self, named: &[(i32, String)], least: u64) -> S3Result<Vec<Part>> {
        if named.is_empty() {
            return Err(s3_error!(
                MalformedXML,
                "The XML you provided was not well-formed"
            ));
        }
        if named.windows(2).any(|w| w[0].0 >= w[1].0) {
            return Err(s3_error!(
                InvalidPartOrder,
                "The list of parts was not in ascending order."
            ));
        }
        let mut out = Vec::new();
        for (n, (number, etag)) in named.iter().enumerate() {
            let part = self
                .parts
                .get(number)
                .filter(|p| crate::digest::hex(&p.md5) == etag.trim_matches('"'))
                .ok_or_else(|| {
                    s3_error!(
                        InvalidPart,
                        "One or more of the specified parts could not be found."
                    )
                })?;
            if n + 1 < named.len() && part.body.len() < least {
                return Err(s3_error!(
                    EntityTooSmall,
                    "Your proposed upload is smaller than the minimum allowed size"
                ));
            }
            out.push(part.clone());
        }
        Ok(out)
    }
}
