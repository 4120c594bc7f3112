"""The data of a study: one family of synthetic:K, whose class count alone changes; and how long each is trained on.

    examples of a count = steps x minibatch, so that none is met twice

Pure, and without torch.
"""

from collections.abc import Sequence

from bench.accuracy.data.synthetic_spec import SYNTHETIC, parse
from bench.counts import parse_count
from bench.errors import UsageError

#: Fewer leave nothing to tell apart.
FEWEST_CLASSES = 2

#: Classes alike, so that a class has as many examples at every place of the family; and few enough dimensions that the
#: paper's MLP learns the generator's map in thousands of steps: at 128 of them its error after 5,000 is twice the
#: optimum's at 1,000 classes, at 16 a tenth above it.
DEFAULT_FAMILY = "zipf=0,d=16,near=6,far=9"

#: Steps of a training where nobody says otherwise: up to so many classes, so many steps.
DEFAULT_STEPS: tuple[tuple[int, int], ...] = ((100, 6_000), (1_000, 12_000), (10_000, 24_000))

#: Of more classes than those.
MOST_DEFAULT_STEPS = 48_000


def default_steps(classes: int) -> int:
    """Steps of a full training of so many classes."""
    return next((steps for most, steps in DEFAULT_STEPS if classes <= most), MOST_DEFAULT_STEPS)


def class_counts(asked: str | Sequence[int]) -> tuple[int, ...]:
    """Class counts of a study, ascending, each once. Raises UsageError for none, and for fewer than 2 classes."""
    parts = asked.split(",") if isinstance(asked, str) else [str(count) for count in asked]
    counts = sorted({parse_count(part) for part in parts if part.strip()})
    if not counts:
        raise UsageError("--classes: no class count is given; name some, such as 10,100,1000")
    if counts[0] < FEWEST_CLASSES:
        raise UsageError(f"--classes {counts[0]}: one class leaves nothing to tell apart; give 2 or more")
    return tuple(counts)


def steps_by_count(asked: str | int | None, counts: Sequence[int]) -> dict[int, int]:
    """Steps of a full training at each class count: as asked for (2000, or 10=2000,1000=8000), else `default_steps`.

    Raises UsageError for what is neither, and for a count that is not studied.
    """
    defaults = {count: default_steps(count) for count in counts}
    if asked is None:
        return defaults
    parts = [part.strip() for part in str(asked).split(",")]
    if len(parts) == 1 and "=" not in parts[0]:
        return dict.fromkeys(counts, _steps(parts[0]))
    given: dict[int, int] = {}
    for part in parts:
        count_text, equals, steps_text = part.partition("=")
        if not (equals and count_text.strip() and steps_text.strip()):
            raise UsageError(f"--steps {part!r}: give one number, or COUNT=STEPS,... such as 10=2000,1000=8000")
        count = parse_count(count_text)
        if count not in defaults:
            raise UsageError(f"--steps {part!r}: {count:,} classes are not studied; --classes names those that are")
        if count in given:
            raise UsageError(f"--steps {part!r}: the steps of {count:,} classes are given twice")
        given[count] = _steps(steps_text)
    return defaults | given


def _steps(text: str) -> int:
    if not text.strip().isdecimal() or int(text) < 2:
        raise UsageError(
            f"--steps {text.strip()!r}: give a whole number of 2 or more (a search makes half of them), or "
            "COUNT=STEPS,... such as 10=2000,1000=8000"
        )
    return int(text)


def options_of(asked: str) -> str:
    """The options of a family as every name of it has them: those of DEFAULT_FAMILY that are not asked for otherwise.

    Raises UsageError for one that synthetic:K lacks, and for examples=, which follow from the steps.
    """
    parts = [part.strip() for part in asked.split(",") if part.strip()]
    names = [part.partition("=")[0].strip() for part in parts]
    if "examples" in names:
        raise UsageError(
            "--family: examples= follow from steps and batch size, so that none is met twice; leave it out"
        )
    parts = [each for each in DEFAULT_FAMILY.split(",") if each.partition("=")[0] not in names] + parts
    parse(f"{SYNTHETIC}{FEWEST_CLASSES},{','.join(parts)}")
    return ",".join(parts)


def name_of(family: str, classes: int, examples: int) -> str:
    """The data set of a class count: a name that bench.accuracy.data takes. Raises UsageError as `Spec` does."""
    return parse(f"{SYNTHETIC}{classes},{family},examples={examples}").name


def features_of(family: str) -> int:
    """Dimensions of an example, d."""
    return parse(f"{SYNTHETIC}{FEWEST_CLASSES},{family}").d


def search_steps(steps: int) -> int:
    """Of a training in the search: half of a full one's."""
    return steps // 2
