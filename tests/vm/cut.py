"""What a power cut leaves of a disk with a volatile cache: from a record of all its writes in order, with the flushes between them
(qemu's `blklogwrites`, whose format is that of the kernel's dm-log-writes: a block for the super block; then for each write a block with
its sector, length, flags and, after it, its data)."""
import struct

FLUSH, FUA, DISCARD, MARK = 1, 2, 4, 8
SECTOR = 512


def entries(path):
    """(offset, data, flags) of each write."""
    found = []
    with open(path, "rb") as f:
        magic, version, count, block = struct.unpack("<QQQI", f.read(28))
        if magic != 0x6A736677736872 or version != 1:
            raise ValueError("this is no record of writes")
        at = block
        while True:
            f.seek(at)
            head = f.read(32)
            if len(head) < 32:
                return found
            sector, sectors, flags, _ = struct.unpack("<QQQQ", head)
            if not sectors and not flags:
                return found
            at += block
            data = b""
            if not flags & DISCARD:
                data = f.read(block - 32) and f.read(sectors * block)
                at += sectors * block
            found.append((sector * block, data, flags))


def left(found, moment, how, lots, note):
    """What is on the disk when the power goes before the write of this number: all that was flushed; of the later writes nothing, all, or by
    lots some, and some in part; on a disk that `lies` nothing was ever flushed. The block `note` tells what had been reported and is always that of the moment."""
    flushed = max((n for n in range(moment) if found[n][2] & FLUSH), default=-1) if how != "lies" else -1
    for n, (offset, data, flags) in enumerate(found[:moment]):
        if not data:
            continue
        if n <= flushed or (flags & FUA and how != "lies") or offset == note or how == "all":
            yield offset, data
        elif how == "some":
            fate = lots.random()
            if fate < 0.4:
                yield offset, data
            elif fate < 0.6:
                # Sector by sector.
                yield offset, data[: lots.randrange(len(data) // SECTOR + 1) * SECTOR]
