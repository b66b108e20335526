"""An exported ONNX file predicts as its model does, whatever form pictures come in, with onnxruntime alone."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import headstart
from PIL import Image

import headstart as hs
from headstart.data.preprocess import Preprocess
from headstart.errors import DataWarning, DivergedWarning, ImageError, SettingError
from headstart.models import Model
from headstart.models.exporting import onnx_model as exporting
from headstart.models.exporting.onnx_model import onnx_model, write_onnx
from headstart.testing import reference
from headstart.testing.samples import relative_error, shaken, tiny_model
from headstart.training import prediction
from headstart.training.history import History, Record, Seconds

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.neutral
TOLERANCE = 1e-5
CLASSES = tuple("abcdefghij")


@pytest.fixture(scope="module")
def model() -> Model:
    """Of 14 x 14 pixels, each channel with a mean and a deviation of its own."""
    preprocess = Preprocess(14, 16, "bicubic", (0.2, 0.4, 0.6), (0.1, 0.2, 0.3))
    return replace(shaken(tiny_model()), preprocess=preprocess, classes=CLASSES, named_classes=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six photographs of several shapes."""
    folder = tmp_path_factory.mktemp("photos")
    for i in range(6):
        Image.fromarray(_pixels(i)).save(folder / f"{i}.png")
    return folder


def _pixels(i: int) -> np.ndarray:
    return np.random.default_rng(i).integers(0, 256, (20 + i, 30 - i, 3), np.uint8)


def written(model: Model, path: Path, **options: Any) -> Path:
    write_onnx(onnx_model(model, **options), path)
    return path


def expected(model: Model) -> np.ndarray:
    """The reference's logits of the six photographs."""
    assert isinstance(model.preprocess, Preprocess)
    images = np.stack([model.preprocess.apply(Image.fromarray(_pixels(i))) for i in range(6)])
    return reference.run(model.graph, model.params, model.preprocess.normalise(images))["fc"]


@pytest.mark.parametrize("pixels", [True, False])
def test_whatever_form_pictures_come_in(model: Model, folder: Path, tmp_path: Path, pixels: bool) -> None:
    file = hs.OnnxModel(written(model, tmp_path / "m.onnx", pixels=pixels))
    assert (file.classes, file.task, file.part, file.preprocess) == (CLASSES, "single", "whole", model.preprocess)
    logits = file.predict(folder)
    assert relative_error(logits, expected(model)) < TOLERANCE
    paths = sorted(folder.iterdir())
    for images in (
        str(folder / "*.png"),
        paths,
        [path.read_bytes() for path in paths],
        [Image.open(path) for path in paths],
        [_pixels(i) for i in range(6)],
        hs.data.arrays([_pixels(i) for i in range(6)], [0] * 6),
    ):
        np.testing.assert_array_equal(file.predict(images, batch_size=4), logits)
        np.testing.assert_allclose(hs.predict(file, images), logits, rtol=0, atol=1e-5)


def test_pixels_that_are_normalised_already_go_where_they_are_taken(model: Model, tmp_path: Path) -> None:
    assert isinstance(model.preprocess, Preprocess)
    images = np.stack([model.preprocess.apply(Image.fromarray(_pixels(i))) for i in range(6)])
    normalised = model.preprocess.normalise(images)
    takes_them = hs.OnnxModel(written(model, tmp_path / "values.onnx", pixels=False))
    assert relative_error(takes_them.predict(normalised), expected(model)) < TOLERANCE
    with pytest.raises(SettingError, match=r"takes uint8 \(n, 14, 14, 3\), and normalises them itself"):
        hs.OnnxModel(written(model, tmp_path / "pixels.onnx")).predict(normalised)


@pytest.mark.parametrize("task", ["single", "multi", "regression"])
def test_what_outputs_mean_is_told_by_the_task(model: Model, folder: Path, tmp_path: Path, task: str) -> None:
    of_task = replace(model, task=task, threshold=0.3)
    file = hs.OnnxModel(written(of_task, tmp_path / "m.onnx"))
    logits = expected(model)
    rows = file.classify(folder).as_list()
    assert [row["image"] for row in rows] == [str(folder / f"{i}.png") for i in range(6)]
    for row, values in zip(rows, logits, strict=True):
        if task == "single":
            powers = np.exp(values - values.max())
            ((name, p),) = row["classes"]
            assert name == CLASSES[values.argmax()]
            assert p == pytest.approx(powers.max() / powers.sum(), abs=TOLERANCE)
        elif task == "multi":
            p = 1 / (1 + np.exp(-values))
            assert [name for name, _ in row["labels"]] == [c for c, q in zip(CLASSES, p, strict=True) if q > 0.3]
            np.testing.assert_allclose(list(row["probabilities"].values()), p, rtol=0, atol=TOLERANCE)
        else:
            np.testing.assert_allclose([value for _, value in row["values"]], values, rtol=1e-4, atol=TOLERANCE)
    with pytest.raises(SettingError, match="top is 0"):
        file.classify(folder, top=0)


