"""LeNet-5 (LeCun et al. 1998) as taught today: three input channels, rectifiers, max pooling, and dropout
(Srivastava et al. 2014) between its fully connected layers. Takes 32 x 32 images."""

from __future__ import annotations

from headstart.data.preprocess import Preprocess
from headstart.graph import Builder, Graph
from headstart.models.architecture import HALF, Architecture
from headstart.models.classifiers import Head, classifier


def lenet(name: str, classes: int, head: Head, size: int) -> Graph:
    """The graph, with a classifier of `classes` outputs."""
    b = Builder()
    x = b.conv("conv1", "input", 3, 6, 5, bias=True)
    x = b.max_pool("pool1", b.add("relu1", "relu", x), 2, 2)
    x = b.conv("conv2", x, 6, 16, 5, bias=True)
    x = b.max_pool("pool2", b.add("relu2", "relu", x), 2, 2)
    x = b.add("flatten", "flatten", x, features=400)
    for i, (fin, fout) in enumerate(((400, 120), (120, 84)), start=1):
        x = b.add(f"relu{i + 2}", "relu", b.linear(f"fc{i}", x, fin, fout))
        x = b.add(f"dropout{i}", "dropout", x, rate=0.25)
    return b.graph(classifier(b, "fc3", x, 84, classes, head))


ARCHITECTURES = (Architecture("lenet", lenet, "fc3", Preprocess(32, 32, "bilinear", HALF, HALF)),)
