"""What each rank does in these tests: run as `__rank__` in a process of its own, or called with Alone."""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from archs import shards_on_disk
from bench.accuracy.checkpoints import CheckpointFolder
from bench.accuracy.chunked import PlainSGD, SampledForm, backward, form_of, row_statistics, sampled_form_of
from bench.accuracy.losses import configured
from bench.accuracy.ranks import (
    Ranks,
    ShardedCheckpoints,
    ShardedTopLayer,
    agree,
    global_coefficients,
    global_loss,
    joined,
    over_ranks,
    own_classes,
    own_part_of,
    own_rows,
    shares,
    sum_gradients,
)
from bench.accuracy.ranks.global_batch import detached, statistics_of_logits, with_slopes
from bench.errors import UsageError

M, INPUTS, D, K = 7, 6, 5, 11

#: Losses with what they are configured with: the eleven, labels smoothed, noise that is not uniform.
LOSSES: dict[str, dict[str, Any]] = {
    "ce": {},
    "max-margin": {},
    "softmax-cauchy-schwarz": {},
    "sigmoid-cauchy-schwarz": {},
    "softmax-tanimoto": {},
    "self-norm": {},
    "nce": {},
    "binary-ce": {},
    "sigmoid-tanimoto": {},
    "batch-ce": {},
    "batch-max-margin": {},
    "batch-ce smoothed": {"label_smoothing": 0.1},
    "nce of frequencies": {"q": "class frequencies", "t": 4, "class_frequencies": [float(1 + j) for j in range(K)]},
}

SAMPLED = {
    f"{key}{' shared' if shared else ''}": (key, shared)
    for key in ("nce", "importance-sampling", "negative-sampling")
    for shared in (False, True)
}

#: How the classes are split: as `shares` does, and one shard much smaller than the others (of 2 and of 3 ranks).
SPLITS = ("even", "uneven")

LR, DECAY = 0.3, 0.01


def loss_of(name: str) -> Any:
    return configured(name.split()[0], classes=K, **LOSSES[name])


def sampled_form(name: str) -> SampledForm:
    key, shared = SAMPLED[name]
    more: dict[str, Any] = {"estimate": "sampled"} if key == "nce" else {}
    frequencies = [float(1 + j % 4) for j in range(K)]
    generator = torch.Generator().manual_seed(5)
    more["negatives"] = "shared" if shared else "own"
    made = configured(key, classes=K, t=6, class_frequencies=frequencies, generator=generator, **more)
    return sampled_form_of(made, K)


def minibatch() -> tuple[Tensor, Tensor]:
    """No label beyond class 4, so that the last of three shards has none."""
    source = torch.Generator().manual_seed(1)
    images = torch.randn(M, INPUTS, generator=source, dtype=torch.float64)
    return images, torch.randint(5, (M,), generator=source)


def network() -> nn.Sequential:
    """With logits far enough apart that a wrong mean would show."""
    torch.manual_seed(2)
    made = nn.Sequential(nn.Linear(INPUTS, D), nn.Tanh(), nn.Linear(D, K)).double()
    for parameter in made.parameters():
        parameter.data.mul_(4)
    return made


def gradients(module: nn.Module) -> dict[str, Tensor]:
    return {name: each.grad.clone() for name, each in module.named_parameters() if each.grad is not None}


# --- losses of the global minibatch


def parts_of(own: slice, steps: int) -> list[slice]:
    """Accumulation steps of a rank's rows; with fewer rows than steps, fewer steps."""
    parts = [slice(own.start + part.start, own.start + part.stop) for part in shares(own.stop - own.start, steps)]
    return [part for part in parts if part.stop > part.start]


def from_logits(ranks: Ranks, name: str, steps: int) -> dict[str, Any]:
    images, labels = minibatch()
    form, module = form_of(loss_of(name), K), network()
    parts = parts_of(own_rows(M, ranks), steps)
    if len(parts) == 1 and steps == 1:
        value = global_loss(module(images[parts[0]]), labels[parts[0]], form, ranks)
        value.backward()
    else:
        own = [statistics_of_logits(module(images[part]), labels[part], form) for part in parts]
        value, found = global_coefficients(form, [detached(each) for each in own], ranks)
        for each, of in zip(own, found, strict=True):
            with_slopes(value, each, of).backward()
    sum_gradients(module.parameters(), ranks)
    return {"loss": value.detach(), **gradients(module)}


