"""Backends with a fault in heads side by side; see `planted`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from planting import fails

from headstart.contract.checked import Passing
from headstart.contract.losses import Softmax
from headstart.contract.recipe import Place


@fails("test_heads_have_rates_and_decays_of_their_own[sgd]")
class HeadsRatesMixedUp(Passing):
    def heads(self, chain: Any, params: Any, recipe: Any, place: Place) -> Any:
        return self._inner.heads(chain, params, replace(recipe, lr=recipe.lr[::-1].copy()), place)


@fails("test_heads_have_rates_and_decays_of_their_own[adamw]")
class HeadsShareADecay(Passing):
    def heads(self, chain: Any, params: Any, recipe: Any, place: Place) -> Any:
        shared = np.full_like(recipe.weight_decay, recipe.weight_decay.mean())
        return self._inner.heads(chain, params, replace(recipe, weight_decay=shared), place)


@fails("test_heads_have_losses_and_hits_of_their_own[sgd]")
class HeadsWithoutSmoothing(Passing):
    def heads(self, chain: Any, params: Any, recipe: Any, place: Place) -> Any:
        return self._inner.heads(chain, params, replace(recipe, loss=Softmax()), place)


@fails("test_heads_have_logits_of_their_own[sgd]")
class HeadsLogitsMixedUp(Passing):
    def heads(self, chain: Any, params: Any, recipe: Any, place: Place) -> Any:
        heads = Passing(self._inner.heads(chain, params, recipe, place))
        heads.logits = lambda *what: heads._inner.logits(*what)[:, ::-1].copy()
        return heads


@fails("test_some_heads_have_logits_alone[sgd]")
class HeadsLogitsOfTheFirst(Passing):
    def heads(self, chain: Any, params: Any, recipe: Any, place: Place) -> Any:
        heads = Passing(self._inner.heads(chain, params, recipe, place))
        heads.logits_of = lambda *what: heads._inner.logits_of(*what[:3], sorted(what[3]))
        return heads


@fails("test_heads_that_are_kept_go_on[adamw]")
class HeadsForgetTheirMoments(Passing):
    def heads(self, chain: Any, params: Any, recipe: Any, place: Place) -> Any:
        heads = Passing(self._inner.heads(chain, params, recipe, place))

        def keep(numbers: Any) -> None:
            kept = {name: value[list(numbers)] for name, value in heads._inner.params().items()}
            heads.recipe = heads.recipe.of(numbers)
            heads._inner = self._inner.heads(chain, kept, heads.recipe, place)

        heads.recipe, heads.keep = recipe, keep
        return heads


@fails("test_heads_that_are_kept_go_on[sgd]")
class HeadsKeepTheRatesOfOthers(Passing):
    def heads(self, chain: Any, params: Any, recipe: Any, place: Place) -> Any:
        heads = Passing(self._inner.heads(chain, params, recipe, place))

        def keep(numbers: Any) -> None:
            heads._inner.keep(numbers)
            heads._inner.lr = heads._inner.lr.flip(0)

        heads.keep = keep
        return heads


@fails("test_heads_weigh_samples_each_its_own_way[softmax-True]")
class HeadsWeighAlike(Passing):
    def heads(self, chain: Any, params: Any, recipe: Any, place: Place) -> Any:
        heads = Passing(self._inner.heads(chain, params, recipe, place))
        heads.epoch = lambda *what: heads._inner.epoch(*what[:4], what[4].mean(1))
        return heads


@fails("test_heads_weigh_samples_each_its_own_way[sigmoid-False]")
class HeadsCountAllThatIsRight(Passing):
    def heads(self, chain: Any, params: Any, recipe: Any, place: Place) -> Any:
        heads = Passing(self._inner.heads(chain, params, recipe, place))

        def epoch(*what: Any) -> Any:
            losses, right = heads._inner.epoch(*what)
            return losses, np.minimum(right + (what[4] == 0).sum(0), len(what[1]))

        heads.epoch = epoch
        return heads


@fails("test_heads_see_what_comes_before_them")
class HeadsPrecisionIgnored(Passing):
    def heads(self, chain: Any, params: Any, recipe: Any, place: Place) -> Any:
        return self._inner.heads(chain, params, recipe, replace(place, precision="float32"))
