"""Which process this is, as the framework knows it that has made several processes one group."""

from __future__ import annotations

import pytest

from headstart.contract import registry


def test_nobody_has_made_a_group(backend: str) -> None:
    assert registry.rank(backend) is None


@pytest.mark.of("torch")
def test_torch_s_group() -> None:
    import torch.distributed as group

    group.init_process_group("gloo", store=group.HashStore(), rank=0, world_size=1)
    try:
        assert registry.rank("torch") == (0, 1)
    finally:
        group.destroy_process_group()


@pytest.mark.of("jax")
def test_jax_s_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    import jax

    monkeypatch.setattr(jax, "process_count", lambda: 4)
    monkeypatch.setattr(jax, "process_index", lambda: 2)
    assert registry.rank("jax") == (2, 4)
