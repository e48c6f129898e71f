"""The configuration of one run: frozen dataclasses, their limits, and the way in and out.

`validate` turns a `ConfigDict` (a config file plus `--config.a.b=c` overrides) into a `RunConfig`
or raises `InputError`. Everything after it trusts the types and ranges stated in `schema`. Nothing
else in the package reads a `ConfigDict`.
"""

from resnet_jax.config.check import field_names, unknown_field, validate
from resnet_jax.config.families import stage_sizes, swin_heads
from resnet_jax.config.files import default_config, differences, load_json, to_json
from resnet_jax.config.net import ModelConfig
from resnet_jax.config.resolve import (
    records_signals,
    resolve_block_loop,
    resolve_steps_per_call,
)
from resnet_jax.config.schema import (
    DataConfig,
    EvaluationConfig,
    LogConfig,
    OptimizerConfig,
    ParallelConfig,
    RunConfig,
    SyntheticConfig,
    TrainConfig,
    TransferConfig,
)

__all__ = [
    "DataConfig",
    "EvaluationConfig",
    "LogConfig",
    "ModelConfig",
    "OptimizerConfig",
    "ParallelConfig",
    "RunConfig",
    "SyntheticConfig",
    "TrainConfig",
    "TransferConfig",
    "default_config",
    "differences",
    "field_names",
    "load_json",
    "records_signals",
    "resolve_block_loop",
    "resolve_steps_per_call",
    "stage_sizes",
    "swin_heads",
    "to_json",
    "unknown_field",
    "validate",
]
