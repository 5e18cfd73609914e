//! A child process in a process group of its own, with a deadline, and with what it prints taken in up to a bound.
//!
//! The child is looked at from time to time; nothing here blocks on it. At its deadline, or when the supervisor is asked to stop, the whole
//! group gets SIGTERM, and SIGKILL after [`TERM_WAIT`]. The group is killed before the child is waited for, so that its number
//! cannot have been given to another process.

use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{OFlags, fcntl_setfl};
use rustix::process::{Pid, Signal, kill_process_group};

use super::stop::Stop;
use crate::commands::program::has_ended;

/// From SIGTERM to SIGKILL. A backup ends within a second or two of SIGTERM; systemd itself waits 90 s.
pub const TERM_WAIT: Duration = Duration::from_secs(20);
/// The first look after this, and each next one after twice as long.
const FIRST_NAP: Duration = Duration::from_millis(2);
/// But no later.
const LONGEST_NAP: Duration = Duration::from_millis(100);
/// Read at once: what a pipe holds.
const PIECE: usize = 64 << 10;

/// How a child is to be treated.
pub struct Terms<'a> {
    /// It may run so long.
    pub deadline: Duration,
    /// From SIGTERM to SIGKILL.
    pub term_wait: Duration,
    /// Whose request ends it; nobody's, for what must be done also after a stop.
    pub stop: Option<&'a Stop>,
    /// So many bytes of its standard output are kept; 0: its output goes where the command says.
    pub capture: usize,
    /// What is left of its group is killed when it ended.
    pub sweep: bool,
}

/// Why it was ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cut {
    /// Its time was over.
    Timeout,
    /// Somebody asked.
    Stop,
}

/// A child that ended.
#[derive(Debug)]
pub struct Finished {
    /// How.
    pub status: ExitStatus,
    /// Whether we ended it.
    pub cut: Option<Cut>,
    /// What it printed; nothing when it was more than the bound.
    pub output: Vec<u8>,
    /// How long it took.
    pub took: Duration,
}

/// Runs it to its end.
pub fn run(command: &mut Command, terms: &Terms<'_>) -> io::Result<Finished> {
    if terms.capture > 0 {
        command.stdout(Stdio::piped());
    }
    let begun = Instant::now();
    let mut child = command.stdin(Stdio::null()).process_group(0).spawn()?;
    let group = Pid::from_child(&child);
    let mut output = Output::new(&mut child, terms.capture);
    let mut cut = None;
    let mut cut_at = begun;
    let mut nap = FIRST_NAP;
    while !has_ended(group) {
        let is_over = begun.elapsed() >= terms.deadline;
        let is_asked = terms.stop.is_some_and(Stop::asked);
        match cut {
            None if is_over || is_asked => {
                cut = Some(if is_over { Cut::Timeout } else { Cut::Stop });
                cut_at = Instant::now();
                let _ = kill_process_group(group, Signal::TERM);
            }
            // Again each time: a process may have been forked meanwhile.
            Some(_)
                if cut_at.elapsed() >= terms.term_wait
                    || terms.stop.is_some_and(Stop::insisted) =>
            {
                let _ = kill_process_group(group, Signal::KILL);
            }
            _ => {}
        }
        if output.take() {
            nap = FIRST_NAP;
        }
        std::thread::sleep(nap);
        nap = (nap * 2).min(LONGEST_NAP);
    }
    output.take();
    if terms.sweep || cut.is_some() {
        let _ = kill_process_group(group, Signal::KILL);
    }
    Ok(Finished {
        status: child.wait()?,
        cut,
        output: output.kept,
        took: begun.elapsed(),
    })
}

/// What a child prints, read without waiting.
struct Output {
    pipe: Option<std::process::ChildStdout>,
    kept: Vec<u8>,
    most: usize,
    is_whole: bool,
}

impl Output {
    fn new(child: &mut Child, most: usize) -> Self {
        let pipe = child.stdout.take();
        let pipe = pipe.filter(|p| fcntl_setfl(p, OFlags::NONBLOCK).is_ok());
        Output {
            pipe,
            kept: Vec::new(),
            most,
            is_whole: true,
        }
    }

