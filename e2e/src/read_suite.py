#!/usr/bin/env python3
"""What programs do with a read-only tree, through the kernel's calls and through other people's tools.

read_suite.py FORM SOURCE TREE: TREE shows the same files as the folder SOURCE, in the form `file`, `loop` or `fuse`. Prints what
passed; the first failure ends it.
"""

import ctypes
import errno
import fcntl
import hashlib
import json
import mmap
import multiprocessing
import os
import re
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import traceback

BLOCK = 4096
FORM = sys.argv[1] if len(sys.argv) > 1 else ""


def files_below(folder):
    for at, _, names in sorted(os.walk(folder)):
        for name in sorted(names):
            yield os.path.relpath(os.path.join(at, name), folder)


def content(path):
    with open(path, "rb") as file:
        return file.read()


def forget(path):
    """Makes the kernel forget what it has of a file, so that the next read is cold."""
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


def refused(call, *codes):
    try:
        call()
    except OSError as error:
        return error.errno in codes or f"answered {errno.errorcode.get(error.errno)}"
    return "went through"


def writes_are_refused(source, tree):
    file, folder = os.path.join(tree, "big.bin"), os.path.join(tree, "train")
    new = os.path.join(tree, "new")
    libc = ctypes.CDLL(None, use_errno=True)

    def truncate():
        if libc.truncate(file.encode(), ctypes.c_long(1)) != 0:
            raise OSError(ctypes.get_errno(), "truncate")

    calls = {
        "open for writing": lambda: os.open(file, os.O_WRONLY),
        "open for both": lambda: os.open(file, os.O_RDWR),
        "open to append": lambda: os.open(file, os.O_WRONLY | os.O_APPEND),
        "open to truncate": lambda: os.open(file, os.O_WRONLY | os.O_TRUNC),
        "create": lambda: os.open(new, os.O_CREAT | os.O_WRONLY),
        "create a nameless file": lambda: os.open(tree, os.O_TMPFILE | os.O_WRONLY),
        "truncate": truncate,
        "mkdir": lambda: os.mkdir(new),
        "rmdir": lambda: os.rmdir(folder),
        "unlink": lambda: os.unlink(file),
        "rename": lambda: os.rename(file, new),
        "rename into it": lambda: os.rename(folder, os.path.join(tree, "other")),
        "link": lambda: os.link(file, new),
        "symlink": lambda: os.symlink("big.bin", new),
        "mknod": lambda: os.mknod(new),
        "mkfifo": lambda: os.mkfifo(new),
        "bind a socket": lambda: socket.socket(socket.AF_UNIX).bind(new),
        "chmod": lambda: os.chmod(file, 0o777),
        "chown": lambda: os.chown(file, 1, 1),
        "utime": lambda: os.utime(file, (1, 1)),
        "setxattr": lambda: os.setxattr(file, "user.a", b"b"),
        "removexattr": lambda: os.removexattr(file, "user.a"),
    }
    for name, call in calls.items():
        outcome = refused(call, errno.EROFS)
        assert outcome is True, f"{name} {outcome}"
    fd = os.open(file, os.O_RDONLY)
    shared = refused(lambda: mmap.mmap(fd, BLOCK, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE), errno.EACCES)
    assert shared is True, f"a shared writable mapping {shared}"
    assert refused(lambda: os.write(fd, b"x"), errno.EBADF) is True
    os.close(fd)


