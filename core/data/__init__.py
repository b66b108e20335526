"""Images in, uint8 batches out. What a sample is (its id), how it is cut to size and in which order it comes
is decided here, once, so that every backend is fed the same bytes in the same order.
"""

from headstart.data.arrays import arrays
from headstart.data.augment import Augment
from headstart.data.dataset import Dataset, Sample
from headstart.data.decode import decode, max_pixels, read_file
from headstart.data.folders import folder
from headstart.data.hub_sets import huggingface
from headstart.data.inputs import Arrays
from headstart.data.left_out import Skipped
from headstart.data.loader import Batch, batches
from headstart.data.pairs import wrap
from headstart.data.pictures import images_at
from headstart.data.preprocess import Crop, Preprocess
from headstart.data.sources import cifar10, digits, flowers, open_data
from headstart.data.table import table
from headstart.data.tars import webdataset

__all__ = [
    "Arrays",
    "Augment",
    "Batch",
    "Crop",
    "Dataset",
    "Preprocess",
    "Sample",
    "Skipped",
    "arrays",
    "batches",
    "cifar10",
    "decode",
    "digits",
    "flowers",
    "folder",
    "huggingface",
    "images_at",
    "max_pixels",
    "open_data",
    "read_file",
    "table",
    "webdataset",
    "wrap",
]