    /// Reads what is there. Says whether there was anything.
    fn take(&mut self) -> bool {
        let mut any = false;
        let mut piece = [0; PIECE];
        while let Some(pipe) = &mut self.pipe {
            match pipe.read(&mut piece) {
                Ok(0) => self.pipe = None,
                Ok(n) => {
                    any = true;
                    self.is_whole &= self.kept.len() + n <= self.most;
                    match self.is_whole {
                        true => self.kept.extend_from_slice(&piece[..n]),
                        // Half a document is none; the rest is read so that the child does not wait.
                        false => self.kept = Vec::new(),
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => self.pipe = None,
            }
        }
        any
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    fn sh(script: &str, deadline: u64, term_wait: u64, stop: Option<&Stop>) -> Finished {
        let terms = Terms {
            deadline: Duration::from_millis(deadline),
            term_wait: Duration::from_millis(term_wait),
            stop,
            capture: 1000,
            sweep: true,
        };
        run(Command::new("sh").args(["-c", script]), &terms).expect("a shell")
    }

    fn lives(pid: &str) -> bool {
        // A zombie that nobody waited for is dead.
        std::fs::read_to_string(format!("/proc/{}/stat", pid.trim()))
            .is_ok_and(|s| !s.contains(") Z"))
    }

    fn dies(pid: &str) -> bool {
        (0..200).any(|_| {
            std::thread::sleep(Duration::from_millis(10));
            !lives(pid)
        })
    }

    #[test]
    fn output_and_status_come_back() {
        let f = sh("echo abc; exit 3", 60_000, 1000, None);
        assert_eq!(
            (f.status.code(), f.cut, &f.output[..]),
            (Some(3), None, &b"abc\n"[..])
        );
        let f = sh("kill -9 $$", 60_000, 1000, None);
        assert_eq!((f.status.signal(), f.cut), (Some(9), None));
        assert!(
            run(
                &mut Command::new("/nonexistent"),
                &Terms {
                    deadline: Duration::from_secs(1),
                    term_wait: Duration::ZERO,
                    stop: None,
                    capture: 1,
                    sweep: true
                }
            )
            .is_err()
        );
    }

    #[test]
    fn too_much_output_is_dropped_whole_and_the_child_ends() {
        let f = sh("head -c 500000 /dev/zero", 60_000, 1000, None);
        assert_eq!((f.status.code(), f.output.len()), (Some(0), 0));
    }

    #[test]
    fn a_deadline_ends_the_whole_group_also_what_ignores_sigterm() {
        // A grandchild that ignores SIGTERM, and a leader that does.
        let f = sh(
            "trap '' TERM; sleep 600 & echo $!; wait; sleep 600",
            200,
            200,
            None,
        );
        assert_eq!(f.cut, Some(Cut::Timeout));
        assert_eq!(f.status.signal(), Some(9));
        assert!(f.took < Duration::from_secs(10), "{:?}", f.took);
        let pid = String::from_utf8(f.output).expect("a number");
        assert!(dies(&pid), "{pid}");
        // A leader that obeys, and a grandchild that does not.
        let f = sh(
            "sh -c 'trap \"\" TERM; sleep 600' & echo $!; sleep 600",
            200,
            60_000,
            None,
        );
        assert_eq!(f.cut, Some(Cut::Timeout));
        let pid = String::from_utf8(f.output).expect("a number");
        assert!(dies(&pid), "{pid}");
    }

    #[test]
    fn what_a_child_leaves_behind_is_swept_and_its_pipe_not_waited_for() {
        let f = sh("sleep 600 & echo $!", 60_000, 1000, None);
        assert_eq!((f.status.code(), f.cut), (Some(0), None));
        assert!(f.took < Duration::from_secs(10), "{:?}", f.took);
        let pid = String::from_utf8(f.output).expect("a number");
        assert!(dies(&pid), "{pid}");
    }

    #[test]
    fn a_request_ends_it_and_a_second_one_at_once() {
        let stop = Stop::default();
        stop.ask();
        let f = sh(
            "trap 'echo bye; exit 1' TERM; while :; do sleep 0.05; done",
            60_000,
            60_000,
            Some(&stop),
        );
        // A shell that had not set its trap yet dies of the signal.
        assert!(f.status.code() == Some(1) || f.status.signal() == Some(15));
        assert_eq!(f.cut, Some(Cut::Stop));
        stop.ask();
        let f = sh(
            "trap '' TERM; while :; do sleep 0.05; done",
            60_000,
            60_000,
            Some(&stop),
        );
        assert!(matches!(f.status.signal(), Some(9) | Some(15)));
    }
}
