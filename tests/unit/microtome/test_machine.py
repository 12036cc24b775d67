"""What a container may use of its machine, read from control groups of both versions."""

import os
from pathlib import Path

import pytest

from microtome.machine import cores, memory

HERE = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
MB = 1 << 20


def groups(root: Path, membership: str, **files: str) -> Path:
    """Write a file system with control groups; `__` in a name stands for `/`, and a dot for `·`."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(membership)
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name.replace("__", "/").replace("·", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("membership", "files", "expected"),
    [
        ("0::/\n", {"cpu·max": "max 100000\n", "memory·max": "max\n"}, (HERE, None)),
        ("0::/\n", {"cpu·max": "100000 100000\n", "memory·max": "1610612736\n"}, (1, 1536)),
        ("0::/\n", {"cpu·max": "50000 100000\n", "memory·max": "67108864\n"}, (1, 64)),
        ("0::/a/b\n", {"a__cpu·max": "10000 100000\n", "a__b__cpu·max": "max 100000\n"}, (1, None)),
        ("0::/a/b\n", {"a__memory·max": "104857600\n", "a__b__memory·max": "209715200\n"}, (HERE, 100)),
        # In a container without a namespace of its own, the path is that of the host.
        ("0::/kubepods/pod1\n", {"cpu·max": "90000 100000\n", "memory·max": "104857600\n"}, (1, 100)),
        (
            "4:memory:/pod\n3:cpu,cpuacct:/pod\n",
            {
                "memory__pod__memory·limit_in_bytes": "104857600\n",
                "cpu,cpuacct__pod__cpu·cfs_quota_us": "20000\n",
                "cpu,cpuacct__pod__cpu·cfs_period_us": "100000\n",
            },
            (1, 100),
        ),
        (
            "4:memory:/pod\n3:cpu,cpuacct:/pod\n0::/\n",
            {
                "memory__memory·limit_in_bytes": "9223372036854771712\n",
                "cpu__cpu·cfs_quota_us": "-1\n",
                "cpu__cpu·cfs_period_us": "100000\n",
            },
            (HERE, None),
        ),
        ("0::/\n", {"cpu·max": "", "memory·max": "nonsense\n"}, (HERE, None)),
    ],
)
def test_limits_of_control_groups_count(
    tmp_path: Path, membership: str, files: dict[str, str], expected: tuple[int, int | None]
) -> None:
    """The least of affinity, quota and memory of all groups around the process; parts of a core are one."""
    root = groups(tmp_path, membership, **files)
    most, megabytes = expected
    assert most == cores(root)
    assert memory(tmp_path / "none") if megabytes is None else megabytes * MB == memory(root)


def test_without_control_groups_the_machine_is_the_limit(tmp_path: Path) -> None:
    """As on systems that have none."""
    assert HERE == cores(tmp_path)
    assert os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") == memory(tmp_path)
