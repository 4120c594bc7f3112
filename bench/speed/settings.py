"""What identifies a measurement, and how much of it is asked for."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from archs.top_layer_kinds import TopLayerKind

Dtype = Literal["float32", "bfloat16", "float16"]
CompileMode = Literal["none", "default", "reduce-overhead"]
Order = Literal["interleaved", "sequential"]
WorkKind = Literal["logits", "normalised", "end-to-end"]

#: The paper's class counts (Table 3); the last is 2**18.5 rounded down.
PAPER_CLASSES = (1, 2**10, 2**14, 2**16, 2**18, 370_727)


class Setting(BaseModel):
    """Everything that identifies a measurement but the class count.

    Two samples may stand in one ratio only if their settings are equal.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    arch: str = Field(description="name of the network, as given to archs.registry")
    input_shape: tuple[PositiveInt, ...] = Field(description="shape of one example, without the batch axis")
    device: str = Field(description="cpu or cuda:N")
    dtype: Dtype = "float32"
    batch_size: PositiveInt = 32
    compile: CompileMode = "none"
    cuda_graph: bool = False
    channels_last: bool = False
    tf32: bool = Field(False, description="TF32 allowed, in convolutions and matrix products alike")
    cudnn_benchmark: bool = True
    threads: PositiveInt = Field(description="intra-op threads of torch")
    seed: int = 0
    order: Order = "interleaved"
    block: PositiveInt = Field(1, description="passes a visit; with 2 or more the first is kept out of the estimates")
    work: WorkKind = Field(
        "logits",
        description="what a pass does. logits: one a class. normalised: these and their log-normaliser, for the "
        "log-probabilities of the classes asked for; of the reference its logits. end-to-end: the input from host "
        "memory, logits, and these back in host memory",
    )
    subset: PositiveInt = Field(
        1, description="classes asked for at a time: the class count of the reference, whose logits are computed alone"
    )
    top_layer: TopLayerKind = Field(
        "full",
        description="what scores the classes asked for above the reference's count; a rival gives their "
        "log-probabilities, and the reference is the full layer's logits in any case",
    )


class Protocol(BaseModel):
    """How much is measured: the class counts, and how many rounds in how many processes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    classes: tuple[PositiveInt, ...] = Field(
        description="class counts in ascending order; the first is the reference's, the settings' subset (1)"
    )
    minibatches: PositiveInt = Field(100, description="rounds in every process")
    until: float | None = Field(
        None, gt=0, description="stop once every speedup's 95 % interval is within +- this many percent"
    )
    processes: PositiveInt = 1
    energy: bool = Field(False, description="joules per image too, on an NVIDIA GPU")
