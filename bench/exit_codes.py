"""Exit codes, the same for everything that is started."""

DONE = 0
WORSE = 1  # of `compare` alone
USAGE = 2
INCOMPLETE = 3
FAULT = 70  # EX_SOFTWARE of sysexits.h; Python's own 1 would say that something got worse
INTERRUPTED = 130
