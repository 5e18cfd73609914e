//! The HTTP layer around s3s: reads the request, asks the rules, lets s3s work, breaks the answer, writes it all down.
//!
//! A request's body is read whole before anything is answered (but for `early` and `deaf`), so that an error answer is not lost to a reset of a
//! connection with unread bytes. Cost: one body in memory for each request that runs (`max_body`).

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::body::{Body, Frame, Incoming};
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use s3s::service::S3Service;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Sleep, sleep};

use crate::access::names_version;
use crate::clock;
use crate::record::{Book, Record};
use crate::rules::{Action, Asked};
use crate::server::State;
use crate::settings::Group;

/// A request may be off by this much, in seconds.
const SKEW: i64 = 900;
/// A slow body comes in pieces at these intervals.
const TICK: Duration = Duration::from_millis(100);
/// Before a connection is closed in mid-answer, what was sent gets this long to leave.
const FLUSH: Duration = Duration::from_millis(50);
/// For ever, in a test.
const EVER: Duration = Duration::from_secs(86_400);

/// Why a connection is closed without an answer.
#[derive(Debug)]
struct Closed;

impl std::fmt::Display for Closed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("closed on purpose")
    }
}

impl std::error::Error for Closed {}

/// Serves S3 for ever.
pub async fn serve(listener: TcpListener, state: Arc<State>, s3: S3Service) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            sleep(Duration::from_millis(20)).await;
            continue;
        };
        // small answers must not wait for the client's acknowledgements
        let _ = stream.set_nodelay(true);
        state.book.connections.fetch_add(1, Relaxed);
        let (state, s3) = (state.clone(), s3.clone());
        tokio::spawn(async move {
            let counted = Counted {
                stream,
                state: state.clone(),
            };
            let service = service_fn(move |req| handle(state.clone(), s3.clone(), req));
            let mut builder = http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(None);
            // it fails when the client goes away, and when a rule closes the connection
            let _ = builder
                .serve_connection(TokioIo::new(counted), service)
                .await;
        });
    }
}

async fn handle(
    state: Arc<State>,
    s3: S3Service,
    req: Request<Incoming>,
) -> Result<Response<Script>, Closed> {
    let _running = state.book.begin();
    let mut record = describe(&req);
    let group = Group::of(
        &record.operation,
        req.uri().query().is_some_and(names_version),
    );
    let action = state.decide(&Asked {
        operation: &record.operation,
        group,
        key: &record.key,
    });
    record.fault = action.as_ref().map(Action::name);
    let result = run(&state, &s3, req, action, &mut record).await;
    state.book.write(record);
    result
}

