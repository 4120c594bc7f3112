"""What a grid of trainings is asked for, and the presets that fill in what is not said."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from bench.accuracy.data import Dataset
from bench.accuracy.ranks import Place
from bench.errors import UsageError

#: --quick: few steps, two learning rates.
QUICK = {"steps": 300, "learning_rates": (0.1, 0.01)}


#: TensorFlow's Inception-v3 as the paper used it ("all the default hyperparameters from this implementation"):
#: models/research/inception, inception_train.py and its flags. A decay every 30 epochs of 1,281,167 images.
PAPER_IMAGENET: Mapping[str, Any] = {
    "learning_rates": (0.1,),
    "batch_size": 32,
    "optimiser": "rmsprop",
    "momentum": 0.9,
    "square_decay": 0.9,
    "epsilon": 1.0,
    "weight_decay": 4e-5,
    "schedule": "exponential",
    "decay_steps": 1_281_167 // 32 * 30,
    "decay_rate": 0.16,
    "label_smoothing": 0.1,
    "auxiliary_weight": 0.4,
    "network": "inception_v3",
    "losses": ("ce", "batch-ce"),
    "dataset": "imagenet",
}


PRESETS = {"paper-imagenet": PAPER_IMAGENET}


#: A process that trains without others.
ONE_PROCESS = Place(rank=0, size=1, local_rank=0)


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to train; None leaves it to the data set, the preset or the device."""

    dataset: str | Dataset | None = None
    """None: the preset's, else digits"""
    losses: str | Sequence[str] = "paper"
    """"paper" beside a preset that names losses: the preset's; of a full top layer alone"""
    top_layers: str | Sequence[str] = "full"
    """kinds of archs.rivals; every rival is trained by its own negative log-likelihood"""
    learning_rates: Sequence[float] | None = None
    steps: int | None = None
    batch_size: int | None = None
    optimiser: str | None = None
    momentum: float | None = None
    weight_decay: float | None = None
    schedule: str | None = None
    seeds: int = 1
    seed: int = 0
    network: str | None = None
    dtype: str = "float32"
    compile: str = "none"
    workers: int | None = None
    stack: int | None = None
    threads: int | None = None
    engine: str = "local"
    """local, or ray: one task a training, on a Ray cluster"""
    address: str | None = None
    """of the Ray cluster; None: one is started here and ends with the run"""
    gpu_share: float | None = None
    """what one task of Ray takes of a GPU; None: all of it"""
    place: Place = ONE_PROCESS
    """which of the ranks that train together this process is"""
    local_ranks: int = 1
    """how many of them are on this machine"""
    shard_top_layer: bool = False
    """split the classes over the ranks"""
    device: str = "auto"
    prior_bias: bool | None = None
    """None: from PRIOR_BIAS_CLASSES classes on, for the losses of bench.accuracy.losses.pulls_to_prior"""
    top_layer_step: str | None = None
    """dense, chunked or in-place; None: by the size of the top layer and the memory that is free"""
    accumulate: int = 1
    """micro-batches of a step"""
    label_smoothing: float | None = None
    hyperparameters: Mapping[str, Mapping[str, float | str]] = field(default_factory=dict)
    """key of a loss -> its hyperparameters that differ from the defaults"""
    preset: str | None = None
    quick: bool = False
    data_dir: Path | None = None
    input_size: int | None = None

    def asks(self) -> dict[str, object]:
        """What ranks that train together must be asked alike: all of it but where each of them is and finds things.

        A data set in hand is left out: ranks are refused one.
        """
        own = {"place", "local_ranks", "threads", "device", "data_dir"}
        asked = {each.name: getattr(self, each.name) for each in fields(self) if each.name not in own}
        return {name: value for name, value in asked.items() if not isinstance(value, Dataset)}


#: What a preset says of its own optimiser, and what would mean another thing to another.
_OF_THE_PRESETS_OPTIMISER = ("square_decay", "epsilon")


class Chosen:
    """What was asked for, else what the preset says, else what --quick says, else a default."""

    def __init__(self, request: Request) -> None:
        if request.preset is not None and request.preset not in PRESETS:
            raise UsageError(f"unknown preset {request.preset!r}: {', '.join(PRESETS)}")
        self._request = request
        preset = PRESETS[request.preset] if request.preset else {}
        quick = QUICK if request.quick else {}
        self._filled: dict[str, Any] = {**quick, **preset}
        if request.optimiser not in (None, self._filled.get("optimiser")):
            for name in _OF_THE_PRESETS_OPTIMISER:
                self._filled.pop(name, None)
        if request.losses != "paper":
            self._filled.pop("losses", None)

    def __call__(self, name: str, default: Any) -> Any:
        """What was chosen for the field `name` of a recipe or request."""
        asked = getattr(self._request, name, None)
        if asked is not None and not (name == "losses" and "losses" in self._filled):
            return asked
        return self._filled.get(name, default)
