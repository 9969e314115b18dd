"""What is refused once nets and heads are known."""

import dataclasses
import subprocess
import sys
from typing import Any

from product_mil.config import (
    Config,
    StageConfig,
    problems,
)


def test_stochastic_depth_where_it_would_change_nothing_is_refused_in_a_line() -> None:
    from product_mil.runs.check import check_config

    def errors_of(backbone: str, **fields: object) -> list[str]:
        model = dataclasses.replace(Config().model, backbone=backbone, stochastic_depth=0.1)
        config = dataclasses.replace(Config(), model=model, finetune=StageConfig(epochs=1))
        return check_config(dataclasses.replace(config, **fields))

    assert errors_of("convnext_tiny") == []
    (line,) = errors_of("mobilenet_v2")
    assert line == (
        "config.model.stochastic_depth=0.1: mobilenet_v2 has none, convnext_tiny and "
        "efficientnet_v2_s do; set it to 0"
    )
    (line,) = errors_of(
        "efficientnet_v2_s", head=StageConfig(epochs=1, trainable="head"), finetune=StageConfig()
    )
    assert "is for training the backbone, which no stage does here" in line
    wrong = dataclasses.replace(Config().model, stochastic_depth=1.0)
    assert any(
        line == "config.model.stochastic_depth=1.0: must be at least 0 and below 1"
        for line in problems(dataclasses.replace(Config(), model=wrong))
    )


def test_heads_and_settings_that_do_not_go_together_are_refused_in_a_line() -> None:
    from product_mil.runs.check import check_config

    def errors_of(**fields: Any) -> list[str]:
        model = dataclasses.replace(Config().model, **fields)
        return check_config(Config(model=model, finetune=StageConfig(epochs=1)))

    assert errors_of(pooling="transformer", attention_heads=8, position_embedding=True) == []
    assert errors_of(pooling="mean", attention_heads=4, count_embedding=True) == []
    assert errors_of(pooling="mean", attention_heads=8) == [
        "config.model.attention_heads=8: mean has no such setting, it belongs to "
        "gated_attention, transformer; leave it at 4"
    ]
    assert errors_of(pooling="probabilities", position_embedding=True) == [
        "config.model.position_embedding=True: probabilities has no such setting, it belongs to "
        "mean, max, gated_attention, transformer, residual, posterior_attention; leave it at False"
    ]
    assert errors_of(attention_heads=7) == [
        "config.model.attention_heads=7: does not divide the 192 channels of small_cnn"
    ]
    (line,) = errors_of(pooling="median")
    assert line.startswith("config.model.pooling: head 'median' is not known; choose one of prob")
    assert len(errors_of(pooling="median", backbone="vgg")) == 2
    assert check_config(Config()) == [
        "config.head.epochs=0 and config.finetune.epochs=0: nothing to train"
    ]


def test_names_are_checked_before_jax_starts() -> None:
    """Afterwards a process could not join others any more."""
    program = """
from jax._src.xla_bridge import backends_are_initialized
from product_mil.config import load_config
from product_mil.runs.check import check_devices, check_names
for name in ("joint:frozen", "inception_v3:unlocked", "tree", "prior"):
    assert check_names(load_config(name)) == []
assert not backends_are_initialized()
check_devices(load_config("joint"))
assert backends_are_initialized()
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_block_that_is_not_there_is_refused_with_all_other_errors() -> None:
    from product_mil.runs.check import check_config

    model = dataclasses.replace(Config().model, pooling="median", backbone="convnext_tiny")
    head, block = check_config(
        Config(model=model, finetune=StageConfig(epochs=1, trainable="blocks/99"))
    )
    assert head.startswith("config.model.pooling")
    assert "expected head, all or a block of convnext_tiny: stem" in block
