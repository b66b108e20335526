"""`tensorboard`: read back by TensorBoard's own package, which shares no code with what wrote it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import headstart as hs
from headstart.common.errors import SettingError
from headstart.models import Model
from headstart.testing import small_data
from headstart.training import tensorboard
from headstart.training.history import Record, Seconds
from headstart.training.tensorboard import Board

pytestmark = pytest.mark.of("torch")  # what is written is core's

pytest.importorskip("tensorboardX")
pytest.importorskip("tensorboard")

Fit = Callable[..., Any]


def events(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder), {"histograms": 0, "scalars": 0, "tensors": 0})
    found.Reload()
    return found


def scalars(found: Any, tag: str) -> tuple[list[int], list[float]]:
    """Steps and values."""
    read = found.Scalars(tag)
    return [event.step for event in read], [event.value for event in read]


@pytest.fixture(scope="module")
def model() -> Model:
    return hs.model("lenet", classes=10)


@pytest.fixture(scope="module")
def fit(backend: str, model: Model, tmp_path_factory: pytest.TempPathFactory) -> Fit:
    cache, data = tmp_path_factory.mktemp("cache"), small_data()

    def call(val: Any = data[1], **settings: Any) -> Any:
        given = {"backend": backend, "device": "cpu", "cache": cache, "epochs": 2, "batch_size": 24}
        return hs.fit(model, data[0], val, **{**given, **settings})

    return call


@pytest.fixture(scope="module")
def written(fit: Fit, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A run of two stages, what it wrote, and what could be read of it when the first epoch was over."""
    folder, during = tmp_path_factory.mktemp("board"), []
    run = fit(
        mode="staged",
        head_epochs=3,
        cut="relu4",
        lr=0.001,
        schedule="cosine",
        tensorboard=folder,
        on_epoch=lambda stage, record: during.append(events(folder / "train")) if not during else None,
    )
    train, validation = events(folder / "train"), events(folder / "validation")
    return SimpleNamespace(run=run, folder=folder, during=during[0], train=train, validation=validation)


def test_loss_and_accuracy_are_two_lines_of_one_chart(written: SimpleNamespace) -> None:
    """Both stages of `staged`, one after the other."""
    records = [*written.run.head_history, *written.run.history]
    for tag in ("loss", "accuracy"):
        for found, key in ((written.train, tag), (written.validation, f"val_{tag}")):
            steps, values = scalars(found, tag)
            assert steps == [1, 2, 3, 4, 5]
            assert values == pytest.approx([record[key] for record in records], rel=1e-6)
    assert written.validation.Tags()["scalars"] == ["loss", "accuracy"]


@pytest.mark.parametrize(
    ("task", "train", "validation"),
    [
        ("multi", {"loss", "accuracy"}, ["loss", "accuracy", "micro_f1"]),
        ("regression", {"loss"}, ["loss", "standardised_mae"]),
    ],
)
def test_other_tasks_have_their_score(
    task: str, train: set[str], validation: list[str], backend: str, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, (24, 2)) if task == "multi" else rng.random((24, 2))
    images = rng.integers(0, 256, (24, 8, 8, 3), np.uint8)
    data = hs.data.arrays(images, labels, ["a", "b"], task=task).split(0.6)
    settings: dict[str, Any] = {"backend": backend, "epochs": 2, "batch_size": 8, "cache": tmp_path}
    run = hs.fit(hs.model("lenet", classes=["a", "b"]), *data, tensorboard=tmp_path / "board", **settings)
    found = events(tmp_path / "board" / "validation")
    assert found.Tags()["scalars"] == validation
    assert scalars(found, validation[-1])[1] == pytest.approx(run.history["val_score"], rel=1e-6)
    tags = set(events(tmp_path / "board" / "train").Tags()["scalars"])
    assert {tag for tag in tags if "/" not in tag} == {*train, "learning_rate", "best_epoch"}


