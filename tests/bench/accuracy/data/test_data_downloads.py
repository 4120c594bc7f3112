import http.client
import socket
import sys
import urllib.error
from pathlib import Path

import pytest

from bench.accuracy.data import downloads
from bench.accuracy.data.downloads import obtain
from bench.errors import UsageError


def told():
    lines: list[str] = []
    return lines, lines.append


def test_what_was_fetched_is_moved_into_place(tmp_path):
    def fetch(root):
        (Path(root) / "SET" / "raw").mkdir(parents=True)
        (Path(root) / "SET" / "raw" / "images").write_text("new")
        assert not (tmp_path / "data" / "SET").exists()

    lines, say = told()
    obtain("set", tmp_path / "data", fetch, instead="", say=say)
    assert [path for path in (tmp_path / "data").rglob("*") if path.is_file()] == [tmp_path / "data/SET/raw/images"]
    assert lines == [f"set is not in {tmp_path / 'data'}: downloading it", f"set is in {tmp_path / 'data'}"]


def test_what_is_there_already_is_replaced_and_its_neighbours_stay(tmp_path):
    (tmp_path / "images").write_text("old")
    (tmp_path / "other").write_text("stays")
    obtain("set", tmp_path, lambda root: (Path(root) / "images").write_text("new"), instead="", say=print)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"images": "new", "other": "stays"}


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (urllib.error.URLError("no route\nto host"), "<urlopen error no route to host>"),
        (RuntimeError("File not found or corrupted."), "File not found or corrupted."),
        (http.client.IncompleteRead(b"12"), "IncompleteRead"),
        (TimeoutError(), "TimeoutError"),
        (OSError(28, "No space left on device"), "No space left on device"),
    ],
)
def test_a_failure_is_one_line_that_says_what_to_do_and_leaves_nothing_behind(tmp_path, failure, reason):
    def fetch(root):
        (Path(root) / "half").write_text("of it")
        raise failure

    with pytest.raises(UsageError) as refused:
        obtain("set", tmp_path, fetch, instead="put images.gz into there", say=print)
    message = str(refused.value)
    assert message.startswith("set is not here and could not be downloaded (")
    assert reason in message
    assert message.endswith("); put images.gz into there")
    assert "\n" not in message
    assert list(tmp_path.iterdir()) == []


def test_an_interruption_leaves_nothing_behind_either(tmp_path):
    def fetch(root):
        (Path(root) / "half").write_text("of it")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        obtain("set", tmp_path, fetch, instead="", say=print)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_a_failure_too(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"could not be downloaded .*; put it there"):
        obtain("set", tmp_path / "file" / "data", print, instead="put it there", say=print)


def test_progress_is_told_now_and_then_and_nothing_is_printed(tmp_path, monkeypatch, capfd):
    clock = iter([0.0, 0.0, 0.4, 0.8, 1.2, 1.2, 1.6])
    monkeypatch.setattr(downloads, "monotonic", lambda: next(clock))

    def fetch(root):
        for percent in (0, 20, 40, 60, 80):
            print(f"\r{percent}% of it", end="", file=sys.stderr if percent % 40 else sys.stdout)

    lines, say = told()
    obtain("set", tmp_path, fetch, instead="", say=say)
    assert lines[1:-1] == ["downloading set: 0% of it", "downloading set: 60% of it"]
    assert capfd.readouterr() == ("", "")


def test_say_may_print(tmp_path, capfd):
    def fetch(root):
        print("10%", file=sys.stderr)

    obtain("set", tmp_path, fetch, instead="", say=lambda line: print(line, file=sys.stderr))
    assert "downloading set: 10%" in capfd.readouterr().err


def test_a_silent_server_is_given_up_and_the_timeout_is_put_back(tmp_path):
    during = []
    before = socket.getdefaulttimeout()
    obtain("set", tmp_path, lambda root: during.append(socket.getdefaulttimeout()), instead="", say=print)
    assert during == [downloads.TIMEOUT_S]
    assert socket.getdefaulttimeout() == before
