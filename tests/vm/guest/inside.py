"""The first program of the machine: runs the story that the kernel's command line names, and reports on standard output, a line for each test."""
import os, re, sys, time, traceback, types

import harness

import cuts, views

STORIES = {"views": views, "cuts": cuts}


def main():
    with open("/proc/cmdline") as f:
        story, _, rest = re.search(r"story=(\S+)", f.read())[1].partition(",")
    module = STORIES[story]
    if hasattr(module, "main"):
        module.main(rest)
        return
    chosen = [n for n in vars(module) if n.startswith("test_") and (not rest or any(part in n for part in rest.split("+")))]
    options = types.SimpleNamespace(long=False, binary="/bin/keepwatch", seed=1, keep=False, killat="/nonexistent")
    for name in chosen:
        began = time.monotonic()
        t = harness.Test("/tmp/" + name, options, name)
        try:
            getattr(module, name)(t)
            word, why = "ok", ""
        except harness.Skip as e:
            word, why = "skip", str(e)
        except BaseException:
            word, why = "FAILED", traceback.format_exc()
        try:
            module.clean(t)
            t.clean()
        except Exception:
            word, why = "FAILED", why + traceback.format_exc()
        print("%s %s (%.1f s) %s" % (word, name, time.monotonic() - began, why.replace("\n", "\n  ")), flush=True)
    print("end", flush=True)


if __name__ == "__main__":
    try:
        main()
    except BaseException:
        traceback.print_exc(file=sys.stdout)
    sys.stdout.flush()
    os.sync()
