"""One training in several processes, on one machine or more: `torchrun --nproc-per-node N -m bench accuracy ...`.

    from bench.accuracy.ranks import joined, agree, own_rows, global_loss, sum_gradients

    with joined() as ranks:
        agree(ranks, {"recipe": recipe.model_dump(mode="json"), "versions": versions})
        rows = own_rows(recipe.batch_size, ranks)
        global_loss(network(images[rows]), labels[rows], form, ranks).backward()
        sum_gradients(network.parameters(), ranks)

What is gathered, what is exact, and what happens when a rank dies: docs/ranks.md.
"""

from bench.accuracy.ranks.agreement import agree, refuse_drift
from bench.accuracy.ranks.batch_norm import over_ranks
from bench.accuracy.ranks.global_batch import (
    global_coefficients,
    global_loss,
    global_mean,
    own_noise,
    own_rows,
    places_of_ranks,
    refuse_own_draws,
    sum_gradients,
)
from bench.accuracy.ranks.measuring import own_classes, own_part_of
from bench.accuracy.ranks.process_group import (
    ALONE,
    Alone,
    Place,
    RankFailed,
    RankLost,
    Ranks,
    first_alone,
    joined,
    on_all,
    on_each,
    on_first,
    place_in,
    shares,
)
from bench.accuracy.ranks.sharded import ShardedTopLayer
from bench.accuracy.ranks.sharded_checkpoints import (
    ShardedCheckpoint,
    ShardedCheckpoints,
    TopLayerNames,
    read_network,
    write_network,
)

__all__ = [
    "ALONE",
    "Alone",
    "Place",
    "RankFailed",
    "RankLost",
    "Ranks",
    "ShardedCheckpoint",
    "ShardedCheckpoints",
    "ShardedTopLayer",
    "TopLayerNames",
    "agree",
    "first_alone",
    "global_coefficients",
    "global_loss",
    "global_mean",
    "joined",
    "on_all",
    "on_each",
    "on_first",
    "over_ranks",
    "own_classes",
    "own_noise",
    "own_part_of",
    "own_rows",
    "place_in",
    "places_of_ranks",
    "read_network",
    "refuse_drift",
    "refuse_own_draws",
    "shares",
    "sum_gradients",
    "write_network",
]
