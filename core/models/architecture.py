"""What the zoo says of an architecture: how its graph is built, which layer new classes replace, which names its
published files use, and where published weights are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from headstart.data.preprocess import Preprocess
from headstart.graph import Graph
from headstart.models.classifiers import Head
from headstart.models.layouts import SAME, Layout

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)


def imagenet(
    size: int = 224, resize: int = 256, interpolation: str = "bilinear", *, half: bool = False
) -> Preprocess:
    """The usual preprocessing; with `half`, pixels go from -1 to 1."""
    mean, std = (HALF, HALF) if half else (IMAGENET_MEAN, IMAGENET_STD)
    return Preprocess(size, resize, interpolation, mean, std)


@dataclass(frozen=True)
class Shipped:
    """Weights in this package: safetensors that carry their own preprocessing."""

    file: str
    layout: str = "torchvision"


@dataclass(frozen=True)
class Hub:
    """Weights in a repository of the Hugging Face hub, as safetensors."""

    repo: str
    """such as "timm/resnet50.tv_in1k\""""
    preprocess: Preprocess
    """what they were evaluated with"""
    layout: str = "timm"
    """name of one of the architecture's layouts"""
    revision: str | None = None
    """commit, 40 hex digits"""
    sha256: str | None = None
    """of the file"""
    classes: str | None = "imagenet"
    """names of the classifier's outputs, see `headstart.models.classes`; None: there is no classifier"""
    file: str = "model.safetensors"


@dataclass(frozen=True)
class Pickled:
    """Weights that are published only as a torch pickle: read once, tensors only, and kept as safetensors."""

    url: str
    sha256: str
    """of the file, or the digits of it that its name holds"""
    preprocess: Preprocess
    layout: str = "torchvision"
    classes: str | None = "imagenet"


@dataclass(frozen=True)
class Packaged:
    """Weights in a package of the Python index, as torch saved them before 1.6; where it is not installed, those
    of the same network from the hub."""

    distribution: str
    """what pip calls it"""
    module: str
    file: str
    """in the module's folder"""
    sha256: str
    version: str
    """of the distribution whose file that is"""
    preprocess: Preprocess
    otherwise: Hub
    layout: str = "package"
    classes: str | None = "imagenet"


Published = Shipped | Hub | Pickled | Packaged
Build = Callable[[str, int, Head, int], Graph]


@dataclass(frozen=True)
class Architecture:
    """One network of the zoo."""

    name: str
    build: Build
    """(name, number of classes, head, side of the images in pixels) -> graph"""
    classifier: str
    """the module that new classes replace: a linear layer, a convolution ("classifier.1" of SqueezeNet) or several
    layers; in front of its first is the default cut"""
    preprocess: Preprocess
    """used where the weights bring none of their own"""
    weights: Mapping[str, Published] = field(default_factory=dict)
    """name of published weights -> where they are"""
    stack: str | None = None
    """module with all the layers that a head with hidden widths replaces; None: `classifier`"""
    layouts: tuple[Layout, ...] = (SAME,)
    """the names that published files use; what is trained is saved in the first"""

    @cached_property
    def scoring(self) -> str:
        """The layer that has an output for each class: the classifier's last with a weight."""
        nodes = [node.name for node in self.graph(2).nodes if f"{node.name}.weight" in node.param_shapes()]
        return [name for name in nodes if f"{name}.".startswith(f"{self.classifier}.")][-1]

    def classifier_names(self) -> frozenset[str]:
        """What files call the classifier's parameters, by any of the layouts."""
        shapes = self.graph(2).param_shapes()
        inside = {name: shape for name, shape in shapes.items() if name.startswith(f"{self.classifier}.")}
        return frozenset(layout.rename(*entry)[0] for layout in self.layouts for entry in inside.items())

    def graph(self, classes: int, head: Head = "linear", size: int | None = None) -> Graph:
        """The graph for images of `size` pixels (default: of `preprocess`)."""
        return self.build(self.name, classes, head, size or self.preprocess.size)

    def replaced(self, head: Head) -> str:
        """The module that new classes replace with `head`."""
        return self.classifier if head == "linear" else self.stack or self.classifier