def every_way_of_reading(source, tree):
    path = os.path.join(tree, "big.bin")
    whole = content(os.path.join(source, "big.bin"))
    fd = os.open(path, os.O_RDONLY)
    forget(path)
    assert os.pread(fd, 100_000, 12_345) == whole[12_345:112_345], "pread"
    parts = [bytearray(1000), bytearray(5000)]
    assert os.preadv(fd, parts, 777) == 6000 and b"".join(parts) == whole[777:6777], "preadv"
    assert os.pread(fd, 100, len(whole)) == b"" and os.pread(fd, 100, len(whole) - 5) == whole[-5:], "the end"
    assert os.lseek(fd, 0, os.SEEK_END) == len(whole), "seek"
    assert os.lseek(fd, 0, os.SEEK_DATA) == 0 and os.lseek(fd, 0, os.SEEK_HOLE) == len(whole), "holes"
    forget(path)
    with mmap.mmap(fd, 0, mmap.MAP_SHARED, mmap.PROT_READ) as mapped:
        assert mapped[1 << 20 : (1 << 20) + 9000] == whole[1 << 20 : (1 << 20) + 9000], "shared mapping"
        mapped.madvise(mmap.MADV_WILLNEED)
        assert hashlib.sha256(mapped).digest() == hashlib.sha256(whole).digest(), "a whole mapping"
    with mmap.mmap(fd, 0, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE) as mapped:
        mapped[0:4] = b"mine"
        assert mapped[0:4] == b"mine" and os.pread(fd, 4, 0) == whole[:4], "private mapping"
    forget(path)
    with tempfile.TemporaryFile() as out:
        assert os.sendfile(out.fileno(), fd, 100, 50_000) == 50_000
        out.seek(0)
        assert out.read() == whole[100:50_100], "sendfile"
    reader, writer = os.pipe()
    moved = os.splice(fd, writer, 30_000, offset_src=4321)
    assert 0 < moved <= 30_000 and os.read(reader, moved) == whole[4321 : 4321 + moved], "splice"
    with tempfile.TemporaryFile() as out:
        left, at = 200_000, 0
        while left:
            try:
                copied = os.copy_file_range(fd, out.fileno(), left, at, at)
            except OSError as error:
                # Between file systems of different kinds the kernel refuses since 5.19.
                assert error.errno == errno.EXDEV, error
                break
            assert copied > 0
            left, at = left - copied, at + copied
        else:
            out.seek(0)
            assert out.read() == whole[:200_000], "copy_file_range"
    fcntl.flock(fd, fcntl.LOCK_SH)
    fcntl.flock(fd, fcntl.LOCK_EX)
    fcntl.lockf(fd, fcntl.LOCK_SH, 10, 0)
    os.close(fd)


def direct_reads(source, tree):
    path = os.path.join(tree, "big.bin")
    whole = content(os.path.join(source, "big.bin"))
    if FORM == "file":
        # The kernel has none on EROFS from files, and says so at once.
        assert refused(lambda: os.open(path, os.O_RDONLY | os.O_DIRECT), errno.EINVAL) is True
        return
    forget(path)
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    aligned = mmap.mmap(-1, 16 * BLOCK)
    assert os.preadv(fd, [aligned], 8 * BLOCK) == 16 * BLOCK, "O_DIRECT"
    assert aligned[:] == whole[8 * BLOCK : 24 * BLOCK], "bytes of O_DIRECT"
    os.close(fd)


def attributes(source, tree):
    for name in files_below(source):
        there, here = os.stat(os.path.join(source, name)), os.stat(os.path.join(tree, name))
        assert here.st_size == there.st_size, f"{name} has {here.st_size} bytes"
        assert here.st_mode & 0o222 == 0 or os.access(tree, os.W_OK) is False, name
        assert os.listxattr(os.path.join(tree, name)) == [] and here.st_nlink >= 1, name
    assert os.statvfs(tree).f_flag & os.ST_RDONLY, "statvfs says that it can be written"
    assert not os.access(tree, os.W_OK), "access says that it can be written"
    libc = ctypes.CDLL(None, use_errno=True)
    watch = libc.inotify_init()
    assert libc.inotify_add_watch(watch, tree.encode(), 0xFFF) >= 0, "inotify"
    os.close(watch)
    assert refused(lambda: os.stat(os.path.join(tree, "nothing")), errno.ENOENT) is True
    assert refused(lambda: os.listdir(os.path.join(tree, "big.bin")), errno.ENOTDIR) is True
    assert refused(lambda: content(os.path.join(tree, "train")), errno.EISDIR) is True


def owners_of_a_user_namespace(source, tree):
    """As a runtime mounts a volume for a pod with a user namespace: a copy of the mount with owners of that namespace."""
    if os.geteuid() != 0:
        return
    expected = content(os.path.join(source, "big.bin"))
    command = ["unshare", "--user", "sh", "-c", "echo; read line"]
    sleeper = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    sleeper.stdout.readline()
    for name in ["uid_map", "gid_map"]:
        with open(f"/proc/{sleeper.pid}/{name}", "w") as file:
            file.write("0 100000 65536")
    namespace = os.open(f"/proc/{sleeper.pid}/ns/user", os.O_RDONLY)
    child = os.fork()
    if child == 0:
        try:
            show_with_owners_of(namespace, tree, expected)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    os.close(namespace)
    sleeper.communicate()
    assert status == 0, "see above"


