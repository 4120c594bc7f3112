import hashlib

import pytest

from bench.accuracy.data.integrity import tree_digest, verified
from bench.errors import UsageError


def test_the_published_file_is_let_through(tmp_path):
    path = tmp_path / "archive.gz"
    path.write_bytes(b"published")
    md5, sha1 = hashlib.md5(b"published").hexdigest(), hashlib.sha1(b"published").hexdigest()
    assert verified(path, "md5", md5) == f"md5:{md5}"
    assert verified(path, "sha1", sha1) == f"sha1:{sha1}"


def test_a_truncated_file_is_refused_by_name(tmp_path):
    path = tmp_path / "archive.gz"
    path.write_bytes(b"publ")
    with pytest.raises(UsageError) as refused:
        verified(path, "md5", hashlib.md5(b"published").hexdigest())
    assert f"{path} is truncated or altered: its MD5 is {hashlib.md5(b'publ').hexdigest()}" in str(refused.value)


def test_a_missing_or_unreadable_file_is_named(tmp_path):
    with pytest.raises(UsageError, match=f"{tmp_path / 'nothing'} is missing"):
        verified(tmp_path / "nothing", "md5", "")
    with pytest.raises(UsageError, match=f"{tmp_path} cannot be read: Is a directory"):
        verified(tmp_path, "md5", "")


def test_the_digest_of_a_tree_depends_on_every_name_and_byte():
    files = [("a/b", b"12"), ("c", b"3")]
    different = [[("a/b", b"12")], files[::-1], [("a/b", b"123"), ("c", b"")], [("a/b", b"13"), ("c", b"3")]]
    different += [[("a/c", b"12"), ("c", b"3")], [("a/b", b"12c"), ("", b"3")]]
    assert len({tree_digest(tree) for tree in [files, *different]}) == 1 + len(different)
    assert tree_digest(files) == tree_digest(list(files))
