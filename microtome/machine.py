"""What this process may use of the machine: cores by affinity and CPU quota, memory by its control group.

`os.cpu_count()` counts the host's cores, of which a container may have a part. Sources: cgroups(7), the kernel's
cgroup-v1/memory and cgroup-v2.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from ctypes import CDLL
from math import ceil
from pathlib import Path

_ROOT = Path("/")


def cores(root: Path = _ROOT) -> int:
    """Return the number of cores that this process may use, at least 1; parts of a core count as one.

    Args:
        root: of the file system with `proc` and `sys`.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [ceil(quota / period) for quota, period in _quotas(root) if quota > 0 and period > 0]
    return max(1, min([allowed, *quotas]))


def memory(root: Path = _ROOT) -> int:
    """Return the bytes of memory that this process may use: the machine's, or the limit of its control group."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    files = [*_files(root, "", "memory.max"), *_files(root, "memory", "memory.limit_in_bytes")]
    return min([total, *(int(words[0]) for words in files if words[0].isdecimal())])


def return_memory() -> None:
    """Give what this process has freed back to the system; glibc keeps it otherwise. Elsewhere nothing happens."""
    with suppress(AttributeError, OSError):
        CDLL(None).malloc_trim(0)


def _quotas(root: Path) -> Iterator[tuple[int, int]]:
    """Yield microseconds of processor time in so many microseconds, of each control group around this process."""
    for words in _files(root, "", "cpu.max"):
        if len(words) == 2 and words[0].isdecimal():
            yield int(words[0]), int(words[1])
    for quota, period in zip(
        _files(root, "cpu", "cpu.cfs_quota_us"), _files(root, "cpu", "cpu.cfs_period_us"), strict=False
    ):
        yield int(quota[0]), int(period[0])


def _files(root: Path, controller: str, name: str) -> Iterator[list[str]]:
    """Yield the words of a file in the process' control group and in all groups around it, where they have one.

    Args:
        root: of the file system.
        controller: of version 1; empty for version 2.
        name: of the file.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="ascii").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controller not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" / (controllers if controller else "")
        if controller and not mount.is_dir():
            mount = root / "sys/fs/cgroup" / controller
        inside = mount / path.strip("/")
        # A container may see its own group as the root, while the path is that of the host.
        groups = [mount, *(group for group in [inside, *inside.parents] if mount in group.parents)]
        for group in dict.fromkeys(groups):
            try:
                words = (group / name).read_text(encoding="ascii").split()
            except (OSError, UnicodeDecodeError):
                continue
            if words:
                yield words
