"""What identifies a training, and how much of it is asked for."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveFloat, PositiveInt

from archs.top_layer_kinds import RIVALS

Dtype = Literal["float32", "bfloat16", "float16"]
CompileMode = Literal["none", "default", "reduce-overhead"]
Optimiser = Literal["sgd", "adam", "adamw", "rmsprop"]
Schedule = Literal["constant", "cosine", "exponential"]
EngineName = Literal["local", "ray"]
TopLayerStep = Literal["dense", "chunked", "in-place"]

#: The paper's learning rates (Sect. 6.1).
PAPER_RATES = (1.0, 0.1, 0.01, 0.001)

#: The losses of the paper's Table 1, in its order, by their keys in bench.accuracy.losses.registry().
PAPER_LOSSES = ("ce", "max-margin", "self-norm", "nce", "binary-ce", "batch-ce", "batch-max-margin")


#: Losses that are not the paper's, by their keys in bench.accuracy.losses.further().
FURTHER_LOSSES = ("importance-sampling", "negative-sampling")

#: Losses that pull every logit towards a level far below 0 where there are many classes, so that a top layer whose
#: bias starts at -log(k - 1) starts there; docs/losses.md says why these and no others.
AT_PRIOR: frozenset[str] = frozenset(("self-norm", "nce", "binary-ce"))

#: Classes from which on the bias starts there unless something else is asked for.
PRIOR_BIAS_CLASSES = 1000

#: What stands in the place of a loss's key, and counts neither among the paper's losses nor among its eleven: further
#: losses, and rivals of the full top layer, each trained by its own negative log-likelihood.
BEYOND_THE_PAPER: frozenset[str] = frozenset((*FURTHER_LOSSES, *RIVALS))


class _Frozen(BaseModel):
    # JSON has no infinity: a run with one in it could not be read again.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Member(_Frozen):
    """One training of a grid: what tells it from the others of its run."""

    loss: str = Field(
        description="key of the loss in bench.accuracy.losses, or the kind of a rival of the full top layer"
    )
    learning_rate: PositiveFloat
    seed: NonNegativeInt = Field(description="of weights, data order and noise samples")

    @property
    def name(self) -> str:
        """Name of its files: batch-ce-lr0.1-seed0."""
        return f"{self.loss}-lr{self.learning_rate:g}-seed{self.seed}"


class Source(_Frozen):
    """Where the data of a run are found again: by every worker, and when it is resumed."""

    name: str = Field(description="name of the data set in bench.accuracy.data")
    data_dir: Path | None = Field(None, description="none for the user's cache folder")
    split_seed: NonNegativeInt = 0
    input_size: PositiveInt | None = Field(None, description="pixels; none for the data set's own")


class Engine(_Frozen):
    """Who carries the trainings out; no part of what decides their results."""

    name: EngineName = Field("local", description="local: this machine, one process a worker; ray: a Ray cluster")
    address: str = Field(
        "local", description="Ray: of the cluster, HOST:PORT or auto; local starts one here that ends with the run"
    )
    gpu_share: float = Field(1.0, gt=0, le=1, description="Ray: what one task takes of a GPU")
    workers: PositiveInt | None = Field(
        None, description="Ray: most tasks at the same time; none for as many as the cluster has room for"
    )


class LossSetting(_Frozen):
    """A loss as it is used in a run; or a rival of the full top layer with its own loss."""

    key: str = Field(description="key in bench.accuracy.losses, or the kind of a rival (archs.rivals)")
    name: str = Field(description="the paper's name, where it has one")
    aligned: bool = Field(
        description="whether it follows the Principle of Logit Separation: by the paper's proof, of what is not the "
        "paper's for the reason given in bench.accuracy.losses"
    )
    hyperparameters: dict[str, float | str] = Field({}, description="every value that was used, defaults included")
    prior_bias: bool | None = Field(
        None,
        description="whether top layers' bias starts at -log(classes - 1) under this loss; none: as the recipe says",
    )


class Recipe(_Frozen):
    """How every training of a run is done. The defaults are the paper's where it says, else facts of its time."""

    network: str = Field(description="mlp, cnn, linear, or a name that archs.registry knows")
    steps: PositiveInt
    batch_size: PositiveInt = 128
    optimiser: Optimiser = "sgd"
    momentum: float = Field(0.9, ge=0, lt=1, description="of SGD and RMSProp; elsewhere unused")
    weight_decay: float = Field(0.0, ge=0)
    square_decay: float = Field(0.99, gt=0, lt=1, description="RMSProp: of the running mean of squares")
    epsilon: float | None = Field(None, gt=0, description="the optimiser's; none for torch's own default")
    schedule: Schedule = "constant"
    decay_steps: PositiveInt | None = Field(None, description="exponential schedule: steps between two decays")
    decay_rate: float | None = Field(None, gt=0, le=1, description="exponential schedule: factor of one decay")
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    auxiliary_weight: float = Field(0.0, ge=0, description="weight of the loss on Inception-v3's auxiliary head")
    prior_bias: bool | Literal["auto"] = Field(
        False, description="the top layer's bias starts at -log(classes - 1); auto: under the losses that say so"
    )
    top_layer_step: TopLayerStep = Field(
        "dense",
        description="dense: all logits of a minibatch at once; chunked: over chunks of classes, the weight's gradient "
        "goes to the optimiser; in-place: the same, and the top layer makes plain SGD's step chunk by chunk, without "
        "momentum or any other state, whatever the optimiser of the rest",
    )
    accumulation: PositiveInt = Field(1, description="micro-batches that a step's forward and backward are cut into")
    ranks: PositiveInt = Field(1, description="processes that carry out one training together, data-parallel")
    shard_top_layer: bool = Field(False, description="the classes of the top layer are split over the ranks")
    dtype: Dtype = "float32"
    compile: CompileMode = "none"
    device: str = Field("cpu", description="cpu or cuda:N")
    threads: PositiveInt = Field(1, description="intra-op threads of torch in each worker")
    workers: PositiveInt = Field(1, description="trainings (or stacks of them) that run at the same time")
    stack: PositiveInt = Field(1, description="trainings in one stack of weights; 1 trains them one by one")
    curve_points: PositiveInt = Field(20, description="validations on the way, evenly spaced; the last at the end")


def starts_at_prior(recipe: Recipe, setting: LossSetting) -> bool:
    """Whether the top layer's bias starts at -log(classes - 1) in trainings by this loss."""
    if isinstance(recipe.prior_bias, bool):
        return recipe.prior_bias
    return bool(setting.prior_bias)
