"""A run leaves as a file of its framework's own: every format that the backend describes, opened by the framework
alone, in a process of its own, and held to the run."""

from __future__ import annotations

import gc
import json
import os
import resource
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from exporting import CLASSES, SIZE, Here, photographs, small_model, validation
from own import sentences, wrapped
from PIL import Image

import headstart as hs
from headstart.contract import registry
from headstart.contract.opening import FileProcess
from headstart.contract.programs import NORMALISED, PART, WRAPPED, FileFormat, Program
from headstart.errors import ExportError, ExportMismatchError, SettingError
from headstart.models import vit
from headstart.models.exporting import parts
from headstart.training.exporting import framework_file
from headstart.training.history import History, Record, Seconds

BY_TFLITE = (
    "test_a_trunk_and_a_head_are_the_whole",
    "test_a_vision_transformer",
    "test_a_wrapped_module",
    "test_every_task",
    "test_pixels_that_are_preprocessed_already",
)
"""tests of which a SavedModel's is left to `tox -e slow`: a `.tflite` file is made of such a one"""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "name" in metafunc.fixturenames:
        named = os.environ.get(registry.VARIABLE)
        seldom = {"savedmodel"} if metafunc.function.__name__ in BY_TFLITE else set()
        metafunc.parametrize(
            "name",
            [
                pytest.param(name, marks=[pytest.mark.slow] if name in seldom else [])
                for name, (owner, _) in registry.formats().items()
                if named in (None, owner)
            ],
        )


@pytest.fixture
def known(name: str, backend: str) -> FileFormat:
    """A format that this backend writes, where what it needs is installed."""
    owner, known = registry.formats()[name]
    if owner != backend:
        pytest.skip(f"{name} is written by {owner}")
    for module in known.modules:
        pytest.importorskip(module)
    return known


def run_of(backend: str, task: str = "single") -> hs.Run:
    record = Record(1, 0.5, 0.5, 0.5, 0.5, Seconds(), 0.1, (0.5,))
    return hs.Run(small_model(task), "cached", "pool2", backend, History([record]), val=validation())


def pixels(model: Any) -> np.ndarray:
    return np.stack([model.preprocess.apply(Image.fromarray(picture)) for picture in photographs()])


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(framework_file, "FileProcess", Here)


def opened(path: Path, known: FileFormat) -> Here:
    return Here(path, known.loader, {})


