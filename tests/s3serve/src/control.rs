//! The control endpoint: JSON over plain HTTP on a port of its own, for tests in other languages. It does nothing that the handles do not do.
//!
//! A request is (method, path, body as JSON); an answer is 200 with JSON, 400 with `{"error": ...}` for what is not understood, 404 for unknown paths.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// Bytes of a control request's body.
const BODY: usize = 64 << 20;

/// What can be controlled.
pub trait Control: Send + Sync + 'static {
    /// Does what is asked: `path` without the leading slash. `None`: there is no such path.
    fn control(&self, method: &str, path: &str, body: &[u8]) -> Option<Result<Value, String>>;
}

/// Reads a body.
pub fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    serde_json::from_slice(body).map_err(|e| e.to_string())
}

/// Reads one thing, or a list of them.
pub fn read_all<T: DeserializeOwned>(body: &[u8]) -> Result<Vec<T>, String> {
    match read::<Value>(body)? {
        Value::Array(all) => all.into_iter().map(serde_json::from_value).collect(),
        one => serde_json::from_value(one).map(|one| vec![one]),
    }
    .map_err(|e| e.to_string())
}

/// The fields of `change` over those of `old`.
pub fn change<T: Serialize + DeserializeOwned>(old: &T, change: &[u8]) -> Result<T, String> {
    let mut value = serde_json::to_value(old).map_err(|e| e.to_string())?;
    let change: serde_json::Map<String, Value> = read(change)?;
    if let Value::Object(fields) = &mut value {
        fields.extend(change);
    }
    serde_json::from_value(value).map_err(|e| e.to_string())
}

/// Writes an answer.
pub fn write(value: impl Serialize) -> Result<Value, String> {
    serde_json::to_value(value).map_err(|e| e.to_string())
}

/// Serves the endpoint for ever.
pub async fn serve(listener: TcpListener, target: Arc<dyn Control>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            continue;
        };
        let target = target.clone();
        tokio::spawn(async move {
            let service = service_fn(|req| answer(target.clone(), req));
            // a client that goes away is its own matter
            let _ = http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn answer(
    target: Arc<dyn Control>,
    req: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = req.into_parts();
    let (status, value) = match Limited::new(body, BODY).collect().await {
        Err(e) => (StatusCode::BAD_REQUEST, json!({ "error": e.to_string() })),
        Ok(body) => {
            let path = head.uri.path().trim_matches('/');
            let method = match head.method {
                Method::HEAD => "GET",
                ref m => m.as_str(),
            };
            match target.control(method, path, &body.to_bytes()) {
                Some(Ok(value)) => (StatusCode::OK, value),
                Some(Err(e)) => (StatusCode::BAD_REQUEST, json!({ "error": e })),
                None => (
                    StatusCode::NOT_FOUND,
                    json!({ "error": format!("no such path: {method} /{path}") }),
                ),
            }
        }
    };
    let mut response = Response::new(Full::new(Bytes::from(value.to_string())));
    *response.status_mut() = status;
    response.headers_mut().insert(
        hyper::header::CONTENT_TYPE,
        hyper::header::HeaderValue::from_static("application/json"),
    );
    Ok(response)
}
