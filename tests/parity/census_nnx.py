"""NNX modules as people write them from flax's examples: a convolutional net, a residual one, a transformer."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx


class CNN(nnx.Module):
    """Two convolutions with batch norm and pooling, dropout and two linear layers."""

    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.conv1 = nnx.Conv(3, 16, (3, 3), rngs=rngs)
        self.norm1 = nnx.BatchNorm(16, rngs=rngs)
        self.conv2 = nnx.Conv(16, 24, (3, 3), rngs=rngs)
        self.dropout = nnx.Dropout(0.2, rngs=rngs)
        self.linear1 = nnx.Linear(24 * 49, 32, rngs=rngs)
        self.linear2 = nnx.Linear(32, 5, rngs=rngs)

    def __call__(self, x: jax.Array) -> Any:
        x = nnx.avg_pool(nnx.relu(self.norm1(self.conv1(x))), (2, 2), (2, 2))
        x = nnx.avg_pool(nnx.relu(self.conv2(x)), (2, 2), (2, 2))
        x = self.dropout(nnx.relu(self.linear1(x.reshape(x.shape[0], -1))))
        return self.linear2(x)


class Block(nnx.Module):
    """A residual block."""

    def __init__(self, inputs: int, outputs: int, stride: int, rngs: nnx.Rngs) -> None:
        self.conv1 = nnx.Conv(inputs, outputs, (3, 3), stride, rngs=rngs)
        self.norm1 = nnx.BatchNorm(outputs, rngs=rngs)
        self.conv2 = nnx.Conv(outputs, outputs, (3, 3), rngs=rngs)
        self.norm2 = nnx.BatchNorm(outputs, rngs=rngs)
        self.short = nnx.Conv(inputs, outputs, (1, 1), stride, rngs=rngs)

    def __call__(self, x: jax.Array) -> Any:
        y = nnx.relu(self.norm1(self.conv1(x)))
        return nnx.relu(self.norm2(self.conv2(y)) + self.short(x))


class ResNet(nnx.Module):
    """Three residual blocks."""

    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.stem = nnx.Conv(3, 8, (3, 3), 2, rngs=rngs)
        self.layer1 = Block(8, 8, 1, rngs)
        self.layer2 = Block(8, 16, 2, rngs)
        self.layer3 = Block(16, 24, 2, rngs)
        self.fc = nnx.Linear(24, 5, rngs=rngs)

    def __call__(self, x: jax.Array) -> Any:
        x = self.layer3(self.layer2(self.layer1(nnx.relu(self.stem(x)))))
        return self.fc(x.mean((1, 2)))


class Encoder(nnx.Module):
    """A transformer block, its norms first."""

    def __init__(self, width: int, rngs: nnx.Rngs) -> None:
        self.norm1 = nnx.LayerNorm(width, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(2, width, decode=False, rngs=rngs)
        self.norm2 = nnx.LayerNorm(width, rngs=rngs)
        self.up = nnx.Linear(width, 2 * width, rngs=rngs)
        self.down = nnx.Linear(2 * width, width, rngs=rngs)

    def __call__(self, x: jax.Array) -> Any:
        x = x + self.attention(self.norm1(x))
        return x + self.down(nnx.gelu(self.up(self.norm2(x))))


class ViT(nnx.Module):
    """A vision transformer of two blocks."""

    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.patches = nnx.Conv(3, 32, (8, 8), (8, 8), padding="VALID", rngs=rngs)
        self.cls = nnx.Param(jnp.zeros((1, 1, 32)))
        self.positions = nnx.Param(jax.random.normal(rngs.params(), (1, 17, 32)) * 0.02)
        self.blocks = nnx.List([Encoder(32, rngs) for _ in range(2)])
        self.norm = nnx.LayerNorm(32, rngs=rngs)
        self.head = nnx.Linear(32, 5, rngs=rngs)

    def __call__(self, x: jax.Array) -> Any:
        x = self.patches(x)
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        x = jnp.concatenate([jnp.broadcast_to(self.cls[...], (x.shape[0], 1, 32)), x], 1) + self.positions[...]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])
