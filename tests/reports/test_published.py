import pytest

from bench.speed.settings import PAPER_CLASSES
from reports.published import published, table3


def test_every_network_was_published_at_the_papers_counts() -> None:
    archs = list(dict.fromkeys(point.arch for point in table3()))
    assert archs == ["alexnet", "vgg16", "inception_v3", "resnet50", "resnet101"]
    for arch in archs:
        assert tuple(point.classes for point in published(arch)) == PAPER_CLASSES


def test_published_numbers_are_the_papers() -> None:
    last = published("inception_v3")[-1]
    assert (last.seconds, last.speedup) == (76.6e-3, 12.75)
    assert published("alexnet")[0].seconds == 3.6e-3


def test_speedup_is_one_where_the_paper_prints_none() -> None:
    assert [point.speedup for point in table3() if point.classes == 1] == [1.0] * 5


@pytest.mark.parametrize("point", table3(), ids=lambda point: f"{point.arch}-{point.classes}")
def test_published_speedup_is_the_ratio_of_published_times(point) -> None:
    single = published(point.arch)[0].seconds
    # Both times are printed to 0.1 ms, so that the ratio of the unrounded ones lies somewhere in this range.
    low, high = (point.seconds - 5e-5) / (single + 5e-5), (point.seconds + 5e-5) / (single - 5e-5)
    assert low - 0.005 <= point.speedup <= high + 0.005


def test_a_network_the_paper_does_not_know_has_no_points() -> None:
    assert published("timm/resnet18") == ()