def test_the_epoch_that_was_kept(written: SimpleNamespace) -> None:
    """Of both stages, on the axis of the charts; in words; and in the table of hyperparameters."""
    head, all_ = written.run.head_history, written.run.history
    kept = [head.best_epoch, len(head) + all_.best_epoch]
    assert scalars(written.train, "best_epoch") == (kept, kept)
    for name in ("loss", "val_loss", "val_accuracy"):
        steps, values = scalars(written.train, f"best/{name}")
        assert (steps, values) == (kept, pytest.approx([head.best[name], all_.best[name]], rel=1e-6))
    texts = [each.tensor_proto.string_val[0].decode() for each in written.train.Tensors("ending/text_summary")]
    assert texts == [
        f"{len(stage)} epochs; kept epoch {stage.best_epoch}, the best by val_loss" for stage in (head, all_)
    ]
    start = hyperparameters(written.train, "session_start_info")
    assert start.hparams["mode"].string_value == "staged"
    assert start.hparams["optimizer.head.lr"].number_value == pytest.approx(0.001)
    metrics = {info.name.tag for info in hyperparameters(written.train, "experiment").metric_infos}
    assert metrics == {"best_epoch", "best/loss", "best/val_loss", "best/val_accuracy"}


def hyperparameters(found: Any, part: str) -> Any:
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    content = found.SummaryMetadata(f"_hparams_/{part}").plugin_data.content
    return getattr(HParamsPluginData.FromString(content), part)


def test_the_other_figures(written: SimpleNamespace) -> None:
    records = [*written.run.head_history, *written.run.history]
    assert scalars(written.train, "learning_rate")[1] == pytest.approx([r.learning_rate for r in records])
    for phase in ("data", "trunk", "head", "total"):
        values = [record["seconds"][phase] for record in records]
        assert scalars(written.train, f"seconds/{phase}")[1] == pytest.approx(values, rel=1e-6)
    steps, losses = scalars(written.train, "step/loss")
    assert steps == list(range(1, 26))
    assert losses == pytest.approx([loss for record in records for loss in record.step_losses], rel=1e-6)
    of_stages = ((0.3, 15), (0.0, 10))  # a head on features warms up
    rates = np.concatenate([hs.Schedule("cosine", warmup).rates(0.001, steps) for warmup, steps in of_stages])
    assert scalars(written.train, "step/learning_rate")[1] == pytest.approx(rates.tolist(), rel=1e-5)
    (text,) = written.train.Tensors("settings/text_summary")[:1]
    assert '| mode | "staged" |' in text.tensor_proto.string_val[0].decode()


def test_histograms_of_the_parameters(written: SimpleNamespace, model: Model) -> None:
    """Before training and after each epoch, of what is trained in the stage."""
    tags = written.train.Tags()["histograms"]
    assert {tag.partition("/")[2] for tag in tags} == set(model.params)
    for name, steps in (("fc3.weight", [0, 1, 2, 3, 4, 5]), ("conv1.weight", [3, 4, 5])):
        found = written.train.Histograms(f"parameters/{name}")
        assert [event.step for event in found] == steps
        after = written.run.model.params[name]
        last = found[-1].histogram_value
        assert (last.min, last.max) == pytest.approx((after.min(), after.max()))
        assert (last.num, sum(last.bucket)) == (after.size, after.size)
        assert last.sum == pytest.approx(after.sum(), abs=1e-4)
        assert len(last.bucket) == 30
        changes = written.train.Histograms(f"change/{name}")
        assert [event.step for event in changes] == steps[1:]
    moved = written.run.model.params["conv1.weight"] - model.params["conv1.weight"]
    change = written.train.Histograms("change/conv1.weight")[-1].histogram_value
    assert (change.min, change.max) == pytest.approx((moved.min(), moved.max()), rel=1e-4)


def test_the_graph(written: SimpleNamespace, model: Model) -> None:
    """TensorBoard's tree is made of the names: trunk and head are boxes."""
    nodes = {node.name: node for node in written.train.Graph().node}
    trunk = {node.name for node in model.graph.upto("relu4").nodes}
    scopes = {name: "trunk" if name in trunk else "head" for name in (node.name for node in model.graph.nodes)}
    assert set(nodes) == {f"{scope}/{name}" for name, scope in scopes.items()}
    shapes = model.graph.shapes(model.input_shape)
    for node in model.graph.nodes:
        found = nodes[f"{scopes[node.name]}/{node.name}"]
        assert (found.op, found.device) == (node.op, scopes[node.name])
        assert list(found.input) == [f"{scopes[name]}/{name}" for name in node.inputs]
        (shape,) = found.attr["_output_shapes"].list.shape
        assert tuple(dim.size for dim in shape.dim) == (-1, *shapes[node.name])
        count = sum(model.params[name].size for name in node.param_shapes())
        assert found.attr["parameters"].i == count
    assert nodes["head/fc3"].attr["out_features"].s == b"10"