def chunked(ranks: Ranks, name: str, steps: int) -> dict[str, Any]:
    images, labels = minibatch()
    form, module = form_of(loss_of(name), K), network()
    backbone, top = module[:2], module[2]
    parts = parts_of(own_rows(M, ranks), steps)
    features = [backbone(images[part]) for part in parts]
    own = [
        row_statistics(x, top.weight, top.bias, labels[part], form, chunk=4)
        for x, part in zip(features, parts, strict=True)
    ]
    value, found = global_coefficients(form, own, ranks)
    top.weight.grad, top.bias.grad = torch.zeros_like(top.weight), torch.zeros_like(top.bias)
    for x, part, of in zip(features, parts, found, strict=True):
        made = backward(x, top.weight, top.bias, labels[part], form, of, chunk=4).dense(K)
        x.backward(made.features)
        top.weight.grad += made.weight
        top.bias.grad += made.bias
    sum_gradients(module.parameters(), ranks)
    return {"loss": value, **gradients(module)}


def one_process(name: str) -> dict[str, Any]:
    """The truth: the loss of all logits, by autograd."""
    images, labels = minibatch()
    module = network()
    value = loss_of(name)(module(images), labels)
    value.backward()
    return {"loss": value.detach(), **gradients(module)}


# --- the classes split over ranks


def shard_of(ranks: Ranks, split: str) -> slice:
    if split == "even" or ranks.size == 1:
        return shares(K, ranks.size)[ranks.rank]
    bounds = {2: [0, 1, K], 3: [0, 4, 5, K]}[ranks.size]
    return slice(bounds[ranks.rank], bounds[ranks.rank + 1])


def sharded_layer(ranks: Ranks, form: Any, split: str) -> ShardedTopLayer:
    top, held = network()[2], shard_of(ranks, split)
    weight, bias = top.weight.detach()[held].clone(), top.bias.detach()[held].clone()
    return ShardedTopLayer(weight, bias, form, ranks, first_class=held.start, chunk=3)


def split_over_ranks(ranks: Ranks, make_form: Any, split: str) -> dict[str, Any]:
    """Gradients returned, then a step in place of the same layer; and the validation's loss before both."""
    images, labels = minibatch()
    own, backbone = own_rows(M, ranks), network()[:2]
    features = backbone(images[own]).detach()
    layer = sharded_layer(ranks, make_form(), split)
    before = layer.loss(features, labels[own])
    layer = sharded_layer(ranks, make_form(), split)
    loss, found = layer.backward(features, labels[own])
    whole = found.dense(len(layer.weight))
    layer = sharded_layer(ranks, make_form(), split)
    step = layer.in_place_step(features, labels[own], LR, weight_decay=DECAY)
    return {
        "validation": before,
        "loss": loss,
        "features": found.features,
        "weight": whole.weight,
        "bias": whole.bias,
        "step loss": step.loss,
        "step features": step.features,
        "stepped weight": layer.weight,
        "stepped bias": layer.bias,
    }


def sharded_once(ranks: Ranks) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for split in SPLITS:
        for name in LOSSES:
            made[f"{name}/{split}"] = split_over_ranks(ranks, lambda name=name: form_of(loss_of(name), K), split)
        for name in SAMPLED:
            made[f"sampled {name}/{split}"] = split_over_ranks(ranks, lambda name=name: sampled_form(name), split)
    return made


# --- batch norm


def normed(kind: str) -> nn.Module:
    torch.manual_seed(3)
    if kind == "2d":
        return nn.Sequential(nn.Conv2d(1, 3, 2), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(6, 2)).double()
    momentum = None if kind == "cumulative" else 0.1
    affine = kind != "not affine"
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3, momentum=momentum, affine=affine), nn.Linear(3, 2)).double()


