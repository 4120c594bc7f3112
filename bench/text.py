"""Text that others chose (names, reasons, versions, messages of libraries) inside a line of ours."""

import re

#: What a terminal obeys or a reader cannot see: control characters (ESC begins what colours, moves and erases), marks
#: that turn the order of letters around, and halves of characters, which no stream can encode.
_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

#: What begins a workflow command of GitHub's runner: the first at the beginning of a line, the second anywhere in it.
_COMMAND = re.compile(r"^::|##(?=\[)")


def on_one_line(text: str) -> str:
    """The text as one line that no terminal and no CI takes for a command: what it would obey is taken apart.

    Runs of white space are one space, other unseen characters a U+FFFD.
    """
    line = _UNSEEN.sub("\ufffd", " ".join(text.split()))
    return _COMMAND.sub(lambda found: " ".join(found[0]), line)
