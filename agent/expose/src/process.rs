//! The agent's own process, from `/proc`: the figures that every exporter shows of itself.
//!
//! Called by whoever puts the facts together, every few seconds; it opens four small files and lists one directory.

use std::fs;
use std::time::Duration;

use crate::facts::{At, Process};

/// This process now. What cannot be read is 0: an exporter does not fail for its own figures.
pub fn sample() -> Process {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let boot = fs::read_to_string("/proc/stat").unwrap_or_default();
    let mut process = parse(
        &stat,
        &boot,
        rustix::param::clock_ticks_per_second(),
        rustix::param::page_size() as u64,
    );
    process.open_fds =
        fs::read_dir("/proc/self/fd").map_or(0, |d| d.count().saturating_sub(1) as u64);
    process.max_fds = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    process
}

/// Of `/proc/self/stat` and `/proc/stat`.
fn parse(stat: &str, boot: &str, ticks: u64, page: u64) -> Process {
    // The name in parentheses may hold spaces and parentheses: fields are counted after the last one.
    let fields: Vec<&str> = stat
        .rsplit_once(')')
        .map(|(_, rest)| rest.split_ascii_whitespace().collect())
        .unwrap_or_default();
    let number = |field: usize| -> u64 {
        // Field 3 of proc(5) is the first here.
        fields
            .get(field - 3)
            .and_then(|f| f.parse().ok())
            .unwrap_or(0)
    };
    let ticks = ticks.max(1);
    let of_ticks = |n: u64| Duration::from_millis(n.saturating_mul(1000) / ticks);
    let booted: i64 = boot
        .lines()
        .find_map(|l| l.strip_prefix("btime "))
        .and_then(|t| t.trim().parse().ok())
        .unwrap_or(0);
    let started = i64::try_from(of_ticks(number(22)).as_millis()).unwrap_or(0);
    Process {
        cpu: of_ticks(number(14).saturating_add(number(15))),
        virtual_memory: number(23),
        resident: number(24).saturating_mul(page),
        open_fds: 0,
        max_fds: None,
        started: At(booted.saturating_mul(1000).saturating_add(started)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_kernel_writes() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 0 0 0 150 50 0 0 20 0 3 0 1000 9000000 250 18446744073709551615 1";
        let p = parse(stat, "cpu 1 2\nbtime 1700000000\n", 100, 4096);
        assert_eq!(p.cpu, Duration::from_secs(2));
        assert_eq!(p.started, At(1_700_000_010_000));
        assert_eq!((p.virtual_memory, p.resident), (9_000_000, 250 * 4096));
        assert_eq!(parse("", "", 0, 0), Process::default());
        assert_eq!(parse("x) ", "btime x", 100, 1), Process::default());
    }

    #[test]
    fn of_this_process() {
        let p = sample();
        assert!(
            p.resident > 1 << 20 && p.open_fds >= 3 && p.started.0 > 1_600_000_000_000,
            "{p:?}"
        );
    }
}