def test_an_epoch_is_in_the_files_when_it_is_over(written: SimpleNamespace) -> None:
    """Read while the writer had them open."""
    assert scalars(written.during, "loss")[0] == [1]
    assert scalars(written.during, "step/loss")[0] == [1, 2, 3, 4, 5]
    assert [event.step for event in written.during.Histograms("parameters/fc3.bias")] == [0, 1]
    assert written.during.Graph().node


@pytest.mark.slow("keras", "jax")  # core writes
@pytest.mark.each
def test_nothing_changes_by_it(fit: Fit, tmp_path: Path) -> None:
    """Nor does a second run write to the first one's files; without validation data there is no such run."""
    plain = fit(epochs=1)
    runs = [fit(epochs=1, tensorboard=tmp_path), fit(epochs=1, tensorboard=tmp_path)]
    for run in runs:
        assert run.history["step_losses"] == plain.history["step_losses"]
        assert run.settings.keys() == plain.settings.keys()
    fit(None, epochs=1, tensorboard=str(tmp_path))
    found = sorted(str(path.parent.relative_to(tmp_path)) for path in tmp_path.rglob("events.out.tfevents.*"))
    assert found == ["2/train", "2/validation", "3/train", "train", "validation"]


def test_names_with_scopes_and_no_cut(tmp_path: Path) -> None:
    whole = hs.model("resnet18_half", classes=10, size=32)
    with Board(tmp_path, validation=False) as board:
        board.picture(whole, None)
    nodes = {node.name: node for node in events(tmp_path / "train").Graph().node}
    assert list(nodes["layer1/0/bn1"].input) == ["layer1/0/conv1"]
    assert {node.device for node in nodes.values()} == {"trained"}


def test_auxiliary_losses_and_what_is_not_finite(tmp_path: Path) -> None:
    """A run that goes wrong is one that people want to look at."""
    record = Record(1, float("nan"), 0.1, float("inf"), 0.2, Seconds(), 0.01, (1.0, float("nan")), (2.0, 3.0))
    start = {"w": np.zeros(4, np.float32), "n": np.array(3)}
    end = {"w": np.array([np.nan, np.inf, 1, 2], np.float32), "n": np.array(4)}
    with Board(tmp_path, validation=True) as board:
        board.start(start, {})
        board.epoch(record, np.array([0.02, 0.01]), end, ("aux1", "aux2"))
    found = events(tmp_path / "train")
    assert np.isnan(scalars(found, "loss")[1][0])
    assert [scalars(found, f"auxiliary_loss/aux{k}")[1] for k in (1, 2)] == [[2.0], [3.0]]
    first, last = (event.histogram_value for event in found.Histograms("parameters/w"))
    assert (first.min, first.max, first.num, list(first.bucket)) == (0, 0, 4, [4])
    assert (last.min, last.max, last.num) == (1, 2, 2)


def test_a_stage_that_goes_on_keeps_its_numbers(tmp_path: Path) -> None:
    """Its first epochs are on another board."""
    rates, params = np.full(2, 0.1, np.float32), {"w": np.zeros(3, np.float32)}
    with Board(tmp_path, validation=False) as board:
        board.start(params, {})
        for epoch in (3, 4):
            board.epoch(Record(epoch, 0.5, 0.5, None, None, Seconds(), 0.1, (0.5, 0.25)), rates, params, ())
    found = events(tmp_path / "train")
    assert scalars(found, "loss")[0] == [3, 4]
    assert scalars(found, "step/loss")[0] == [5, 6, 7, 8]


def test_what_is_missing_is_named(fit: Fit, monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.setattr(tensorboard, "find_spec", lambda name: None if name == "tensorboardX" else 1)
    with pytest.raises(SettingError, match=r"pip install 'headstart\[tensorboard\]'"):
        fit(tensorboard=tmp_path / "board", cache=tmp_path / "new")
    assert not list(tmp_path.rglob("*.safetensors"))
    assert not (tmp_path / "board").exists()


@pytest.mark.parametrize("folder", ["", "file/board", 3], ids=["empty", "in-a-file", "number"])
def test_a_folder_that_cannot_be_made(fit: Fit, folder: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingError, match=rf"tensorboard={folder!r}"):
        fit(tensorboard=folder, cache=tmp_path / "new")
    assert not list((tmp_path / "new").rglob("*.safetensors"))
