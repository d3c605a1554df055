"""The node-wide cache: segments, staged files, capacity, eviction.

Shared by all worker processes of a node without any daemon: the file system and a few mapped
files are all they have in common.
"""

from csi_slayer.cache.cache import Cache, Usage
from csi_slayer.cache.conflicts import Conflicts
from csi_slayer.cache.count import Counted, count
from csi_slayer.cache.detach import TurnTaken
from csi_slayer.cache.events import CacheEvents
from csi_slayer.cache.governor import Evicted, Governor
from csi_slayer.cache.key import SegmentKey
from csi_slayer.cache.layout import BLOCK, SMALL
from csi_slayer.cache.maintenance import Verified, evict_all, verify_all
from csi_slayer.cache.segment import Segment
from csi_slayer.cache.staging import Stage, Staging

__all__ = [
    "BLOCK",
    "SMALL",
    "Cache",
    "CacheEvents",
    "Conflicts",
    "Counted",
    "Evicted",
    "Governor",
    "Segment",
    "SegmentKey",
    "Stage",
    "Staging",
    "TurnTaken",
    "Usage",
    "Verified",
    "count",
    "evict_all",
    "verify_all",
]
