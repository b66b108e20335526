"""The conformance suite: what every backend must do, as a pytest class to subclass.

    class TestTorch(BackendConformance):
        backend = "torch"

It tests the CPU; with the environment variable HEADSTART_TEST_DEVICE=cuda, or `device = "cuda"` in the class, that
device, whose tolerances in `headstart.testing.suite` are a device's.

It ships with the package, so that a backend made elsewhere is held to the same. Expected values are computed
here in numpy or are facts of the design; no backend is compared with its own answers, save where sameness is
what is tested. What a backend says that it cannot do is skipped, by name. Needs pytest; runs on the bundled digits
and networks that compile in a moment, in well under a minute.
"""

from headstart.testing.gradients import Gradients
from headstart.testing.graphs import Graphs, Trunks
from headstart.testing.heads import SideBySide
from headstart.testing.known import linear_gradient, reference_update
from headstart.testing.layers import Layers
from headstart.testing.losses import Losses
from headstart.testing.modes import Modes
from headstart.testing.modules import Modules
from headstart.testing.places import Places
from headstart.testing.samples import (
    BLOCK_CUT,
    every_op,
    images_of,
    relative_error,
    shaken,
    small_data,
    small_model,
    tiny_model,
)
from headstart.testing.states import States
from headstart.testing.trainers import Trainers

__all__ = [
    "BLOCK_CUT",
    "BackendConformance",
    "every_op",
    "images_of",
    "linear_gradient",
    "reference_update",
    "relative_error",
    "shaken",
    "small_data",
    "small_model",
    "tiny_model",
]


class BackendConformance(
    Places, Graphs, Trunks, Trainers, States, Losses, Gradients, Layers, SideBySide, Modules, Modes
):
    """Subclass it and set `backend`."""
