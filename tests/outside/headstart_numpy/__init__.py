"""What is known of the backend before anything of it is imported."""

from headstart.contract.description import Description

DESCRIPTION = Description(
    module="headstart_numpy.backend",
    modules=("numpy",),
    distributions=("numpy",),
    install="pip install headstart-numpy",
)
