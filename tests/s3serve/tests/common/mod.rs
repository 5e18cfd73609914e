//! The client of these tests: aws-sdk-s3 without retries, so that every answer is seen.

#![allow(dead_code)] // each test uses a part of it

use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region, SharedCredentialsProvider};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use keepwatch_s3serve::Server;

/// Who calls where.
pub struct Caller<'a> {
    pub endpoint: &'a str,
    pub region: &'a str,
    pub access_key: &'a str,
    pub secret_key: &'a str,
    pub token: Option<&'a str>,
    /// An answer must be there after this time.
    pub patience: Duration,
}

impl Caller<'_> {
    pub fn client(&self) -> Client {
        let token = self.token.map(str::to_owned);
        let credentials = Credentials::new(self.access_key, self.secret_key, token, None, "test");
        let timeouts = TimeoutConfig::builder()
            .operation_timeout(self.patience)
            .build();
        let config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .http_client(aws_smithy_http_client::Builder::new().build_http())
            .endpoint_url(self.endpoint)
            .region(Region::new(self.region.to_owned()))
            .credentials_provider(SharedCredentialsProvider::new(credentials))
            .force_path_style(true)
            .retry_config(RetryConfig::disabled())
            .timeout_config(timeouts)
            .build();
        Client::from_conf(config)
    }
}

/// A client of a server of ours, by its first account.
pub fn client(server: &Server) -> Client {
    client_at(server, &server.endpoint())
}

/// The same, at another place (a proxy before it).
pub fn client_at(server: &Server, endpoint: &str) -> Client {
    Caller {
        endpoint,
        region: server.region(),
        access_key: server.access_key(),
        secret_key: server.secret_key(),
        token: None,
        patience: Duration::from_secs(20),
    }
    .client()
}

/// The status and the S3 code of an answer; (0, ...) where there was none.
pub fn told<T, E>(result: &Result<T, SdkError<E, HttpResponse>>) -> (u16, String)
where
    E: ProvideErrorMetadata,
{
    match result {
        Ok(_) => (200, String::new()),
        Err(SdkError::ServiceError(e)) => (
            e.raw().status().as_u16(),
            e.err().code().unwrap_or_default().to_owned(),
        ),
        Err(SdkError::ResponseError(e)) => (e.raw().status().as_u16(), "unreadable".into()),
        Err(SdkError::DispatchFailure(_)) => (0, "connection".into()),
        Err(SdkError::TimeoutError(_)) => (0, "timeout".into()),
        Err(_) => (0, "other".into()),
    }
}
