"""A made-up machine for what the kernel says about memory."""

from __future__ import annotations

from pathlib import Path

from trio_sup.engine._oom import OutOfMemoryWatch

VMSTAT = "nr_free_pages 123\noom_kill {}\nunevictable_pgs_culled 7\n"


class Machine:
    """A made-up /proc, hierarchies of control groups, and a kernel's log."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.proc = folder / "proc"
        self.log = folder / "kmsg"
        (self.proc / "self/ns").mkdir(parents=True)
        (self.proc / "self/ns/pid").touch()
        self.write("proc/vmstat", VMSTAT.format(0))

    def write(self, path: str, text: str) -> None:
        (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / path).write_text(text)

    def groups(self, text: str, *mounts: str) -> None:
        self.write("proc/self/cgroup", text)
        lines = ["22 1 8:1 / / rw - ext4 /dev/root rw", *(mount.replace("HERE", str(self.folder)) for mount in mounts)]
        self.write("proc/self/mountinfo", "\n".join(lines) + "\n")

    def logs(self, *records: str) -> None:
        self.log.write_text("".join(f"{record}\n" for record in records))

    def watch(self, *, other_pids: bool = False) -> OutOfMemoryWatch:
        namespace = (self.proc / "self/ns/pid").stat().st_ino
        return OutOfMemoryWatch(self.proc, self.log, namespace + other_pids)
