//! Probes of the host itself: memory, pressure and load, read from `/proc`.
//!
//! They measure; limits are bands of the check. Reading `/proc` does not block.

use std::path::{Path, PathBuf};

use keepwatch_model::check::{CheckKind, Reason};
use tokio::time::Instant;

use super::{Asking, Probe};
use crate::outcome::{Failure, Outcome, Quantity};

/// The largest file under `/proc` that is read here.
const FILE_MAX: usize = 16 << 10;

/// The probe; which of the three.
#[derive(Clone, Debug)]
pub struct Host {
    kind: CheckKind,
    proc: PathBuf,
}

impl Host {
    /// Memory that can be had without swapping.
    pub fn memory() -> Self {
        Self::at(CheckKind::Memory, "/proc")
    }

    /// Pressure stall information: the share of time in which tasks waited for processor, memory, input and output.
    pub fn pressure() -> Self {
        Self::at(CheckKind::Pressure, "/proc")
    }

    /// Load averages.
    pub fn load() -> Self {
        Self::at(CheckKind::Load, "/proc")
    }

    fn at(kind: CheckKind, proc: impl AsRef<Path>) -> Self {
        Self {
            kind,
            proc: proc.as_ref().to_owned(),
        }
    }

    fn read(&self, name: &str) -> Result<String, Failure> {
        use std::io::Read as _;
        let path = self.proc.join(name);
        let mut text = String::new();
        std::fs::File::open(&path)
            .and_then(|f| f.take(FILE_MAX as u64).read_to_string(&mut text))
            .map_err(|e| {
                Failure::because(Reason::Exec, &format!("cannot read {}", path.display()), &e)
            })?;
        Ok(text)
    }

    fn run(&self) -> Result<Outcome, Failure> {
        match self.kind {
            CheckKind::Memory => memory(&self.read("meminfo")?),
            CheckKind::Pressure => {
                let mut outcome = Outcome::success();
                for (name, ratio, total) in [
                    (
                        "cpu",
                        Quantity::PressureCpuRatio,
                        Quantity::PressureCpuSeconds,
                    ),
                    (
                        "memory",
                        Quantity::PressureMemoryRatio,
                        Quantity::PressureMemorySeconds,
                    ),
                    ("io", Quantity::PressureIoRatio, Quantity::PressureIoSeconds),
                ] {
                    let text = self.read(&format!("pressure/{name}"))?;
                    let (average, seconds) =
                        pressure(&text).ok_or_else(|| odd(&format!("pressure/{name}")))?;
                    outcome.measure(ratio, average).measure(total, seconds);
                }
                Ok(outcome)
            }
            _ => {
                let processors = std::thread::available_parallelism().map_or(1, usize::from);
                load(&self.read("loadavg")?, processors)
            }
        }
    }
}

fn odd(file: &str) -> Failure {
    Failure::new(
        Reason::Protocol,
        format!("{file} of the kernel is not in the known form"),
    )
}

fn memory(text: &str) -> Result<Outcome, Failure> {
    let kib = |name: &str| {
        let line = text
            .lines()
            .find_map(|l| l.strip_prefix(name)?.strip_prefix(':'))?;
        line.trim().strip_suffix("kB")?.trim().parse::<f64>().ok()
    };
    let (size, available) = kib("MemTotal")
        .zip(kib("MemAvailable"))
        .ok_or_else(|| odd("meminfo"))?;
    let mut outcome = Outcome::success();
    outcome
        .measure(Quantity::MemorySizeBytes, size * 1024.0)
        .measure(Quantity::MemoryAvailableBytes, available * 1024.0)
        .measure(Quantity::MemoryAvailableRatio, available / size);
    Ok(outcome)
}

/// The share of the last 10 s and all seconds since boot in which some task waited: `some avg10=0.12 … total=34567`.
fn pressure(text: &str) -> Option<(f64, f64)> {
    let line = text.lines().find_map(|l| l.strip_prefix("some "))?;
    let field = |name: &str| {
        line.split_whitespace()
            .find_map(|w| w.strip_prefix(name)?.strip_prefix('=')?.parse::<f64>().ok())
    };
    Some((field("avg10")? / 100.0, field("total")? / 1e6))
}

fn load(text: &str, processors: usize) -> Result<Outcome, Failure> {
    let mut numbers = text.split_whitespace().map(|w| w.parse::<f64>().ok());
    let (Some(Some(one)), Some(Some(five))) = (numbers.next(), numbers.next()) else {
        return Err(odd("loadavg"));
    };
    let mut outcome = Outcome::success();
    outcome
        .measure(Quantity::Load1, one)
        .measure(Quantity::Load1PerCpu, one / processors as f64)
        .measure(Quantity::Load5PerCpu, five / processors as f64);
    Ok(outcome)
}

impl Probe for Host {
    fn kind(&self) -> CheckKind {
        self.kind
    }
    fn ask(&self, _: Instant) -> Asking<'_> {
        Box::pin(async { self.run().into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_the_kernel_by_table() {
        let o = memory("MemTotal:  1000 kB\nMemFree: 1 kB\nMemAvailable:   250 kB\n").unwrap();
        assert_eq!(o.value(Quantity::MemoryAvailableRatio), Some(0.25));
        assert_eq!(o.value(Quantity::MemorySizeBytes), Some(1_024_000.0));
        let p = pressure(
            "some avg10=12.50 avg60=1.00 avg300=0.00 total=3000000\nfull avg10=0.00 total=1\n",
        );
        assert_eq!(p, Some((0.125, 3.0)));
        let o = load("2.00 1.00 0.50 1/234 5678\n", 4).unwrap();
        assert_eq!(
            (o.value(Quantity::Load1), o.value(Quantity::Load5PerCpu)),
            (Some(2.0), Some(0.25))
        );
        assert!(
            memory("").is_err() && load("x y", 1).is_err() && pressure("full avg10=1").is_none()
        );
    }

    #[tokio::test]
    async fn this_host_answers() {
        for (probe, quantity) in [
            (Host::memory(), Quantity::MemoryAvailableRatio),
            (Host::load(), Quantity::Load1),
        ] {
            let o = super::super::run(&probe, std::time::Duration::from_secs(5)).await;
            assert!(o.failure.is_none() && o.value(quantity).is_some(), "{o:?}");
        }
        let o = super::super::run(&Host::pressure(), std::time::Duration::from_secs(5)).await;
        // Kernels may be built or booted without it; then the reason says so.
        match o.failure {
            None => assert!(o.value(Quantity::PressureIoRatio).is_some()),
            Some(f) => assert_eq!(f.reason, Reason::Exec),
        }
        let gone = Host::at(CheckKind::Memory, "/nonexistent");
        assert_eq!(gone.run().unwrap_err().reason, Reason::Exec);
    }
}