async fn run(
    state: &State,
    s3: &S3Service,
    req: Request<Incoming>,
    action: Option<Action>,
    record: &mut Record,
) -> Result<Response<Script>, Closed> {
    let now = clock::now(state.switches().clock_offset_seconds);
    let (head, mut body) = req.into_parts();
    match &action {
        Some(Action::Answer {
            early: true,
            status,
            code,
            retry_after,
        }) => return Ok(error(*status, code, *retry_after, now, record)),
        Some(Action::Deaf { after }) => {
            while record.bytes_in < *after {
                match body.frame().await {
                    Some(Ok(frame)) => {
                        record.bytes_in += frame.data_ref().map_or(0, |d| d.len() as u64);
                    }
                    _ => break,
                }
            }
            sleep(EVER).await;
            return Err(Closed);
        }
        _ => {}
    }
    let limit = usize::try_from(state.config.max_body).unwrap_or(usize::MAX);
    let bytes = match Limited::new(body, limit).collect().await {
        Ok(all) => all.to_bytes(),
        // longer than allowed, or the client stopped in mid-body
        Err(_) => return Ok(error(400, "EntityTooLarge", None, now, record)),
    };
    record.bytes_in = bytes.len() as u64;
    match &action {
        Some(Action::Answer {
            status,
            code,
            retry_after,
            ..
        }) => return Ok(error(*status, code, *retry_after, now, record)),
        Some(Action::Page { status, body }) => {
            let body = Bytes::from(body.clone());
            return Ok(plain(*status, "text/html", body, now, record));
        }
        Some(Action::Refuse) => return Err(Closed),
        Some(Action::Delay { ms }) => sleep(Duration::from_millis(*ms)).await,
        _ => {}
    }
    let sent = head.headers.get("x-amz-date").and_then(|d| d.to_str().ok());
    let off = sent.and_then(clock::amz_date);
    if off.is_some_and(|sent| (sent - clock::seconds(now)).abs() > SKEW) {
        return Ok(error(403, "RequestTimeTooSkewed", None, now, record));
    }
    let for_head = head.method == Method::HEAD;
    let request = Request::from_parts(head, s3s::Body::from(bytes));
    let Ok(response) = s3.call(request).await else {
        return Ok(error(500, "InternalError", None, now, record));
    };
    if action == Some(Action::LoseAnswer) {
        return Err(Closed);
    }
    let (mut head, body) = response.into_parts();
    let body = match body.collect().await {
        Ok(all) => all.to_bytes(),
        Err(_) => return Ok(error(500, "InternalError", None, now, record)),
    };
    record.status = head.status.as_u16();
    if record.status >= 400 {
        record.code = code_in(&body);
    }
    let announced = head.headers.get(header::CONTENT_LENGTH).cloned();
    let (length, steps) = script(body, action);
    record.bytes_out = length;
    if for_head {
        // the length is that of the object; there is no body
        if let Some(length) = announced {
            head.headers.insert(header::CONTENT_LENGTH, length);
        }
    } else {
        head.headers
            .insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    finish(&mut head.headers, now);
    Ok(Response::from_parts(head, Script::new(steps)))
}

/// What a request asks for, from its first line and headers.
fn describe(req: &Request<Incoming>) -> Record {
    let query = req.uri().query().unwrap_or("");
    let path = decode(req.uri().path());
    let key = match path.trim_start_matches('/').split_once('/') {
        Some((_, key)) => key.to_owned(),
        None => String::new(),
    };
    let bucket = path.trim_matches('/').is_empty();
    let parameter = |name: &str| {
        query
            .split('&')
            .find_map(|p| p.split_once('=').filter(|(n, _)| *n == name))
            .map(|(_, v)| decode(v))
    };
    let has = |name: &str| query.split('&').any(|p| p.split('=').next() == Some(name));
    let operation = operation(req.method(), bucket, &key, &has);
    let text = |name: &str| {
        let value = req.headers().get(name)?;
        value.to_str().ok().map(str::to_owned)
    };
    let access_key = text("authorization").and_then(|a| {
        let rest = a.split_once("Credential=")?.1;
        rest.split('/').next().map(str::to_owned)
    });
    let checksums = req.headers().keys().filter(|k| {
        let name = k.as_str();
        name.starts_with("x-amz-checksum-") || name == "content-md5" || name == "x-amz-trailer"
    });
    Record {
        n: 0,
        operation: operation.into(),
        key: if key.is_empty() {
            parameter("prefix").unwrap_or_default()
        } else {
            key
        },
        query: query.to_owned(),
        access_key: access_key.unwrap_or_default(),
        status: 0,
        code: None,
        condition: text("if-none-match").or_else(|| text("if-match")),
        checksums: checksums.map(|k| k.as_str().to_owned()).collect(),
        bytes_in: 0,
        bytes_out: 0,
        fault: None,
    }
}

/// The AWS name of an operation.
fn operation(method: &Method, root: bool, key: &str, has: &dyn Fn(&str) -> bool) -> &'static str {
    let method = method.as_str();
    if root {
        return "ListBuckets";
    }
    if key.is_empty() {
        return match method {
            "HEAD" => "HeadBucket",
            "PUT" if has("versioning") => "PutBucketVersioning",
            "PUT" if has("object-lock") => "PutObjectLockConfiguration",
            "PUT" => "CreateBucket",
            "DELETE" => "DeleteBucket",
            "POST" if has("delete") => "DeleteObjects",
            "GET" if has("location") => "GetBucketLocation",
            "GET" if has("versioning") => "GetBucketVersioning",
            "GET" if has("object-lock") => "GetObjectLockConfiguration",
            "GET" if has("versions") => "ListObjectVersions",
            "GET" if has("uploads") => "ListMultipartUploads",
            "GET" if has("list-type") => "ListObjectsV2",
            "GET" => "ListObjects",
            _ => "Other",
        };
    }
    match method {
        "HEAD" => "HeadObject",
        "GET" if has("uploadId") => "ListParts",
        "GET" if has("retention") => "GetObjectRetention",
        "GET" if has("legal-hold") => "GetObjectLegalHold",
        "GET" => "GetObject",
        "PUT" if has("partNumber") => "UploadPart",
        "PUT" if has("retention") => "PutObjectRetention",
        "PUT" if has("legal-hold") => "PutObjectLegalHold",
        "PUT" => "PutObject",
        "POST" if has("uploads") => "CreateMultipartUpload",
        "POST" if has("uploadId") => "CompleteMultipartUpload",
        "DELETE" if has("uploadId") => "AbortMultipartUpload",
        "DELETE" => "DeleteObject",
        _ => "Other",
    }
}

