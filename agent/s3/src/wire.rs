//! The client: transport, trust, and what watches every request (counts, and the server's clock).

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use aws_config::provider_config::ProviderConfig;
use aws_runtime::auth::PayloadSigningOverride;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::interceptors::{
    BeforeDeserializationInterceptorContextRef, BeforeTransmitInterceptorContextMut,
};
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, ConfigBag, IdentityCache, Intercept, Region, RequestChecksumCalculation,
    ResponseChecksumValidation, RuntimeComponents, SharedCredentialsProvider, SharedHttpClient,
    StalledStreamProtectionConfig,
};
use aws_sdk_s3::error::BoxError;
use aws_smithy_async::time::{SharedTimeSource, TimeSource};
use aws_smithy_http_client::tls::{self, TlsContext, TrustStore, rustls_provider::CryptoMode};
use keepwatch_engine::store::{Fault, StoreError};

use crate::classify::http_date;
use crate::credentials::Provider;
use crate::options::Options;

/// A certificate file is longer than this only by mistake.
const CA_BYTES: u64 = 4 << 20;

/// What was asked of the server so far.
#[derive(Debug, Default)]
pub struct Counters {
    /// Requests that were sent, repeated ones included.
    pub requests: AtomicU64,
    /// Attempts after the first.
    pub retries: AtomicU64,
    /// What was given up.
    pub failures: AtomicU64,
    /// `PutObject`.
    pub puts: AtomicU64,
    /// `GetObject`.
    pub gets: AtomicU64,
    /// `HeadObject` and the like.
    pub heads: AtomicU64,
    /// Listings, a page each.
    pub lists: AtomicU64,
    /// `DeleteObject`.
    pub deletes: AtomicU64,
    /// Bytes of objects sent, repeated ones included.
    pub sent: AtomicU64,
    /// Bytes of objects received.
    pub received: AtomicU64,
}

/// Our clock, corrected by the server's where that refused ours.
#[derive(Debug, Default)]
pub struct Clock {
    /// Added to our time when requests are signed, in milliseconds.
    correction: AtomicI64,
    /// The server's clock less ours, as of its last answer, in milliseconds.
    offset: AtomicI64,
}

impl Clock {
    /// The server's idea of now.
    pub fn of_server(&self) -> SystemTime {
        shifted(SystemTime::now(), self.offset.load(Ordering::Relaxed))
    }
    /// The time that requests are signed with.
    pub fn of_signing(&self) -> SystemTime {
        shifted(SystemTime::now(), self.correction.load(Ordering::Relaxed))
    }
    /// The server's clock less ours, in milliseconds.
    pub fn offset_millis(&self) -> i64 {
        self.offset.load(Ordering::Relaxed)
    }
    /// From now on requests are signed with the server's time.
    pub fn follow_server(&self, server: Option<SystemTime>) {
        if let Some(server) = server {
            self.note(server);
        }
        self.correction
            .store(self.offset.load(Ordering::Relaxed), Ordering::Relaxed);
    }
    fn note(&self, server: SystemTime) {
        let now = SystemTime::now();
        let offset = match server.duration_since(now) {
            Ok(ahead) => ahead.as_millis() as i64,
            Err(behind) => -(behind.duration().as_millis() as i64),
        };
        self.offset.store(offset, Ordering::Relaxed);
    }
}

fn shifted(time: SystemTime, millis: i64) -> SystemTime {
    let by = Duration::from_millis(millis.unsigned_abs());
    let moved = if millis >= 0 {
        time.checked_add(by)
    } else {
        time.checked_sub(by)
    };
    moved.unwrap_or(time)
}

#[derive(Debug)]
struct SigningTime(Arc<Clock>);

impl TimeSource for SigningTime {
    fn now(&self) -> SystemTime {
        self.0.of_signing()
    }
}

#[derive(Debug)]
struct Watch {
    counters: Arc<Counters>,
    clock: Arc<Clock>,
}

impl Intercept for Watch {
    fn name(&self) -> &'static str {
        "Watch"
    }
    fn modify_before_transmit(
        &self,
        _: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        self.counters.requests.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if let Some(date) = context.response().headers().get("date").and_then(http_date) {
            // A header counts whole seconds: within two nothing is known.
            self.clock.note(date);
        }
        Ok(())
    }
}

/// Signs the hash of a body that was computed already, instead of leaving a streamed body unsigned.
#[derive(Debug)]
pub(crate) struct SignedBody(pub(crate) String);

