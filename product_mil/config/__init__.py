"""The configuration: declared once, typed, overridable field by field, refused whole if wrong.

Only `runs/`, what stands above it and the files in `configs/` see it; every other room takes plain
arguments. A configuration file needs what is listed here.
"""

from product_mil.config.checks import problems, refuse
from product_mil.config.fields import (
    STAGES,
    AugmentConfig,
    Config,
    DataConfig,
    ModelConfig,
    StageConfig,
)
from product_mil.config.files import choose, load_config
from product_mil.config.leaves import flat, flatten_dict
from product_mil.config.overrides import override
from product_mil.config.stored import config_from_dict, differences

__all__ = [
    "STAGES",
    "AugmentConfig",
    "Config",
    "DataConfig",
    "ModelConfig",
    "StageConfig",
    "choose",
    "config_from_dict",
    "differences",
    "flat",
    "flatten_dict",
    "load_config",
    "override",
    "problems",
    "refuse",
]
