"""Files read from a snapshot of their file system: LVM and ZFS by stand-ins that keep volumes as directories, and the real ones where this kernel has them.
`tests/vm` has the real LVM and btrfs in a machine of its own, and asks more of them."""
import os, sqlite3, subprocess, time

from harness import Skip, need, need_root, need_tools
from topics.jobs import wait_for

# What every stand-in does first: it writes down what it was asked, and fails when it is told to.
HEAD = """#!/bin/sh
me=$(basename "$0")
echo "$me $*" >>AT/log
[ -e "AT/fail-$me" ] && { echo "  Volume group has insufficient free space" >&2; exit 5; }
"""
TOOLS = {
    "lvcreate": """
for a; do [ "$before" = --name ] && name=$a; before=$a; origin=$a; done
new=AT/dev/${origin%/*}/$name
[ -e "$new" ] && { echo "  Logical Volume \\"$name\\" already exists" >&2; exit 5; }
cp -a "AT/dev/$origin" "$new" && echo from-view >"$new/file"
""",
    "lvremove": """
for a; do last=$a; done
[ -e "AT/dev/$last" ] || { echo "  Failed to find logical volume" >&2; exit 5; }
grep -q " AT/scratch/${last#*/} " /proc/self/mounts && { echo "  Logical volume is used by another device" >&2; exit 5; }
rm -r "AT/dev/$last"
""",
    "lvs": """
case $* in *lv_attr*) echo "  sri-aos---";; *) [ -e "AT/dev/$6" ] || { echo "  Failed to find logical volume" >&2; exit 5; }; stat -c "  %Hd:%Ld" AT/data;; esac
""",
    # As XFS does, it knows one of the sets of options; a read-only bind mount stands for that of the volume.
    "mount": """
case $2 in *noload*|ro) echo "mount: wrong fs type, bad option" >&2; exit 32;; esac
[ -d "AT$3" ] || { echo "mount: $3 is no block device" >&2; exit 32; }
exec /bin/mount --bind "AT$3" "$4"
""",
    "umount": 'exec /bin/umount "$@"\n',
    "zfs": """
snap=AT/data/.zfs/snapshot/${2#*@}
case $2 in tank/data@keepwatch-view-*) ;; *) echo "that is no snapshot of ours: $2" >&2; exit 99;; esac
case $1 in
snapshot) [ -e "$snap" ] && { echo "cannot create snapshot: dataset already exists" >&2; exit 1; }
    mkdir -p "$snap" && cp -a AT/data/file "$snap/" && echo from-view >"$snap/file";;
destroy) [ -e "$snap" ] || { echo "could not find any snapshots to destroy" >&2; exit 1; }; rm -r "$snap";;
esac
""",
}


def namespaces():
    need_root()
    need_tools("unshare")
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode:
        raise Skip("needs mount namespaces")


def stand_ins(t):
    """The tools, and an environment in which they are found."""
    for name, script in TOOLS.items():
        t.write("bin/" + name, (HEAD + script).replace("AT", t.dir), 0o755)
    os.makedirs(t.path("scratch"))
    # A file system of its own, as that of a volume is.
    os.makedirs(t.path("data"))
    t.sh("mount", "-t", "tmpfs", "none", t.path("data"))
    return dict(t.env, PATH=t.path("bin") + ":" + t.env["PATH"], TMPDIR=t.path("scratch"))


def story(t, view, tool, volumes, env):
    """Taken, read and removed: also when the backup fails, when it cannot be taken, and when a run was killed before."""
    repo, data = t.repository(), t.path("data")
    args = ["backup", "--repo", repo, "--view", view, data]
    t.kw(*args, env=env)
    need(t.kw("dump", "--repo", repo, "latest", data + "/file").out == b"from-view\n", "the view was not read")
    need(volumes() == [], "it is left: %s" % volumes())
    with open(data + "/file") as f:
        need(f.read() == "before", "the view was seen by others")
    run = t.kw("backup", "--repo", t.path("nowhere"), "--view", view, data, env=env, rc=1)
    need(volumes() == [], run)
    t.write("fail-" + tool)
    run = t.kw(*args, env=env, rc=1)
    need("insufficient free space" in run.said and "take a view of" in run.said and "no snapshot was made" in run.said and volumes() == [], run)
    os.unlink(t.path("fail-" + tool))
    # One that was killed leaves it; the next replaces it.
    with open(t.path("log")) as f:
        calls = f.read().splitlines()
    process = t.start("backup", "--repo", repo, "--view", view, "--stdin-name", "x", env=env, stdin=subprocess.PIPE)
    wait_for("the view", volumes, process)
    time.sleep(0.3)
    process.kill()
    left = volumes()
    process.communicate()
    need(left, "nothing was left, so nothing is tested")
    t.kw(*args, env=env)
    need(volumes() == [], (left, volumes()))
    need(len(t.ids(repo)) == 2, "snapshots")
    return calls


