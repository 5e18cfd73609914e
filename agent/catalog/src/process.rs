//! Whether a process of a run still lives, as Linux tells it: boot, process id, start time.

use std::fs;

use keepwatch_model::runs::{Process, RunRecord};

/// This process; `None` if `/proc` does not say.
pub fn current() -> Option<Process> {
    let pid = std::process::id();
    Some(Process {
        boot: boot()?,
        pid,
        started: started(pid)?,
    })
}

/// Whether this process is still the one that it was: the same boot, the same id, the same start.
pub fn lives(process: &Process) -> bool {
    boot().is_none_or(|boot| boot == process.boot) && started(process.pid) == Some(process.started)
}

/// Whether the process of a run still lives; a run without one does not.
pub fn run_lives(run: &RunRecord) -> bool {
    run.process.as_ref().is_some_and(lives)
}

fn boot() -> Option<String> {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(text.trim().to_owned())
}

/// Field 22 of `/proc/<pid>/stat`; a zombie is not alive. The name in field 2 may hold anything, so it is skipped from its end.
fn started(pid: u32) -> Option<u64> {
    let bytes = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let mut fields = text.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X" | "x") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_lives_and_another_with_its_number_does_not() {
        let me = current().expect("/proc");
        assert!(lives(&me));
        assert!(
            !lives(&Process {
                started: me.started + 1,
                ..me.clone()
            }),
            "the number was used again"
        );
        assert!(
            !lives(&Process {
                boot: "another".into(),
                ..me.clone()
            }),
            "before the last boot"
        );
        assert!(
            !lives(&Process {
                pid: 4_194_305,
                ..me
            }),
            "beyond the kernel's limit"
        );
    }

    #[test]
    fn a_child_that_ended_does_not_live() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .expect("sleep");
        let process = Process {
            boot: boot().expect("/proc"),
            pid: child.id(),
            started: started(child.id()).expect("/proc"),
        };
        assert!(lives(&process));
        child.kill().expect("killed");
        // Not waited for yet: it may be a zombie.
        let mut tries = 0;
        while lives(&process) && tries < 1000 {
            tries += 1;
            std::thread::yield_now();
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        assert!(!lives(&process));
        child.wait().expect("waited");
        assert!(!lives(&process));
    }
}
