"""What the classifiers at a keras.Model's end read, which a fresh one is to read in their place.

Several may read tensors of their own, as those of a distilled transformer do. These then stand side by side, as
`headstart.backends.torch.reading` has it: a dense layer on them can be what all of the classifiers are together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from headstart.backends.keras.cuts import Cut, before_classifier, check_order, made_by, named, tensor_of
from headstart.common.errors import CutError
from headstart.contract.wrapping import BEFORE
from headstart.graph.cuts import Paths
from headstart.models.endings import APART


@dataclass(frozen=True)
class Joined:
    """Tensors of a model side by side, `(n, c)`; of maps and tokens the means."""

    parts: tuple[Cut, ...]
    name: str
    """as it is said in `cut=`"""

    def of(self, nodes: Mapping[str, Any]) -> Any:
        return keras.layers.Concatenate()([_mean(part.of(nodes)) for part in self.parts])


def side_by_side(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """What `Joined.of` computes."""
    rows = [array if array.ndim == 2 else array.mean(tuple(range(1, array.ndim - 1))) for array in arrays]
    return np.concatenate(rows, 1)


def _mean(tensor: Any) -> Any:
    kinds = {3: keras.layers.GlobalAveragePooling1D, 4: keras.layers.GlobalAveragePooling2D}
    pooling = kinds.get(len(tensor.shape))
    return tensor if pooling is None else pooling(data_format="channels_last")(tensor)


def before_classifiers(
    model: keras.Model, nodes: Mapping[str, Any], paths: Paths, ends: Sequence[Any], fresh: bool, samples: int
) -> Cut | Joined:
    """Where a model is cut before `ends`, the classifiers at its one end. `fresh`: for another one, that reads
    what all of them do; CutError where these cannot stand side by side."""
    ranks = [name for name, node in nodes.items() if any(node is end for end in ends)]
    apart = read_by(nodes, ends)
    if fresh and len(apart) == 1 and not nodes[apart[0].node].is_input:  # whatever else goes on to the end
        return apart[0]
    try:
        cut = before_classifier(model, nodes, paths, ranks)
    except CutError:
        if not fresh or len(apart) < 2:
            raise
        cut = ""
    if not fresh or len(apart) < 2 or (cut and len(nodes[cut].outputs[0].shape) == 2):
        return tensor_of(model, nodes, cut, "", samples)
    tensors = [part.of(nodes) for part in apart]
    if any(nodes[part.node].is_input for part in apart) or not all(map(_can_stand, tensors)):
        raise CutError(APART.format(called=model.name, names=", ".join(map(repr, ranks))))
    for part, tensor in zip(apart, tensors, strict=True):
        check_order(tensor, part.name)
    return Joined(tuple(apart), f"{BEFORE}{', '.join(ranks)}")


def read_by(nodes: Mapping[str, Any], ends: Sequence[Any]) -> list[Cut]:
    """The tensors that these calls read, each once."""
    reads = [_before_dropout(nodes, node.input_tensors[0]) for node in ends]
    return list({(cut.node, cut.index): cut for cut in reads}.values())


def _before_dropout(nodes: Mapping[str, Any], tensor: Any) -> Cut:
    node, index = made_by(nodes, tensor)
    while isinstance(nodes[node].operation, keras.layers.Dropout):
        node, index = made_by(nodes, nodes[node].input_tensors[0])
    return named(node, nodes[node], index)


def _can_stand(tensor: Any) -> bool:
    """Whether it is rows, or of places that all count."""
    places = len(tensor.shape) in (3, 4) and getattr(tensor, "_keras_mask", None) is None
    return len(tensor.shape) == 2 or places
