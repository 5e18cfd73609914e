//! Is the host at its limits? What the agent itself measures; node_exporter has dashboards of its own.

use keepwatch_expose::names as n;

use crate::dashboard::{Dashboard, Section};
use crate::panel::{FEW_WANTED, Panel, Sort};
use crate::query::{age, all, rate, with};

const HOST: &str = "{{instance}}";
const MOUNT: &str = "{{instance}} {{mountpoint}}";

pub fn board() -> Dashboard {
    let pressure = |resource: &str| {
        rate(&with(
            &n::HOST_PRESSURE_WAITING,
            &format!("resource=\"{resource}\""),
        ))
    };
    let disk = |expr: String| format!("max by (instance, mountpoint) ({expr})");
    // Seconds until it is full at the pace of six hours; a year where it does not fill.
    let full_in = |available: String| {
        format!("clamp_max({available} / clamp_min(-1 * deriv({available}[6h]), 0.001), 31536000)")
    };
    let waits = |title: &str, text: &str, resource: &str, limit: crate::panel::Steps| {
        Panel::new(Sort::Graph, title, text)
            .ask(format!("max by (instance) ({})", pressure(resource)), HOST)
            .unit("percentunit")
            .between(0.0, 1.0)
            .steps(limit)
            .size(8, 8)
    };
    Dashboard {
        uid: "keepwatch-host",
        title: "Keepwatch / Host",
        description: "Is a host at its limits, and will a disk fill?",
        from: "now-24h",
        variables: &[],
        sections: vec![
            Section::open(
                "Now",
                vec![
                    Panel::new(Sort::Gauge, "Memory used", "Share of memory that cannot be had without swapping, of the fullest host.")
                        .ask(format!("max(1 - {} / {})", all(&n::HOST_MEMORY_AVAILABLE), all(&n::HOST_MEMORY_SIZE)), "used").unit("percentunit").decimals(0).between(0.0, 1.0).steps(&[(0.8, "yellow"), (0.9, "red")]),
                    Panel::new(Sort::Gauge, "Fullest disk", "Used share of the fullest file system that is checked.")
                        .ask(format!("max(1 - {} / {})", all(&n::DISK_AVAILABLE), all(&n::DISK_SIZE)), "used").unit("percentunit").decimals(0).between(0.0, 1.0).steps(&[(0.8, "yellow"), (0.95, "red")]).absent("no disk checks"),
                    Panel::new(Sort::Stat, "First disk full in", "Time until the first disk is full at the pace of the last six hours; a year when none fills.")
                        .ask(format!("min({})", full_in(all(&n::DISK_AVAILABLE))), "left").unit("s").decimals(0).steps(&[(f64::NEG_INFINITY, "red"), (86_400.0, "orange"), (604_800.0, "green")]).absent("no disk checks"),
                    Panel::new(Sort::Stat, "Load", "Load average over one minute, of the busiest host.").ask(format!("max({})", all(&n::HOST_LOAD1)), "load").decimals(2).absent("not known"),
                    Panel::new(Sort::Stat, "Waits for memory", "Share of time in which some task waited for memory, of the worst host.").ask(format!("max({})", pressure("memory")), "memory").unit("percentunit").decimals(1).steps(&[(0.05, "yellow"), (0.1, "red")]).absent("no PSI"),
                    Panel::new(Sort::Stat, "Waits for processors", "Share of time in which some task waited for a processor, of the worst host.").ask(format!("max({})", pressure("cpu")), "cpu").unit("percentunit").decimals(1).steps(&[(0.3, "yellow"), (0.5, "orange")]).absent("no PSI"),
                ],
            ),
            Section::open(
                "Memory and processors",
                vec![
                    Panel::new(Sort::Graph, "Memory available", "Memory that can be had without swapping.").ask(format!("max by (instance) ({})", all(&n::HOST_MEMORY_AVAILABLE)), HOST).unit("bytes").from_zero(),
                    Panel::new(Sort::Graph, "Memory available, share", "The same as a share: below 10 % an alert tells of it.").ask(format!("max by (instance) ({} / {})", all(&n::HOST_MEMORY_AVAILABLE), all(&n::HOST_MEMORY_SIZE)), HOST).unit("percentunit").between(0.0, 1.0),
                    waits("Pressure: memory", "Share of time in which some task waited for memory: above 10 % an alert tells of it.", "memory", &[(0.1, "red")]),
                    waits("Pressure: processors", "Share of time in which some task waited for a processor: above 50 % an alert tells of it.", "cpu", &[(0.5, "orange")]),
                    waits("Pressure: disks", "Share of time in which some task waited for a disk or the network file system.", "io", &[]),
                    Panel::new(Sort::Graph, "Load average", "Tasks that run or wait, over one minute.").ask(format!("max by (instance) ({})", all(&n::HOST_LOAD1)), HOST).from_zero().size(24, 7),
                ],
            ),
            Section::open(
                "Disks",
                vec![
                    Panel::new(Sort::Bars, "Used", "Used share of each file system that is checked.").ask(disk(format!("1 - {} / {}", all(&n::DISK_AVAILABLE), all(&n::DISK_SIZE))), MOUNT).unit("percentunit").decimals(0).between(0.0, 1.0).steps(&[(0.8, "yellow"), (0.95, "red")]).absent("no disk checks"),
                    Panel::new(Sort::Bars, "Full in", "Time until each is full at the pace of the last six hours; a year when it does not fill.").ask(format!("min by (instance, mountpoint) ({})", full_in(all(&n::DISK_AVAILABLE))), MOUNT).unit("s").decimals(0).between(0.0, 31_536_000.0).steps(&[(f64::NEG_INFINITY, "red"), (86_400.0, "orange"), (604_800.0, "green")]).absent("no disk checks"),
                    Panel::new(Sort::Bars, "Inodes used", "Used share of inodes, where their number is fixed.").ask(disk(format!("1 - {} / ({} > 0)", all(&n::DISK_INODES_FREE), all(&n::DISK_INODES))), MOUNT).unit("percentunit").decimals(0).between(0.0, 1.0).steps(&[(0.8, "yellow"), (0.95, "red")]).absent("no fixed number"),
                    Panel::new(Sort::Graph, "Available", "Bytes available to unprivileged users.").ask(disk(all(&n::DISK_AVAILABLE)), MOUNT).unit("bytes").from_zero(),
                    Panel::new(Sort::Graph, "Change", "How fast it fills (above zero) or empties, over six hours.").ask(disk(format!("-1 * deriv({}[6h])", all(&n::DISK_AVAILABLE))), MOUNT).unit("Bps"),
                    Panel::new(Sort::Table, "File systems", "Size and room of each.")
                        .column("Size", "bytes", disk(all(&n::DISK_SIZE)))
                        .column("Available", "bytes", disk(all(&n::DISK_AVAILABLE)))
                        .column("Inodes free", "short", disk(all(&n::DISK_INODES_FREE)))
                        .size(24, 7),
                ],
            ),
            Section::open(
                "Hosts",
                vec![
                    Panel::new(Sort::Table, "Hosts by name", "One row for each host.")
                        .column("Score", "percentunit", format!("max by (instance) ({})", all(&n::HEALTH_SCORE))).coloured(&[(f64::NEG_INFINITY, "red"), (0.7, "yellow"), (0.9, "green")])
                        .column("Memory", "bytes", format!("max by (instance) ({})", all(&n::HOST_MEMORY_SIZE)))
                        .column("Load", "short", format!("max by (instance) ({})", all(&n::HOST_LOAD1)))
                        .column("Agent runs for", "s", format!("max by (instance) ({})", age(&all(&n::PROCESS_START_TIME))))
                        .size(12, 7),
                    Panel::new(Sort::Timeline, "Maintenance", "When maintenance windows were open.").ask(format!("max by (instance, window) ({})", all(&n::MAINTENANCE_ACTIVE)), "{{instance}} {{window}}").words(&[(0.0, "closed", "text"), (1.0, "OPEN", "purple")]).steps(FEW_WANTED).size(12, 7).absent("none configured"),
                ],
            ),
        ],
    }
}
