import pytest

from bench.text import on_one_line


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("resnet50 at 1,024 classes", "resnet50 at 1,024 classes"),
        (
            "package.module:factory, tests/a.py::test_it[1] #3 Ä 模型",
            "package.module:factory, tests/a.py::test_it[1] #3 Ä 模型",
        ),
        (" a\n\tb\r\nc\u2028d ", "a b c d"),
        ("\x1b[31mred\x07", "\ufffd[31mred\ufffd"),
        ("a\u202eb", "a\ufffdb"),
        ("a\ud800b", "a\ufffdb"),
        ("\n ::error::evil", ": :error::evil"),
        ("see ##[error]evil", "see # #[error]evil"),
    ],
)
def test_text_of_others_is_one_line_that_nothing_obeys(text: str, line: str) -> None:
    assert on_one_line(text) == line
    line.encode()