def test_lvm_by_stand_ins(t):
    namespaces()
    env = stand_ins(t)
    t.write("data/file", "before")
    t.write("dev/vg/data/file", "before")
    volumes = lambda: [n for n in os.listdir(t.path("dev/vg")) if n != "data"]
    calls = story(t, "lvm:vg/data:%s:100M" % t.path("data"), "lvcreate", volumes, env)
    [name] = {c.split("--name ")[1].split()[0] for c in calls if c.startswith("lvcreate")}
    need("lvcreate --snapshot --permission r --setactivationskip n --name %s --size 100M vg/data" % name in calls, calls)
    need(any(c.startswith("mount -o ro,norecovery,nouuid /dev/vg/%s " % name) for c in calls), calls)
    need("lvremove --yes --force vg/" + name in calls, calls)
    need(not [c for c in calls if c.startswith("lvremove") and not c.endswith("vg/" + name)], "another volume was removed")
    # A thin volume needs no size.
    t.write("log")
    t.kw("backup", "--repo", t.path("repo"), "--view", "lvm:vg/data:" + t.path("data"), t.path("data"), env=env)
    with open(t.path("log")) as f:
        need("--size" not in f.read(), "a size was said")


def test_databases_beside_a_view(t):
    """What lies in the view is no running database; what lies elsewhere is in the same snapshot."""
    namespaces()
    env = stand_ins(t)
    repo, data = t.repository(), t.path("data")
    t.write("data/file", "before")
    t.write("dev/vg/data/file", "before")
    for path in (t.path("app.db"), data + "/app.db"):
        sqlite3.connect(path).executescript("CREATE TABLE t (a); INSERT INTO t VALUES (1)")
    view = "lvm:vg/data:" + data
    run = t.kw("backup", "--repo", repo, "--view", view, "--source", "sqlite?database=%s/app.db" % data, data, env=env, rc=2)
    need("in which nothing runs" in run.said and os.listdir(t.path("dev/vg")) == ["data"] and t.ids(repo) == [], run)
    t.kw("backup", "--repo", repo, "--view", view, "--source", "sqlite?database=" + t.path("app.db"), data, env=env)
    need(t.kw("dump", "--repo", repo, "latest", data + "/file").out == b"from-view\n" and os.listdir(t.path("dev/vg")) == ["data"], "the view was not read")
    t.kw("restore", "--repo", repo, "--source", "sqlite", "--target", t.path("back.db"))
    need(sqlite3.connect(t.path("back.db")).execute("SELECT a FROM t").fetchall() == [(1,)], "another database")


def test_zfs_by_stand_ins(t):
    namespaces()
    env = stand_ins(t)
    t.write("data/file", "before")
    top = t.path("data/.zfs/snapshot")
    os.makedirs(top)
    calls = story(t, "zfs:tank/data:" + t.path("data"), "zfs", lambda: os.listdir(top), env)
    need(any(c.startswith("zfs snapshot tank/data@keepwatch-view-") for c in calls) and calls[-1].startswith("zfs destroy tank/data@keepwatch-view-"), calls)


def real_story(t, view, data, volumes):
    """With the real thing: what is written meanwhile is not in the snapshot."""
    repo = t.repository()
    with open(data + "/file", "w") as f:
        f.write("before")
    # The program that is backed up writes to the file, which the view must not show.
    t.kw("backup", "--repo", repo, "--view", view, data, env=dict(t.env, TMPDIR=t.dir))
    need(t.kw("dump", "--repo", repo, "latest", data + "/file").out == b"before", "another content")
    need(volumes() == [], "it is left: %s" % volumes())
    t.kw("backup", "--repo", t.path("nowhere"), "--view", view, data, env=dict(t.env, TMPDIR=t.dir), rc=1)
    need(volumes() == [], "it is left after a failure: %s" % volumes())


def test_lvm(t):
    namespaces()
    need_tools("pvcreate", "vgcreate", "lvcreate", "lvs", "losetup", "mkfs.ext4", "dmsetup")
    if subprocess.run(["dmsetup", "version"], capture_output=True).returncode:
        raise Skip("this kernel has no device mapper: LVM is tested with stand-ins only")
    image, data, group = t.path("image"), t.path("data"), "kwtest%d" % os.getpid()
    with open(image, "wb") as f:
        f.truncate(256 << 20)
    os.mkdir(data)
    loop = t.sh("losetup", "--find", "--show", image).text.strip()
    try:
        t.sh("pvcreate", "-q", loop)
        t.sh("vgcreate", "-q", group, loop)
        t.sh("lvcreate", "-q", "--yes", "--size", "100M", "--name", "data", group)
        t.sh("mkfs.ext4", "-q", "/dev/%s/data" % group)
        t.sh("mount", "/dev/%s/data" % group, data)
        volumes = lambda: [v for v in t.sh("lvs", "--noheadings", "-o", "lv_name", group).text.split() if v != "data"]
        real_story(t, "lvm:%s/data:%s:50M" % (group, data), data, volumes)
    finally:
        for argv in (["umount", data], ["vgremove", "--yes", "--force", group], ["pvremove", "--yes", loop], ["losetup", "-d", loop]):
            subprocess.run(argv, capture_output=True)


def test_zfs(t):
    namespaces()
    need_tools("zpool", "zfs")
    pool, image, data = "kwtest%d" % os.getpid(), t.path("image"), t.path("data")
    with open(image, "wb") as f:
        f.truncate(256 << 20)
    if subprocess.run(["zpool", "create", "-m", data, pool, image], capture_output=True).returncode:
        raise Skip("this kernel has no ZFS: it is tested with stand-ins only")
    try:
        real_story(t, "zfs:%s:%s" % (pool, data), data, lambda: t.sh("zfs", "list", "-H", "-t", "snapshot", "-o", "name", "-r", pool).text.split())
    finally:
        subprocess.run(["zpool", "destroy", "-f", pool], capture_output=True)