def test_weights_in_a_file_beside(
    model: Model, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = hs.OnnxModel(written(model, tmp_path / "alone.onnx")).predict(folder)
    monkeypatch.setattr(exporting, "MOST_NBYTES", 1000)
    written(model, tmp_path / "two.onnx")
    np.testing.assert_array_equal(hs.OnnxModel(tmp_path / "two.onnx").predict(folder), alone)
    hub = tmp_path / "snapshots"  # links into another folder, as a hub's cache has them
    hub.mkdir()
    for name in ("two.onnx", "two.onnx.data"):
        (hub / name).symlink_to(tmp_path / name)
    np.testing.assert_array_equal(hs.OnnxModel(hub / "two.onnx").predict(folder), alone)


@pytest.mark.parametrize(("part", "ends"), [("trunk", "gives"), ("head", "takes")])
def test_parts_are_run_and_do_not_predict(model: Model, tmp_path: Path, part: str, ends: str) -> None:
    file = hs.OnnxModel(written(model, tmp_path / "m.onnx", part=part, cut="block.add"))
    with pytest.raises(SettingError, match=f"is the {part} of a model, which {ends} features"):
        file.predict([_pixels(0)])
    assert isinstance(model.preprocess, Preprocess)
    images = np.stack([model.preprocess.apply(Image.fromarray(_pixels(i))) for i in range(2)])
    nodes = reference.run(model.graph, model.params, model.preprocess.normalise(images))
    if part == "trunk":
        assert relative_error(file.run(images)["features"], nodes["block.add"]) < TOLERANCE
        return
    made = file.run(nodes["block.add"].astype(np.float32))
    assert list(made) == ["logits", "probabilities"]
    assert relative_error(made["logits"], nodes["fc"]) < TOLERANCE
    with pytest.raises(SettingError, match="expected float32"):
        file.run(images)


def test_pictures_that_cannot_be_read(model: Model, folder: Path, tmp_path: Path) -> None:
    file = hs.OnnxModel(written(model, tmp_path / "m.onnx"))
    (tmp_path / "broken.png").write_bytes((folder / "0.png").read_bytes()[:300])
    images = [folder / "1.png", tmp_path / "broken.png", folder / "2.png"]
    with pytest.raises(ImageError, match=r"broken\.png"):
        file.predict(images)
    with pytest.warns(DataWarning, match=r"1 of 3 images could not be read.*broken\.png"):
        logits = file.predict(images, on_error="skip")
    assert np.isnan(logits[1]).all()
    assert relative_error(logits[[0, 2]], expected(model)[1:3]) < TOLERANCE


def test_weights_that_are_not_finite_are_said(model: Model, folder: Path, tmp_path: Path) -> None:
    """Also where the logits are finite."""
    proto = onnx_model(model)
    tensor = proto.graph.initializer.add(name="unused", data_type=1, dims=[2])
    tensor.raw_data = np.array([1, np.nan], np.float32).tobytes()
    write_onnx(proto, tmp_path / "m.onnx")
    with pytest.warns(DivergedWarning, match="logits that mean nothing: unused holds NaN or infinity"):
        hs.OnnxModel(tmp_path / "m.onnx").predict(folder)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([-np.inf], False),
        ([0, -np.inf, 0, -np.inf], False),
        ([0, 1, -np.inf, 0], True),
        ([-np.inf, -np.inf], True),
        ([0, np.inf, 0, 0], True),
        ([-np.inf, np.nan], True),
        ([np.inf], True),
    ],
)
def test_a_mask_is_no_damage(model: Model, tmp_path: Path, values: list[float], said: bool) -> None:
    """Wrapped modules hide tokens from attention by minus infinity."""
    proto = onnx_model(model)
    added = np.array(values, np.float32)
    proto.graph.initializer.add(
        name="hidden", data_type=1, dims=added.shape, raw_data=added.astype("<f4").tobytes()
    )
    write_onnx(proto, tmp_path / "m.onnx")
    assert (hs.OnnxModel(tmp_path / "m.onnx")._session.unsound is not None) is said


@pytest.mark.parametrize("setting", [{"backend": "jax"}, {"device": "cuda"}, {"precision": "bfloat16"}])
def test_a_file_says_itself_how_it_is_computed(
    model: Model, folder: Path, tmp_path: Path, setting: dict[str, str]
) -> None:
    path = written(model, tmp_path / "m.onnx")
    ((name, value),) = setting.items()
    with pytest.raises(SettingError, match=f"{name}='{value}' .--{name}. is about a run"):
        hs.predict(hs.OnnxModel(path), folder, **setting)
    result = headstart("predict", "--run", path, f"--{name}", value, folder)
    assert result.code == 2
    assert f"--{name}" in result.err
    assert result.err.count("\n") == 1


