"""A run leaves as a file: in every backend it is held to the run's own predictions on real samples, and so are its
parts; whatever is wrong with what is asked for is one typed line, with nothing left behind."""

from __future__ import annotations

import errno
import functools
import json
import os
import resource
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import headstart
from exporting import CLASSES, photographs, small_model, validation
from PIL import Image

import headstart as hs
from headstart.errors import (
    BackendError,
    ExportError,
    HeadstartError,
    SettingError,
    UnknownNameError,
    WeightsError,
)
from headstart.models.exporting import onnx_model as writer
from headstart.models.importing import import_weights
from headstart.models.tensors import tensor_chunks
from headstart.training.exporting import verify
from headstart.training.exporting.formats import formats
from headstart.training.history import History, Record, Seconds

onnxruntime = pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")


@pytest.fixture(scope="module")
def run(backend: str) -> hs.Run:
    """As `fit` gives it, with its validation data."""
    record = Record(1, 0.5, 0.5, 0.5, 0.5, Seconds(), 0.1, (0.5,))
    return hs.Run(small_model(), "cached", "pool2", backend, History([record]), val=validation())


def said_by(path: Path) -> dict[str, str]:
    return writer.metadata(onnx.load(str(path)))


def given(path: Path, rows: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    outputs: list[np.ndarray] = session.run(None, {session.get_inputs()[0].name: rows})
    return outputs


def pixels(model: Any) -> np.ndarray:
    """The validation samples, as the model's preprocessing makes them: `(n, size, size, 3)` uint8."""
    return np.stack([model.preprocess.apply(Image.fromarray(picture)) for picture in photographs()])


# ---- what leaves


def test_a_run_leaves_as_a_file_that_computes_what_it_does(run: hs.Run, tmp_path: Path) -> None:
    exported = run.export(tmp_path / "made" / "out.onnx", device="cpu")
    assert exported.path == tmp_path / "made" / "out.onnx" and [*exported.path.parent.iterdir()] == [exported.path]
    logits, probabilities = given(exported.path, pixels(run.model))
    np.testing.assert_allclose(logits, run.predict(photographs(), device="cpu"), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(probabilities, run.probabilities(photographs(), device="cpu"), atol=1e-5)
    proof = exported.verification
    assert proof is not None
    assert (proof.samples, proof.of, proof.same, proof.tolerance) == (12, "validation samples", 12, 1e-3)
    assert list(proof.differences) == [1, 2, 7] and 0 < proof.largest < 1e-5
    line = exported.line()
    assert "at batch 1, 2, 7, on 12 validation samples; 12 of 12 answers the same" in line
    assert exported.nbytes == exported.path.stat().st_size


@pytest.mark.of("torch")
def test_the_file_says_how_it_was_verified(run: hs.Run, tmp_path: Path) -> None:
    """With no digits that two backends would have differently."""
    about = said_by(run.export(tmp_path / "out.onnx", device="cpu").path)
    assert json.loads(about["verified"]) == {
        "samples": 12,
        "of": "validation samples",
        "batches": [1, 2, 7],
        "difference_below": 1e-4,
        "tolerance": 1e-3,
        "same_answers": 12,
    }
    assert json.loads(about["classes"]) == list(CLASSES)
    unverified = run.export(tmp_path / "unverified.onnx", verify=False)
    assert unverified.verification is None and unverified.line().endswith("; not verified")
    assert said_by(unverified.path)["verified"] == "not verified"


@pytest.mark.slow("keras", "jax")  # core writes ONNX
@pytest.mark.parametrize(
    "cut", [None, pytest.param("act1", marks=pytest.mark.of("torch"))], ids=["the run's own cut", "another"]
)
def test_a_trunk_and_a_head_are_the_whole(run: hs.Run, tmp_path: Path, cut: str | None) -> None:
    trunk = run.export(tmp_path / "trunk.onnx", part="trunk", cut=cut, device="cpu")
    head = run.export(tmp_path / "head.onnx", part="head", cut=cut, device="cpu")
    assert trunk.cut == head.cut == (cut or "pool2")
    (features,) = given(trunk.path, pixels(run.model))
    x = run.model.preprocess.normalise(pixels(run.model))
    expected = hs.forward(run.model, x, trunk.cut, backend=run.backend, device="cpu")
    np.testing.assert_allclose(features, expected[trunk.cut], rtol=1e-4, atol=1e-4)
    logits, _ = given(head.path, features)
    np.testing.assert_allclose(logits, run.predict(photographs(), device="cpu"), rtol=1e-3, atol=1e-4)
    assert trunk.verification is not None and trunk.verification.same is None


@pytest.mark.of("torch")
def test_a_head_says_which_trunk_it_goes_with(run: hs.Run, tmp_path: Path) -> None:
    """So that a service that keeps features of one can tell whether they are for the other."""
    trunk, head, other = (
        said_by(run.export(tmp_path / f"{part}-{cut}.onnx", part=part, cut=cut, verify=False).path)
        for part, cut in (("trunk", None), ("head", None), ("head", "act1"))
    )
    assert head["trunk_digest"] == trunk["weights_digest"] != other["trunk_digest"]
    assert "trunk_digest" not in trunk


@pytest.mark.neutral
def test_a_run_leaves_where_no_framework_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HEADSTART_BACKEND", raising=False)
    history = History([Record(1, 0.5, 0.5, 0.5, 0.5, Seconds(), 0.1, (0.5,))])
    hs.Run(hs.model("lenet", classes=CLASSES), "cached", "relu4", "torch", history).save(tmp_path / "run")
    monkeypatch.setattr("headstart.contract.registry._missing", lambda modules: list(modules))
    run = hs.load(tmp_path / "run")
    assert run.export(tmp_path / "out.onnx", verify=False).path.is_file()
    for use in (lambda: run.predict(photographs()), lambda: run.export(tmp_path / "verified.onnx")):
        with pytest.raises(BackendError, match=r"torch.*pip install"):
            use()
    assert not (tmp_path / "verified.onnx").exists()


@pytest.mark.of("torch")
@pytest.mark.parametrize("task", ["single", "multi", "regression"])
def test_weights_alone(task: str, run: hs.Run, tmp_path: Path) -> None:
    """Whoever opens them again gets what they were, and also what their outputs mean."""
    threshold = 0.3 if task == "multi" else 0.5
    model = replace(hs.model("lenet", classes=CLASSES), task=task, threshold=threshold)
    exported = hs.export(model, tmp_path / "out.safetensors", photographs(), backend=run.backend, device="cpu")
    kept = import_weights(exported.path, "lenet", "mine")
    for weights in (exported.path, kept, "mine"):
        again = hs.model("lenet", weights=weights)
        assert (again.classes, again.task, again.threshold) == (CLASSES, task, threshold)
        assert all(np.array_equal(again.params[name], model.params[name]) for name in model.params)
    assert hs.model("lenet", weights=kept, classes=2).task == "single", "of a fresh classifier nothing is known"
    assert exported.verification is not None and exported.verification.largest < 1e-5


@pytest.mark.of("torch")
def test_what_other_files_call_a_task(run: hs.Run, tmp_path: Path) -> None:
    model = hs.model("lenet", classes=CLASSES)
    meant = (
        {"task": "image-classification"},
        {"task": "multi", "threshold": "0.25"},
        {"task": "multi", "threshold": "2"},
    )
    for place, said in enumerate(meant):
        (tmp_path / f"{place}.safetensors").write_bytes(b"".join(tensor_chunks(model.params, said)))
    assert hs.model("lenet", weights=tmp_path / "0.safetensors").task == "single"
    assert hs.model("lenet", weights=tmp_path / "1.safetensors").threshold == 0.25
    with pytest.raises(WeightsError, match="its threshold is 2; expected a probability"):
        hs.model("lenet", weights=tmp_path / "2.safetensors")


# ---- on which samples


@pytest.mark.of("torch")
def test_samples(run: hs.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are named, else the run's, else drawn ones, which is said."""
    for i, picture in enumerate(photographs(5)):
        Image.fromarray(picture).save(tmp_path / f"{i}.png")
    loaded = replace(run, val=None)
    asked = {
        "given samples": (run, tmp_path, 5),
        "validation samples": (run, None, 12),
        "random pictures (seed 0)": (loaded, None, 63),
    }
    for words, (of, data, count) in asked.items():
        proof = of.export(tmp_path / "out.onnx", data, replace=True, device="cpu").verification
        assert proof is not None and (proof.of, proof.samples) == (words, count)
        assert json.loads(said_by(tmp_path / "out.onnx")["verified"])["of"] == words
    with pytest.raises(SettingError, match="preprocessed already"):
        run.export(tmp_path / "new.onnx", run.model.preprocess.normalise(pixels(run.model)))


@pytest.mark.of("torch")
def test_features_verify_a_head(run: hs.Run, tmp_path: Path) -> None:
    features = hs.extract(run.model, validation(), cuts=["pool2"], dtype="float32", backend="torch", device="cpu")
    alone = replace(run, val=features)
    proof = alone.export(tmp_path / "head.onnx", part="head", device="cpu").verification
    assert proof is not None and (proof.of, proof.samples) == ("validation samples", 12)
    proof = alone.export(tmp_path / "out.onnx", device="cpu").verification
    assert proof is not None and proof.of == "random pictures (seed 0)"
    with pytest.raises(SettingError, match="can verify the export of a head"):
        alone.export(tmp_path / "trunk.onnx", features, part="trunk")


# ---- other tasks, other numbers


@pytest.mark.of("torch")
@pytest.mark.parametrize("task", ["multi", "regression"])
def test_other_tasks(task: str, run: hs.Run, tmp_path: Path) -> None:
    model = replace(small_model(task), threshold=0.3)
    proof = hs.export(model, tmp_path / "out.onnx", validation(), backend="torch", device="cpu").verification
    assert proof is not None and proof.same == (12 if task == "multi" else None)
    outputs = given(tmp_path / "out.onnx", pixels(model))
    plain = hs.predict(model, photographs(), backend="torch", device="cpu")
    np.testing.assert_allclose(outputs[0], plain, rtol=1e-4, atol=1e-4)
    if task == "multi":
        np.testing.assert_allclose(outputs[1], 1 / (1 + np.exp(-plain)), atol=1e-5)


@pytest.mark.of("torch")
@pytest.mark.parametrize("target", range(4))
def test_numbers_are_held_to_how_far_they_vary(
    target: int, run: hs.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each target by itself. Years are all around 1950, and lengths far below a metre: what is a thousandth of a
    year's number is no thousandth of what was learnt."""
    model = small_model("regression")
    scale, shift = np.array([10, 1, 0.1, 0.01], np.float32), np.array([1950, 5, 0, 0], np.float32)
    weight = scale[:, None] * model.params["fc.weight"]
    model = replace(model, params={**model.params, "fc.weight": weight, "fc.bias": shift})
    varied = np.ptp(hs.predict(model, photographs(), backend="torch", device="cpu"), axis=0)
    wrong = shift + np.eye(4, dtype=np.float32)[target] * 0.01 * varied
    write, off = writer.onnx_model, replace(model, params={**model.params, "fc.bias": wrong})
    asked: dict[str, Any] = {"data": validation(), "backend": "torch", "device": "cpu"}
    hs.export(model, tmp_path / "right.onnx", **asked)

    def planted(model: Any, **about: Any) -> Any:
        proto = write(off, **about)
        writer.set_metadata(proto, writer.metadata(write(model, **about)))
        return proto

    monkeypatch.setattr(writer, "onnx_model", planted)
    with pytest.raises(ExportError, match="differ from the run's by"):
        hs.export(model, tmp_path / "wrong.onnx", **asked)


@pytest.mark.of("torch")
def test_half_precision_and_floats(run: hs.Run, tmp_path: Path) -> None:
    half = run.export(tmp_path / "half.onnx", half=True, device="cpu")
    assert half.verification is not None and half.verification.tolerance == 2e-2
    assert 1e-5 < half.verification.largest < 2e-2
    floats = run.export(tmp_path / "floats.onnx", pixels=False, device="cpu")
    x = np.moveaxis(run.model.preprocess.normalise(pixels(run.model)), -1, 1)
    np.testing.assert_allclose(
        given(floats.path, x)[0], run.predict(photographs(), device="cpu"), rtol=1e-4, atol=1e-4
    )


@pytest.mark.of("torch")
def test_weights_in_a_file_of_their_own(run: hs.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As above 2 GiB. It is called by what it holds, so that what is replaced is whole to the last."""
    monkeypatch.setattr(writer, "MOST_NBYTES", 100)
    monkeypatch.setattr(writer, "SMALL_NBYTES", 16)
    exported = run.export(tmp_path / "out.onnx", device="cpu")
    data, main = sorted(path.name for path in tmp_path.iterdir())
    assert main == "out.onnx" and data.startswith("out-") and data.endswith("-whole-float32.onnx.data")
    assert exported.nbytes == sum(path.stat().st_size for path in tmp_path.iterdir())
    logits, _ = given(exported.path, pixels(run.model))
    np.testing.assert_allclose(logits, run.predict(photographs(), device="cpu"), rtol=1e-4, atol=1e-4)
    assert json.loads(said_by(exported.path)["verified"])["samples"] == 12
    (tmp_path / "other-0123456789abcdef-whole-float32.onnx.data").write_bytes(b"another file's")
    run.export(exported.path, half=True, replace=True, device="cpu")
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["other-0123456789abcdef-whole-float32.onnx.data", data.replace("float32", "float16"), main]


@pytest.mark.of("torch")
@pytest.mark.parametrize("apart", [False, True])
def test_a_bit_that_was_turned_is_told(
    apart: bool, run: hs.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a weight it shows in nothing else. Further metadata are no damage."""
    if apart:
        monkeypatch.setattr(writer, "MOST_NBYTES", 100)
        monkeypatch.setattr(writer, "SMALL_NBYTES", 16)
    path = run.export(tmp_path / "out.onnx", device="cpu", verify=False).path
    proto = onnx.load(str(path), load_external_data=False)
    writer.set_metadata(proto, {"added": "text"})
    path.write_bytes(writer.onnx_bytes(proto))
    hs.OnnxModel(path)  # here a warning is an error
    data = max(tmp_path.iterdir(), key=lambda file: file.stat().st_size)
    content = bytearray(data.read_bytes())
    weight = max(onnx.load(str(path)).graph.initializer, key=lambda tensor: len(tensor.raw_data)).raw_data
    content[content.index(weight) + len(weight) // 2] ^= 1
    data.write_bytes(content)
    with pytest.warns(hs.errors.ModelFileWarning, match="out.onnx: its weights or nodes are not those"):
        hs.OnnxModel(path)


# ---- what cannot be


def assert_refused(
    error: type[HeadstartError], text: str, folder: Path, of: Any, path: Any, *data: Any, **settings: Any
) -> None:
    """One line, and the folder is as it was."""
    before = contents(folder)
    with pytest.raises(error) as caught:
        hs.export(of, path, *data, **settings)
    assert text in str(caught.value) and "\n" not in str(caught.value)
    assert contents(folder) == before


def contents(folder: Path) -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


@pytest.mark.of("torch")
def test_what_is_asked_for_must_be_possible(run: hs.Run, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    for error, text, path, settings in (
        (UnknownNameError, "unknown suffix '.tflit'", tmp_path / "out.tflit", {}),
        (UnknownNameError, "did you mean '.safetensors'", tmp_path / "out.pth", {}),
        (UnknownNameError, "unknown format 'onxn'; expected one of onnx", out, {"format": "onxn"}),
        (SettingError, "by its suffix of format 'onnx'", out, {"format": "safetensors"}),
        (UnknownNameError, "unknown part 'tail'", out, {"part": "tail"}),
        (SettingError, "the path is not UTF-8", tmp_path / "\udcff" / "out.pt2", {}),  # torch ends the process
        (SettingError, "cut='pool2' divides the model", out, {"cut": "pool2"}),
        (SettingError, "there is no node 'nowhere'", out, {"part": "head", "cut": "nowhere"}),
        (SettingError, "a head takes features", out, {"part": "head", "pixels": False}),
        (SettingError, "half='yes'; expected True or False", out, {"half": "yes"}),
        (SettingError, "replace='no'; expected True or False", out, {"replace": "no"}),
        (SettingError, "verify='no'; expected True or False", out, {"verify": "no"}),
        (
            SettingError,
            "verify=False (--no-verify) leaves that out",
            out,
            {"verify": False, "data": photographs(1)},
        ),
        (SettingError, "has no half=True, which goes with onnx", tmp_path / "w.safetensors", {"half": True}),
        (SettingError, "has no part=, which goes with onnx", tmp_path / "w.safetensors", {"part": "trunk"}),
        (SettingError, "unknown device", out, {"device": "gpu"}),
        (SettingError, "a path holds no NUL", tmp_path / "a\0.onnx", {}),
    ):
        assert_refused(error, text, tmp_path, run, path, **settings)
    assert_refused(SettingError, "model is a data set", tmp_path, validation(), out)
    assert_refused(HeadstartError, "nothing-here", tmp_path, run, out, tmp_path / "nothing-here")


@pytest.mark.neutral
def test_every_format_is_a_whole_row() -> None:
    suffixes = [suffix for row in formats().values() for suffix in row.suffixes]
    assert len(suffixes) == len(set(suffixes)) and all(suffix.startswith(".") for suffix in suffixes)
    assert all(row.install for row in formats().values() if row.written_with or row.run_with)


@pytest.mark.neutral
def test_every_format_is_told_of() -> None:
    """In the command's help, in Python's, and in its page."""
    page = (Path(__file__).parents[2] / "docs" / "export.md").read_text()
    help_text = headstart("export", "--help").out
    for name, row in formats().items():
        assert name in help_text and name in (hs.export.__doc__ or "") and f"| `{row.suffixes[0]}`" in page


@pytest.mark.neutral
def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = replace(formats()["onnx"], written_with=("onnx_of_old",), run_with=("runtime_of_old",))
    monkeypatch.setattr("headstart.training.exporting.formats.OWN", (row,))
    for verified, text in ((True, "onnx_of_old and runtime_of_old"), (False, "needs onnx_of_old, which")):
        with pytest.raises(ExportError, match=f"{text}.*pip install 'headstart\\[onnx\\]'"):
            hs.export(small_model(), tmp_path / "out.onnx", verify=verified)


@pytest.mark.of("torch")
def test_the_fresh_head_of_a_wrapped_module_is_ours(tmp_path: Path) -> None:
    """Its graph is known, and the module's weights can leave."""
    import torch

    x = np.random.default_rng(0).normal(size=(9, 6)).astype(np.float32)
    data = hs.data.arrays(x, np.arange(9) % 4, classes=list(CLASSES))
    net = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU())
    model = hs.wrap(net, cut="its end", head="linear", classes=CLASSES, example=data)
    for name, part in (("out.safetensors", "whole"), ("head.onnx", "head")):
        for samples, words, count in ((data, "given samples", 9), (None, "random inputs (seed 0)", 63)):
            exported = hs.export(model, tmp_path / name, samples, part=part, replace=True, device="cpu")
            proof = exported.verification
            assert proof is not None and (proof.of, proof.samples, proof.same) == (words, count, count)


@pytest.mark.of("torch")
def test_a_run_that_has_diverged(run: hs.Run, tmp_path: Path) -> None:
    model = small_model()
    lost = replace(model, params={**model.params, "fc.bias": model.params["fc.bias"] * np.nan})
    with pytest.warns(hs.errors.DivergedWarning):
        assert_refused(ExportError, "are not finite", tmp_path, replace(run, model=lost), tmp_path / "out.onnx")


# ---- the place


@pytest.mark.of("torch")
def test_what_is_there_is_kept(run: hs.Run, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    out.write_bytes(b"mine")
    assert_refused(SettingError, "is there already, and kept", tmp_path, run, out)
    assert_refused(SettingError, "it is a folder", tmp_path, run, tmp_path, format="onnx", replace=True)
    (tmp_path / "link.onnx").symlink_to("out.onnx")
    run.export(tmp_path / "link.onnx", replace=True, verify=False)
    assert (tmp_path / "link.onnx").is_symlink() and out.read_bytes() != b"mine"


@pytest.mark.of("torch")
def test_what_is_there_is_kept_where_the_new_one_is_wrong(
    run: hs.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out.onnx").write_bytes(b"mine")
    monkeypatch.setattr(verify, "TOLERANCE", 1e-12)
    assert_refused(ExportError, "where 1e-12 is allowed", tmp_path, run, tmp_path / "out.onnx", replace=True)


@pytest.mark.of("torch")
def test_somebody_else_was_faster(run: hs.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out.onnx"
    monkeypatch.setattr(
        "headstart.training.exporting.export.probes", lambda *about: out.write_bytes(b"theirs") and real(*about)
    )
    from headstart.training.exporting.samples import probes as real

    with pytest.raises(SettingError, match="is there already"):
        run.export(out)
    assert out.read_bytes() == b"theirs" and [*tmp_path.iterdir()] == [out]


@pytest.mark.of("torch")
def test_a_full_disk(run: hs.Run, tmp_path: Path) -> None:
    """Of so many bytes a file: at every size below its own there is a typed line, and nothing left."""
    (tmp_path / "out.onnx").write_bytes(b"mine")
    nbytes = run.export(tmp_path / "of.onnx", verify=False).nbytes
    (tmp_path / "of.onnx").unlink()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    for least in (0, 1, nbytes // 2, nbytes - 1):
        resource.setrlimit(resource.RLIMIT_FSIZE, (least, limits[1]))
        try:
            with pytest.raises(SettingError, match=r"out.onnx: cannot be written \(File too large\)"):
                run.export(tmp_path / "out.onnx", verify=False, replace=True)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert contents(tmp_path) == {str(tmp_path / "out.onnx"): b"mine"}


@pytest.mark.of("torch")
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO], ids=["ENOSPC", "EIO"])
def test_a_disk_that_fails_at_every_operation(code: int, run: hs.Run, tmp_path: Path) -> None:
    """At the Nth of those that change it, for every N: a typed line, and nothing left."""
    out = tmp_path / "out.onnx"
    for at in range(1, 100):
        out.write_bytes(b"mine")
        failing = Failing(at, code)
        try:
            with failing:
                run.export(out, verify=False, replace=True)
        except SettingError as error:
            assert os.strerror(code) in str(error) and "cannot be written" in str(error)
            assert [*tmp_path.iterdir()] == [out]
            if "fsync of a folder" not in failing.failed:  # which comes when all is in its place
                assert out.read_bytes() == b"mine"
        if not failing.failed:
            break
    assert at > 5
    assert len(out.read_bytes()) > 1000


class Failing:
    """Within it the Nth call of the system that changes a disk fails."""

    NAMES = ("mkdir", "fsync", "replace", "write")

    def __init__(self, at: int, code: int) -> None:
        self._left, self._code = at, code
        self._patch = pytest.MonkeyPatch()
        self.failed = ""

    def __enter__(self) -> None:
        for name in self.NAMES:
            self._patch.setattr(os, name, functools.partial(self._call, name, getattr(os, name)))

    def __exit__(self, *about: object) -> None:
        self._patch.undo()

    def _call(self, name: str, real: Any, *of: Any, **how: Any) -> Any:
        self._left -= 1
        if self._left == 0:
            is_folder = name == "fsync" and stat.S_ISDIR(os.fstat(of[0]).st_mode)
            self.failed = f"{name} of a {'folder' if is_folder else 'file'}"
            raise OSError(self._code, os.strerror(self._code))
        return real(*of, **how)


@pytest.mark.of("torch")
def test_places_that_cannot_be_written(run: hs.Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"mine")
    assert_refused(SettingError, "cannot be written", tmp_path, run, tmp_path / "file" / "out.onnx", verify=False)
    assert_refused(SettingError, "it is no file", tmp_path, run, Path("/dev/null"), format="onnx", replace=True)
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    if not os.access(closed, os.W_OK):
        assert_refused(SettingError, "cannot be written", tmp_path, run, closed / "out.onnx", verify=False)


@pytest.mark.of("torch")
def test_folders_that_were_made_go_again(run: hs.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "TOLERANCE", 1e-12)
    assert_refused(ExportError, "is allowed", tmp_path, run, tmp_path / "a" / "b" / "out.onnx")


# ---- the command


@pytest.mark.of("torch")
def test_the_command(run: hs.Run, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for i, picture in enumerate(photographs(3)):
        Image.fromarray(picture).save(tmp_path / "photos" / f"{i}.png")
    model = hs.model("lenet", classes=CLASSES)
    replace(run, model=model, cut="relu4").save(tmp_path / "run")
    words = ["export", tmp_path / "run", tmp_path / "out.onnx", "--device", "cpu"]
    done = headstart(*words, "--data", tmp_path / "photos", "--json", tmp_path / "figures.json")
    assert (done.code, done.err) == (0, "photos: 3 images\n")
    assert done.out.count("\n") == 1 and "on 3 given samples" in done.out
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["verification"]["samples"] == 3
    refused = headstart(*words)
    assert refused.code == 2 and "kept as it is; replace=True (--replace)" in refused.err
    assert len(refused.err.splitlines()) == 1
    done = headstart(*words, "--replace", "--no-verify", "--half", "--no-pixels")
    assert done.code == 0 and done.out.endswith("; not verified\n")
    proto = onnx.load(str(tmp_path / "out.onnx"))
    assert writer.metadata(proto)["dtype"] == "float16" and proto.graph.input[0].name == "pixel_values"
    done = headstart(*words[:2], tmp_path / "trunk.bin", "--format", "onnx", "--part", "trunk", "--cut", "pool2")
    assert done.code == 0 and "onnx of the trunk at pool2" in done.out and "on 63 random pictures" in done.out
