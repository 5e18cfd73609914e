//! Commands, containers and views of file systems: by stand-ins that keep their state in files and fail on command, and by the real ones
//! where they work.

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use common::*;
use keepwatch_sources::container;
use keepwatch_sources::fault::Reason;
use keepwatch_sources::source::Kind;
use keepwatch_sources::view::View;

#[test]
fn a_command_is_judged_by_its_end() {
    let dir = scratch();
    let mut s = setting(dir.path());
    s.stall = Duration::from_secs(1);
    let sh = |script: &str| {
        format!(
            "command?argv=/bin/sh&argv=-c&argv={}&name=out",
            script.replace('&', "%26")
        )
    };
    let (memory, _) = dumped(&sh("seq 100000"), &s).unwrap();
    assert_eq!(memory.0["out"].len(), 588_895);
    for (script, reason) in [
        ("seq 1000; exit 7", Reason::Failed),
        ("seq 1000; kill -9 $$", Reason::Failed),
        ("true", Reason::NotWhole),
        ("seq 10; sleep 60", Reason::Stalled),
    ] {
        let e = dumped(&sh(script), &s).err().unwrap();
        assert_eq!(e.reason, reason, "{script}: {e}");
    }
    assert_eq!(
        dumped("command?argv=/nonexistent/x", &s)
            .err()
            .unwrap()
            .reason,
        Reason::NoProgram
    );
    assert_eq!(
        dumped("command?argv=relative", &s).err().unwrap().reason,
        Reason::Parameter
    );
    dumped(&format!("{}&may-be-empty=true", sh("true")), &s).unwrap();
}

