//! One connection: two directions, each a reader and a writer with a queue between them.
//!
//! The queue is what makes latency without loss of bandwidth: the reader stamps each piece with the time at which it is due and reads on; the writer
//! waits for that time. Faults are met by the writer, at their byte.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};

use super::{Cause, Fault, Link, Meter, Side};

/// Bytes that are read at once.
const PIECE: usize = 16 << 10;
/// Pieces in a queue: 64 MiB for each direction of each connection, at most; 100 ms at 640 MB/s.
const QUEUE: usize = 4096;
/// A limited line sends at these intervals.
const TICK: Duration = Duration::from_millis(20);

/// How a connection ends.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum End {
    /// In order, or with FIN to both sides.
    Closed,
    /// With RST to both sides.
    Reset,
    /// Not at all.
    BlackHole,
}

/// How a direction ends.
enum Direction {
    /// The sender ended; the receiver was told. The other direction goes on.
    Over,
    /// So does the whole connection.
    All(End),
}

/// Carries both directions until the connection ends.
pub async fn both(
    client: &mut TcpStream,
    server: &mut TcpStream,
    link: Link,
    faults: &[Fault],
    meter: &Meter,
) -> End {
    let (client_read, client_write) = client.split();
    let (server_read, server_write) = server.split();
    let side = |side| {
        let mut mine: Vec<Fault> = faults.iter().filter(|f| f.side == side).copied().collect();
        mine.sort_by_key(|f| f.after);
        VecDeque::from(mine)
    };
    let latency = Duration::from_millis(link.latency_ms);
    let mut up = pin!(direction(
        client_read,
        server_write,
        latency,
        link.up_bytes_per_second,
        side(Side::Up),
        &meter.up,
    ));
    let mut down = pin!(direction(
        server_read,
        client_write,
        latency,
        link.down_bytes_per_second,
        side(Side::Down),
        &meter.down,
    ));
    let (mut up_over, mut down_over) = (false, false);
    while !(up_over && down_over) {
        let end = tokio::select! {
            end = &mut up, if !up_over => { up_over = true; end }
            end = &mut down, if !down_over => { down_over = true; end }
        };
        if let Direction::All(end) = end {
            return end;
        }
    }
    End::Closed
}

async fn direction(
    from: ReadHalf<'_>,
    to: WriteHalf<'_>,
    latency: Duration,
    bytes_per_second: u64,
    faults: VecDeque<Fault>,
    passed: &AtomicU64,
) -> Direction {
    let (give, take) = mpsc::channel(QUEUE);
    let mut reading = pin!(read(from, give, latency));
    let mut writing = pin!(
        Writer {
            to,
            faults,
            at: 0,
            per_tick: bytes_per_second * TICK.as_millis() as u64 / 1000,
            limited: bytes_per_second > 0,
            left: 0,
            passed,
        }
        .write(take)
    );
    // the writer ends last: it sees the end of the queue
    tokio::select! {
        end = &mut writing => return end,
        () = &mut reading => {}
    }
    writing.await
}

async fn read(mut from: ReadHalf<'_>, give: mpsc::Sender<(Instant, Vec<u8>)>, latency: Duration) {
    loop {
        let mut piece = vec![0; PIECE];
        match from.read(&mut piece).await {
            // an error of this side ends the direction as an end does; the reset itself reaches the other side through the other direction
            Ok(0) | Err(_) => return,
            Ok(n) => {
                piece.truncate(n);
                if give.send((Instant::now() + latency, piece)).await.is_err() {
                    return;
                }
            }
        }
    }
}

struct Writer<'a> {
    to: WriteHalf<'a>,
    /// By their byte.
    faults: VecDeque<Fault>,
    /// Bytes that came so far.
    at: u64,
    per_tick: u64,
    limited: bool,
    /// Bytes that may still be sent in this tick.
    left: u64,
    passed: &'a AtomicU64,
}

impl Writer<'_> {
    async fn write(mut self, mut take: mpsc::Receiver<(Instant, Vec<u8>)>) -> Direction {
        // a fault at byte 0 happens before anything comes
        if let Some(end) = self.due(&mut Vec::new()).await {
            return end;
        }
        while let Some((due, mut piece)) = take.recv().await {
            sleep_until(due).await;
            while !piece.is_empty() {
                let until = match self.faults.front() {
                    Some(fault) => fault.after.saturating_sub(self.at),
                    None => u64::MAX,
                };
                let now = piece
                    .len()
                    .min(usize::try_from(until).unwrap_or(usize::MAX));
                let rest = piece.split_off(now);
                if self.pass(&piece).await.is_err() {
                    return Direction::All(End::Closed);
                }
                piece = rest;
                if let Some(end) = self.due(&mut piece).await {
                    return end;
                }
            }
        }
        // the receiver may be gone already
        let _ = self.to.shutdown().await;
        Direction::Over
    }

    /// Lets the faults of this byte happen. They may eat or change what comes next.
    async fn due(&mut self, next: &mut Vec<u8>) -> Option<Direction> {
        while let Some(fault) = self.faults.front().copied().filter(|f| f.after <= self.at) {
            let meets = |n: u64| next.len().min(usize::try_from(n).unwrap_or(usize::MAX));
            match fault.cause {
                Cause::Reset => return Some(Direction::All(End::Reset)),
                Cause::Close => return Some(Direction::All(End::Closed)),
                Cause::BlackHole => return Some(Direction::All(End::BlackHole)),
                Cause::HalfClose => {
                    let _ = self.to.shutdown().await;
                    // what still comes is swallowed by the end of this direction
                    return Some(Direction::Over);
                }
                Cause::Stall(ms) => {
                    let time = ms.map_or(Duration::from_secs(86_400), Duration::from_millis);
                    sleep(time).await;
                }
                // these need bytes, and reach to the end of what was read at once
                Cause::Flip(n) => {
                    let n = meets(n);
                    if n == 0 {
                        return None;
                    }
                    next[..n].iter_mut().for_each(|b| *b ^= 0x20);
                }
                Cause::Lose(n) => {
                    let n = meets(n);
                    if n == 0 {
                        return None;
                    }
                    next.drain(..n);
                    self.at += n as u64;
                }
                Cause::Duplicate(n) => {
                    let n = meets(n);
                    if n == 0 {
                        return None;
                    }
                    let mut twice = next[..n].to_vec();
                    twice.append(next);
                    *next = twice;
                }
            }
            self.faults.pop_front();
        }
        None
    }

    /// Passes bytes on, as fast as the line allows.
    async fn pass(&mut self, mut bytes: &[u8]) -> std::io::Result<()> {
        while !bytes.is_empty() {
            let now = if self.limited {
                if self.left == 0 {
                    sleep(TICK).await;
                    self.left = self.per_tick.max(1);
                }
                bytes.len().min(self.left as usize)
            } else {
                bytes.len()
            };
            self.to.write_all(&bytes[..now]).await?;
            self.left = self.left.saturating_sub(now as u64);
            self.at += now as u64;
            self.passed.fetch_add(now as u64, Relaxed);
            bytes = &bytes[now..];
        }
        Ok(())
    }
}
