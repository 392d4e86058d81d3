import pytest

from cxrflow.base import host_facts

GB = 2**30


def write_meminfo(root) -> None:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/meminfo").write_text("MemTotal: 16777216 kB\nMemFree: 1 kB\nMemAvailable: 8388608 kB\n")


def test_memory_of_a_machine(tmp_path):
    write_meminfo(tmp_path)
    assert host_facts.memory(tmp_path) == {"total": 16 * GB, "available": 8 * GB}


@pytest.mark.parametrize(
    ("cgroups", "folder", "limit", "usage", "cache"),
    [
        ("0::/pod/task\n", "pod", "memory.max", "memory.current", "inactive_file"),
        (
            "3:cpu:/\n4:memory:/pod/task\n",
            "memory/pod",
            "memory.limit_in_bytes",
            "memory.usage_in_bytes",
            "total_inactive_file",
        ),
    ],
    ids=["version 2", "version 1"],
)
def test_memory_of_a_container(tmp_path, cgroups, folder, limit, usage, cache):
    write_meminfo(tmp_path)
    (tmp_path / "proc/self/cgroup").write_text(cgroups)
    group = tmp_path / "sys/fs/cgroup" / folder
    group.mkdir(parents=True)
    (group / limit).write_text(f"{4 * GB}\n")
    (group / usage).write_text(f"{3 * GB}\n")
    (group / "memory.stat").write_text(f"anon 1\n{cache} {GB}\n")
    assert host_facts.memory(tmp_path) == {"total": 4 * GB, "available": 2 * GB}
