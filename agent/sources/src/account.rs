//! Users of this host, as far as `/etc/passwd` knows them.

use crate::scratch::Owner;

/// The user of this name.
pub fn named(name: &str) -> Option<Owner> {
    in_text(&std::fs::read_to_string("/etc/passwd").ok()?, name)
}

/// True when we are root.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn in_text(text: &str, name: &str) -> Option<Owner> {
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        if fields.next()? != name {
            return None;
        }
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        Some(Owner { uid, gid })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_found_by_his_whole_name() {
        let text = "root:x:0:0:root:/root:/bin/sh\npostgres:x:101:104::/var/lib/postgresql:/bin/bash\nbroken:x\n";
        assert_eq!(
            in_text(text, "postgres"),
            Some(Owner { uid: 101, gid: 104 })
        );
        assert_eq!(in_text(text, "post"), None);
        assert_eq!(in_text(text, "broken"), None);
    }
}
