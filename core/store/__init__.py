"""Features kept on disk: the key that addresses a trunk, and the store that holds its rows.

What leaves this package as a row has been verified against the checksum it was written with: damage is found, and
not what somebody wrote there on purpose, for which `headstart.verify` draws rows and computes them again.
"""

from headstart.store.feature_folder import FeatureFolder
from headstart.store.feature_store import FeatureStore
from headstart.store.ids import array_to_ids, ids_to_array
from headstart.store.keys import DTYPES, FORMAT_VERSION, TrunkKey, explain, params_digest, trunk_key
from headstart.store.shard import Shard, open_shard
from headstart.store.upkeep import FolderInfo, GcPlan, VerifyReport
from headstart.store.writer import ShardWriter

__all__ = [
    "DTYPES",
    "FORMAT_VERSION",
    "FeatureFolder",
    "FeatureStore",
    "FolderInfo",
    "GcPlan",
    "Shard",
    "ShardWriter",
    "TrunkKey",
    "VerifyReport",
    "array_to_ids",
    "explain",
    "ids_to_array",
    "open_shard",
    "params_digest",
    "trunk_key",
]
