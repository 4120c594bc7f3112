"""Name -> network: the paper's five, torchvision/NAME, timm/NAME, package.module:factory.

torch, torchvision and timm are imported only once a network is looked for, so that names can be read without them.
"""

import contextlib
import copy
import difflib
import functools
import importlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

#: The networks of the paper's Table 3, in its order.
PAPER = ("alexnet", "vgg16", "inception_v3", "resnet50", "resnet101")

#: Shape of one example where nothing else is known: channels, height, width.
DEFAULT_SHAPE = (3, 224, 224)

#: Classes of a network that has no classifier of its own until one is asked for.
CLASSES = 1000

#: What torchvision's builders need beside the name: no auxiliary heads, and the quick one of two initialisations
#: (the other draws from a truncated normal through scipy and takes minutes for nothing that a timing could show).
_TORCHVISION_ARGUMENTS: dict[str, dict[str, Any]] = {
    "inception_v3": {"aux_logits": False, "init_weights": False},
    "googlenet": {"aux_logits": False, "init_weights": False},
}


class UnknownNetwork(ValueError):
    """No network of that name: one line that says what is wrong and what would be right."""


@dataclass(frozen=True)
class Network:
    """A network that can be built.

    `input_shape` is that of one example, without the batch axis. `build` makes a new, randomly initialised network
    in evaluation mode on torch's current default device, also on `torch.device("meta")`, where nothing is allocated.
    Of a module `in_hand`, which may be trained, it makes a copy.
    """

    name: str
    input_shape: tuple[int, ...]
    build: Callable[[], "nn.Module"]
    in_hand: bool = False


def expand(names: Iterable[str]) -> tuple[str, ...]:
    """Names as given, each perhaps several with commas between them, as single names; `paper` becomes the five.

    Duplicates are dropped, the order is kept. Raises UnknownNetwork if no name is left.
    """
    single = (part.strip() for name in names for part in name.split(","))
    expanded = [name for part in single if part for name in (PAPER if part == "paper" else (part,))]
    if not expanded:
        raise UnknownNetwork(f"no network named: name one or more of {_join(PAPER)}, paper, torchvision/..., timm/...")
    return tuple(dict.fromkeys(expanded))


def find(name: str, input_size: int | None = None) -> Network:
    """The network of that name; no weights are ever read or downloaded.

    `input_size` replaces height and width (pixels). Without it, torchvision's networks take the crop of their
    default weights, timm's that of their configuration; the module of a factory takes its own example's shape, or
    3 x 224 x 224.

    Raises UnknownNetwork for a name that leads to no network or a factory that fails, ValueError for a size below 1.
    """
    if input_size is not None and input_size < 1:
        raise ValueError(f"input size {input_size} is not a number of pixels; give 1 or more")
    if name.startswith("timm/"):
        return _from_timm(name, input_size)
    if name.startswith("torchvision/"):
        return _from_torchvision(name, name.removeprefix("torchvision/"), input_size)
    if ":" in name:
        return _from_factory(name, input_size)
    if name in PAPER:
        return _from_torchvision(name, name, input_size)
    raise UnknownNetwork(f"{name!r} is not a network; {_suggest_prefixed(name)}")


def from_module(module: "nn.Module", input_shape: Iterable[int], name: str | None = None) -> Network:
    """A module in hand as a network: it is copied when it is asked for, and stays as it is.

    `input_shape` is that of one example, without the batch axis. Raises ValueError if it has an axis below 1 or none.
    """
    shape = tuple(input_shape)
    if not shape or min(shape) < 1:
        raise ValueError(f"input shape {shape} is not that of an example; give it without the batch axis")
    return Network(name or type(module).__name__, shape, lambda: copy.deepcopy(module).eval(), in_hand=True)


def listing() -> dict[str, tuple[str, ...]]:
    """All names that `find` knows beside factories: group (paper, torchvision, timm) -> names as `find` takes them."""
    return {
        "paper": PAPER,
        "torchvision": tuple(f"torchvision/{name}" for name in _torchvision_names()),
        "timm": tuple(f"timm/{name}" for name in _timm_names()),
    }


def _from_torchvision(name: str, builder: str, input_size: int | None) -> Network:
    import torchvision

    if builder not in _torchvision_names():
        raise UnknownNetwork(
            f"torchvision has no image classifier {builder!r}{_matches(builder, _torchvision_names(), 'torchvision/')}"
        )
    size = input_size or _torchvision_size(builder)
    arguments = _TORCHVISION_ARGUMENTS.get(builder, {}) | _torchvision_size_argument(builder, size)
    build = functools.partial(torchvision.models.get_model, builder, weights=None, **arguments)
    return Network(name, (3, size, size), lambda: build().eval())


def _torchvision_size(builder: str) -> int:
    """Height and width that the default weights were made for: read from their description, not from the weights."""
    import torchvision

    transforms = torchvision.models.get_model_weights(builder).DEFAULT.transforms
    size = getattr(transforms, "keywords", {}).get("crop_size", DEFAULT_SHAPE[-1])
    return int(size)


def _torchvision_size_argument(builder: str, size: int) -> dict[str, Any]:
    """What those few need that fix their input's size when they are built."""
    if builder.startswith("vit_"):
        return {"image_size": size}
    if builder == "maxvit_t":
        return {"input_size": (size, size)}
    return {}


@functools.cache
def _torchvision_names() -> tuple[str, ...]:
    import torchvision

    return tuple(torchvision.models.list_models(module=torchvision.models))


