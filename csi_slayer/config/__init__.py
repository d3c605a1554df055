"""What a mount is told: models, units and the loader of configuration files.

``load_config(path, overrides)`` is the entry point; everything it rejects is a ``ConfigError``.
"""

from csi_slayer.config.describe import FieldDescription, describe_fields
from csi_slayer.config.loader import load_config
from csi_slayer.config.mount import MountConfig
from csi_slayer.config.node import (
    CacheConfig,
    FuseConfig,
    LogConfig,
    MetricsConfig,
    TracingConfig,
)
from csi_slayer.config.store import StoreConfig
from csi_slayer.config.units import format_size, parse_duration, parse_mode, parse_size
from csi_slayer.config.volume import Durability, VolumeConfig

__all__ = [
    "CacheConfig",
    "Durability",
    "FieldDescription",
    "FuseConfig",
    "LogConfig",
    "MetricsConfig",
    "MountConfig",
    "StoreConfig",
    "TracingConfig",
    "VolumeConfig",
    "describe_fields",
    "format_size",
    "load_config",
    "parse_duration",
    "parse_mode",
    "parse_size",
]
