//! The host's memory, load and pressure, for metrics, from `/proc`. What the kernel does not say stays absent.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use keepwatch_expose::facts::Host;

/// How things are now.
pub fn sample(name: &str) -> Host {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let mut pressure = BTreeMap::new();
    let mut pressure_now = BTreeMap::new();
    for resource in ["cpu", "memory", "io"] {
        let text = fs::read_to_string(format!("/proc/pressure/{resource}")).unwrap_or_default();
        if let Some((now, total)) = waiting(&text) {
            pressure.insert(resource, total);
            pressure_now.insert(resource, now);
        }
    }
    Host {
        name: name.to_owned(),
        memory_available: kib(&meminfo, "MemAvailable:"),
        memory_size: kib(&meminfo, "MemTotal:"),
        load1: load.split(' ').next().and_then(|n| n.parse().ok()),
        processors: std::thread::available_parallelism()
            .ok()
            .and_then(|n| u32::try_from(n.get()).ok()),
        pressure,
        pressure_now,
        disks: Vec::new(),
    }
}

fn kib(meminfo: &str, name: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|l| l.strip_prefix(name))?;
    let number = line.split_whitespace().next()?.parse::<u64>().ok()?;
    number.checked_mul(1024)
}

/// `some avg10=0.00 avg60=0.00 avg300=0.00 total=12345`: share of the last 10 s, and all time in which some task waited.
fn waiting(text: &str) -> Option<(f64, Duration)> {
    let line = text.lines().find_map(|l| l.strip_prefix("some "))?;
    let value = |name: &str| {
        line.split(' ')
            .find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
    };
    let now: f64 = value("avg10")?.parse().ok()?;
    let total: u64 = value("total")?.parse().ok()?;
    Some((now / 100.0, Duration::from_micros(total)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_kernel() {
        let text = "some avg10=12.50 avg60=0.10 avg300=0.00 total=2500000\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n";
        assert_eq!(waiting(text), Some((0.125, Duration::from_millis(2500))));
        assert_eq!(waiting(""), None);
        assert_eq!(waiting("some avg10=x total=1"), None);
        let meminfo = "MemTotal:       16000 kB\nMemAvailable:    8000 kB\n";
        assert_eq!(kib(meminfo, "MemAvailable:"), Some(8_192_000));
        assert_eq!(kib("", "MemTotal:"), None);
        assert!(sample("h").memory_size.is_some_and(|n| n > 1 << 20));
    }
}
