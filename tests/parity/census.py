"""A census of what `hs.wrap` can do: one small model of every family of timm, torchvision and keras.applications,
tiny transformers and NNX modules, each wrapped in four ways and compared with what it computes itself.

    default   no cut, the rest as head (a fresh classifier where the module has no classifier)
    fresh     no cut, a fresh classifier
    middle    cut half way, a fresh classifier
    rest      cut half way, the rest as head (transformers: as far as they are classifiers)

    usable    features and predictions are its own (1e-3), pooled over the right axes, and (default, middle)
              an epoch of training runs
    refused   a HeadstartError, with its text
    wrong     something differs
    failed    any other exception, or too long

Each library has a process of its own with one thread, and each model a time limit; what was done is kept, and
done again only with --again. Examples:

    python tests/parity/census.py --only 'timm/(swin|xcit).*'
    python tests/parity/census.py --library keras nnx --limit 120
    python tests/parity/census.py --table tests/parity/CENSUS.md
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import queue
import re
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from census_models import LIBRARIES, Case, Made

WAYS = ("default", "fresh", "middle", "rest")
VERDICTS = ("usable", "refused", "wrong", "failed")
TOLERANCE = 1e-3
TOO_LONG = "took too long"  # and is counted again the next time
THREADS = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


# ---- what a model computes itself


@dataclass
class Watched:
    """A run of the original."""

    output: Any
    inside: dict[str, list[np.ndarray]]
    """submodule -> what it took and gave, as core has it where it is known"""
    cuts: list[str]
    """submodules that give one map, or tokens, in the order in which they finish"""


def torch_batch(inputs: Any) -> Any:
    import torch

    if isinstance(inputs, dict):
        return {name: torch.from_numpy(array) for name, array in inputs.items()}
    x = torch.from_numpy(inputs)
    return x.permute(0, 3, 1, 2).contiguous() if x.ndim == 4 else x


def torch_watched(module: Any, inputs: Any) -> Watched:
    import torch

    inside: dict[str, list[np.ndarray]] = {}
    cuts: list[str] = []
    count = len(next(iter(inputs.values()))) if isinstance(inputs, dict) else len(inputs)

    def note(name: str) -> Any:
        def hook(_module: Any, taken: Any, given: Any) -> None:
            tensors = [value for value in (*taken, given) if isinstance(value, torch.Tensor)]
            inside.setdefault(name, []).extend(value.detach().float().clone().numpy() for value in tensors)
            if isinstance(given, torch.Tensor) and given.ndim in (3, 4) and len(given) == count:
                cuts.append(name)

        return hook

    handles = [part.register_forward_hook(note(name)) for name, part in module.named_modules() if name]
    batch = torch_batch(inputs)
    with torch.no_grad():
        output = module(**batch) if isinstance(batch, dict) else module(batch)
    for handle in handles:
        handle.remove()
    once = [name for name, number in Counter(cuts).items() if number == 1]
    parts = dict(module.named_modules())
    large = [name for name in once if next(parts[name].children(), None) is not None and name.count(".") < 4]
    return Watched(output, inside, large or once)


def keras_watched(module: Any, inputs: Any) -> Watched:
    import keras

    wide = [layer for layer in module.layers[1:] if len(getattr(layer.output, "shape", ())) in (3, 4)]
    ours = [layer for layer in wide if layer.__class__.__name__ in ("Add", "Concatenate", "Activation", "ReLU")]
    inner = keras.Model(module.input, [layer.output for layer in wide])
    values = [np.asarray(value) for value in inner.predict_on_batch(inputs)]
    inside = {layer.name: [value] for layer, value in zip(wide, values, strict=True)}
    last = module.layers[-1]
    before = keras.Model(module.input, last.input).predict_on_batch(inputs)
    inside[f"before {last.name}"] = [np.asarray(before)]
    return Watched(np.asarray(module.predict_on_batch(inputs)), inside, [layer.name for layer in ours or wide])


def nnx_watched(module: Any, inputs: Any) -> Watched:
    import jax.numpy as jnp
    from flax import nnx

    module = nnx.clone(module)
    module.eval()
    inside: dict[str, list[np.ndarray]] = {}
    cuts = []
    kinds: dict[type, type] = {}
    for path, part in nnx.iter_modules(module):
        name = ".".join(map(str, path))
        if not name or isinstance(part, nnx.List):
            continue
        kind = type(part)

        def call(self: Any, *args: Any, kind: Any = kind, **settings: Any) -> Any:
            value = kind.__call__(self, *args, **settings)
            inside.setdefault(names[id(self)], []).extend([np.asarray(args[0]), np.asarray(value)])
            cuts.append(names[id(self)])
            return value

        kinds[kind] = kinds.get(kind) or type(kind)(kind.__name__, (kind,), {"__call__": call})
    names = {id(part): ".".join(map(str, path)) for path, part in nnx.iter_modules(module)}
    for path, part in list(nnx.iter_modules(module)):
        if path and type(part) in kinds:
            part.__class__ = kinds[type(part)]
    output = np.asarray(module(jnp.asarray(inputs)))
    return Watched(output, inside, [name for name in cuts if inside[name][-1].ndim >= 2])


WATCHED: dict[str, Callable[[Any, Any], Watched]] = {"keras": keras_watched, "nnx": nnx_watched}


def entries(output: Any) -> dict[str, np.ndarray]:
    """The arrays of a module's output, by name."""
    if hasattr(output, "detach"):
        return {"": output.detach().float().numpy()}
    if isinstance(output, np.ndarray):
        return {"": output}
    pairs = output.items() if hasattr(output, "items") else enumerate(output)
    return {
        f"{key}.{inner}".rstrip("."): array
        for key, value in pairs
        if value is not None
        for inner, array in entries(value).items()
    }


