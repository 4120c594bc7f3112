"""The speed run of a study: the study's own network at the study's class counts, one class added."""

from collections.abc import Callable, Sequence
from pathlib import Path

from archs.registry import from_module
from bench.accuracy import networks
from bench.run import Run
from bench.scaling import family
from bench.scaling.records import StudyManifest
from bench.scaling.run import SPEED
from bench.speed import sweep
from bench.speed.plan import Request, plan

#: As Table 3 of the paper.
BATCH_SIZE = 32

#: Passes a visit, of which the first is kept out. The network is small beside its largest top layers: a pass of few
#: classes that follows one of very many finds its caches emptied, and took more than twice as long on two CPU cores.
BLOCK = 2

#: Of the network before its top layer is replaced.
_FEW_CLASSES = 2


def measure(manifest: StudyManifest, folder: Path, command: Sequence[str], watch: Callable[[Run, str], None]) -> Run:
    """Sweep the class counts of a study in a new folder under `folder`/speed; the run, its status set.

    A sweep that was cut off is done again as a whole: it takes minutes. An interrupt ends it early, as in any sweep.
    """
    recipe = manifest.recipe
    assert recipe is not None, "a study that measures has a recipe"
    shape = (family.features_of(manifest.family),)
    network = from_module(networks.build(recipe.network, shape, _FEW_CLASSES, seed=0), shape, name=recipe.network)
    planned = plan(
        Request(
            arch=[network],
            classes=[1, *(count.classes for count in manifest.counts)],
            batch_size=(BATCH_SIZE,),
            minibatches=manifest.speed_minibatches,
            block=BLOCK,
            device=recipe.device,
        )
    )
    return sweep.execute(planned, sweep.start(planned, folder / SPEED, command), watch)
