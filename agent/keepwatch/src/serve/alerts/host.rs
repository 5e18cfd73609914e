//! What is wrong with the host: memory, pressure, and the file systems that checks look at.

use std::time::Duration;

use keepwatch_expose::facts::{Check, Disk};
use keepwatch_model::check::Overlay;

use super::past::{DAY, HOUR, MINUTE, Past};
use super::repositories::ROOMY;
use super::rules::{self, Rule};
use super::{Case, Known};

/// The share of memory that should be available.
const MEMORY: f64 = 0.1;
/// The share of time that may be spent waiting for memory.
const MEMORY_WAIT: f64 = 0.1;
/// The same for processors.
const CPU_WAIT: f64 = 0.5;
/// The share of a file system that should be free, and of its inodes.
const FREE: f64 = 0.05;
/// What was waited over less is no pressure yet.
const LEAST: Duration = MINUTE;

pub(super) fn cases(known: &Known<'_>, past: &Past, out: &mut Vec<Case>) {
    let host = &known.facts.host;
    if let (Some(available), Some(size)) = (host.memory_available, host.memory_size) {
        if size > 0 && (available as f64) < MEMORY * size as f64 {
            out.push(known.case(&rules::MEMORY_LOW).says(
                "memory is low",
                &format!("Only {:.0} % can be had without swapping. 'systemd-cgtop -m' shows who uses it.", 100.0 * available as f64 / size as f64),
            ));
        }
    }
    let waited = |resource: &str| {
        let total = host.pressure.get(resource)?.as_secs_f64();
        let (at, before) = past.waited.get(resource)?.before(known.now, 5 * MINUTE)?;
        let over = known.now.since(at);
        (over >= LEAST).then(|| (total - before) / over.as_secs_f64())
    };
    if let Some(share) = waited("memory").filter(|share| *share > MEMORY_WAIT) {
        out.push(known.case(&rules::MEMORY_PRESSURE).says(
            "tasks wait for memory",
            &format!(
                "In {:.0} % of the time: services are slow, and the kernel may soon kill one.",
                share * 100.0
            ),
        ));
    }
    if let Some(share) = waited("cpu").filter(|share| *share > CPU_WAIT) {
        out.push(known.case(&rules::CPU_PRESSURE).says(
            "tasks wait for processors",
            &format!(
                "In {:.0} % of the time. 'systemd-cgtop -c' shows who uses them.",
                share * 100.0
            ),
        ));
    }
    for check in &known.facts.checks {
        if check.overlay == Some(Overlay::Disabled) {
            continue;
        }
        for disk in &check.disks {
            disks(known, past, check, disk, out);
        }
    }
}

fn disks(known: &Known<'_>, past: &Past, check: &Check, disk: &Disk, out: &mut Vec<Case>) {
    let mount = &disk.mountpoint;
    let make = |rule: &Rule| {
        known
            .case(rule)
            .label("check", check.name.as_str())
            .label("mountpoint", mount)
            .muted(check.overlay.is_some())
    };
    let share = |free: u64, all: u64| (all > 0).then(|| free as f64 / all as f64);
    let free = share(disk.available, disk.size);
    if let Some(free) = free.filter(|free| *free < FREE) {
        out.push(make(&rules::DISK_FULL).says(
            &format!("{mount} is almost full"),
            &format!(
                "Only {:.1} % are free. Databases stop or lose data when it is full.",
                free * 100.0
            ),
        ));
    }
    let room = past.checks.get(check.name.as_str()).map(|p| &p.room);
    let ahead = room.and_then(|r| r.ahead(known.now, DAY, 3 * HOUR));
    if free.is_some_and(|free| free < ROOMY) && ahead.is_some_and(|room| room < 0.0) {
        out.push(make(&rules::DISK_FILLING).says(
            &format!("{mount} fills up"),
            "At the pace of the last six hours it is full within a day.",
        ));
    }
    if let Some(free) = share(disk.inodes_free, disk.inodes).filter(|free| *free < FREE) {
        out.push(make(&rules::INODES_LOW).says(
            &format!("{mount} runs out of inodes"),
            &format!("Only {:.1} % are free. No file can be created without one, whatever room there is.", free * 100.0),
        ));
    }
}