def of_images(kind: str) -> Tensor:
    source = torch.Generator().manual_seed(4)
    shape = (2, M, 1, 3, 2) if kind == "2d" else (2, M, 4)
    return 3 + 2 * torch.randn(shape, generator=source, dtype=torch.float64)


def batch_norm(ranks: Ranks, kind: str) -> dict[str, Any]:
    """Two steps of SGD, then an evaluation."""
    images, own = of_images(kind), own_rows(M, ranks)
    module = over_ranks(normed(kind), ranks)
    found: dict[str, Any] = {"kinds": [type(part).__name__ for part in module.modules()]}
    optimiser = torch.optim.SGD(module.parameters(), lr=0.1)
    for step, each in enumerate(images):
        x = each[own].clone().requires_grad_()
        outputs = module(x)
        (outputs.square() * (1 + torch.arange(M)[own, None])).sum().backward()
        sum_gradients(module.parameters(), ranks)
        found[f"outputs {step}"], found[f"inputs {step}"] = outputs.detach(), x.grad
        optimiser.step()
        optimiser.zero_grad()
    found["state"] = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    with torch.no_grad():
        found["evaluated"] = module.eval()(images[0][own])
    return found


NORMS = ("1d", "cumulative", "not affine", "2d")


# --- the messages themselves


def collectives(ranks: Ranks) -> dict[str, Any]:
    own = torch.arange(3 * ranks.rank, dtype=torch.float32).view(-1, 3) + 10 * ranks.rank
    turned = torch.arange(6.0).view(2, 3).t() * (1 + ranks.rank)
    return {
        "unequal": ranks.all_gather(own),
        "half": ranks.all_gather(torch.full((2,), 1.5 + ranks.rank, dtype=torch.bfloat16), [2] * ranks.size),
        "truth": ranks.all_gather(torch.tensor([ranks.rank == 0])),
        "empty": ranks.all_gather(torch.empty(0, 4)),
        "sum": ranks.all_reduce(torch.tensor([1.0 + ranks.rank])),
        "max": ranks.all_reduce(torch.tensor([1 + ranks.rank]), "max"),
        "turned": ranks.all_reduce(turned),
        "first": ranks.broadcast({"rank": ranks.rank}),
        "last": ranks.broadcast({"rank": ranks.rank}, ranks.size - 1),
        "objects": ranks.gather_objects(f"rank {ranks.rank}"),
        "gradients": gradients_of_some(ranks),
    }


def gradients_of_some(ranks: Ranks) -> list[Tensor | None]:
    """Gradients that all ranks have, that the last one has, that none has, and of rows."""
    parameters = [torch.zeros(3, requires_grad=True) for _ in range(3)] + [torch.zeros(4, 2, requires_grad=True)]
    parameters[0].grad = torch.ones(3) * (1 + ranks.rank)
    if ranks.rank == ranks.size - 1:
        parameters[1].grad = torch.arange(3.0)
        rows = torch.tensor([[1, 3, 3]])
        parameters[3].grad = torch.sparse_coo_tensor(rows, torch.ones(3, 2), (4, 2), check_invariants=False)
    sum_gradients(parameters, ranks)
    found = [None if each.grad is None else each.grad for each in parameters]
    return [each.to_dense() if each is not None and each.is_sparse else each for each in found]


def refused(ranks: Ranks) -> dict[str, str]:
    """Lines of errors that every rank must raise alike."""
    images, labels = minibatch()
    features = network()[:2](images).detach()
    form = form_of(loss_of("ce"), K)
    layer = sharded_layer(ranks, form, "even")
    last = ranks.rank == ranks.size - 1
    wrong = torch.full((2,), K) if last else labels[:2]
    lines = {}
    for name, work in {
        "facts": lambda: agree(ranks, {"recipe": {"steps": 9, "batch_size": 256 if last else 128}}),
        "labels": lambda: layer.in_place_step(features[:2], wrong, LR),
        "width": lambda: layer.in_place_step(features[:2, : D - last], labels[:2], LR),
        "gap": lambda: ShardedTopLayer(torch.zeros(2, D), None, form, ranks, first_class=3 * ranks.rank),
    }.items():
        try:
            work()
        except UsageError as error:
            lines[name] = str(error)
    agree(ranks, {"recipe": {"steps": 9}})
    return lines


