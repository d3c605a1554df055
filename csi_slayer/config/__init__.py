"""What mounts and the driver are told: models, units and the loader of configuration files.

``load_config`` (of a mount) and ``load_driver_config`` (of the driver's processes) are the entry
points; everything they reject is a ``ConfigError``.
"""

from csi_slayer.config.describe import FieldDescription, describe_fields
from csi_slayer.config.driver import DriverConfig
from csi_slayer.config.exposure import exposed_secrets
from csi_slayer.config.loader import load_config, load_driver_config
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
    "DriverConfig",
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
    "exposed_secrets",
    "format_size",
    "load_config",
    "load_driver_config",
    "parse_duration",
    "parse_mode",
    "parse_size",
]