/// A stand-in for podman: its containers are directories.
fn podman(dir: &Path) {
    let root = dir.join("containers");
    fs::create_dir_all(root.join("app/data/deep")).unwrap();
    fs::write(root.join("app/data/file"), "content").unwrap();
    program(
        &dir.join("bin"),
        "podman",
        &format!(
            "cd {0} || exit 1
             case $1 in
             container) [ -d \"$5\" ] || {{ echo \"Error: no such container $5\" >&2; exit 125; }}; [ -e $5.stopped ] && echo 'false img:1' || echo 'true img:1';;
             cp) if [ \"$2\" = - ]; then name=${{3%%:*}}; exec tar -x -C \"$name/${{3#*:}}\"; fi
                 name=${{2%%:*}}; path=${{2#*:}}
                 [ -e \"$name$path\" ] || {{ echo \"Error: \\\"$path\\\" could not be found in container\" >&2; exit 125; }}
                 [ -e cut ] && {{ tar -c -C \"$name$(dirname $path)\" \"$(basename $path)\" | head -c 700; exit 0; }}
                 exec tar -c -C \"$name$(dirname $path)\" \"$(basename $path)\";;
             exec) shift 2; exec \"$@\";;
             esac",
            root.display()
        ),
    );
}

#[test]
fn containers_give_paths_and_commands() {
    let dir = scratch();
    let s = setting(dir.path());
    podman(dir.path());
    let spec = |more: &str| {
        format!(
            "container?container=app&package={}{more}",
            dir.path().display()
        )
    };
    let (memory, about) = dumped(&spec("&container-path=/data"), &s).unwrap();
    assert_eq!(about.streams[0].name, "app/data.tar");
    assert_eq!(about.server_version.as_deref(), Some("img:1"));
    let (command, _) = dumped(&spec("&argv=echo&argv=hello&name=greeting"), &s).unwrap();
    assert_eq!(command.0["app/greeting"], b"hello\n");

    let Kind::Container(place) = source(&spec("&container-path=/data")).kind else {
        panic!("another kind")
    };
    let file = dir.path().join("containers/app/data/file");
    fs::remove_file(&file).unwrap();
    let e = container::restore(&memory, &about, &place, false, &s).unwrap_err();
    assert_eq!(e.reason, Reason::InTheWay, "{e}");
    container::restore(&memory, &about, &place, true, &s).unwrap();
    assert_eq!(fs::read(&file).unwrap(), b"content");

    let root = dir.path().join("containers");
    for (text, reason) in [
        (spec("&container-path=/gone"), Reason::NotThere),
        (spec("&container-path=data"), Reason::Parameter),
        (spec("&argv=false"), Reason::Failed),
        (spec("&argv=true"), Reason::NotWhole),
        (
            format!(
                "container?container=none&container-path=/data&package={}",
                dir.path().display()
            ),
            Reason::NotThere,
        ),
        (
            format!(
                "container?container=-x&container-path=/data&package={}",
                dir.path().display()
            ),
            Reason::Parameter,
        ),
        (
            "container?container=app&container-path=/data&package=/nonexistent".to_owned(),
            Reason::NoProgram,
        ),
    ] {
        let e = dumped(&text, &s)
            .err()
            .unwrap_or_else(|| panic!("{text} succeeded"));
        assert_eq!(e.reason, reason, "{text}: {e}");
    }
    fs::write(root.join("cut"), "").unwrap();
    assert_eq!(
        dumped(&spec("&container-path=/data"), &s)
            .err()
            .unwrap()
            .reason,
        Reason::NotWhole
    );
    fs::write(root.join("app.stopped"), "").unwrap();
    assert_eq!(
        dumped(&spec("&argv=echo"), &s).err().unwrap().reason,
        Reason::NoConnection
    );
}

#[test]
fn a_real_btrfs_gives_a_view_that_stands_still() {
    let tools = ["mkfs.btrfs", "btrfs", "mount", "umount"]
        .iter()
        .all(|t| find(t, &["/sbin"]).is_some());
    let dir = scratch();
    let image = dir.path().join("image");
    let mounted = dir.path().join("mnt");
    fs::create_dir(&mounted).unwrap();
    let made = is_root() && tools && {
        fs::File::create(&image)
            .unwrap()
            .set_len(256 << 20)
            .unwrap();
        Command::new(find("mkfs.btrfs", &["/sbin"]).unwrap())
            .arg("-q")
            .arg(&image)
            .status()
            .unwrap()
            .success()
            && Command::new("mount")
                .args(["-o", "loop"])
                .arg(&image)
                .arg(&mounted)
                .status()
                .unwrap()
                .success()
    };
    if !made {
        eprintln!("\n!!! SKIPPED: btrfs cannot be mounted here\n");
        return;
    }
    let s = setting(dir.path());
    let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let sub = mounted.join("data");
        ok(Command::new("btrfs")
            .args(["subvolume", "create"])
            .arg(&sub));
        fs::write(sub.join("f"), "before").unwrap();
        let view = View::parse(&format!("btrfs:{}", sub.display())).unwrap();
        let held = view.take(&s).unwrap();
        fs::write(sub.join("f"), "after").unwrap();
        assert_eq!(fs::read(held.root().join("f")).unwrap(), b"before");
        assert_eq!(view.take(&s).err().unwrap().reason, Reason::InTheWay);
        let root = held.root().to_owned();
        held.release().unwrap();
        assert!(!root.exists());
        // What a killed run left is replaced by a fresh one.
        ok(Command::new("btrfs")
            .args(["subvolume", "snapshot", "-r"])
            .arg(&sub)
            .arg(&root));
        fs::write(sub.join("f"), "later").unwrap();
        let held = view.take(&s).unwrap();
        assert_eq!(fs::read(held.root().join("f")).unwrap(), b"later");
        drop(held);
        assert!(!root.exists());
        fs::create_dir(mounted.join("plain")).unwrap();
        let plain = View::parse(&format!("btrfs:{}", mounted.join("plain").display())).unwrap();
        let e = plain.take(&s).err().unwrap();
        assert!(e.text.contains("take a view"), "{e}");
        assert_eq!(fs::read_dir(mounted.join("plain")).unwrap().count(), 0);
    }));
    let _ = Command::new("umount").arg(&mounted).status();
    checked.unwrap();
}