def show_with_owners_of(namespace, tree, expected):
    set_mounts, open_tree, mount_setattr = 0x20000, 428, 442
    clone, empty_path, idmap = 1, 0x1000, 0x00100000
    libc = ctypes.CDLL(None, use_errno=True)

    def call(*arguments):
        result = libc.syscall(*arguments)
        assert result >= 0, f"{arguments}: {os.strerror(ctypes.get_errno())}"
        return result

    of_a_pod = re.fullmatch(r"(/proc/\d+)/root(/.*)", tree)
    if of_a_pod:
        # A mount is copied in its own mount namespace only.
        mounts = os.open(f"{of_a_pod[1]}/ns/mnt", os.O_RDONLY)
        assert libc.setns(mounts, set_mounts) == 0, os.strerror(ctypes.get_errno())
        tree = of_a_pod[2]
    copy = call(open_tree, -100, tree.encode(), clone)
    attributes = struct.pack("=QQQQ", idmap, 0, 0, namespace)
    call(mount_setattr, copy, b"", empty_path, attributes, len(attributes))
    with open(os.open("big.bin", os.O_RDONLY, dir_fd=copy), "rb") as file:
        status = os.fstat(file.fileno())
        assert (status.st_uid, status.st_gid) == (100000, 100000), status
        assert file.read() == expected


def sum_of(path):
    forget(path)
    return hashlib.sha256(content(path)).hexdigest()


def workers(source, tree):
    """As a DataLoader does it: processes and threads that read whole files in an order of their own."""
    names = list(files_below(source))
    expected = [hashlib.sha256(content(os.path.join(source, name))).hexdigest() for name in names]
    paths = [os.path.join(tree, name) for name in names]
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        assert pool.map(sum_of, paths, chunksize=3) == expected, "processes"
    found = [None] * len(paths)

    def read(first):
        for at in range(first, len(paths), 4):
            found[at] = sum_of(paths[at])

    threads = [threading.Thread(target=read, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == expected, "threads"


def pytorch(source, tree):
    """A DataLoader with workers, by the Python for which Debian has PyTorch."""
    loader = os.path.join(os.path.dirname(os.path.abspath(__file__)), "data_loader.py")
    read = dict(reversed(line.split(" ", 1)) for line in tool("/usr/bin/python3", loader, tree).splitlines())
    expected = {name: hashlib.sha256(content(os.path.join(source, name))).hexdigest() for name in files_below(source)}
    assert read == expected, f"{len(read)} of {len(expected)} files, or other bytes"


def safetensors(source, tree):
    """A file of tensors, mapped into memory: an 8 byte length, a JSON header, the numbers behind it."""
    path = os.path.join(tree, "model.safetensors")
    forget(path)
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, mmap.MAP_SHARED, mmap.PROT_READ) as mapped:
        (length,) = struct.unpack_from("<Q", mapped)
        header = json.loads(mapped[8 : 8 + length])
        for number, tensor in enumerate(header.values()):
            begin, end = (8 + length + offset for offset in tensor["data_offsets"])
            values = struct.unpack_from(f"<{(end - begin) // 4}f", mapped, begin)
            assert values == tuple(float(number * 1000 + at) for at in range(len(values))), f"tensor {number}"


def tool(*command, **options):
    done = subprocess.run(command, capture_output=True, text=True, errors="surrogateescape", **options)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


def tools(source, tree):
    def listing(folder):
        return sorted(tool("find", folder, "-type", "f", "-printf", "%P %s\n").splitlines())

    assert listing(tree) == listing(source), "find"

    def archive(folder):
        plain = ["--sort=name", "--owner=0", "--group=0", "--mode=0", "--mtime=@0", "--format=gnu"]
        made = subprocess.run(["tar", "-c", *plain, "-C", folder, "."], capture_output=True, check=True)
        return hashlib.sha256(made.stdout).hexdigest()

    assert archive(tree) == archive(source), "tar"
    differences = tool("rsync", "--recursive", "--checksum", "--dry-run", "--delete", "--out-format=%n", f"{tree}/", f"{source}/")
    # Empty folders, which a bucket does not have.
    changed = [line for line in differences.splitlines() if not line.endswith("/")]
    assert changed == [], f"rsync finds {changed[:3]}"
    with tempfile.TemporaryDirectory() as copy:
        tool("cp", "-r", f"{tree}/train", copy)
        tool("diff", "-r", f"{source}/train", f"{copy}/train")


def main():
    source, tree = sys.argv[2:]
    for check in [writes_are_refused, every_way_of_reading, direct_reads, attributes, owners_of_a_user_namespace, workers, pytorch, safetensors, tools]:
        check(source, tree)
        print(f"ok {check.__name__}", flush=True)


if __name__ == "__main__":
    main()
