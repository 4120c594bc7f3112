"""A device's rates as a small file, for predicting where nothing can be measured.

    {
     "schema": "slc-bench/rates/1",
     "machine": "NVIDIA A100-SXM4-80GB",
     "device": "cuda",
     "dtype": "float32",
     "batch_size": 32,
     "operations_per_s": 1.7e13,
     "bytes_per_s": 1.4e12,
     "fresh_bytes_per_s": null,
     "seconds_at_one_class": {"resnet50": 0.00041},
     "settings_at_one_class": {"resnet50": {"arch": "resnet50", "input_shape": [3, 224, 224], "threads": 8, ...}},
     "versions": {"torch": "2.11.0"},
     "memory_bytes": 85000000000,
     "error": {"added_ratio_low": 0.93, "added_ratio_high": 1.08, "points": 11, "runs": 4, "networks": 4}
    }

Rates are floating-point operations and bytes a second, as a linear layer reaches them at this batch size and dtype, not
a data sheet's peaks; times are seconds an example, with the top layer cut to one class. Beside each stands the whole
setting that it was measured with (bench.speed.settings), where that is known. These differ in the network alone: rates
are those of one batch size, dtype, mode and thread count. The error is that of the points measured where the rates come
from: of what the top layer adds, the least and greatest ratio measured / predicted.
"""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, FiniteFloat, PositiveInt, ValidationError, model_validator

from bench.errors import UsageError
from bench.folder import Record, first_problem, write_atomically
from bench.speed.pools import OWN_OF_A_NETWORK, Difference, setting_difference
from bench.speed.predict import Spread
from bench.speed.prediction import Rates
from bench.speed.settings import Dtype, Setting

#: Between a microcontroller and a whole data centre. A rate outside was written in another unit: nothing with 10**6
#: operations a second runs torch, and a rate in GFLOP/s or GB/s lies below it on any machine.
LEAST_RATE, GREATEST_RATE = 1e6, 1e18

#: Seconds an example: a microsecond's tenth to a day. Milliseconds of a fast network cannot be told from seconds.
LEAST_SECONDS, GREATEST_SECONDS = 1e-7, 86_400.0

Rate = Annotated[FiniteFloat, Field(gt=0)]
Seconds = Annotated[FiniteFloat, Field(ge=LEAST_SECONDS, le=GREATEST_SECONDS)]


class StatedError(Record):
    """How far predictions were off at the points measured on that machine."""

    added_ratio_low: FiniteFloat = Field(ge=0, description="least measured / predicted, of what the top layer adds")
    added_ratio_high: Rate = Field(description="the greatest")
    points: int = Field(ge=2)
    runs: PositiveInt | None = Field(None, description="that the points are from; none: not said")
    networks: PositiveInt | None = Field(None, description="that the points are from; none: not said")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.added_ratio_low > self.added_ratio_high:
            raise ValueError("added_ratio_low is above added_ratio_high")
        return self


class DeviceRates(Record):
    """What a device does a second at one batch size and dtype, and what networks take there with one class."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    schema_: Literal["slc-bench/rates/1"] = Field("slc-bench/rates/1", alias="schema")
    machine: str = Field(min_length=1, description="name of the device, for people")
    device: Literal["cpu", "cuda"] = Field("cpu", description="on a CPU large logits are in fresh memory")
    dtype: Dtype = "float32"
    batch_size: PositiveInt = 32
    operations_per_s: Rate = Field(description="floating-point operations a second; a multiply-add is two")
    bytes_per_s: Rate
    fresh_bytes_per_s: Rate | None = Field(None, description="bytes of memory the system hands out, a second")
    seconds_at_one_class: dict[str, Seconds] = Field(default_factory=dict, description="network -> seconds an example")
    settings_at_one_class: dict[str, Setting] = Field(
        default_factory=dict, description="network -> how its time was measured; of those left out it is not known"
    )
    versions: dict[str, str] = Field(default_factory=dict, description="package -> version, where they were measured")
    memory_bytes: PositiveInt | None = Field(None, description="of the device, to say what fits")
    error: StatedError | None = Field(None, description="none: unknown")

    @model_validator(mode="after")
    def _plausible(self) -> Self:
        for name in ("operations_per_s", "bytes_per_s", "fresh_bytes_per_s"):
            rate = getattr(self, name)
            if rate is not None and not LEAST_RATE <= rate <= GREATEST_RATE:
                raise ValueError(f"{name} is {rate:g}, which is no device's: give units a second (1.4e12, not 1400)")
        return self

    @model_validator(mode="after")
    def _of_one_setting(self) -> Self:
        settings = self.settings_at_one_class
        for name, setting in settings.items():
            if name not in self.seconds_at_one_class:
                raise ValueError(f"settings_at_one_class.{name} has no time beside it in seconds_at_one_class")
            if found := self._contradiction(name, setting):
                raise ValueError(f"settings_at_one_class.{name} is not of this file: {found}")
            if found := setting_difference(next(iter(settings.values())), setting, but=OWN_OF_A_NETWORK):
                raise ValueError(f"settings_at_one_class.{name}: a file is of one setting, and this has two: {found}")
        return self

    def _contradiction(self, name: str, setting: Setting) -> Difference | None:
        """What a setting has otherwise than the file, which is of one full logit against all."""
        own = {"arch": name, "dtype": self.dtype, "batch_size": self.batch_size}
        own |= {"device": self.device, "work": "logits", "top_layer": "full", "subset": 1}
        return setting_difference(setting, setting.model_copy(update=own), but=())

    @property
    def rates(self) -> Rates:
        """The rates alone."""
        return Rates(self.operations_per_s, self.bytes_per_s, self.fresh_bytes_per_s)

    @property
    def spread(self) -> Spread | None:
        """The stated error."""
        if self.error is None:
            return None
        error = self.error
        return Spread(error.added_ratio_low, error.added_ratio_high, error.points, error.runs, error.networks)


def read(path: Path) -> DeviceRates:
    """Read a file of rates. Raises UsageError, naming file and field, for anything else."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UsageError(f"{path}: is no text, so no file of rates") from None
    except OSError as error:
        raise UsageError(f"cannot read rates from {path}: {error.strerror or error}") from None
    try:
        return DeviceRates.model_validate_json(text)
    except ValidationError as error:
        raise UsageError(f"{path}: {_problem(error)}; docs/predicting.md shows such a file") from None


def write(path: Path, rates: DeviceRates) -> None:
    """Write a file of rates. Raises UsageError if that cannot be."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, rates.model_dump_json(indent=1, by_alias=True) + "\n")
    except OSError as error:
        raise UsageError(f"cannot write rates to {path}: {error.strerror or error}") from None


def _problem(error: ValidationError) -> str:
    return first_problem(error).replace("Value error, ", "", 1)
