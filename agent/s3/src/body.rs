//! The body of a put: bytes in pieces, paced by the limit, with a note of when the last piece was taken, so that a stalled connection is noticed.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep};

use crate::rate::Rate;

/// Bytes in a piece when nothing limits the rate.
const PIECE: usize = 128 << 10;

/// When something last moved.
pub struct Movement {
    start: Instant,
    millis: AtomicU64,
}

impl Movement {
    /// Now.
    pub fn new() -> Arc<Self> {
        Arc::new(Movement {
            start: Instant::now(),
            millis: AtomicU64::new(0),
        })
    }
    /// Something moves now, or after a wait that is ours.
    pub fn note(&self, wait: Duration) {
        let at = (self.start.elapsed() + wait).as_millis() as u64;
        self.millis.fetch_max(at, Ordering::Relaxed);
    }
    /// For how long nothing has moved.
    pub fn idle(&self) -> Duration {
        let last = Duration::from_millis(self.millis.load(Ordering::Relaxed));
        self.start.elapsed().saturating_sub(last)
    }
}

/// See the module.
pub struct Upload {
    rest: Bytes,
    rate: Option<Arc<Rate>>,
    /// The next piece may leave when this is over.
    wait: Option<(usize, Pin<Box<Sleep>>)>,
    movement: Arc<Movement>,
}

impl Upload {
    /// All of `bytes`.
    pub fn new(bytes: Bytes, rate: Option<Arc<Rate>>, movement: Arc<Movement>) -> Self {
        Upload {
            rest: bytes,
            rate,
            wait: None,
            movement,
        }
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        let length = match (self.wait.take(), &self.rate) {
            (Some((length, mut timer)), _) => {
                if timer.as_mut().poll(context).is_pending() {
                    self.wait = Some((length, timer));
                    return Poll::Pending;
                }
                length
            }
            (None, None) => self.rest.len().min(PIECE),
            (None, Some(rate)) => {
                let length = self.rest.len().min(rate.piece());
                let pause = rate.take(length, std::time::Instant::now());
                self.movement.note(pause);
                if !pause.is_zero() {
                    let mut timer = Box::pin(sleep(pause));
                    if timer.as_mut().poll(context).is_pending() {
                        self.wait = Some((length, timer));
                        return Poll::Pending;
                    }
                }
                length
            }
        };
        self.movement.note(Duration::ZERO);
        let piece = self.rest.split_to(length);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        let pieces = self.rest.len() as u64;
        SizeHint::with_exact(pieces)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn drain(mut body: Upload) -> Vec<u8> {
        let mut out = Vec::new();
        while let Some(frame) = std::future::poll_fn(|c| Pin::new(&mut body).poll_frame(c)).await {
            out.extend_from_slice(&frame.unwrap().into_data().unwrap());
        }
        out
    }

    #[tokio::test]
    async fn all_bytes_in_order_with_and_without_a_limit() {
        let bytes: Bytes = (0..300_000u32).map(|i| (i * 7) as u8).collect();
        let whole = drain(Upload::new(bytes.clone(), None, Movement::new())).await;
        assert_eq!(whole, bytes);
        let rate = Arc::new(Rate::new(600_000));
        let begun = std::time::Instant::now();
        let whole = drain(Upload::new(bytes.clone(), Some(rate), Movement::new())).await;
        assert_eq!(whole, bytes);
        assert!(
            begun.elapsed() > Duration::from_millis(200),
            "it was not slowed down"
        );
        assert!(
            drain(Upload::new(Bytes::new(), None, Movement::new()))
                .await
                .is_empty()
        );
    }

    #[tokio::test]
    async fn idleness_is_measured_from_the_last_movement() {
        let m = Movement::new();
        tokio::time::sleep(Duration::from_millis(60)).await;
        assert!(m.idle() >= Duration::from_millis(50));
        // A wait that is ours does not count.
        m.note(Duration::from_secs(3600));
        assert_eq!(m.idle(), Duration::ZERO);
    }
}
