//! Timeline histories: `TTTTTTTT.history`, a line for each timeline that was left for another, the oldest first.
//!
//! `1<tab>0/5000148<tab>no recovery target specified`: timeline, where it was left, why. Empty lines and those that begin with `#` are comments.

use keepwatch_engine::limits;
use keepwatch_engine::records::Ancestor;

use crate::lsn::Lsn;

/// Reads a history. `Err`: the line that is not understood, from 1.
pub fn parse(text: &[u8]) -> Result<Vec<Ancestor>, usize> {
    let mut out: Vec<Ancestor> = Vec::new();
    for (n, line) in text.split(|b| *b == b'\n').enumerate() {
        let line = String::from_utf8_lossy(line);
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let mut words = line.split_whitespace();
        let timeline = words.next().and_then(|w| w.parse::<u32>().ok());
        let switch = words.next().and_then(|w| w.parse::<Lsn>().ok());
        let (Some(timeline), Some(switch)) = (timeline, switch) else {
            return Err(n + 1);
        };
        let grows = out
            .last()
            .is_none_or(|a| a.timeline < timeline && a.switch <= switch.0);
        if !grows || out.len() >= limits::WAL_ANCESTORS {
            return Err(n + 1);
        }
        out.push(Ancestor {
            timeline,
            switch: switch.0,
        });
    }
    match out.is_empty() {
        true => Err(1),
        false => Ok(out),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histories_of_the_server() {
        let found = parse(b"1\t0/5000148\tno recovery target specified\n\n2\t0/7000000\tbefore 2026-11-22 10:00:00+00\n").unwrap();
        let plain: Vec<_> = found.iter().map(|a| (a.timeline, a.switch)).collect();
        assert_eq!(plain, [(1, 0x500_0148), (2, 0x700_0000)]);
    }

    #[test]
    fn others() {
        assert_eq!(parse(b""), Err(1));
        assert_eq!(parse(b"# nothing\n"), Err(1));
        assert_eq!(parse(b"1\t0/5\tx\nsomething\n"), Err(2));
        assert_eq!(parse(b"2\t0/5\tx\n1\t0/6\ty\n"), Err(2));
        assert_eq!(parse(b"1\t0/7\tx\n2\t0/6\ty\n"), Err(2));
    }
}
