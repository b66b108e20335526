"""The program of a user's module on a CPU: faster forms take the places of XLA's own convolutions and max pools.
XLA is slow at convolutions in bfloat16, at those with a filter a channel, and at windows.

What is replaced are equations of the program that JAX traces, each by what computes the same: in inference by
oneDNN's calls, in training by the forms that the zoo's networks are trained in, which have derivatives. Loops are
left as they are, and in training what says itself what its derivative is.

Invariant: what comes out is what the program computes, within rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import Literal

from headstart.backends.jax import fused
from headstart.backends.jax.cpu_forms import Window, form_of, max_pool_of
from headstart.common.log import LOG
from headstart.contract.devices import CPU
from headstart.contract.recipe import Place
from headstart.graph import Graph
from headstart.graph.fuse import allowed

CONVOLUTION, MAX_POOL = "conv_general_dilated", "reduce_window_max"
CALLS = ("jit", "pjit", "closed_call")
"""what only calls an inner program, under the names that versions of JAX have for it"""
WITH_DERIVATIVES = ("custom_jvp_call", "custom_vjp_call", "checkpoint", "remat", "remat2")
"""the same, where it says how it is derived"""
INNER = ("call_jaxpr", "jaxpr", "fun_jaxpr")


SEVERAL = 2
"""convolutions: for one, as a vision transformer has, it does not pay that what calls oneDNN is compiled anew in
each process"""


def may_be_formed(graph: Graph, place: Place) -> bool:
    """Whether there are programs of users' in it that are to have such forms here."""
    natives = [node.attrs["part"].native for node in graph.nodes if node.op == "native"]
    return sum(of.convolutions for of in natives) >= SEVERAL and place.kind == CPU and allowed()


class Forms(NamedTuple):
    """What stands for XLA's own convolution of maps `(n, h, w, c)`, and how a max pool of such is used."""

    convolution: Callable[[jax.Array, jax.Array, Window, Any], jax.Array]
    """of maps, a kernel `(high, wide, c / groups, c')`, and the type of the numbers that are asked for"""
    max_pool: Callable[[Callable[[jax.Array], jax.Array], jax.Array], jax.Array]
    calls: tuple[str, ...]
    """what is looked into"""


def on_cpu(run: Callable[..., Any], forms: Forms) -> Callable[..., Any]:
    """The same function of arrays, for which a program is to be compiled, in these forms."""

    def formed(*args: Any) -> Any:
        traced, shape = jax.make_jaxpr(run, return_shape=True)(*args)
        try:
            values = _evaluated(traced.jaxpr, traced.consts, jax.tree.leaves(args), forms)
        except Exception as error:  # of a version of JAX that has programs in another way
            LOG.debug("jax %s: a wrapped module has XLA's own convolutions: %s", jax.__version__, error)
            return run(*args)
        return jax.tree.unflatten(jax.tree.structure(shape), values)

    return formed


def _evaluated(program: Any, constants: Sequence[Any], arguments: Sequence[Any], forms: Forms) -> list[Any]:
    """What a jaxpr gives."""
    known: dict[Any, Any] = dict(zip(program.constvars, constants, strict=True))
    known |= zip(program.invars, arguments, strict=True)

    def value(variable: Any) -> Any:
        return variable.val if isinstance(variable, Literal) else known[variable]

    for equation in program.eqns:
        given = [*map(value, equation.invars)]
        made = _replaced(equation, given, forms)
        known |= zip(equation.outvars, made if made is not None else _own(equation, given), strict=True)
    return [*map(value, program.outvars)]


def _own(equation: Any, given: Sequence[Any]) -> Sequence[Any]:
    """As JAX's guide to interpreters of programs has it; of call primitives older versions give functions, too."""
    bound = equation.primitive.get_bind_params(equation.params)
    functions, params = bound if isinstance(bound, tuple) else ((), bound)
    with equation.ctx.manager:
        made = equation.primitive.bind(*functions, *given, **params)
    return made if equation.primitive.multiple_results else [made]


