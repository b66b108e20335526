"""Which trunk a cut of a model is: its key in the store, for plain features, augmented views and decoded images.

Invariant: whatever changes a feature is in the key, and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from headstart.common.errors import CutError, SettingError
from headstart.contract.wrapping import TRUNK_NODE
from headstart.data import Arrays
from headstart.data.augment import Augment
from headstart.features.company import check_unchanged
from headstart.features.pooled import with_pools
from headstart.models import Model
from headstart.store.feature_folder import FeatureFolder
from headstart.store.feature_store import FeatureStore
from headstart.store.keys import TrunkKey, params_digest, trunk_key

INPUT = "input"
"""the cut that keeps decoded images"""
OF_PIXELS = ("size", "resize", "interpolation", "decode", "squash", "floor", "antialias", "crop_first")
"""the settings of preprocessing that decoded images depend on; the last are said where they are not as usual"""
DTYPES = ("float16", "float32", "bfloat16")
"""of stored features; decoded images are uint8"""


class FeatureKeys:
    """The trunk keys of a model's features at some cuts, a key for each augmented view."""

    def __init__(
        self,
        model: Model,
        cuts: str | Sequence[str] | None,
        *,
        precision: str,
        dtype: str,
        augment: str | Augment | None,
        views: int,
        seed: int,
        pooled: bool = False,
    ) -> None:
        """The arguments of `extract`. `pooled`: a vector a cut, see `headstart.features.pooled`. Raises CutError
        and SettingError."""
        check_dtype(dtype)
        names = [cuts] if isinstance(cuts, str) else [model.default_cut] if cuts is None else list(cuts)
        self.augment = Augment.parse(augment)
        if not names:
            raise SettingError("cuts is empty; name at least one, such as 'avgpool'")
        check_views(views, self.augment)
        self.nodes = {cut: cut_of(model, cut) for cut in names}
        """cut, as the user wrote it -> node"""
        if pooled:
            model, self.nodes = with_pools(model, self.nodes)
        self.model = model
        """whose nodes they are: with what pools them"""
        self.shapes = model.graph.shapes(model.input_shape)
        """node -> shape of a sample's features"""
        self.by_node = {
            node: tuple(
                key_of(model, node, precision=precision, dtype=dtype, views=self._augmentation(seed, view))
                for view in range(views)
            )
            for node in self.nodes.values()
        }

    def _augmentation(self, seed: int, view: int) -> dict[str, Any] | None:
        return None if self.augment is None else view_spec(self.augment, seed, view)

    def folders(self, store: FeatureStore) -> dict[str, tuple[FeatureFolder, ...]]:
        """Node -> the features of each view."""
        return {
            node: tuple(store.folder(key, self.shapes[node]) for key in keys)
            for node, keys in self.by_node.items()
        }


def key_of(
    model: Model, node: str, *, precision: str, dtype: str, views: Mapping[str, Any] | None = None
) -> TrunkKey:
    """The key of a model's features at a node: a legal cut, or "input" for the decoded images, which depend on
    nothing but how they are cropped and resized, so that all models of one resolution share them."""
    # of a wrapped module as `hs.wrap` takes it: by the graph every one is cut at "trunk"
    is_own = model.module_cut is not None and node in (TRUNK_NODE, model.default_cut)
    name = model.module_cut if is_own else node
    label = {"model": model.name, "weights": model.weights or "random", "cut": name}
    if node == INPUT:
        preprocess = model.preprocess.as_dict()
        return trunk_key(
            graph=[[INPUT, "input", [], {}]],
            weights_digest=params_digest({}),
            preprocess={name: preprocess[name] for name in OF_PIXELS if name in preprocess},
            precision="exact",
            dtype="uint8",
            views=views,
            label={"model": "images", "weights": "none", "cut": node},
        )
    check_unchanged(model, node)
    graph = model.graph.upto(node)
    return trunk_key(
        graph=graph.spec(),
        weights_digest=params_digest({name: model.params[name] for name in graph.param_shapes()}),
        preprocess=model.preprocess.as_dict(),
        precision=precision,
        dtype=dtype,
        views=views,
        label=label,
    )


def view_spec(augment: Augment, seed: int, view: int) -> dict[str, Any]:
    """What a key says of an augmented view. Not how many there are: the first views of eight are those of four."""
    return {"augment": augment.as_dict(), "seed": seed, "view": view}


def check_views(views: int, augment: Augment | None) -> None:
    """SettingError unless `views` is 1 or more, and 1 where nothing is augmented."""
    if isinstance(views, bool) or not isinstance(views, int | np.integer) or views < 1:
        raise SettingError(f"views={views!r}; expected an integer of 1 or more")
    if views > 1 and augment is None:
        raise SettingError(
            f"views={views} without augmentation would be {views} equal copies; pass augment= as well, such as "
            "'flip,crop'"
        )


def cut_of(model: Model, cut: str) -> str:
    """The node that `cut` means: a legal cut, or "input". Raises CutError."""
    if cut == INPUT:
        if isinstance(model.preprocess, Arrays):
            raise CutError(f"cut 'input' keeps decoded images, and the model takes {model.preprocess}")
        return INPUT
    return model.graph.check_cut(cut)


def check_dtype(dtype: str) -> None:
    """SettingError for what features are not stored as."""
    if dtype not in DTYPES:
        raise SettingError(f"dtype={dtype!r}; expected one of {', '.join(DTYPES)}")