# ---- comparisons


class Wrong(Exception):  # noqa: N818
    """Something differs from the original."""


def close(ours: np.ndarray, theirs: np.ndarray) -> bool:
    if ours.shape != theirs.shape:
        return False
    scale = float(np.abs(theirs).max(initial=0.0)) or 1.0
    return bool(np.abs(ours.astype(np.float64) - theirs).max(initial=0.0) <= TOLERANCE * scale)


def orders(theirs: np.ndarray) -> Iterator[np.ndarray]:
    """The ways in which core may have an array of the module's."""
    yield theirs
    if theirs.ndim == 4:
        yield theirs.transpose(0, 2, 3, 1)
    if theirs.ndim == 3:
        yield theirs.transpose(0, 2, 1)


def same(ours: np.ndarray, theirs: list[np.ndarray]) -> bool:
    return any(close(ours, order) for array in theirs for order in orders(array))


def check_pooled(pooled: np.ndarray, features: np.ndarray, given: list[np.ndarray]) -> None:
    """Of maps, the axis that is not as long as another one holds the channels. Squares are shown, so it is known
    without asking how anybody's axes are ordered."""
    for value in given:
        if value.ndim == 4 and value.size == features.size:
            sides = value.shape[1:]
            odd = [axis for axis in (1, 2, 3) if sides.count(value.shape[axis]) == 1]
            if len(odd) == 1:
                expected = value.mean(tuple({1, 2, 3} - set(odd)))
                if not close(pooled, expected):
                    raise Wrong(
                        f"pooled features {pooled.shape} of maps {value.shape}: the wrong axes are averaged"
                    )
                return


def check_features(model: Any, inputs: Any, watched: Watched, cut: str | None, hs: Any) -> str:
    names = [name for name in ("trunk", "pool", "logits") if name == "logits" or name in model.graph]
    found = hs.forward(model, inputs, names)
    features = found["trunk"]
    if not np.isfinite(features).all():
        raise Wrong("features are not finite")
    if cut is not None:
        expected = watched.inside[cut]
        if isinstance(inputs, dict) and (mask := inputs.get("attention_mask")) is not None:
            expected = [*expected, *(masked_mean(array, mask) for array in expected if array.ndim == 3)]
        if not same(features, expected):
            raise Wrong(f"features {features.shape} are not what {cut} gives")
        if "pool" in found:
            check_pooled(found["pool"], features, watched.inside[cut][-1:])
        return cut
    if (read := read_apart(model.module_cut, watched)) is not None and close(features, read):
        return f"{model.module_cut} {features.shape}"
    for name, array in [*entries(watched.output).items(), *((n, a) for n, v in watched.inside.items() for a in v)]:
        tokens = [array[:, 0], array.mean(1), array[:, -1]] if array.ndim == 3 else []
        if isinstance(inputs, dict) and array.ndim == 3 and (mask := inputs.get("attention_mask")) is not None:
            last = array.shape[1] - 1 - mask[:, ::-1].argmax(1)
            tokens += [masked_mean(array, mask), array[np.arange(len(array)), last]]
        if same(features, [array, *tokens]):
            return f"{name or 'output'} {features.shape}"
    raise Wrong(f"features {features.shape} are nothing that the module computes")


