"""Wrapped torch modules as ONNX files: onnxruntime, and headstart where there is no torch, give what the module
gives."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import headstart
from exporting import CLASSES, pixels, run
from own import P, X, sentences, wrapped
from packaging.version import Version
from PIL import Image

import headstart as hs
from headstart.errors import ExportError, SettingError

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("torch")  # first: of other frameworks' packages onnxscript may want newer ones
pytest.importorskip("onnxscript")
pytestmark = pytest.mark.of("torch")


def torch() -> Any:
    return pytest.importorskip("torch")


def newer_exporter() -> None:
    """PyTorch 2.6's own exporter does not write what such a test has it write."""
    if Version(torch().__version__) < Version("2.9"):
        pytest.skip("its exporter has no translation of this")


def own() -> Any:
    return pytest.importorskip("own_torch")


def assert_computed(module: Any, x: np.ndarray, exported: Any) -> None:
    """onnxruntime gives what torch gives of one array, which has its channels first there."""
    with torch().no_grad():
        expected = module(torch().from_numpy(np.ascontiguousarray(np.moveaxis(x, -1, 1)))).numpy()
    np.testing.assert_allclose(run(exported.path, inputs=x)["logits"], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(hs.OnnxModel(exported.path).predict(x), expected, rtol=1e-4, atol=1e-5)


def test_pictures_go_in_as_into_any_other_file(tmp_path: Path) -> None:
    """The module's own classifier is behind it: what torch computes of these pixels is what is expected."""
    module = own().small()
    model = wrapped(own(), module)
    exported = hs.export(model, tmp_path / "m.onnx", device="cpu")
    proof = exported.verification
    assert proof is not None and proof.largest < 1e-5 and proof.same == proof.samples
    expected = own().logits(module, P.normalise(pixels(5)))
    made = run(exported.path, images=pixels(5))
    np.testing.assert_allclose(made["logits"], expected, rtol=1e-4, atol=1e-5)
    opened = hs.OnnxModel(exported.path)
    assert (opened.inputs, opened.outputs) == (("images",), ("logits", "probabilities"))
    for count in (1, 3):
        np.testing.assert_allclose(opened.run(pixels(count))["logits"], expected[:count], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(opened.predict(pixels(5)), expected, rtol=1e-4, atol=1e-5)


def test_a_trunk_and_the_rest_of_the_module_are_the_whole(tmp_path: Path) -> None:
    module = own().small()
    model = wrapped(own(), module)
    trunk, head = (
        hs.export(model, tmp_path / f"{part}.onnx", part=part, device="cpu") for part in ("trunk", "head")
    )
    features = run(trunk.path, images=pixels(5))["features"]
    np.testing.assert_allclose(
        features, hs.forward(model, P.normalise(pixels(5)), "trunk", device="cpu")["trunk"], rtol=1e-4, atol=1e-5
    )
    expected = own().logits(module, P.normalise(pixels(5)))
    np.testing.assert_allclose(run(head.path, features=features)["logits"], expected, rtol=1e-4, atol=1e-5)


def test_pictures_that_are_preprocessed_already(tmp_path: Path) -> None:
    module = own().small()
    exported = hs.export(wrapped(own(), module), tmp_path / "m.onnx", pixels=False, verify=False)
    x = np.ascontiguousarray(np.moveaxis(X, -1, 1))
    np.testing.assert_allclose(
        run(exported.path, pixel_values=x)["logits"], own().logits(module, X), rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(
        hs.OnnxModel(exported.path).run(X)["logits"], own().logits(module, X), rtol=1e-4, atol=1e-5
    )


def test_arrays_go_in_by_their_names(tmp_path: Path) -> None:
    newer_exporter()
    rows = {name: np.asarray(array) for name, array in sentences(20).items()}
    data = hs.data.arrays(rows, np.arange(20) % 2, classes=["a", "b"])
    model = hs.wrap(own().text(), cut=own().TEXT_CUT, head="linear", classes=["a", "b"], example=data)
    exported = hs.export(model, tmp_path / "m.onnx", data, device="cpu")
    expected = hs.predict(model, data, device="cpu")
    np.testing.assert_allclose(run(exported.path, **rows)["logits"], expected, rtol=1e-4, atol=1e-5)
    opened = hs.OnnxModel(exported.path)
    assert sorted(opened.inputs) == ["ids", "mask"]
    np.testing.assert_allclose(opened.predict(rows), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(SettingError, match="the model takes"):
        opened.predict({"ids": rows["ids"]})
    with pytest.raises(SettingError, match="the model takes"):
        opened.predict(tmp_path)


@pytest.mark.parametrize("shape", [(6,), (4, 5, 3)], ids=["vectors", "maps"])
def test_an_array_alone(shape: tuple[int, ...], tmp_path: Path) -> None:
    """It has its channels last, as everywhere in headstart, where torch has them first."""
    nn = torch().nn
    first, flat = (nn.Linear(6, 24), nn.Identity()) if len(shape) == 1 else (nn.Conv2d(3, 4, 3), nn.Flatten())
    module = nn.Sequential(first, nn.Tanh(), flat, nn.Linear(24, 3)).eval()
    x = np.random.default_rng(0).standard_normal((9, *shape)).astype(np.float32)
    model = hs.wrap(module, example=x, name="layers")
    exported = hs.export(model, tmp_path / "m.onnx", x, device="cpu")
    assert_computed(module, x, exported)


def looked_up() -> Any:
    """What it adds to every sample is looked up in a table, and depends on none: torch's exporter leaves it to be
    computed at every run."""
    nn = torch().nn

    class LookedUp(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            torch().manual_seed(0)
            self.first, self.last = nn.Linear(6, 40), nn.Linear(40, 3)
            self.register_buffer("table", torch().randn(90, 40))
            self.register_buffer("places", torch().arange(40)[None].expand(90, 40).clone())

        def forward(self, x: Any) -> Any:
            added = torch().gather(self.table, 0, self.places).mean(0)
            return self.last(torch().relu(self.first(x) + added))

    return LookedUp().eval()


def attending() -> Any:
    """Windows of tokens attend to their own window, so that attention has five axes."""
    nn = torch().nn

    class Attending(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            torch().manual_seed(0)
            self.first, self.last = nn.Linear(6, 36), nn.Linear(36, 3)

        def forward(self, x: Any) -> Any:
            q, k, v = self.first(x).reshape(-1, 3, 2, 2, 3, 1).unbind(1)
            y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            return self.last(y.reshape(-1, 12).repeat(1, 3))

    return Attending().eval()


def test_an_operation_that_the_exporter_does_not_know_is_written_by_its_parts(tmp_path: Path) -> None:
    newer_exporter()
    module = attending()
    x = np.random.default_rng(0).standard_normal((9, 6)).astype(np.float32)
    exported = hs.export(hs.wrap(module, example=x), tmp_path / "m.onnx", x, device="cpu")
    assert_computed(module, x, exported)


def test_what_depends_on_no_input_is_computed_once(tmp_path: Path) -> None:
    module = looked_up()
    x = np.random.default_rng(0).standard_normal((9, 6)).astype(np.float32)
    exported = hs.export(hs.wrap(module, example=x), tmp_path / "m.onnx", x, device="cpu")
    assert_computed(module, x, exported)
    ops = [node.op_type for node in onnx.load(exported.path).graph.node]
    assert not any(op.startswith("Gather") for op in ops), ops


def test_equal_modules_give_equal_files_that_say_nothing_of_this_machine(tmp_path: Path) -> None:
    contents = set()
    for k in range(2):
        path = tmp_path / f"{k}" / "m.onnx"
        path.parent.mkdir()
        hs.export(wrapped(own()), path, device="cpu", verify=False)
        contents.add(path.read_bytes())
    (content,) = contents
    for part in (str(Path(__file__).parent), str(Path(torch().__file__).parent), "forward", "stack_trace"):
        assert part.encode() not in content
    assert [file.name for file in (tmp_path / "0").iterdir()] == ["m.onnx"]


def test_weights_beyond_what_a_file_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They lie beside it, as those of our own graphs do."""
    from headstart.models.exporting import onnx_model

    monkeypatch.setattr(onnx_model, "MOST_NBYTES", 1000)
    monkeypatch.setattr(onnx_model, "SMALL_NBYTES", 64)
    module = own().small()
    exported = hs.export(wrapped(own(), module), tmp_path / "m.onnx", device="cpu")
    assert len([*tmp_path.iterdir()]) == 2 and onnx.load(exported.path, load_external_data=False).ByteSize() < 8000
    expected = own().logits(module, P.normalise(pixels(5)))
    np.testing.assert_allclose(hs.OnnxModel(exported.path).predict(pixels(5)), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("task", [pytest.param("single", marks=pytest.mark.slow), "regression"])
def test_half_the_bytes(task: str, tmp_path: Path) -> None:
    """Years are no numbers of float16, so what makes them of the last layer stays float32."""
    module = own().small()
    x = (pixels(40) * np.linspace(0, 1, 40)[:, None, None, None]).astype(np.uint8)  # from dark to light
    numbers = np.stack([1900 + x.mean((1, 2, 3)), x.std((1, 2, 3))], 1)
    labels, classes = (numbers, ["year", "contrast"]) if task == "regression" else (np.arange(40) % 2, ["a", "b"])
    data = hs.data.arrays(x, labels, task=task, classes=classes)
    model = wrapped(own(), module, head="linear", classes=classes)
    run_ = hs.fit(model, *data.split(0.8, seed=0), epochs=3, device="cpu", cache=tmp_path / "cache")
    full, half = (
        run_.export(tmp_path / f"{name}.onnx", half=name == "half", device="cpu") for name in ("full", "half")
    )
    assert half.verification is not None and half.verification.largest < 2e-2
    tensors = {tensor.name: tensor for tensor in onnx.load(half.path).graph.initializer}
    halves = sum(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in tensors.values())
    assert halves > 4 and half.nbytes < full.nbytes
    opened = hs.OnnxModel(half.path)
    assert opened.texts["dtype"] == "float16"
    np.testing.assert_allclose(opened.predict(x), run_.predict(x), atol=2e-2)


def test_nothing_is_said_where_torchvision_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of whose operations torch's exporter would say that it skips them."""
    monkeypatch.setitem(sys.modules, "torchvision", None)
    hs.export(hs.wrap(looked_up(), example=np.zeros((2, 6), np.float32)), tmp_path / "m.onnx", verify=False)
    assert capsys.readouterr() == ("", "")


def test_what_torch_warns_of_in_its_own_code_is_not_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As 2.11 does where an operation is written by its parts. Here warnings are errors."""
    plain = torch().onnx.export

    def export(*arguments: Any, **settings: Any) -> Any:
        warnings.warn("`isinstance(treespec, LeafSpec)` is deprecated", FutureWarning, stacklevel=2)
        return plain(*arguments, **settings)

    monkeypatch.setattr(torch().onnx, "export", export)
    path = tmp_path / "m.onnx"
    hs.export(hs.wrap(looked_up(), example=np.zeros((2, 6), np.float32)), path, verify=False)
    assert path.is_file()


def test_the_command_takes_such_a_file(tmp_path: Path) -> None:
    model = wrapped(own())
    hs.export(model, tmp_path / "m.onnx", device="cpu", verify=False)
    Image.fromarray(pixels(1)[0]).save(tmp_path / "a.png")
    result = headstart("predict", "--run", tmp_path / "m.onnx", tmp_path / "a.png")
    assert result.code == 0, result.err
    expected = hs.predict(model, tmp_path / "a.png", device="cpu").argmax()
    assert model.classes[expected] in result.out


def computed_as(function: Callable[[Any], Any]) -> Callable[[], Any]:
    """A module that does this between its layers."""

    def module() -> Any:
        nn = torch().nn

        class Computed(nn.Module):  # type: ignore[misc, name-defined]
            def __init__(self) -> None:
                super().__init__()
                self.first, self.last = nn.Linear(8, 8), nn.Linear(8, 3)

            def forward(self, x: Any) -> Any:
                return self.last(torch().tanh(function(self.first(x))))

        return Computed().eval()

    return module


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("limit", ["> 10", "== 17", "% 16 == 0"])
def test_a_branch_on_the_number_of_samples_is_in_no_file(limit: str, verify: bool, tmp_path: Path) -> None:
    """Batches as small as verification's take one way, and it would be the way of all."""
    if limit != "> 10":
        newer_exporter()
    holds = eval(f"lambda count: count {limit}")
    module = computed_as(lambda x: 2 * x if holds(x.shape[0]) else x)()
    x = np.random.default_rng(0).standard_normal((8, 8)).astype(np.float32)
    model = hs.wrap(module, example=x[:5], name=f"branching {limit}")
    with pytest.raises(ExportError, match="the module branches on the number of samples"):
        hs.export(model, tmp_path / "m.onnx", x if verify else None, verify=verify, device="cpu")
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("name", ["logits", "probabilities"])
def test_an_array_that_is_called_as_an_output(name: str, tmp_path: Path) -> None:
    nn = torch().nn
    scope: dict[str, Any] = {"nn": nn}
    exec(
        f"""class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(8, 8), nn.Linear(8, 3)
    def forward(self, {name}):
        return self.last(self.first({name}).relu())""",
        scope,
    )
    rows = {name: np.random.default_rng(0).standard_normal((9, 8)).astype(np.float32)}
    model = hs.wrap(scope["Named"]().eval(), example=rows)
    with pytest.raises(ExportError, match=f"an array called '{name}', as an output of the file is called"):
        hs.export(model, tmp_path / "m.onnx", rows, device="cpu")
    assert not [*tmp_path.iterdir()]


def inverting() -> Any:
    nn = torch().nn

    class Inverting(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 3)

        def forward(self, x: Any) -> Any:
            return self.fc(torch().linalg.inv(x.reshape(-1, 2, 2)).reshape(-1, 4))

    return Inverting()


@pytest.mark.parametrize(
    ("module", "width", "settings", "error", "said"),
    [
        (
            inverting,
            4,
            {},
            ExportError,
            r"torch\.onnx cannot write this model \(.*linalg_inv.*or \.pt2, or another",
        ),
        (
            computed_as(lambda x: (x.bfloat16() * 3).float()),
            8,
            {},
            ExportError,
            r"computes in bfloat16, .*module\.float\(\)",
        ),
    ],
)
def test_what_cannot_be_written_is_said(
    module: Callable[[], Any],
    width: int,
    settings: dict[str, Any],
    error: type[Exception],
    said: str,
    tmp_path: Path,
) -> None:
    x = np.random.default_rng(0).standard_normal((9, width)).astype(np.float32)
    model = hs.wrap(module(), example=x, cut="its end", head="linear", classes=CLASSES)
    with pytest.raises(error, match=said) as caught:
        hs.export(model, tmp_path / "m.onnx", x, device="cpu", **settings)
    assert "\n" not in str(caught.value) and not [*tmp_path.iterdir()]
