"""Write down what the version before the restructuring made and said. Run with its code, and never again:

    git worktree add --detach OLD 04bf61d && cd OLD && PYTHONPATH=WHERE_THIS_IS/.. python -m before.record

with torch, Keras and JAX installed. The tests beside this file say what of it must hold.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from before.recorded import (
    CLASSES,
    COMMANDS,
    HERE,
    MADE,
    MISTAKES,
    MISTAKES_OF_PARSING,
    MISTAKES_OF_TRAINING,
    NEUTRAL_JSON,
    TORCH_JSON,
    answer,
    command,
    digests,
    extracted,
    own_weights,
    printed_options,
    run_json,
    stored,
    types_of,
    unpack,
    wrapped,
)
from PIL import Image
from safetensors.numpy import save_file

import headstart as hs

FRAMEWORKS = ("torch", "keras", "jax")


def set_variable(name: str, value: str) -> None:
    os.environ[name] = value


def write(name: str, content: Any) -> None:
    (HERE / name).write_text(json.dumps(content, indent=1) + "\n")


def make_images(folder: Path) -> None:
    """18 images in three classes; "light" is a folder of two of the classes, "broken" has a file that is none."""
    rng = np.random.default_rng(0)
    for name, level in zip(CLASSES, (0, 120, 60), strict=True):
        (folder / "images" / name).mkdir(parents=True)
        for i in range(6):
            pixels = rng.integers(level, level + 130, (18, 20, 3)).astype(np.uint8)
            if name == "striped":
                pixels[::3] = 0
            kind = ("png", "png", "png", "jpg", "webp", "bmp")[i]
            Image.fromarray(pixels // 8 * 8).save(folder / "images" / name / f"{i}.{kind}")
    shutil.copytree(folder / "images", folder / "light", ignore=shutil.ignore_patterns("striped"))
    shutil.copytree(folder / "images", folder / "broken")
    (folder / "broken/dark/7.png").write_bytes(b"no image")


def make_weights(file: Path) -> None:
    """Of a LeNet of three classes; 17 different numbers a layer, so that they pack well."""
    rng = np.random.default_rng(1)
    shapes = {"conv1": (6, 3, 5, 5), "conv2": (16, 6, 5, 5), "fc1": (120, 400), "fc2": (84, 120), "fc3": (3, 84)}
    tensors = {}
    for name, shape in shapes.items():
        scale = np.float32(4.0 / np.sqrt(np.prod(shape[1:])) / 16)
        tensors[f"{name}.weight"] = rng.integers(-8, 9, shape).astype(np.float32) * scale
        tensors[f"{name}.bias"] = rng.integers(-8, 9, shape[0]).astype(np.float32) / 128
    save_file(tensors, file)


def make_everything(folder: Path) -> dict[str, Any]:
    """The recorded files; returns what the tests expect of them."""
    os.chdir(folder)  # what is written down has no path of a machine
    folder = Path()
    make_images(folder)
    make_weights(folder / "lenet.safetensors")
    set_variable("HEADSTART_CACHE", "store")
    keys = {name: digests(entry, extracted(entry, "torch")) for name, entry in stored(folder).items()}
    logits = {}
    for backend in FRAMEWORKS:
        entry = wrapped(backend)
        keys[f"wrapped, {backend}"] = digests(entry, extracted(entry, backend))
        wrapped_run = hs.fit(entry.model, entry.data, None, epochs=3, batch_size=4, backend=backend, device="cpu")
        wrapped_run.save(folder / f"run-{backend}")
        logits[backend] = wrapped_run.predict(entry.data).tolist()
    ids = list(hs.data.folder(folder / "images").ids) + list(hs.data.digits().subset(range(24)).ids)

    data = hs.data.folder(folder / "images")
    train, val = data.split(0.5, seed=1)
    settings: dict[str, Any] = {"backend": "torch", "device": "cpu", "batch_size": 4, "lr": 0.01}
    run = hs.fit(own_weights(folder), train, val, epochs=4, schedule="cosine", label_smoothing=0.1, **settings)
    run.save(folder / "run")
    expected = {
        "files": [str(Path(data.source_name(i)).relative_to(folder / "images")) for i in range(len(data))],
        "logits": run.predict(data).tolist(),
        "val_accuracy": run.history[-1].val_accuracy,
        "evaluated": {"loss": run.evaluate(val).loss, "accuracy": run.evaluate(val).accuracy},
    }
    words = ["--data", folder / "images", "--model", "lenet", "--weights", folder / "lenet.safetensors"]
    words += ["--cuts", "pool2,relu4", "--backend", "torch", "--device", "cpu", "--save", folder / "features"]
    check(command("extract", *words))
    features = hs.load_features(folder / "features")
    means = {cut: float(features.numpy(cut).astype(np.float64).mean()) for cut in features.cuts}

    set_variable("KERAS_BACKEND", "none")  # so that one backend fails
    words = ["--data", folder / "broken", "--on-error", "skip", "--model", "lenet", "--weights"]
    words += [folder / "lenet.safetensors", "--modes", "frozen,cached", "--backends", "torch,keras"]
    words += ["--device", "cpu", "--epochs", "2", "--batch-size", "4", "--split", "0.5", "--lr", "0.0001"]
    words += ["--out", folder / "compare"]
    result = command("compare", *words)
    assert result.code == 1, result
    (folder / "compare/report.html").unlink()
    figures = json.loads((folder / "compare/compare.json").read_text())
    failure = figures["errors"]["keras"]  # a traceback, with the paths of a machine
    failure["message"] = failure["message"].partition("\n")[0]
    (folder / "compare/compare.json").write_text(json.dumps(figures, indent=1) + "\n")
    rows = [[row["label"], row["val_accuracy"], row["history"][-1]["val_loss"]] for row in figures["rows"]]
    del os.environ["KERAS_BACKEND"]
    (folder / "store/ids.sqlite3").unlink()  # of files by their inodes
    return {
        "keys": keys,
        "ids": ids,
        "run": expected,
        "features": {"means": means},
        "rows": rows,
        "wrapped runs": logits,
    }


def check(result: Any) -> None:
    assert result.code == 0, result


def options_of(name: str) -> dict[str, Any]:
    """Option or argument -> type, default, what help says of it; from the library of the command line itself."""
    import typer

    from headstart.cli import app

    node: Any = typer.main.get_command(app)
    for word in name.split():
        node = node.commands[word]
    printed = printed_options(name, set_variable)
    facts: dict[str, Any] = {}
    for parameter in node.params:
        kind = type_name(parameter)
        if parameter.param_type_name == "argument":
            facts[parameter.name] = {"argument": kind, "required": parameter.required}
            continue
        default = str(parameter.default) if isinstance(parameter.default, Path) else parameter.default
        for option in (*parameter.opts, *parameter.secondary_opts):
            facts[option] = {"type": kind, "default": default}
            if parameter.required:
                facts[option]["required"] = True
            if default is None and printed[option] is not None:
                facts[option]["says"] = printed[option]
    facts["--help"] = {"type": "flag", "default": False}
    return facts


def type_name(parameter: Any) -> str:
    """ "int", "int >= 1", "list of str" ..."""
    annotation = parameter.type_descriptor.annotation
    if getattr(parameter, "is_flag", False):
        return "flag"
    if getattr(parameter, "multiple", False) or parameter.nargs != 1:
        return f"list of {annotation.__args__[0].__name__.lower()}"
    return annotation.__name__.lower() + (f" >= {parameter.min}" if parameter.min is not None else "")


def main() -> None:
    assert Path(hs.__file__).parent.name == "core"
    with tempfile.TemporaryDirectory() as folder:
        sys.argv[0] = "record"
        made = Path(folder) / "made"
        made.mkdir()
        expected = make_everything(made)
        with tarfile.open(MADE, "w:xz") as archive:
            for path in sorted(made.iterdir()):
                archive.add(path, path.name, filter=nobodys)
        write("expected.json", expected)

        made = unpack(Path(folder) / "again")
        set_variable("HEADSTART_BACKEND", "torch")
        types = {}
        for i, name in enumerate(NEUTRAL_JSON | TORCH_JSON):
            os.environ.pop("HEADSTART_CACHE_SHARED", None)
            (work := Path(folder) / f"work{i}").mkdir()
            result, figures = run_json(name, made, work, set_variable)
            print(name, result.code, result.err[:300], file=sys.stderr)
            types[name] = {"exit code": result.code, "json": types_of(figures)}
        write("json_keys.json", types)

        os.chdir(work)
        write("options.json", {name: options_of(name) for name in COMMANDS})
        lines = MISTAKES | MISTAKES_OF_TRAINING
        write("mistakes.json", {name: [line, *answer(line)] for name, line in lines.items()})
        for line, text in MISTAKES_OF_PARSING.values():
            code, said = answer(line)
            print(code, said, file=sys.stderr)
            assert code == 2 and text.removeprefix("(?i)") in said.lower(), (line, code, said)


def nobodys(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


if __name__ == "__main__":
    main()