def read_apart(cut: str, watched: Watched) -> np.ndarray | None:
    """What several classifiers take, side by side, of tokens the means; None where it is one."""
    names = cut.removeprefix("before ").split(", ")
    if len(names) < 2 or not set(names) <= watched.inside.keys():
        return None
    taken = [watched.inside[name][0] for name in names]
    return np.concatenate([array.mean(1) if array.ndim == 3 else array for array in taken], 1)


def check_predictions(model: Any, inputs: Any, watched: Watched, hs: Any) -> None:
    logits = hs.forward(model, inputs, ["logits"])["logits"]
    if not any(
        close(logits, theirs) or close(softmax(logits), theirs) for theirs in entries(watched.output).values()
    ):
        raise Wrong(f"predictions {logits.shape} are not the module's")


def masked_mean(x: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Of tokens `(n, t, c)`, of those that the mask `(n, t)` counts."""
    return np.asarray((x * mask[..., None]).sum(1) / mask.sum(1)[:, None])


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


# ---- one model


def counted(case: Case) -> dict[str, Any]:
    """All four ways of one model."""
    import headstart as hs
    from headstart.common.errors import HeadstartError

    made: Made = case.make()
    watch = WATCHED.get(case.library, torch_watched)
    part = getattr(made.module, "census_name", case.name)
    line: dict[str, Any] = {"model": part}
    whole = made.classifier if made.classifier is not None else made.module
    headless = made.classifier is not None or case.name in ("SiglipVision", "CLIPVision")
    runs: dict[int, Watched] = {}

    def watched(module: Any) -> Watched:
        if id(module) not in runs:
            runs[id(module)] = watch(module, made.inputs)
        return runs[id(module)]

    def model(module: Any, cut: str | None, fresh: bool) -> Any:
        images = isinstance(made.inputs, np.ndarray) and made.inputs.ndim == 4
        settings: dict[str, Any] = dict(made.settings)
        settings |= (
            {"preprocess": hs.Preprocess(made.inputs.shape[1], made.inputs.shape[1])}
            if images
            else {"example": made.inputs}
        )
        return hs.wrap(module, cut, **settings, **({"head": "linear", "classes": 3} if fresh else {}))

    def trained(wrapped: Any) -> None:

        labels = np.arange(6) % (len(wrapped.classes) if len(wrapped.classes) < 3 else 3)
        names = list(wrapped.classes)
        if isinstance(made.inputs, np.ndarray) and made.inputs.ndim == 4:
            pixels = (np.clip(made.inputs * 0.25 + 0.5, 0, 1) * 255).astype(np.uint8)
            data = hs.data.arrays(pixels, labels, classes=names)
        else:
            data = hs.data.arrays(made.inputs, labels, classes=names)
        with tempfile.TemporaryDirectory() as cache:
            run = hs.fit(
                wrapped, data, mode="cached", epochs=1, batch_size=3, device="cpu", cache=cache, dtype="float32"
            )
        if not np.isfinite(run.history["loss"]).all():
            raise Wrong("the loss is not finite")

    def default() -> str:
        if headless:
            wrapped = model(made.module, None, True)
            where = check_features(wrapped, made.inputs, watched(made.module), None, hs)
            trained(wrapped)
            return f"{wrapped.weights} = {where}"
        wrapped = model(whole, None, False)
        check_predictions(wrapped, made.inputs, watched(whole), hs)
        trained(wrapped)
        return str(wrapped.weights)

    def fresh_of(module: Any) -> str:
        wrapped = model(module, None, True)
        where = check_features(wrapped, made.inputs, watched(module), None, hs)
        return f"{wrapped.weights} = {where}"

    def middle() -> str:
        cuts = watched(made.module).cuts
        cut = cuts[len(cuts) // 2]
        wrapped = model(made.module, cut, True)
        check_features(wrapped, made.inputs, watched(made.module), cut, hs)
        trained(wrapped)
        return f"{cut} {wrapped.graph.nodes[1].attrs['part'].output}"

    def rest() -> str:
        if headless and made.classifier is None:
            return "no classifier"
        if headless:
            wrapped = model(whole, None, False)
        else:
            cuts = watched(whole).cuts
            near = sorted(cuts, key=lambda cut: abs(cuts.index(cut) - len(cuts) // 2))
            wrapped = None
            refusal: Exception | None = None
            for cut in [*near[:4], *near[4::5]][:12]:
                try:
                    wrapped = model(whole, cut, False)
                    break
                except hs.errors.CutError as error:
                    refusal = refusal or error
            if wrapped is None:
                assert refusal is not None
                raise refusal
            check_features(wrapped, made.inputs, watched(whole), cut, hs)
        check_predictions(wrapped, made.inputs, watched(whole), hs)
        return str(wrapped.weights)

    for way, run in zip(WAYS, (default, lambda: fresh_of(whole), middle, rest), strict=True):
        start = time.perf_counter()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                verdict, text = "usable", run()
        except HeadstartError as error:
            verdict, text = "refused", f"{type(error).__name__}: {error}"
        except Wrong as error:
            verdict, text = "wrong", str(error)
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            verdict, text = "failed", f"{type(error).__name__}: {error} ({Path(last.filename).name}:{last.lineno})"
        line[way] = {"verdict": verdict, "text": text[:600], "seconds": round(time.perf_counter() - start, 2)}
    return line


def worker(library: str) -> None:
    """Counts the models whose names come in, one a line; what is found goes out as JSON."""
    sys.stdout.flush()
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries print
    if library != "keras" and library != "nnx":
        import torch

        torch.set_num_threads(1)
    cases = {case.family: case for case in LIBRARIES[library]()}
    out.write(json.dumps(list(cases)) + "\n")
    out.flush()
    for name in sys.stdin:
        start = time.perf_counter()
        try:
            line = counted(cases[name.strip()])
        except Exception as error:  # the model itself does not run
            line = {"model": name.strip(), "error": f"{type(error).__name__}: {str(error)[:300]}"}
        out.write(json.dumps(line | {"seconds": round(time.perf_counter() - start, 1)}) + "\n")
        out.flush()


# ---- all models


class Worker:
    """A process for a library."""

    def __init__(self, library: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--worker", library],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            env={**os.environ, **THREADS, "TF_CPP_MIN_LOG_LEVEL": "3"},
        )  # fmt: skip
        self.lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        self.families: list[str] = json.loads(self._line(300) or "[]")

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.put(line)
        self.lines.put("")

    def _line(self, seconds: float) -> str | None:
        with contextlib.suppress(queue.Empty):
            return self.lines.get(timeout=seconds)
        return None

    def count(self, family: str, seconds: float) -> dict[str, Any] | None:
        """None where it was killed, or died."""
        assert self.process.stdin is not None
        self.process.stdin.write(family + "\n")
        self.process.stdin.flush()
        line = self._line(seconds)
        if not line:
            self.close()
            why = TOO_LONG if line is None else "the process died"
            failed = {"verdict": "failed", "text": why, "seconds": seconds}
            return {"model": family, **dict.fromkeys(WAYS, failed)}
        found: dict[str, Any] = json.loads(line)
        return found

    @property
    def dead(self) -> bool:
        return self.process.poll() is not None

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


def census(libraries: list[str], only: str, limit: float, path: Path, again: bool) -> dict[str, Any]:
    """Counts what is not in the file yet."""
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    for library in libraries:
        running = Worker(library)
        for family in running.families:
            key = f"{library}/{family}"
            done = key in found and found[key].get("default", {}).get("text") != TOO_LONG
            if not re.fullmatch(only, key) or (done and not again):
                continue
            if running.dead:
                running = Worker(library)
            line = running.count(family, limit)
            found[key] = line
            partial = path.with_suffix(".partial")
            partial.write_text(json.dumps(found, indent=1))
            partial.replace(path)
            print(shown(key, line), flush=True)
        running.close()
    return found


def shown(key: str, line: Any) -> str:
    if "error" in line:
        return f"{key:<34} {line['model']:<34} does not run: {line['error']}"
    words = "  ".join(f"{way} {line[way]['verdict']:<8}" for way in WAYS)
    trouble = [f"\n    {way}: {line[way]['text']}" for way in WAYS if line[way]["verdict"] != "usable"]
    return f"{key:<34} {line['model']:<34} {words} {line.get('seconds', '')}{''.join(trouble)}"


def table(found: dict[str, Any]) -> str:
    """The whole as markdown."""
    versions = _versions()
    text = [
        "# What `hs.wrap` makes of other people's models",
        "",
        "Made by `python tests/parity/census.py --table tests/parity/CENSUS.md`, with "
        + ", ".join(f"{name} {version}" for name, version in versions.items())
        + ". One small model of each family, weights drawn at random; what the ways and verdicts mean stands in "
        "`census.py`. A family is usable where `default`, `fresh` and `middle` are.",
        "",
        "| library | families | usable | " + " | ".join(WAYS) + " | refused | wrong | failed |",
        "|---|---|---|" + "---|" * (len(WAYS) + 3),
    ]
    for library in LIBRARIES:
        lines = [line for key, line in found.items() if key.startswith(f"{library}/") and "error" not in line]
        if not lines:
            continue
        usable = sum(all(line[way]["verdict"] == "usable" for way in WAYS[:3]) for line in lines)
        counts = [str(sum(line[way]["verdict"] == "usable" for line in lines)) for way in WAYS]
        others = [
            str(sum(line[way]["verdict"] == verdict for line in lines for way in WAYS)) for verdict in VERDICTS[1:]
        ]
        text.append(f"| {library} | {len(lines)} | {usable} | " + " | ".join([*counts, *others]) + " |")
    text += ["", "What is not usable:", "", "| family | model | way | verdict | |", "|---|---|---|---|---|"]
    for key, line in found.items():
        for way in WAYS:
            if "error" not in line and line[way]["verdict"] != "usable":
                words = line[way]["text"].replace("|", "\\|").replace("\n", " ")[:300]
                text.append(f"| {key} | {line['model']} | {way} | {line[way]['verdict']} | {words} |")
    text += [
        "",
        "All of them, and where a fresh classifier sits without `cut=`:",
        "",
        "| family | model | fresh | middle |",
    ]
    text.append("|---|---|---|---|")
    for key, line in found.items():
        if "error" in line:
            text.append(f"| {key} | {line['model']} | does not run: {line['error'][:80]} | |")
        else:
            words = [line[way]["text"] if line[way]["verdict"] == "usable" else "-" for way in ("fresh", "middle")]
            text.append(
                f"| {key} | {line['model']} | " + " | ".join(word.replace("|", "\\|") for word in words) + " |"
            )
    return "\n".join(text) + "\n"


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("torch", "timm", "torchvision", "keras", "transformers", "flax")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", nargs="+", choices=list(LIBRARIES), default=list(LIBRARIES))
    parser.add_argument("--only", default=".*", help="a pattern of library/family")
    parser.add_argument("--limit", type=float, default=300.0, help="seconds a model")
    parser.add_argument(
        "--out", type=Path, default=Path("census.json"), help="what was found, and is taken up again"
    )
    parser.add_argument("--again", action="store_true", help="count anew what is there already")
    parser.add_argument("--table", type=Path, help="write the whole as markdown to this file")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.worker:
        worker(chosen.worker)
        return
    found = census(chosen.library, chosen.only, chosen.limit, chosen.out, chosen.again)
    if chosen.table:
        chosen.table.write_text(table(found))


if __name__ == "__main__":
    main()
