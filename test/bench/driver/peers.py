"""The filesystems that are compared: each is made on memory (tmpfs), mounted, and removed again."""

import os
import subprocess
import time


class Unavailable(Exception):
    """This peer cannot be had here; the text says why."""


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        reason = (done.stderr or done.stdout).strip().splitlines()
        raise Unavailable(f"{command[0]}: {reason[-1] if reason else f'exit code {done.returncode}'}")
    return done


def wait_until(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def is_mounted(directory):
    """Also when the daemon has gone: os.path.ismount() says no then."""
    with open("/proc/self/mounts") as mounts:
        return any(line.split()[1] == directory for line in mounts)


class Peer:
    clones_by_copy = False  # by copy_file_range: the kernel refuses FICLONE on FUSE

    def __init__(self, work, size_bytes, programs):
        self.work, self.size_bytes, self.programs = os.path.join(work, self.name), size_bytes, programs
        self.directory = os.path.join(self.work, "mnt")
        self.image = os.path.join(self.work, "image")
        self.process = None

    def start(self):
        os.makedirs(self.directory)
        with open(self.image, "wb") as image:
            image.truncate(self.size_bytes)
        self.make()
        self.mount()

    def make(self):
        pass

    def stop(self):
        if is_mounted(self.directory):
            self.unmount()
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait()
        if os.path.exists(self.image):
            os.unlink(self.image)

    def unmount(self):
        for attempt in range(5):
            if subprocess.run(["umount", self.directory], capture_output=True).returncode == 0:
                break
            time.sleep(0.2 * (attempt + 1))
        else:
            subprocess.run(["umount", "-l", self.directory], check=False)
        if self.process is not None:
            try:
                self.process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            self.process = None

    def serve(self, *command):
        """Starts a FUSE daemon that stays in the foreground."""
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                                        text=True, start_new_session=True)  # an interrupt from the terminal is not for it
        if not wait_until(lambda: is_mounted(self.directory) or self.process.poll() is not None):
            self.process.kill()
        if not is_mounted(self.directory):
            raise Unavailable(f"{command[0]}: {self.process.communicate()[1].strip() or 'it did not mount'}")

    def daemon(self):
        """The process id of the peer's daemon; None if the kernel does it all."""
        return self.process.pid if self.process is not None else None

    def argument(self):
        return f"{self.name}{'+copy' if self.clones_by_copy else ''}={self.directory}"


class Daxcow(Peer):
    name = "daxcow"
    clones_by_copy = True

    def make(self):
        run(os.path.join(self.programs, "mkfs.daxcow"), "-q", "--force", self.image)

    def mount(self):
        run(os.path.join(self.programs, "mount.daxcow"), self.image, self.directory)

    def unmount(self):
        daemon = self.daemon()
        super().unmount()
        wait_until(lambda: daemon is None or not os.path.exists(f"/proc/{daemon}"))

    def daemon(self):
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/cmdline", "rb") as file:
                    words = file.read().split(b"\0")
            except OSError:
                continue
            if b"mount.daxcow" in words[0] and self.image.encode() in words:
                return int(pid)
        return None


class DaxcowRings(Daxcow):
    """The same, with requests by io_uring."""

    name = "daxcow-io_uring"

    def mount(self):
        said = run(os.path.join(self.programs, "mount.daxcow"), self.image, self.directory, "-o", "io_uring").stderr.strip()
        if said:
            raise Unavailable(said)


class Floor(Peer):
    """What FUSE costs when the filesystem does nothing."""

    name = "floor"
    options = ()
    clones_by_copy = True

    def mount(self):
        self.serve(os.path.join(self.programs, "daxcow_bench_floor"), *(o.format(image=self.image) for o in self.options), self.directory)
        device = os.stat(self.directory).st_dev
        try:  # daxcow's default
            with open(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb", "w") as setting:
                setting.write("256")
        except OSError:
            pass


class FloorData(Floor):
    """The same, but it keeps data, in an image as large as the pool: what copying costs."""

    name = "floor-data"
    options = ("--data", "{image}")


class FloorAnnounce(Floor):
    """The same, but it tells the kernel of changed directories, as daxcow does."""

    name = "floor-announce"
    options = ("--announce",)


class FloorRings(Floor):
    """The same, with requests by io_uring."""

    name = "floor-io_uring"
    options = ("--io_uring",)


class Loop(Peer):
    make_command = ()
    mount_options = "loop,discard"

    def make(self):
        run(*self.make_command, self.image)

    def mount(self):
        run("mount", "-t", self.name, "-o", self.mount_options, self.image, self.directory)


class Xfs(Loop):
    name = "xfs"
    make_command = ("mkfs.xfs", "-q", "-f", "-m", "reflink=1,rmapbt=1")


class Btrfs(Loop):
    name = "btrfs"
    make_command = ("mkfs.btrfs", "-q", "-f")


class Ext4(Loop):
    name = "ext4"
    make_command = ("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0")


class Fuse2fs(Peer):
    name = "fuse2fs"

    def make(self):
        run("mkfs.ext4", "-q", "-F", "-O", "^has_journal", self.image)

    def mount(self):
        self.serve("fuse2fs", "-f", "-o", "rw,allow_other,default_permissions", self.image, self.directory)


ALL = [Daxcow, Floor, Xfs, Btrfs, Ext4, Fuse2fs, FloorData, FloorAnnounce, DaxcowRings, FloorRings]
DEFAULT = ["floor", "floor-data", "xfs", "btrfs", "ext4", "fuse2fs"]
