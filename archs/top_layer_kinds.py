"""Names of the kinds of top layer; apart from archs.rivals, so that whoever needs the names alone needs no torch."""

from typing import Literal

TopLayerKind = Literal[
    "full", "hierarchical-balanced", "hierarchical-huffman", "adaptive", "differentiated", "low-rank"
]

#: Every kind but the full layer: the ways of the paper's related work (Sect. 2) to spare most of it.
RIVALS: tuple[TopLayerKind, ...] = (
    "hierarchical-balanced",
    "hierarchical-huffman",
    "adaptive",
    "differentiated",
    "low-rank",
)

KINDS: tuple[TopLayerKind, ...] = ("full", *RIVALS)

#: What each is called in tables.
NAMES: dict[TopLayerKind, str] = {
    "full": "full softmax",
    "hierarchical-balanced": "hierarchical softmax, balanced",
    "hierarchical-huffman": "hierarchical softmax, Huffman",
    "adaptive": "adaptive softmax",
    "differentiated": "differentiated softmax",
    "low-rank": "low-rank softmax",
}
