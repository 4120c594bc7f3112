"""The network of a training: as it is before the first step, and as the files of one that ended hold it."""

from pathlib import Path

from torch import Tensor, nn

from archs.swapping import without_top
from archs.top_layer_kinds import RIVALS, TopLayerKind
from bench.accuracy import networks
from bench.accuracy.checkpoints import read_weights
from bench.accuracy.ranks import ALONE, Ranks, TopLayerNames, on_each, read_network, shares
from bench.accuracy.records import DatasetFacts
from bench.accuracy.settings import Member, Recipe
from bench.errors import UsageError


def network_of(
    member: Member,
    recipe: Recipe,
    facts: DatasetFacts,
    frequencies: Tensor | None,
    *,
    prior_bias: bool,
    rows: slice | None = None,
) -> nn.Module:
    """The network that a member starts from, with the weights of its seed.

    frequencies: of the classes in the training split, (classes,): they decide the shape of a rival of the full layer,
    and a member without one needs none. prior_bias: whether its top layer's bias starts at the prior of its classes.
    rows: of the top layer that are wanted, all if none are given.
    """
    return networks.build(
        recipe.network,
        facts.input_shape,
        facts.classes,
        seed=member.seed,
        prior_bias=prior_bias,
        auxiliary=recipe.auxiliary_weight > 0,
        top_layer=top_layer_of(member),
        frequencies=frequencies,
        rows=rows,
    )


def top_layer_of(member: Member) -> TopLayerKind:
    """The kind of its top layer: a rival stands in the place of a loss's key, all losses are those of a full layer."""
    return next((kind for kind in RIVALS if kind == member.loss), "full")


def top_path(recipe: Recipe, facts: DatasetFacts) -> str:
    """Where the top layer of a recipe's network is."""
    return networks.outline(recipe.network, facts.input_shape, auxiliary=recipe.auxiliary_weight > 0).path


def names_of_top_layer(recipe: Recipe, facts: DatasetFacts) -> TopLayerNames:
    """What the top layer's weight and bias are called in the network's state dict."""
    path = top_path(recipe, facts)
    return TopLayerNames(*(f"{path}.{name}".removeprefix(".") for name in ("weight", "bias")))


def sharded_folder(checkpoints: Path, member: Member) -> Path:
    """Where the network of a training whose top layer was split is kept."""
    return checkpoints / f"{member.name}.sharded"


def model_of(
    member: Member, recipe: Recipe, facts: DatasetFacts, checkpoints: Path, frequencies: Tensor | None = None
) -> nn.Module:
    """The network a training ended with, in evaluation mode on the CPU; whole, also where its top layer was split.

    `frequencies` as of `network_of`. Raises UsageError if its weights are missing, damaged, or of another network.
    """
    network = network_of(member, recipe, facts, frequencies, prior_bias=False)  # the weights say what became of it
    if recipe.shard_top_layer:
        path = sharded_folder(checkpoints, member)
        weights, weight, bias = read_network(path, member.name, facts.classes, ALONE)
        names = names_of_top_layer(recipe, facts)
        weights |= {names.weight: weight} | ({} if bias is None else {names.bias: bias})
    else:
        path = checkpoints / f"{member.name}.safetensors"
        weights = read_weights(path, member.name)
    return _with_weights(network, weights, path, recipe).eval()


def sharded_model_of(
    member: Member,
    recipe: Recipe,
    facts: DatasetFacts,
    checkpoints: Path,
    ranks: Ranks,
    frequencies: Tensor | None = None,
) -> tuple[nn.Module, Tensor, Tensor | None, int]:
    """The network a training ended with, its full top layer split over `ranks`, which may be others than trained it.

    Gives the network without its top layer, (m, ...) -> features (m, d), in evaluation mode on the CPU; this rank's
    rows of that layer, weight (k_local, d) and bias (k_local,) or none; and the class of the first row. Of a layer that
    was split no other rank's rows are read. Raises UsageError on all ranks as `model_of`, and for a rival.
    """
    if (kind := top_layer_of(member)) != "full":
        raise UsageError(f"a top layer of {kind} has no rows of one class each to split over ranks")
    path = top_path(recipe, facts)
    if not recipe.shard_top_layer:
        network = on_each(ranks, lambda: model_of(member, recipe, facts, checkpoints, frequencies))
        layer = network.get_submodule(path)
        assert isinstance(layer, nn.Linear)
        own = shares(facts.classes, ranks.size)[ranks.rank]
        own_bias = None if layer.bias is None else layer.bias.detach()[own].clone()
        return without_top(network, path).eval(), layer.weight.detach()[own].clone(), own_bias, own.start
    file = sharded_folder(checkpoints, member)
    weights, weight, bias = read_network(file, member.name, facts.classes, ranks)
    few = facts.model_copy(update={"classes": 2})  # what is below the top layer is the same for any number of classes
    backbone = without_top(network_of(member, recipe, few, None, prior_bias=False), path)
    first = shares(facts.classes, ranks.size)[ranks.rank].start
    return _with_weights(backbone, weights, file, recipe).eval(), weight, bias, first


def _with_weights(network: nn.Module, weights: dict[str, Tensor], path: Path, recipe: Recipe) -> nn.Module:
    """The network with these in the place of its own, which it lets go of."""
    try:
        network.load_state_dict(weights, assign=True)
    except RuntimeError:
        raise UsageError(f"{path}: these are the weights of another network than {recipe.network}") from None
    return network
