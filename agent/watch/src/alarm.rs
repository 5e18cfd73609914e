//! Waiting for a moment of the monotonic clock, without waking on the way.
//!
//! tokio keeps its timers in a wheel of slots of 1 ms, 64 ms, 4.1 s and so on; a deadline some seconds ahead lies in a coarse slot
//! first, and the runtime wakes when each finer one begins: up to two more times for each wait. A scheduler that waits five seconds
//! all day doubles its wake-ups by that. A timer of the kernel (`timerfd_create(2)`) wakes once.
//!
//! Under a clock that is not the host's, in tests, tokio's own timer waits, which knows paused time.

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A timer that is set again and again.
#[derive(Debug, Default)]
pub struct Alarm {
    /// The kernel's timer, and to when it is set; nothing where tokio waits.
    timer: Option<(AsyncFd<OwnedFd>, Option<Duration>)>,
}

impl Alarm {
    /// One by the host's monotonic clock. Must be called within a runtime; where the kernel gives no timer, tokio waits.
    #[allow(
        deprecated,
        reason = "its successor is unsafe, because a type could change its descriptor under tokio's hands; OwnedFd cannot"
    )]
    pub fn of_host() -> Self {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)
            .map_err(std::io::Error::from)
            .and_then(|fd| AsyncFd::with_interest(fd, Interest::READABLE));
        match timer {
            Ok(timer) => Self {
                timer: Some((timer, None)),
            },
            Err(e) => {
                tracing::debug!("no timer of the kernel ({e}); the runtime's is used");
                Self::default()
            }
        }
    }

    /// Waits until `at` on the monotonic clock, which shows `now`. May be dropped and begun anew.
    pub async fn until(&mut self, at: Duration, now: Duration) {
        if at <= now {
            return;
        }
        if self.ring(at).await.is_none() {
            self.timer = None;
            tokio::time::sleep(at - now).await;
        }
    }

    /// Waits by the kernel's timer; `None` if there is none or it refuses.
    async fn ring(&mut self, at: Duration) -> Option<()> {
        let (timer, set) = self.timer.as_mut()?;
        if *set != Some(at) {
            // Zero would mean "never".
            let value = Itimerspec {
                it_interval: timespec(Duration::ZERO)?,
                it_value: timespec(at.max(Duration::from_nanos(1)))?,
            };
            timerfd_settime(&*timer, TimerfdTimerFlags::ABSTIME, &value).ok()?;
            *set = Some(at);
        }
        loop {
            let mut ready = timer.readable().await.ok()?;
            // What is still ready from an earlier setting is not expired.
            match rustix::io::read(&*timer, &mut [0; 8]) {
                Ok(_) => {
                    *set = None;
                    return Some(());
                }
                Err(rustix::io::Errno::AGAIN) => ready.clear_ready(),
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return None,
            }
        }
    }
}

fn timespec(time: Duration) -> Option<Timespec> {
    Some(Timespec {
        tv_sec: time.as_secs().try_into().ok()?,
        tv_nsec: time.subsec_nanos().into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, HostClock};

    const STEP: Duration = Duration::from_millis(30);

    #[tokio::test]
    async fn it_rings_when_it_is_set_to_and_not_before() {
        let mut alarm = Alarm::of_host();
        assert!(alarm.timer.is_some(), "this kernel has such timers");
        for _ in 0..3 {
            let begun = HostClock.monotonic();
            alarm.until(begun + STEP, begun).await;
            assert!(HostClock.monotonic() >= begun + STEP);
        }
        let now = HostClock.monotonic();
        alarm.until(now - STEP, now).await;
    }

    #[tokio::test]
    async fn a_wait_that_was_given_up_does_not_end_the_next_one() {
        let mut alarm = Alarm::of_host();
        let begun = HostClock.monotonic();
        // Set, dropped, and expired before it is set again: its expiry belongs to nobody.
        let given_up = tokio::time::timeout(Duration::ZERO, alarm.until(begun + STEP, begun));
        assert!(given_up.await.is_err());
        tokio::time::sleep(STEP * 2).await;
        let now = HostClock.monotonic();
        alarm.until(now + STEP, now).await;
        assert!(HostClock.monotonic() >= now + STEP);
        // Set, dropped, and waited for again at the same moment: it rings for that.
        let at = HostClock.monotonic() + STEP;
        let given_up = tokio::time::timeout(Duration::ZERO, alarm.until(at, HostClock.monotonic()));
        assert!(given_up.await.is_err());
        alarm.until(at, HostClock.monotonic()).await;
        assert!(HostClock.monotonic() >= at);
    }

    #[tokio::test(start_paused = true)]
    async fn without_the_kernel_the_runtime_waits() {
        let begun = tokio::time::Instant::now();
        let hour = Duration::from_secs(3600);
        Alarm::default().until(hour, Duration::ZERO).await;
        assert_eq!(begun.elapsed(), hour, "paused time went by");
    }
}