/// Percent-decoding; what is not UTF-8 becomes a replacement character.
fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = text.get(at + 1..at + 3);
        match hex.and_then(|h| u8::from_str_radix(h, 16).ok()) {
            Some(byte) if bytes[at] == b'%' => {
                out.push(byte);
                at += 3;
            }
            _ => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The code in an S3 error.
fn code_in(body: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(body).ok()?;
    let (_, rest) = text.split_once("<Code>")?;
    Some(rest.split_once("</Code>")?.0.to_owned())
}

/// Headers of every answer.
fn finish(headers: &mut hyper::HeaderMap, now: SystemTime) {
    if let Ok(date) = HeaderValue::from_str(&clock::http_date(now)) {
        headers.insert(header::DATE, date);
    }
    headers.insert(
        HeaderName::from_static("x-amz-request-id"),
        HeaderValue::from_static("0000000000000000"),
    );
}

fn plain(
    status: u16,
    kind: &'static str,
    body: Bytes,
    now: SystemTime,
    record: &mut Record,
) -> Response<Script> {
    record.status = status;
    record.bytes_out = body.len() as u64;
    let length = body.len() as u64;
    let mut response = Response::new(Script::new(VecDeque::from([Step::Data(body)])));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or_default();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    finish(headers, now);
    response
}

/// An S3 error.
fn error(
    status: u16,
    code: &str,
    retry_after: Option<u64>,
    now: SystemTime,
    record: &mut Record,
) -> Response<Script> {
    let safe: String = code.chars().filter(char::is_ascii_alphanumeric).collect();
    let text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{safe}</Code><Message>{safe}</Message><RequestId>0</RequestId></Error>"
    );
    record.code = Some(safe);
    let head = record.operation.starts_with("Head");
    let body = if head { Bytes::new() } else { text.into() };
    let mut response = plain(status, "application/xml", body, now, record);
    if let Some(seconds) = retry_after {
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// A step of sending a body.
enum Step {
    Data(Bytes),
    Wait(Duration),
    /// The connection is closed.
    Close,
}

/// The announced length, and the steps of sending a body as a rule wants it.
fn script(body: Bytes, action: Option<Action>) -> (u64, VecDeque<Step>) {
    let length = body.len() as u64;
    let part = |from: u64, to: u64| {
        let clamp = |n: u64| n.min(length) as usize;
        Step::Data(body.slice(clamp(from)..clamp(to.max(from))))
    };
    let steps = match action {
        Some(Action::Flip { at, bytes }) if length > 0 => {
            let mut wrong = body.to_vec();
            let from = at.min(length - 1) as usize;
            let to = wrong.len().min(from.saturating_add(bytes.max(1) as usize));
            wrong[from..to].iter_mut().for_each(|b| *b ^= 0x20);
            vec![Step::Data(wrong.into())]
        }
        Some(Action::Cut { after }) if after < length => {
            vec![part(0, after), Step::Wait(FLUSH), Step::Close]
        }
        Some(Action::Shorten { by }) => {
            let short = length.saturating_sub(by);
            return (short, VecDeque::from([part(0, short)]));
        }
        Some(Action::Repeat) => {
            return (
                length * 2,
                VecDeque::from([part(0, length), part(0, length)]),
            );
        }
        Some(Action::Stall { after, ms }) if after < length => {
            let wait = ms.map_or(EVER, Duration::from_millis);
            vec![part(0, after), Step::Wait(wait), part(after, length)]
        }
        Some(Action::Slow { bytes_per_second }) => {
            let each = (bytes_per_second * TICK.as_millis() as u64 / 1000).max(1);
            let pieces = (0..length).step_by(each as usize);
            pieces
                .flat_map(|at| [part(at, at + each), Step::Wait(TICK)])
                .collect()
        }
        _ => vec![part(0, length)],
    };
    (length, steps.into())
}

/// A body that follows a script.
struct Script {
    steps: VecDeque<Step>,
    waiting: Option<Pin<Box<Sleep>>>,
}

impl Script {
    fn new(steps: VecDeque<Step>) -> Self {
        let empty = |s: &Step| matches!(s, Step::Data(d) if d.is_empty());
        Script {
            steps: steps.into_iter().filter(|s| !empty(s)).collect(),
            waiting: None,
        }
    }
}

impl Body for Script {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        loop {
            if let Some(wait) = &mut self.waiting {
                if wait.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                self.waiting = None;
            }
            match self.steps.pop_front() {
                None => return Poll::Ready(None),
                Some(Step::Data(data)) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Some(Step::Wait(time)) => self.waiting = Some(Box::pin(sleep(time))),
                Some(Step::Close) => {
                    return Poll::Ready(Some(Err(io::Error::other("closed on purpose"))));
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.steps.is_empty() && self.waiting.is_none()
    }
}

/// A connection whose bytes are counted.
struct Counted {
    stream: TcpStream,
    state: Arc<State>,
}

impl Counted {
    fn book(&self) -> &Book {
        &self.state.book
    }
    fn count(&self, counter: &AtomicU64, n: usize) {
        counter.fetch_add(n as u64, Relaxed);
    }
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.count(&self.book().wire_in, buf.filled().len() - before);
        result
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, buf);
        if let Poll::Ready(Ok(n)) = result {
            self.count(&self.book().wire_out, n);
        }
        result
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        if let Poll::Ready(Ok(n)) = result {
            self.count(&self.book().wire_out, n);
        }
        result
    }
    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What arrives, and whether the connection is closed in it.
    fn sent(action: Action) -> (u64, Vec<u8>, bool) {
        let (length, steps) = script(Bytes::from_static(b"0123456789"), Some(action));
        let (mut out, mut closed) = (Vec::new(), false);
        for step in steps {
            match step {
                Step::Data(d) => out.extend_from_slice(&d),
                Step::Close => closed = true,
                Step::Wait(_) => {}
            }
        }
        (length, out, closed)
    }

    #[test]
    fn bodies_are_broken_as_told() {
        let whole = b"0123456789".to_vec();
        let ok = (10, whole.clone(), false);
        assert_eq!(sent(Action::Refuse), ok);
        assert_eq!(
            sent(Action::Slow {
                bytes_per_second: 30
            }),
            ok
        );
        assert_eq!(
            sent(Action::Stall {
                after: 3,
                ms: Some(1)
            }),
            ok
        );
        assert_eq!(sent(Action::Cut { after: 10 }), ok);
        assert_eq!(sent(Action::Cut { after: 4 }), (10, b"0123".to_vec(), true));
        assert_eq!(sent(Action::Cut { after: 0 }), (10, Vec::new(), true));
        let short = (7, b"0123456".to_vec(), false);
        assert_eq!(sent(Action::Shorten { by: 3 }), short);
        assert_eq!(sent(Action::Shorten { by: 30 }), (0, Vec::new(), false));
        assert_eq!(sent(Action::Repeat).0, 20);
        for at in [0, 5, 9, 99] {
            let (length, out, closed) = sent(Action::Flip { at, bytes: 1 });
            let differ = out.iter().zip(&whole).filter(|(a, b)| a != b).count();
            assert_eq!((length, out.len(), closed, differ), (10, 10, false, 1));
        }
    }

    #[test]
    fn paths_are_decoded() {
        assert_eq!(decode("/b/a%20b%2Fc%"), "/b/a b/c%");
        assert_eq!(decode("%zz%4"), "%zz%4");
        assert_eq!(decode("é%C3%A9"), "éé");
    }

    #[test]
    fn operations_have_their_names() {
        let name = |method: &str, key: &str, query: &str| {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            operation(&method, false, key, &|n| query.split('&').any(|p| p == n))
        };
        assert_eq!(name("GET", "", "list-type"), "ListObjectsV2");
        assert_eq!(name("GET", "", "versions"), "ListObjectVersions");
        assert_eq!(name("PUT", "k", ""), "PutObject");
        assert_eq!(name("PUT", "k", "partNumber&uploadId"), "UploadPart");
        assert_eq!(name("POST", "", "delete"), "DeleteObjects");
        assert_eq!(name("POST", "k", "uploads"), "CreateMultipartUpload");
        assert_eq!(name("DELETE", "k", "uploadId"), "AbortMultipartUpload");
    }
}
