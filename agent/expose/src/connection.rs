//! One connection: its deadlines, and hyper within them.
//!
//! What hyper does not bound is bounded here, by looking at the bytes that pass ([`Watched`]): the time from a request's first byte to
//! the end of its headers, the time until an answer is written, the time that a connection may lie idle. hyper answers pipelined
//! requests one after the other, so a connection holds one answer at most; that of `/metrics` is shared (see [`crate::answer`]).

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use hyper::body::{Body as _, Incoming};
use hyper::header::AUTHORIZATION;
use hyper::{Request, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::answer::{Desk, Door, Question};
use crate::limits::{BUFFER, HEAD_MAX, HEADERS, LINGER, LINGER_BYTES, Limits};
use crate::rate::{Client, Rates};
use crate::seats::{Seat, Seats};

/// What all connections have in common.
pub(crate) struct House {
    pub desk: Desk,
    pub limits: Limits,
    pub rates: Mutex<Rates>,
    pub seats: Arc<Seats>,
}

/// Who is at the other end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Visitor {
    pub client: Client,
    pub door: Door,
}

/// What a connection is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// Nothing was ever said.
    New,
    /// Nothing was asked since the last answer.
    Idle,
    /// A question has begun.
    Head,
    /// An answer goes out.
    Writing,
    /// All was said; what still comes is thrown away.
    Leaving,
}

impl At {
    /// Nobody waits for anything here.
    const fn is_silent(self) -> bool {
        matches!(self, Self::New | Self::Idle)
    }
}

/// Where a connection is, and since when. Changed only from its own task.
struct Place(Mutex<(At, Instant)>);

impl Place {
    fn set(&self, at: At) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = (at, Instant::now());
    }

    fn get(&self) -> (At, Instant) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn deadline(&self, limits: &Limits) -> (Instant, &'static str) {
        let (at, since) = self.get();
        let (allowed, word) = match at {
            At::Idle => (limits.idle, "idle"),
            At::New | At::Head => (limits.header, "header"),
            At::Writing => (limits.write, "write"),
            At::Leaving => (LINGER, "linger"),
        };
        (since + allowed, word)
    }
}

/// A stream whose passing bytes tell where the connection is.
struct Watched<S> {
    inner: S,
    place: Arc<Place>,
    seat: Arc<Seat>,
    /// The write side is closed; so many bytes were thrown away since.
    thrown: Option<usize>,
}

impl<S> Watched<S> {
    /// Notes whether the client takes what is written.
    fn note(&self, taken: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if taken.is_pending() {
            self.seat.stalled(Instant::now());
        } else {
            self.seat.moved();
        }
        taken
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        if buf.filled().len() > before && self.place.get().0.is_silent() {
            self.place.set(At::Head);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let taken = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.note(taken)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let taken = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.note(taken)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    /// hyper flushes when all that it had to write is written: the answer is out.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.inner).poll_flush(cx))?;
        if self.place.get().0 == At::Writing {
            self.place.set(At::Idle);
            self.seat.waiting();
        }
        Poll::Ready(Ok(()))
    }

    /// Closes our side, then takes what still comes for a while: closing with unread bytes would reset the connection, and the
    /// client would lose the answer that tells it what was wrong.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.thrown.is_none() {
            ready!(Pin::new(&mut this.inner).poll_shutdown(cx))?;
            this.place.set(At::Leaving);
            this.seat.waiting();
            this.thrown = Some(0);
        }
        let mut sink = [0; 4096];
        loop {
            let mut buf = ReadBuf::new(&mut sink);
            match ready!(Pin::new(&mut this.inner).poll_read(cx, &mut buf)) {
                Ok(()) if !buf.filled().is_empty() => {
                    let thrown = this.thrown.unwrap_or(0) + buf.filled().len();
                    this.thrown = Some(thrown);
                    if thrown > LINGER_BYTES {
                        return Poll::Ready(Ok(()));
                    }
                }
                _ => return Poll::Ready(Ok(())),
            }
        }
    }
}

/// One connection, until it ends, is overdue, loses its seat, or everything stops.
pub(crate) async fn serve<S>(
    stream: S,
    visitor: Visitor,
    seat: Seat,
    house: Arc<House>,
    mut stopping: watch::Receiver<bool>,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let seat = Arc::new(seat);
    let place = Arc::new(Place(Mutex::new((At::New, Instant::now()))));
    let io = TokioIo::new(Watched {
        inner: stream,
        place: Arc::clone(&place),
        seat: Arc::clone(&seat),
        thrown: None,
    });
    let service = service_fn(|request: Request<Incoming>| {
        seat.busy(Instant::now());
        let answer = answer(&house, visitor, &request);
        place.set(At::Writing);
        std::future::ready(Ok::<_, std::convert::Infallible>(answer))
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .header_read_timeout(None)
        .max_header_size(HEAD_MAX)
        .max_buf_size(BUFFER)
        .max_headers(HEADERS)
        .serve_connection(io, service);
    let mut connection = pin!(connection);
    let mut lost = pin!(seat.lost());
    let mut stop = pin!(stopping.wait_for(|s| *s));
    let mut told = false;
    let (due, _) = place.deadline(&house.limits);
    let mut timer = pin!(tokio::time::sleep_until(due));
    poll_fn(|cx| {
        if !told && stop.as_mut().poll(cx).is_ready() {
            told = true;
            connection.as_mut().graceful_shutdown();
        }
        if connection.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        if told && place.get().0.is_silent() {
            return Poll::Ready(());
        }
        if lost.as_mut().poll(cx).is_ready() {
            house.desk.counters().refused("pushed_out");
            return Poll::Ready(());
        }
        // The connection was polled just now, so this is where it is.
        loop {
            let (due, word) = place.deadline(&house.limits);
            if timer.deadline() != due {
                timer.as_mut().reset(due);
            }
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            if due <= Instant::now() {
                if word == "header" || word == "write" {
                    house.desk.counters().refused(word);
                }
                return Poll::Ready(());
            }
        }
    })
    .await;
}

fn answer(house: &House, visitor: Visitor, request: &Request<Incoming>) -> crate::answer::Answer {
    let uri = request.uri();
    let asked = house
        .rates
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .ask(visitor.client, house.desk.monotonic());
    if let Err(wait) = asked {
        return house.desk.too_often(uri.path(), wait);
    }
    house.desk.answer(&Question {
        method: request.method(),
        path: uri.path(),
        query: uri.query(),
        authorization: request.headers().get(AUTHORIZATION).map(|v| v.as_bytes()),
        has_body: !request.body().is_end_stream(),
        door: visitor.door,
    })
}
