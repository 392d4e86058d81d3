"""What killed jobs left in a folder is removed by the next one, and nothing else is."""

import os
import subprocess
import sys

import pytest

from cxrflow.base import lease, staging_folder, storage

KILLED_BEFORE_THE_RENAME = """
import os, signal, sys
from cxrflow.base import storage
os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
storage.write_bytes(sys.argv[1], b"new")
"""


@pytest.mark.parametrize("url", ["{}", "memory://{}"])
def test_a_staging_folder_ends_with_its_block_and_an_empty_folder_with_it(tmp_path, url):
    folder = url.format(tmp_path / "folder")
    storage.write_bytes(storage.join(folder, staging_folder.NAME, "killed/part"), b"")
    assert staging_folder.has_only_leftovers(folder)
    with pytest.raises(ValueError, match="mine"), staging_folder.hold(folder, "--table") as (staging, _):
        storage.write_bytes(storage.join(staging, "part"), b"")
        assert storage.entries(folder) == [lease.NAME, staging_folder.NAME]
        raise ValueError("mine")
    assert not storage.exists(folder)
    with staging_folder.hold(folder, "--table") as (staging, _):
        storage.write_bytes(storage.join(folder, "result"), b"")
    assert storage.entries(folder) == ["result"] and not staging_folder.has_only_leftovers(folder)


def test_the_temporary_file_of_a_killed_writer_is_removed_and_that_of_a_running_one_is_not(tmp_path):
    (tmp_path / "config.json").write_bytes(b"old")
    script = [sys.executable, "-c", KILLED_BEFORE_THE_RENAME, str(tmp_path / "config.json")]
    assert subprocess.run(script, env=os.environ, check=False).returncode == -9
    running = storage._temporary(str(tmp_path / "history.json"))
    elsewhere = [tmp_path / f"{name}.json.00000000-1-00000000.tmp" for name in ("new", "old")]
    for path in (running, *elsewhere):
        with open(path, "wb"):
            pass
    os.utime(elsewhere[1], (0, 0))
    assert len(storage.entries(str(tmp_path))) == 5
    storage.remove_temporary_files(str(tmp_path))
    assert storage.entries(str(tmp_path)) == ["config.json", os.path.basename(running), elsewhere[0].name]
    assert (tmp_path / "config.json").read_bytes() == b"old"