def test_batches_are_as_small_as_large_pictures_need(
    model: Model, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file from anywhere may say that its pictures have 8192 pixels a side."""
    file = hs.OnnxModel(written(model, tmp_path / "m.onnx"))
    monkeypatch.setattr(prediction, "MOST_NBYTES", 2 * 14 * 14 * 3 + 1)
    sizes: list[int] = []
    run = file._run
    monkeypatch.setattr(file, "_run", lambda outputs, rows: sizes.append(len(rows)) or run(outputs, rows))
    assert relative_error(file.predict(folder), expected(model)) < TOLERANCE
    assert sizes == [2, 2, 2]


def test_what_is_no_file_and_no_count_of_threads(model: Model, tmp_path: Path) -> None:
    file = hs.OnnxModel(written(model, tmp_path / "m.onnx"))
    with pytest.raises(SettingError, match=r"model is the name 'm\.onnx'.*: hs\.OnnxModel\('m\.onnx'\)"):
        hs.predict("m.onnx", [_pixels(0)])  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="threads is 0"):
        hs.OnnxModel(file.path, threads=0)


BLOCKER = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Blocker())
"""
FRAMEWORKS = {"torch", "torchvision", "keras", "tensorflow", "jax", "jaxlib", "flax", "optax"}


def test_the_command_needs_no_framework_and_not_even_onnx(model: Model, folder: Path, tmp_path: Path) -> None:
    path = written(model, tmp_path / "m.onnx")
    blocker = BLOCKER.format(names={*FRAMEWORKS, "onnx"})
    words = ["headstart", "predict", "--run", str(path), "--json", str(tmp_path / "out.json"), str(folder)]
    program = (
        f"{blocker}\nsys.argv = {words!r}\nfrom headstart.cli.start import main\ntry:\n    main()\nfinally:\n"
    )
    program += "    print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False, cwd=tmp_path
    )
    assert (done.returncode, done.stderr) == (0, f"{folder.name}: 6 images\n")
    imported = {name.partition(".")[0] for name in done.stdout.splitlines()[-1].split()}
    assert not imported & {"sklearn", "scipy", "pandas", "pyarrow", "bokeh", "jinja2"}  # it starts in a moment
    rows = json.loads((tmp_path / "out.json").read_text())
    assert [row["classes"][0][0] for row in rows] == [CLASSES[k] for k in expected(model).argmax(1)]


def test_without_onnxruntime_the_command_says_what_to_install(model: Model, folder: Path, tmp_path: Path) -> None:
    path = written(model, tmp_path / "m.onnx")
    words = ["headstart", "predict", "--run", str(path), str(folder)]
    blocker = BLOCKER.format(names={*FRAMEWORKS, "onnx", "onnxruntime"})
    program = f"{blocker}\nsys.argv = {words!r}\nfrom headstart.cli.start import main\nmain()"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False, cwd=tmp_path
    )
    assert done.returncode == 2
    assert done.stderr.endswith("is not installed: pip install 'headstart[onnx]'\n")
    assert done.stderr.count("\n") == 1


@pytest.mark.slow("keras", "jax")  # core says it
@pytest.mark.each
@pytest.mark.parametrize("options", [("--top", 3), ("--on-error", "skip", "--csv", "out.csv")])
def test_the_command_says_of_a_file_what_it_says_of_its_run(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    backend: str,
    options: tuple[Any, ...],
) -> None:
    monkeypatch.chdir(tmp_path)
    if "skip" in options:
        folder = tmp_path / "some"
        folder.mkdir()
        Image.fromarray(_pixels(0)).save(folder / "0.png")
        (folder / "1.png").write_bytes((folder / "0.png").read_bytes()[:300])
    record = Record(1, 0.5, 0.5, 0.5, 0.5, Seconds(), 0.1, (0.5,))
    run = hs.Run(hs.model("lenet", classes=CLASSES), "cached", None, backend, History([record]))
    run.save("run")
    hs.export(run, "m.onnx", verify=False)
    said = []
    for name in ("run", "m.onnx"):
        json_file = () if "--csv" in options else ("--json", "out.json")
        result = headstart("predict", "--run", name, *options, *json_file, folder)
        assert result.code == 0, result.err
        files = {path.name: path.read_text() for path in Path().glob("out.*")}
        said.append((result.out, result.err, _rounded(files)))
        for file in files:
            Path(file).unlink()
    assert said[0] == said[1]


def _rounded(files: dict[str, str]) -> dict[str, Any]:
    """Contents of files, with three digits of each number."""
    if "out.json" in files:
        rows = json.loads(files["out.json"])
        return {row["image"]: [(name, round(p, 3)) for name, p in row["classes"]] for row in rows}
    (text,) = files.values()
    cells = [line.replace("\t", ",").split(",") for line in text.splitlines()]
    return {
        row[0]: [cell if not cell.startswith("0.") else round(float(cell), 3) for cell in row] for row in cells
    }