def measures(ranks: Ranks) -> dict[str, Any]:
    """Of a layer that is split, and of one that every rank has; an example more than the ranks share evenly."""
    random = np.random.default_rng(0)
    features = torch.from_numpy(random.standard_normal((40, D)))
    labels = torch.from_numpy(random.integers(0, K, 40))
    own = own_rows(40, ranks)
    layer = sharded_layer(ranks, form_of(loss_of("ce"), K), "uneven")
    top = network()[2]
    found: dict[str, Any] = {}
    for name, classes in {
        "split": own_classes(features[own], labels[own], layer.weight, layer.bias, layer.first_class, ranks),
        "whole": own_part_of(features[own], labels[own], top.weight, top.bias, ranks),
    }.items():
        for score in ("single", "all"):
            found[f"{name} {score}"] = classes.measure(score).auprc
        found[f"{name} accuracy"] = classes.accuracy()
    return found


def everything(ranks: Ranks) -> dict[str, Any]:
    steps = (1, 2, 4)
    return {
        "logits": {(name, each): from_logits(ranks, name, each) for name in LOSSES for each in steps},
        "chunked": {(name, each): chunked(ranks, name, each) for name in LOSSES for each in steps},
        "sharded": sharded_once(ranks),
        "norms": {kind: batch_norm(ranks, kind) for kind in NORMS},
        "collectives": collectives(ranks),
        "refused": refused(ranks),
        "measures": measures(ranks),
    }


# --- faults


def killed(ranks: Ranks, where: str) -> str:
    """The middle rank is gone in the midst of things."""
    ranks.barrier()
    if ranks.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    work = {
        "reduce": lambda: ranks.all_reduce(torch.ones(1000)),
        "gather": lambda: ranks.all_gather(torch.ones(3)),
        "objects": lambda: ranks.gather_objects("here"),
    }[where]
    for _ in range(3):
        work()
    return "went on"


def failing(ranks: Ranks) -> str:
    """One rank's own error, of which the others must hear."""
    if ranks.rank == ranks.size - 1:
        raise MemoryError("no room for 3 GB\non this machine")
    ranks.all_reduce(torch.ones(3))
    return "went on"


def checkpoint_cut_off(ranks: Ranks, path: str, *, who: int) -> str:
    """One checkpoint that is whole, and one in which a rank is killed with half of its shard written."""
    form = form_of(loss_of("ce"), K)
    layer = sharded_layer(ranks, form, "even")
    checkpoints = ShardedCheckpoints(CheckpointFolder(Path(path), "this work"), ranks)
    backbone = network()[:2].state_dict()
    checkpoints.save(1, backbone, {"step": 1}, layer)
    images, labels = minibatch()
    own = own_rows(M, ranks)
    layer.backward(network()[:2](images[own]).detach(), labels[own], update=PlainSGD(LR))
    if ranks.rank == who:
        kill_in_the_middle()
    checkpoints.save(2, backbone, {"step": 2}, layer)
    return "went on"


def kill_in_the_middle() -> None:
    whole = shards_on_disk.write_rows

    def half(path: Path, chunks: Any, *more: Any, **named: Any) -> None:
        def some() -> Any:
            yield from (chunk[:1] for chunk in chunks)
            os.kill(os.getpid(), signal.SIGKILL)

        whole(path, some(), *more, **named)

    shards_on_disk.write_rows = half


def main(given: dict[str, Any], programs: dict[str, Any]) -> None:
    os.environ.update(given["environment"])
    torch.set_num_threads(1)
    program = given["program"]
    file = Path(given["folder"]) / f"{program}-{given['environment']['RANK']}.pt"
    try:
        with joined() as ranks:
            result = programs[program](ranks, **given["arguments"])
    except Exception as error:
        result = {"error": type(error).__name__, "line": str(error)}
    torch.save(result, file)
    sys.exit(0)


if __name__ == "__rank__":
    main(globals()["GIVEN"], globals())
