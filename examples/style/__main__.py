"""Neural style transfer: can a network's features be used directly, without training anything?

One image gives the content: the activations at one cut of a pretrained trunk. Another gives the style: at
several cuts the Gram matrix of the channels, which says which of them occur together and not where. The pixels
of a third are then changed, by L-BFGS, until it has both (Gatys, Ecker, Bethge 2015, arXiv:1508.06576). No
weight is changed.

Out come style.png, with content, style and result side by side, and loss.html, with the losses by step.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import headstart as hs
from examples.common import PHOTOGRAPHS, SHIPPED, print_table, start, write_page

# (model, weights, side in pixels, cut of the content, cuts of the style)
FULL = (
    "vgg16",
    "imagenet",
    512,
    "features.20",
    ["features.1", "features.6", "features.11", "features.18", "features.25"],
)
SMALL = {
    SHIPPED: (
        SHIPPED,
        "tinyimagenet",
        192,
        "layer2.1",
        ["relu", "layer1.0", "layer1.1", "layer2.0", "layer2.1", "layer3.0"],
    ),
    PHOTOGRAPHS: (
        PHOTOGRAPHS,
        "imagenet",
        192,
        "blocks.2.1",
        ["bn1.act", "blocks.1.1", "blocks.2.1", "blocks.3.2", "blocks.4.2"],
    ),
}
# Of losses that are all relative to their targets; the last keeps neighbouring pixels alike.
CONTENT_WEIGHT, STYLE_WEIGHT, SMOOTH_WEIGHT = 1.0, 20.0, 200.0

Maps = Callable[[torch.Tensor], Mapping[str, torch.Tensor]]


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Returns the losses by step of each pair, `{"total": [...], "content": ..., "style": ...}`, and the pictures,
    uint8 `(h, w, 3)`."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.style", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--small", action="store_true", help="a smaller trunk instead of VGG16, at 192 px")
    parser.add_argument(
        "--trunk", choices=tuple(SMALL), default=SHIPPED, help="of the small form (default: %(default)s)"
    )
    parser.add_argument(
        "--content", type=Path, help="an image (default: scikit-learn's two photographs, both ways)"
    )
    parser.add_argument("--style", type=Path, help="an image")
    parser.add_argument("--size", type=int, help="side in pixels")
    parser.add_argument("--steps", type=int, default=250, help="of L-BFGS (default: %(default)s)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=Path("examples-out", "style"))
    args = parser.parse_args(argv)

    name, weights, size, content_cut, style_cuts = SMALL[args.trunk] if args.small else FULL
    size = args.size or size
    model = hs.model(name, weights=weights)
    print(f"{name} ({weights}) at {size} px; content from {content_cut}, style from {', '.join(style_cuts)}")
    if args.small:
        print("scaled down: that trunk instead of VGG16, 192 px instead of 512")
    if args.content and args.style:
        pairs = [(Image.open(args.content).convert("RGB"), Image.open(args.style).convert("RGB"))]
    else:
        from sklearn.datasets import load_sample_images

        china, flower = (Image.fromarray(image) for image in load_sample_images().images)
        pairs = [(china, flower), (flower, china)]

    maps = activations(model, [*style_cuts, content_cut], args.device)
    rows, histories = [], []
    for pair in pairs:
        squares = [model.preprocess.with_size(size).apply(image) for image in pair]
        result, history = transfer(maps, *squares, content_cut, style_cuts, args.steps, args.device)
        rows.append(np.concatenate([*squares, result], 1))
        histories.append(history)
    args.out.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(rows)).save(args.out / "style.png", optimize=True)
    write_page(args.out / "loss.html", "Style transfer", *map(curves, histories))
    head = ["pair", "content loss", "style loss at first", "at last"]
    lines = [
        [i, f"{h['content'][-1]:.3f}", f"{h['style'][0]:.3f}", f"{h['style'][-1]:.3f}"]
        for i, h in enumerate(histories)
    ]
    print_table([head, *lines])
    print(f"wrote {args.out / 'style.png'} and {args.out / 'loss.html'}")
    return {"histories": histories, "pictures": rows}


def activations(model: Any, cuts: Sequence[str], device: str) -> Maps:
    """A function from images `(1, 3, h, w)` in 0..1 to the trunk's maps at `cuts`, differentiable in the image:
    the trunk as a plain torch module, in inference mode."""
    trunk = hs.native(model, cuts, backend="torch").requires_grad_(False).to(device)
    mean, std = (
        torch.tensor(v, device=device)[:, None, None] for v in (model.preprocess.mean, model.preprocess.std)
    )
    return lambda image: trunk((image - mean) / std)


def gram(maps: torch.Tensor) -> torch.Tensor:
    """`(1, c, h, w)` -> `(1, c, c)`: the channels' products, averaged over all places."""
    rows = maps.flatten(2)
    return rows @ rows.transpose(1, 2) / rows.shape[2]


def transfer(
    maps: Maps,
    content: np.ndarray,
    style: np.ndarray,
    content_cut: str,
    style_cuts: Sequence[str],
    steps: int,
    device: str,
) -> tuple[np.ndarray, dict[str, list[float]]]:
    """The image, uint8 `(h, w, 3)`, and the losses by step. It starts from the content."""

    def tensor(image: np.ndarray) -> torch.Tensor:
        return torch.tensor(image / 255, dtype=torch.float32, device=device).permute(2, 0, 1)[None].contiguous()

    wanted = maps(tensor(content))[content_cut]
    grams = {cut: gram(maps(tensor(style))[cut]) for cut in style_cuts}
    image = tensor(content).requires_grad_(True)
    optimizer = torch.optim.LBFGS([image], max_iter=steps, history_size=20, tolerance_grad=0, tolerance_change=0)
    history: dict[str, list[float]] = {"total": [], "content": [], "style": []}

    def apart(now: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return (now - target).square().mean() / target.square().mean()  # so cuts of any scale count alike

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        now = maps(image)
        by_content = apart(now[content_cut], wanted)
        by_style = torch.stack([apart(gram(now[cut]), grams[cut]) for cut in style_cuts]).mean()
        rough = image.diff(dim=2).square().mean() + image.diff(dim=3).square().mean()  # total variation
        total = CONTENT_WEIGHT * by_content + STYLE_WEIGHT * by_style + SMOOTH_WEIGHT * rough
        total.backward()
        for key, value in (("total", total), ("content", by_content), ("style", by_style)):
            history[key].append(value.item())
        return total

    optimizer.step(closure)
    pixels = image.detach().clamp(0, 1)[0].permute(1, 2, 0).cpu().numpy()
    return (255 * pixels).round().astype(np.uint8), history


def curves(history: Mapping[str, Sequence[float]]) -> Any:
    """The losses by step, on a logarithmic scale."""
    from bokeh.plotting import figure

    chart = figure(
        y_axis_type="log", x_axis_label="evaluation", y_axis_label="loss", height=320, sizing_mode="stretch_width"
    )
    for (key, values), colour in zip(history.items(), ("black", "firebrick", "navy"), strict=True):
        steps = [step for step, value in enumerate(values) if value > 0]  # the content's is 0 at first
        chart.line(steps, [values[step] for step in steps], legend_label=key, color=colour, line_width=2)
    chart.legend.click_policy = "hide"
    return chart


if __name__ == "__main__":
    start(main)
