"""One writer at a time."""

import json
import os
import subprocess
import sys
import time

import pytest

from cxrflow.base import lease
from cxrflow.base.errors import UserError


def write_lease(table, **other):
    table.mkdir(exist_ok=True)
    content = {"token": "theirs", "host": "elsewhere", "pid": 1, "renewed": time.time(), **other}
    (table / lease.NAME).write_text(json.dumps(content))


@pytest.mark.parametrize("url", ["{}", "memory://{}"])
def test_the_second_is_refused_while_the_first_holds(tmp_path, url):
    table = url.format(tmp_path / "table")
    with lease.hold(table, "--table") as first:
        with (
            pytest.raises(UserError, match=f"process {os.getpid()} on .* is writing to it"),
            lease.hold(table, "--table"),
        ):
            pass
        first.check()
    with lease.hold(table, "--table") as again:
        again.check()


def test_one_of_a_process_that_died_here_is_taken_over_at_once(tmp_path):
    script = (
        "import os, cxrflow.base.lease as lease\n"
        f"held = lease.hold({str(tmp_path)!r}, '--table')\n"
        "held.__enter__()\n"
        "os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", script], env=os.environ, check=False).returncode == -9
    assert (tmp_path / lease.NAME).exists()
    with lease.hold(str(tmp_path), "--table") as mine:
        mine.check()


def test_one_from_elsewhere_is_taken_over_when_nobody_renews_it(tmp_path):
    write_lease(tmp_path / "table", renewed=time.time() - 200)
    with pytest.raises(UserError, match="process 1 on elsewhere"), lease.hold(str(tmp_path / "table"), "--table"):
        pass
    write_lease(tmp_path / "table", renewed=time.time() - 400)
    with lease.hold(str(tmp_path / "table"), "--table") as mine:
        mine.check()


def test_who_was_taken_over_may_not_commit_and_leaves_the_others_lease(tmp_path):
    with lease.hold(str(tmp_path), "--table") as mine:
        write_lease(tmp_path)
        mine.require()  # nobody has looked yet
        with pytest.raises(RuntimeError, match="another run took over this folder"):
            mine.check()
        with pytest.raises(RuntimeError, match="this run stops writing"):
            mine.require()
    assert json.loads((tmp_path / lease.NAME).read_text())["token"] == "theirs"


def test_its_renewal_sees_that_it_was_taken_over(tmp_path):
    with lease.hold(str(tmp_path), "--table", renew_seconds=0.01) as mine:
        deadline = time.monotonic() + 30
        with pytest.raises(RuntimeError, match="another run took over this folder"):
            while time.monotonic() < deadline:
                write_lease(tmp_path)  # again and again: a renewal may be between its look and its write
                mine.require()
                time.sleep(0.01)


def test_one_that_cannot_be_renewed_for_long_may_be_anybodys(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError("the store is away")

    with lease.hold(str(tmp_path), "--table", renew_seconds=0.01, stale_seconds=0.2) as mine:
        monkeypatch.setattr(lease.storage, "write_bytes", refuse)
        deadline = time.monotonic() + 30
        with pytest.raises(RuntimeError, match="may have taken over this folder"):
            while time.monotonic() < deadline:
                mine.require()
                time.sleep(0.01)


def test_it_is_renewed_while_it_is_held(tmp_path):
    def renewed():
        return json.loads((tmp_path / lease.NAME).read_text())["renewed"]

    with lease.hold(str(tmp_path), "--table", renew_seconds=0.01):
        before, deadline = renewed(), time.monotonic() + 30
        while renewed() == before:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert not (tmp_path / lease.NAME).exists()


def test_one_without_content_ends_too(tmp_path):
    """Left by a process that was killed between making the file and writing it."""
    (tmp_path / lease.NAME).touch()
    with pytest.raises(UserError), lease.hold(str(tmp_path), "--table"):
        pass
    os.utime(tmp_path / lease.NAME, (0, 0))
    with lease.hold(str(tmp_path), "--table") as mine:
        mine.check()