impl Intercept for SignedBody {
    fn name(&self) -> &'static str {
        "SignedBody"
    }
    fn modify_before_signing(
        &self,
        _: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        cfg: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        cfg.interceptor_state()
            .store_put(PayloadSigningOverride::Precomputed(self.0.clone()));
        Ok(())
    }
}

/// A client, and what goes with it.
pub(crate) struct Wire {
    pub(crate) client: Client,
    pub(crate) provider: Provider,
    pub(crate) clock: Arc<Clock>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) region: String,
}

fn cannot_open(options: &Options, fault: Fault, why: String) -> StoreError {
    StoreError {
        verb: "open",
        object: "the bucket".into(),
        store: options.location(),
        fault,
        cause: std::io::Error::other(why),
    }
}

fn trust(path: &Path) -> Result<TrustStore, String> {
    let why = |w: String| format!("the certificates in {} cannot be used: {w}", path.display());
    let length = std::fs::metadata(path)
        .map_err(|e| why(e.to_string()))?
        .len();
    if length > CA_BYTES {
        return Err(why(format!("the file is longer than {CA_BYTES} bytes")));
    }
    let pem = std::fs::read(path).map_err(|e| why(e.to_string()))?;
    let text = String::from_utf8_lossy(&pem);
    if !text.contains("-----BEGIN CERTIFICATE-----") {
        return Err(why("there is no PEM certificate in it".into()));
    }
    Ok(TrustStore::empty().with_pem_certificate(pem))
}

/// Makes a client. No request is sent.
pub(crate) async fn connect(options: &Options) -> Result<Wire, StoreError> {
    if let Some(endpoint) = &options.endpoint {
        let known = endpoint.starts_with("http://") || endpoint.starts_with("https://");
        if !known || endpoint.contains('@') {
            return Err(cannot_open(
                options,
                Fault::Other,
                "the endpoint must be a URL like https://s3.example.net, without credentials in it"
                    .into(),
            ));
        }
    }
    let trust_store = match &options.ca_file {
        Some(file) => trust(file).map_err(|w| cannot_open(options, Fault::Other, w))?,
        None => TrustStore::default(),
    };
    let tls = TlsContext::builder()
        .with_trust_store(trust_store)
        .build()
        .map_err(|e| cannot_open(options, Fault::Other, e.to_string()))?;
    let http: SharedHttpClient = aws_smithy_http_client::Builder::new()
        .tls_provider(tls::Provider::Rustls(CryptoMode::Ring))
        .tls_context(tls)
        .build_https();
    let region = options
        .region
        .clone()
        .or_else(|| std::env::var("AWS_REGION").ok())
        .or_else(|| std::env::var("AWS_DEFAULT_REGION").ok())
        .filter(|r| !r.is_empty())
        .unwrap_or_else(|| "us-east-1".to_owned());
    let provider_config = ProviderConfig::without_region()
        .with_region(Some(Region::new(region.clone())))
        .with_http_client(http.clone());
    let provider = Provider::new(&options.credentials, &provider_config).await;
    let clock = Arc::new(Clock::default());
    let counters = Arc::new(Counters::default());
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(options.connect_timeout)
        .build();
    let mut config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new(region.clone()))
        .http_client(http)
        .credentials_provider(SharedCredentialsProvider::new(provider.clone()))
        .identity_cache(IdentityCache::no_cache()) // ours forgets on request
        .retry_config(RetryConfig::disabled()) // ours: see `retry`
        .timeout_config(timeouts)
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled()) // ours: see `body`
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
        .force_path_style(options.path_style.unwrap_or(options.endpoint.is_some()))
        .time_source(SharedTimeSource::new(SigningTime(clock.clone())))
        .interceptor(Watch {
            counters: counters.clone(),
            clock: clock.clone(),
        });
    if let Some(endpoint) = &options.endpoint {
        config = config.endpoint_url(endpoint);
    }
    Ok(Wire {
        client: Client::from_conf(config.build()),
        provider,
        clock,
        counters,
        region,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_clock_is_followed_only_on_request() {
        let clock = Clock::default();
        let later = SystemTime::now() + Duration::from_secs(3600);
        clock.note(later);
        assert_eq!(clock.correction.load(Ordering::Relaxed), 0);
        let gap = later
            .duration_since(clock.of_server())
            .unwrap_or_else(|e| e.duration());
        assert!(gap < Duration::from_secs(2));
        clock.follow_server(None);
        assert!((clock.correction.load(Ordering::Relaxed) - 3_600_000).abs() < 2000);
        clock.follow_server(Some(SystemTime::now() - Duration::from_secs(60)));
        assert!((clock.correction.load(Ordering::Relaxed) + 60_000).abs() < 2000);
    }
}