def _from_timm(name: str, input_size: int | None) -> Network:
    import timm
    from timm.models import get_deprecated_models, get_pretrained_cfg

    model = name.removeprefix("timm/")
    deprecated = get_deprecated_models()
    if model in deprecated:
        advice = f"use timm/{deprecated[model]}" if deprecated[model] else "nothing replaces it"
        raise UnknownNetwork(f"timm has given up the name {model!r}; {advice}")
    if not timm.is_model(model):
        raise UnknownNetwork(f"timm has no network {model!r}{_matches(model, _timm_names(), 'timm/')}")
    try:
        configuration = get_pretrained_cfg(model)
    except RuntimeError as error:
        raise UnknownNetwork(f"timm has no network {model!r} ({one_line(error)}); leave out what follows '.'") from None
    shape = tuple(configuration.input_size) if configuration else DEFAULT_SHAPE
    arguments: dict[str, Any] = {}
    if configuration and configuration.num_classes == 0:
        arguments["num_classes"] = CLASSES  # an encoder: timm gives it a classifier when asked to
    if input_size is not None:
        shape = (shape[0], input_size, input_size)
        if configuration and configuration.fixed_input_size:
            arguments["img_size"] = (input_size, input_size)
    build = functools.partial(timm.create_model, model, pretrained=False, **arguments)
    return Network(name, shape, lambda: build().eval())


@functools.cache
def _timm_names() -> tuple[str, ...]:
    import timm

    return tuple(timm.list_models())


def _from_factory(name: str, input_size: int | None) -> Network:
    factory = _import_factory(name)

    def build() -> "nn.Module":
        return _call_factory(name, factory)[0].eval()

    example = _example_shape(name, factory)
    shape = example or DEFAULT_SHAPE
    if input_size is not None:
        if len(shape) != 3:
            raise UnknownNetwork(
                f"factory {name!r} takes examples of shape {shape}, which have no height and width; "
                "leave the input size out"
            )
        shape = (shape[0], input_size, input_size)
    return Network(name, shape, build)


def _import_factory(name: str) -> Callable[[], object]:
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute:
        raise UnknownNetwork(f"{name!r} is not a network; a factory is named as package.module:factory")
    importlib.invalidate_caches()
    try:
        with _current_folder_importable():
            module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or module_name
        if missing == module_name or module_name.startswith(f"{missing}."):
            raise UnknownNetwork(
                f"no module {missing!r} for the network {name!r}: it is neither installed nor in the current folder"
            ) from None
        raise UnknownNetwork(f"importing {module_name!r} raised {_described(error)}") from error
    except Exception as error:
        raise UnknownNetwork(f"importing {module_name!r} raised {_described(error)}") from error
    factory = getattr(module, attribute, None)
    if not callable(factory):
        callables = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        what = "cannot be called" if hasattr(module, attribute) else "does not exist"
        raise UnknownNetwork(f"{attribute!r} in module {module_name!r} {what}{_matches(attribute, callables, '')}")
    return factory  # type: ignore[no-any-return]


def _call_factory(name: str, factory: Callable[[], object]) -> tuple["nn.Module", tuple[int, ...] | None]:
    """The module, and the shape of its example without the batch axis where the factory gives one."""
    import torch

    try:
        with _current_folder_importable():
            made = factory()
    except Exception as error:
        raise UnknownNetwork(f"factory {name!r} raised {_described(error)}") from error
    module, example = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(module, torch.nn.Module):
        raise UnknownNetwork(
            f"factory {name!r} returned a {type(made).__name__}; it must return a torch.nn.Module, "
            "or a module and an example input"
        )
    if example is None:
        return module, None
    if not isinstance(example, torch.Tensor) or example.ndim < 2:
        what = f"of shape {tuple(example.shape)}" if isinstance(example, torch.Tensor) else type(example).__name__
        raise UnknownNetwork(
            f"the example input of factory {name!r} is {what}; it must be a tensor with the batch as its first axis"
        )
    return module, tuple(example.shape[1:])


def _example_shape(name: str, factory: Callable[[], object]) -> tuple[int, ...] | None:
    """Asked for on the meta device first, where a large network costs nothing; not every factory works there."""
    import torch

    with contextlib.suppress(UnknownNetwork), torch.device("meta"):
        return _call_factory(name, factory)[1]
    return _call_factory(name, factory)[1]


@contextlib.contextmanager
def _current_folder_importable() -> Iterator[None]:
    """An installed command, unlike `python -m`, does not look for modules in the current folder."""
    folder = os.getcwd()
    if folder in sys.path or "" in sys.path:
        yield
        return
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(folder)


def _suggest_prefixed(name: str) -> str:
    """What a bare name that is not the paper's may have meant."""
    prefixed = [f"torchvision/{name}"] if name in _torchvision_names() else []
    prefixed += [f"timm/{name}"] if name in _timm_names() else []
    if prefixed:
        return f"did you mean {_join(prefixed)}?"
    candidates = {candidate: candidate for candidate in PAPER}
    for prefix, names in (("torchvision/", _torchvision_names()), ("timm/", _timm_names())):
        for candidate in names:
            candidates.setdefault(candidate, prefix + candidate)
    close = difflib.get_close_matches(name, candidates, n=3)
    if close:
        return f"did you mean {_join(candidates[match] for match in close)}?"
    return f"use one of {_join(PAPER)}, paper, torchvision/NAME, timm/NAME or package.module:factory"


def _matches(name: str, candidates: Iterable[str], prefix: str) -> str:
    close = difflib.get_close_matches(name, candidates, n=3)
    if close:
        return f"; did you mean {_join(prefix + match for match in close)}?"
    return f"; `python -m bench list` shows what there is under {prefix}" if prefix else ""


def _join(names: Iterable[str]) -> str:
    return ", ".join(names)


def one_line(error: BaseException) -> str:
    """The text of an error on one line."""
    return " ".join(str(error).split())


def _described(error: BaseException) -> str:
    return f"{type(error).__name__}: {one_line(error)}".removesuffix(": ")