def test_a_run_leaves_as_a_file_that_computes_what_it_does(
    known: FileFormat, backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if known != registry.describe(backend).formats[0]:  # a process takes seconds, and opens each in the same way
        monkeypatch.setattr(framework_file, "FileProcess", Here)
    run = run_of(backend)
    path = tmp_path / "made" / f"out{known.suffixes[0]}"
    there = path / known.marker  # of a format that is a file the path itself
    there.parent.mkdir(parents=True)
    there.touch()
    with pytest.raises(SettingError, match="replace"):  # what is there is kept
        run.export(path, device="cpu")
    exported = run.export(path, device="cpu", replace=True)
    assert [*exported.path.parent.iterdir()] == [exported.path] and exported.format == known.name
    proof = exported.verification
    assert proof is not None and (proof.samples, proof.of, proof.same) == (12, "validation samples", 12)
    assert list(proof.differences) == [1, 2, 7] and proof.largest < 1e-5
    file = opened(exported.path, known)
    expected = run.predict(photographs()[:5], device="cpu")
    for count in (1, 5):
        made = file.run({"images": pixels(run.model)[:count]})
        assert list(made) == ["logits", "probabilities"]
        np.testing.assert_allclose(made["logits"], expected[:count], rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(made["probabilities"].sum(1), 1, atol=1e-5)
    texts = file.texts
    verified = json.loads(texts["verified"])
    assert (verified["samples"], verified["batches"]) == (12, [1, 2, 7])
    assert json.loads(texts["classes"]) == list(CLASSES)
    assert json.loads(texts["inputs"]) == {"images": ["uint8", ["n", SIZE, SIZE, 3]]}
    assert json.loads(texts["preprocess"]) == run.model.preprocess.as_dict()


@pytest.mark.parametrize(
    ("task", "second"), [("multi", "scores"), pytest.param("regression", None, marks=pytest.mark.slow("keras"))]
)
@pytest.mark.usefixtures("here")
def test_every_task(known: FileFormat, backend: str, task: str, second: str | None, tmp_path: Path) -> None:
    run = run_of(backend, task)
    exported = run.export(tmp_path / "made" / f"out{known.suffixes[0]}", device="cpu", verify=False)
    file = opened(exported.path, known)
    assert file.texts["verified"] == "not verified"
    made = file.run({"images": pixels(run.model)})
    (_, first), *_ = made.items()
    np.testing.assert_allclose(first, run.predict(photographs(), device="cpu"), rtol=1e-4, atol=1e-4)
    assert list(made)[1:] == ([] if second is None else [second])
    if second is not None:
        np.testing.assert_allclose(made["scores"], 1 / (1 + np.exp(-made["logits"])), rtol=1e-4, atol=1e-6)


@pytest.mark.usefixtures("here")
def test_a_trunk_and_a_head_are_the_whole(known: FileFormat, backend: str, tmp_path: Path) -> None:
    if PART not in known.takes:
        pytest.skip(f"{known.name} takes whole models")
    run = run_of(backend)
    trunk, head = (
        run.export(tmp_path / f"{part}{known.suffixes[0]}", part=part, device="cpu") for part in ("trunk", "head")
    )
    features = opened(trunk.path, known).run({"images": pixels(run.model)})["features"]
    x = run.model.preprocess.normalise(pixels(run.model))
    expected = hs.forward(run.model, x, "pool2", backend=backend, device="cpu")["pool2"]
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-4)
    logits = opened(head.path, known).run({"features": np.ascontiguousarray(features)})["logits"]
    np.testing.assert_allclose(logits, run.predict(photographs(), device="cpu"), rtol=1e-3, atol=1e-4)


def test_a_full_disk(known: FileFormat, backend: str, tmp_path: Path) -> None:
    """Frameworks say it in words of their own, or end the process: it is one line, and nothing is left."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    run, path = run_of(backend), tmp_path / f"out{known.suffixes[0]}"
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(SettingError, match=r"out\.\w+: cannot be written \(File too large\)"):
            run.export(path, verify=False)
        gc.collect(1)  # a writer that is freed tries once more
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not [*tmp_path.iterdir()]


@pytest.mark.slow("keras", "jax")  # core leaves the preprocessing out
@pytest.mark.usefixtures("here")
def test_pixels_that_are_preprocessed_already(known: FileFormat, backend: str, tmp_path: Path) -> None:
    if NORMALISED not in known.takes:
        pytest.skip(f"{known.name} takes pixels")
    run = run_of(backend)
    exported = run.export(tmp_path / f"out{known.suffixes[0]}", pixels=False, device="cpu")
    x = run.model.preprocess.normalise(pixels(run.model))
    x = np.ascontiguousarray(np.moveaxis(x, -1, 1)) if known.channels_first else x
    made = opened(exported.path, known).run({"pixel_values": x})
    np.testing.assert_allclose(made["logits"], run.predict(photographs(), device="cpu"), rtol=1e-4, atol=1e-4)


def weights(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Program], Program]:
    return lambda program: replace(program, params={**program.params, name: change(program.params[name])})


PLANTED: Mapping[str, Callable[[Program], Program]] = {
    "a kernel turned round": weights("conv3.weight", lambda w: w[..., ::-1].copy()),
    "classes in another order": weights("fc.weight", lambda w: w[::-1].copy()),
    "a bias dropped": weights("fc.bias", np.zeros_like),
    "another function of the logits": lambda program: replace(
        program, outputs={"logits": "", "probabilities": "sigmoid"}
    ),
    "an output missing": lambda program: replace(program, outputs={"logits": ""}),
}


@pytest.mark.slow("keras", "jax")  # core compares
@pytest.mark.parametrize("fault", PLANTED)
@pytest.mark.usefixtures("here")
def test_what_computes_something_else_is_not_kept(
    known: FileFormat, backend: str, fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if known != registry.describe(backend).formats[0]:
        pytest.skip("what is held to the run is the same")
    right = parts.program

    def wrong(*args: Any, **settings: Any) -> tuple[Program, dict[str, str]]:
        program, texts = right(*args, **settings)
        return PLANTED[fault](program), texts

    monkeypatch.setattr(parts, "program", wrong)
    with pytest.raises(ExportMismatchError, match="was not kept"):
        run_of(backend).export(tmp_path / f"out{known.suffixes[0]}", device="cpu")
    assert not [*tmp_path.iterdir()]


@pytest.mark.neutral
def test_a_file_that_breaks_when_it_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process that opens it says why, or how it ended."""
    (tmp_path / "ends.py").write_text("import os\ndef load(path): os._exit(3)\n")
    (tmp_path / "refuses.py").write_text("def load(path): raise ValueError('nothing there')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    for module, text in (("ends", "ended with exit code 3"), ("refuses", "ValueError: nothing there")):
        with pytest.raises(ExportError, match=text):
            FileProcess(tmp_path / "out", module, {})


@pytest.mark.neutral
def test_what_opens_a_file_sees_no_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """JAX and TensorFlow would take most of its memory, which the training's process needs."""
    (tmp_path / "tells.py").write_text("import os\ndef load(path): return dict(os.environ), None\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    known = registry.formats()["stablehlo"][1]
    seen = FileProcess(tmp_path / "out", "tells", {"QUIET": "3"}, known.environment).texts
    assert (seen["CUDA_VISIBLE_DEVICES"], seen["JAX_PLATFORMS"], seen["QUIET"]) == ("", "cpu", "3")


@pytest.mark.neutral
def test_loaders_open_files_by_the_framework_alone() -> None:
    """They import nothing of headstart."""
    for _, known in registry.formats().values():
        folder = Path(__file__).parents[2] / Path(*known.loader.split(".")[1:]).with_suffix(".py")
        source = folder.read_text()
        assert "def load(" in source and "def note(" in source
        assert "from headstart" not in source and "import headstart" not in source


@pytest.fixture(
    scope="module",
    params=[
        "several arrays",
        pytest.param("one array by its name", marks=pytest.mark.slow("keras")),
        # the files of models of the zoo have classifiers and pictures
        pytest.param("its own classifier", marks=pytest.mark.slow("keras", "jax")),
        pytest.param("pictures", marks=pytest.mark.slow("keras", "jax")),
    ],
)
def owned(backend: str, request: pytest.FixtureRequest) -> SimpleNamespace:
    """A wrapped module, the data to verify its files on, and what they are given and have to give."""
    module = import_module(f"own_{backend}")
    if request.param == "several arrays":
        rows = sentences(20)
        data = hs.data.arrays(rows, np.arange(20) % 2, classes=["a", "b"])
        model = hs.wrap(module.text(), cut=module.TEXT_CUT, head="linear", classes=["a", "b"], example=data)
        given, expected = {name: np.asarray(array) for name, array in rows.items()}, rows
    elif request.param == "one array by its name":
        rows = {"numbers": np.random.default_rng(0).normal(size=(20, 6)).astype(np.float32)}
        model, data, given, expected = (
            hs.wrap(module.named(), head="linear", classes=["a", "b"], example=rows),
            None,
            rows,
            rows,
        )
    else:
        settings = {"head": "linear", "classes": CLASSES} if request.param == "pictures" else {}
        model, data = wrapped(module, **settings), None
        pixels = np.random.default_rng(0).integers(0, 256, (5, *model.preprocess.shape), np.uint8)
        given, expected = {"images": pixels}, model.preprocess.normalise(pixels)
    return SimpleNamespace(model=model, data=data, given=given, expected=hs.predict(model, expected, device="cpu"))


@pytest.mark.usefixtures("here")
def test_a_wrapped_module(known: FileFormat, backend: str, owned: SimpleNamespace, tmp_path: Path) -> None:
    """By the same code, with whatever its framework's exporter makes of it."""
    if WRAPPED not in known.takes:
        pytest.skip(f"{known.name} takes no wrapped modules")
    path = tmp_path / f"out{known.suffixes[0]}"
    exported = hs.export(owned.model, path, owned.data, backend=backend, device="cpu")
    assert exported.verification is not None and exported.verification.largest < 1e-4
    made = opened(exported.path, known).run(owned.given)
    np.testing.assert_allclose(made["logits"], owned.expected, rtol=1e-4, atol=1e-5)


def test_a_wrapped_module_has_no_graph_to_write(backend: str, tmp_path: Path) -> None:
    """Where its framework's exporter does not, nobody writes it as ONNX."""
    if registry.describe(backend).onnx is not None:
        pytest.skip(f"{backend} does")
    model = wrapped(import_module(f"own_{backend}"), head="linear", classes=CLASSES)
    with pytest.raises(ExportError, match=r"wrapped module, .*safetensors.*, or part='head' \(--part head\)"):
        hs.export(model, tmp_path / "out.onnx", device="cpu")
    assert not [*tmp_path.iterdir()]


@pytest.mark.slow("jax")  # test_stablehlo has one
@pytest.mark.usefixtures("here")
def test_a_vision_transformer(
    known: FileFormat, backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its class token is there once and for every sample."""
    monkeypatch.setitem(vit.SCALES, "tiny", (24, 2, 3))
    model = hs.model("vit_tiny_patch16_224", classes=CLASSES, size=32)
    exported = hs.export(model, tmp_path / f"out{known.suffixes[0]}", photographs(), backend=backend, device="cpu")
    assert exported.verification is not None and exported.verification.largest < 1e-4


@pytest.mark.of("torch")
def test_what_torch_cannot_write(tmp_path: Path) -> None:
    """A module that decides by what it sees."""
    import torch

    class Deciding(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.conv(x)
            return y.relu() if y.sum() > -1e9 else y.sigmoid()

    model = wrapped(
        import_module("own_torch"), Deciding(), cut="its end", init=None, head="linear", classes=CLASSES
    )
    with pytest.raises(ExportError, match=r"torch\.export cannot write this model \(.*another format") as caught:
        hs.export(model, tmp_path / "out.pt2", device="cpu")
    assert "\n" not in str(caught.value) and not [*tmp_path.iterdir()]


@pytest.mark.of("torch")
def test_torch_writes_what_is_for_any_number_of_samples(tmp_path: Path) -> None:
    """`len` of a batch is the example's, and an argument has a name that Python allows; both are said."""
    import torch

    class Counting(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = torch.nn.Linear(6, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(x).reshape(len(x), -1)

    class Naming(Counting):
        def forward(self, rows: dict[str, torch.Tensor]) -> torch.Tensor:
            return self.fc(rows["the rows"])

    x = np.random.default_rng(0).standard_normal((9, 6)).astype(np.float32)
    for module, rows, said in (
        (Counting(), x, r"x\.shape\[0\], not len\(x\)"),
        (Naming(), {"the rows": x}, r"'the rows'.*arrays whose names Python allows"),
    ):
        model = hs.wrap(module, cut="its end", head="linear", classes=3, example=rows)
        with pytest.raises(ExportError, match=said):
            hs.export(model, tmp_path / "out.pt2", rows, device="cpu")
        assert not [*tmp_path.iterdir()]


@pytest.mark.of("torch")
@pytest.mark.usefixtures("here")
def test_a_module_that_is_stopped_at_its_cut(tmp_path: Path) -> None:
    """As torch.fx cannot trace it: it leaves a submodule that is running, in the exporter too."""
    import torch

    class Untraced(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            conv = torch.nn.Conv2d(3, 4, 3, 2)
            self.block, self.fc = torch.nn.Sequential(conv, torch.nn.ReLU()), torch.nn.Linear(4, len(CLASSES))

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            if x.shape[1] != 3:
                raise ValueError
            return {"logits": self.fc(self.block(x).mean((2, 3)))}

    own = import_module("own_torch")
    model = wrapped(own, Untraced(), cut="block.0", init=None, head="linear", classes=CLASSES)
    exported = hs.export(model, tmp_path / "out.pt2", device="cpu")
    assert exported.verification is not None and exported.verification.largest < 1e-4


@pytest.mark.of("torch")
def test_a_wrapped_module_leaves_as_its_own_frameworks_files(tmp_path: Path) -> None:
    model = wrapped(import_module("own_torch"))
    with pytest.raises(
        ExportError, match=r"written by keras; expected .*pt2, or the same network built in keras"
    ) as caught:
        hs.export(model, tmp_path / "out.tflite", device="cpu")
    assert "ONNX" in str(caught.value) and not [*tmp_path.iterdir()]
