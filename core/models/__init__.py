"""The zoo: architectures as tables, where their weights come from, and the model a user holds."""

from headstart.models.architecture import Architecture
from headstart.models.model import Model, check_model
from headstart.models.zoo import ARCHITECTURES, architecture

__all__ = ["ARCHITECTURES", "Architecture", "Model", "architecture", "check_model"]