def _replaced(equation: Any, given: Sequence[Any], forms: Forms) -> Sequence[Any] | None:
    """What an equation gives, in another form; None where it has none."""
    name, params = equation.primitive.name, equation.params
    if name == CONVOLUTION:
        x, kernel = given
        y = _convolved(x, kernel, params, forms)
        return None if y is None else [y]
    if name == MAX_POOL:
        y = _pooled(given[0], params, forms)
        return None if y is None else [y]
    if name in forms.calls and any(inner in (CONVOLUTION, MAX_POOL) for inner in _called(equation, forms)):
        inner = next(params[key] for key in INNER if params.get(key) is not None)
        return _evaluated(getattr(inner, "jaxpr", inner), getattr(inner, "consts", ()), given, forms)
    return None


def _called(equation: Any, forms: Forms) -> Iterator[str]:
    """The primitives in the programs that an equation calls, as far as they are looked into."""
    for key in INNER:
        inner = equation.params.get(key)
        for called in getattr(getattr(inner, "jaxpr", inner), "eqns", ()):
            yield called.primitive.name
            if called.primitive.name in forms.calls:
                yield from _called(called, forms)


def _convolved(x: jax.Array, kernel: jax.Array, params: Any, forms: Forms) -> jax.Array | None:
    plain = {1} == {*params["lhs_dilation"], *params["rhs_dilation"], params["batch_group_count"]}
    if x.ndim != 4 or not plain or x.dtype != kernel.dtype or x.dtype not in (jnp.float32, jnp.bfloat16):
        return None
    orders = params["dimension_numbers"]  # of each: of samples (outputs), of channels (inputs), of places
    maps = x.transpose(*(orders.lhs_spec[axis] for axis in (0, 2, 3, 1)))
    filters = kernel.transpose(*(orders.rhs_spec[axis] for axis in (2, 3, 1, 0)))
    padding = tuple(map(tuple, params["padding"]))
    within = all(
        0 <= pad < k and n + sum(pads) >= k
        for pads, k, n in zip(padding, filters.shape[:2], maps.shape[1:3], strict=True)
        for pad in pads
    )
    if not within or not x.size or not kernel.size:
        return None
    how = Window(tuple(params["window_strides"]), padding, params["feature_group_count"])
    y = forms.convolution(maps, filters, how, params["preferred_element_type"] or x.dtype)
    places = {axis: place for place, axis in enumerate(orders.out_spec)}
    nhwc = {0: 0, 1: 3, 2: 1, 3: 2}
    return y.transpose(*(nhwc[places[axis]] for axis in range(4)))


def _pooled(x: jax.Array, params: Any, forms: Forms) -> jax.Array | None:
    window, stride, padding = (params[key] for key in ("window_dimensions", "window_strides", "padding"))
    spread = {*params["base_dilation"], *params["window_dilation"]}
    of_maps = len(window) == 4 and window[0] == window[3] == stride[0] == stride[3] == 1 and spread == {1}
    if not of_maps or not jnp.issubdtype(x.dtype, jnp.floating) or {*padding[0], *padding[3]} != {0}:
        return None
    if not x.size or any(pad < 0 for pads in padding for pad in pads):
        return None

    return forms.max_pool(max_pool_of(tuple(window[1:3]), tuple(stride[1:3]), tuple(padding[1:3])), x)


def _by_onednn(x: jax.Array, kernel: jax.Array, how: Window, dtype: Any) -> jax.Array:
    # Without units for it, bfloat16 is a matter of rounding, and the arithmetic is float32's.
    inner = x.dtype if fused.bfloat16_units() else jnp.float32
    wide = inner if dtype == x.dtype else jnp.float32
    operands = [x.astype(inner), kernel.astype(inner)]
    return fused.convolution(operands, how.stride, how.padding, how.groups, (), wide).astype(dtype)


def _by_products(x: jax.Array, kernel: jax.Array, how: Window, dtype: Any) -> jax.Array:
    form = form_of(kernel.shape[:2], x.shape[3], kernel.shape[3], how).form
    return form(x.astype(dtype), kernel.astype(dtype), how)


INFERENCE = Forms(_by_onednn, fused.a_few_at_a_time, (*CALLS, *WITH_DERIVATIVES))
TRAINING = Forms(_by_products, lambda pool, x: pool(x), CALLS)
