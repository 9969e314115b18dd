"""PyTorch's safetensors: names, axes, BatchNorm scales that the net does not have."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save_file

from product_mil.errors import UserError
from product_mil.model.backbones import inception_v3
from product_mil.model.keras_layers import TOP, unit_layers
from product_mil.model.layers.blocks import ConvNorm
from product_mil.model.registry import backbone
from product_mil.model.spec import BackboneSpec
from product_mil.model.weights.load import load_weights


def torch_tensors(module: nnx.Module, spec: BackboneSpec, naming, top=True) -> dict[str, Any]:
    """What PyTorch would have saved of the same net."""
    tensors = {}
    for layer in spec.keras_layers:
        prefix = naming[layer.path]
        if layer.path is None:
            continue
        node: Any = module
        for part in layer.path.split("."):
            node = node[int(part)] if part.isdigit() else getattr(node, part)
        if layer.kind in ("conv2d", "depthwise_conv2d"):
            kernel = np.asarray(node.kernel[...])
            kernel = kernel[:, :, None] if kernel.ndim == 3 else kernel  # depthwise: one input
            tensors[f"{prefix}.weight"] = kernel.transpose(3, 2, 0, 1)
        elif layer.kind == "dense":
            tensors[f"{prefix}.weight"] = np.asarray(node.kernel[...]).T
        elif layer.kind == "layer_scale":
            value = np.asarray(node.scale[...])
            torchvision = prefix.endswith("layer_scale")
            tensors[prefix] = value[:, None, None] if torchvision else value
            continue
        else:
            ones = np.ones(node.bias.shape, np.float32)
            scale = ones if node.scale is None else np.asarray(node.scale[...])
            tensors[f"{prefix}.weight"] = scale
        if getattr(node, "bias", None) is not None:
            tensors[f"{prefix}.bias"] = np.asarray(node.bias[...])
        if layer.kind == "batch_normalization":
            tensors[f"{prefix}.running_mean"] = np.asarray(node.mean[...])
            tensors[f"{prefix}.running_var"] = np.asarray(node.var[...])
            tensors[f"{prefix}.num_batches_tracked"] = np.array(5, np.int64)
    if top:
        random = np.random.default_rng(9)
        shape = (1000, spec.embedding_dim)
        tensors[f"{naming[None]}.weight"] = random.normal(size=shape).astype(np.float32)
        tensors[f"{naming[None]}.bias"] = random.normal(size=1000).astype(np.float32)
    return {name: np.ascontiguousarray(value) for name, value in tensors.items()}


def with_random_leaves(spec: BackboneSpec, seed: int) -> nnx.Module:
    module = spec.build(rngs=nnx.Rngs(seed))
    random = np.random.default_rng(seed)
    for variable in variables(module):
        variable[...] = random.uniform(0.5, 1.5, variable.shape).astype(np.float32)
    return module


def variables(module: nnx.Module) -> list[nnx.Variable]:
    state = nnx.state(module, (nnx.Param, nnx.BatchStat))
    return jax.tree.leaves(state, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "number", "wanted"),
    [
        (
            "inception_v3",
            0,
            {
                "Conv2d_1a_3x3.conv.weight": (32, 3, 3, 3),
                "Mixed_5b.branch5x5_2.conv.weight": (64, 48, 5, 5),
                "Mixed_6b.branch7x7_2.conv.weight": (128, 128, 1, 7),
                "Mixed_7c.branch3x3dbl_3b.bn.running_var": (384,),
                "fc.weight": (1000, 2048),
            },
        ),
        (
            "convnext_tiny",
            0,
            {
                "stem.0.weight": (96, 3, 4, 4),
                "stages.0.blocks.2.conv_dw.weight": (96, 1, 7, 7),
                "stages.2.downsample.1.weight": (384, 192, 2, 2),
                "stages.3.blocks.0.mlp.fc1.weight": (3072, 768),
                "stages.1.blocks.1.gamma": (192,),
                "head.norm.weight": (768,),
                "head.fc.bias": (1000,),
            },
        ),
        (
            "convnext_tiny",
            1,
            {
                "features.0.1.bias": (96,),
                "features.1.2.block.0.weight": (96, 1, 7, 7),
                "features.4.1.weight": (384, 192, 2, 2),
                "features.7.0.block.3.weight": (3072, 768),
                "features.3.1.layer_scale": (192, 1, 1),
                "classifier.0.weight": (768,),
                "classifier.2.weight": (1000, 768),
            },
        ),
        (
            "efficientnet_v2_s",
            0,
            {
                "conv_stem.weight": (24, 3, 3, 3),
                "blocks.0.1.bn1.running_mean": (24,),
                "blocks.1.0.conv_exp.weight": (96, 24, 3, 3),
                "blocks.3.0.conv_dw.weight": (256, 1, 3, 3),
                "blocks.3.0.se.conv_reduce.weight": (16, 256, 1, 1),
                "blocks.5.14.bn3.weight": (256,),
                "bn2.bias": (1280,),
                "classifier.weight": (1000, 1280),
            },
        ),
        (
            "efficientnet_lite0",
            0,
            {
                "_conv_stem.weight": (32, 3, 3, 3),
                "_blocks.0._depthwise_conv.weight": (32, 1, 3, 3),
                "_blocks.0._bn2.bias": (16,),
                "_blocks.3._expand_conv.weight": (144, 24, 1, 1),
                "_blocks.14._depthwise_conv.weight": (1152, 1, 5, 5),
                "_bn1.running_var": (1280,),
                "_fc.bias": (1000,),
            },
        ),
        (
            "efficientnet_lite0",
            1,
            {
                "conv_stem.weight": (32, 3, 3, 3),
                "blocks.0.0.conv_dw.weight": (32, 1, 3, 3),
                "blocks.0.0.conv_pw.weight": (16, 32, 1, 1),
                "blocks.0.0.bn2.bias": (16,),
                "blocks.2.0.conv_pw.weight": (144, 24, 1, 1),
                "blocks.5.3.conv_dw.weight": (1152, 1, 5, 5),
                "blocks.6.0.bn3.weight": (320,),
                "bn2.running_var": (1280,),
                "classifier.weight": (1000, 1280),
            },
        ),
        (
            "inception_resnet_v2",
            0,
            {
                "conv2d_4a.conv.weight": (192, 80, 3, 3),
                "mixed_5b.branch0.bn.bias": (96,),
                "mixed_5b.branch3.1.conv.weight": (64, 192, 1, 1),
                "repeat.9.conv2d.bias": (320,),
                "repeat_1.19.branch1.1.conv.weight": (160, 128, 1, 7),
                "mixed_6a.branch0.conv.weight": (384, 320, 3, 3),
                "mixed_7a.branch0.1.bn.running_var": (384,),
                "block8.branch1.2.conv.weight": (256, 224, 3, 1),
                "conv2d_7b.conv.weight": (1536, 2080, 1, 1),
                "classif.weight": (1000, 1536),
            },
        ),
    ],
)
def test_every_leaf_comes_back(tmp_path, name, number, wanted):
    spec = backbone(name)
    source = with_random_leaves(spec, 1)
    tensors = torch_tensors(source, spec, spec.torch_namings[number])
    for key, shape in wanted.items():
        assert tensors[key].shape == shape
    if name == "inception_v3":  # torchvision's second classifier is no part of the net
        tensors["AuxLogits.conv0.conv.weight"] = np.zeros((128, 768, 1, 1), np.float32)
    path = tmp_path / "model.safetensors"
    save_file(tensors, path)
    module = spec.build(rngs=nnx.Rngs(2))
    loaded = load_weights(module, spec, path)
    assert loaded.n_tensors == len(variables(module))
    for one, two in zip(variables(module), variables(source), strict=True):
        np.testing.assert_array_equal(one[...], two[...])
    assert loaded.top is not None
    top = spec.torch_namings[number][None]
    np.testing.assert_array_equal(loaded.top.kernel, tensors[f"{top}.weight"].T)


class OneUnit(nnx.Module):
    """A unit of Inception V3 alone."""

    def __init__(self, *, rngs: nnx.Rngs):
        self.conv2d_1a_3x3 = ConvNorm(3, 4, 3, dtype=np.float32, rngs=rngs)


SPEC = BackboneSpec(
    name="one_unit",
    build=OneUnit,
    embedding_dim=4,
    image_size_px=8,
    keras_layers=(*unit_layers("conv2d", "batch_normalization", "conv2d_1a_3x3"), TOP),
    torch_namings=(inception_v3.TORCH_NAMES,),
)


def unit_tensors() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    values = {
        "conv.weight": random.normal(size=(4, 3, 3, 3)),
        "bn.weight": np.array([2.0, -1.0, 0.5, 1.0]),
        "bn.bias": random.normal(size=4),
        "bn.running_mean": random.normal(size=4),
        "bn.running_var": random.uniform(0.5, 2.0, 4),
    }
    return {f"Conv2d_1a_3x3.{k}": v.astype(np.float32) for k, v in values.items()}


def test_a_scale_that_the_net_lacks_moves_into_the_convolution(tmp_path):
    tensors = unit_tensors()
    path = tmp_path / "unit.safetensors"
    save_file(tensors, path)
    module = OneUnit(rngs=nnx.Rngs(0))
    load_weights(module, SPEC, path)
    x = jnp.asarray(np.random.default_rng(1).normal(size=(2, 6, 6, 3)), jnp.float32)
    got = module.conv2d_1a_3x3(x, use_running_statistics=True, mask=None)
    t = {key.removeprefix("Conv2d_1a_3x3."): value for key, value in tensors.items()}
    y = jax.lax.conv_general_dilated(
        x.transpose(0, 3, 1, 2), jnp.asarray(t["conv.weight"]), (1, 1), "SAME"
    )  # as PyTorch: N C H W
    y = np.asarray(y).transpose(0, 2, 3, 1)
    y = (y - t["bn.running_mean"]) / np.sqrt(t["bn.running_var"] + 1e-3)
    wanted = np.maximum(y * t["bn.weight"] + t["bn.bias"], 0)
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)


def test_what_does_not_fit_is_named_as_in_the_file(tmp_path):
    tensors = unit_tensors()
    del tensors["Conv2d_1a_3x3.bn.running_mean"]
    tensors["Conv2d_1a_3x3.bn.bias"] = np.zeros(5, np.float32)
    tensors["layer9.weight"] = np.zeros(3, np.float32)
    path = tmp_path / "wrong.safetensors"
    save_file(tensors, path)
    with pytest.raises(UserError) as error:
        load_weights(OneUnit(rngs=nnx.Rngs(0)), SPEC, path)
    message = str(error.value)
    assert "1 missing: Conv2d_1a_3x3.bn/moving_mean (4,)" in message
    assert "layer9/weight" in message
    assert "1 misshapen: Conv2d_1a_3x3.bn/beta (5,)" in message


def test_foreign_and_cut_files_are_refused_in_one_line(tmp_path):
    path = tmp_path / "cut.safetensors"
    save_file(unit_tensors(), path)
    path.write_bytes(path.read_bytes()[:-40])
    float8 = b'{"a.weight":{"dtype":"F8_E4M3","shape":[2],"data_offsets":[0,2]}}'
    float8 = len(float8).to_bytes(8, "little") + float8 + b"ab"  # that NumPy does not have
    for content in (path.read_bytes(), float8, b"\x80\x04K\x01.", b"\xff" * 64):
        path.write_bytes(content)
        with pytest.raises(UserError, match="not a whole safetensors file") as error:
            load_weights(OneUnit(rngs=nnx.Rngs(0)), SPEC, path)
        assert "\n" not in str(error.value)
    save_file(unit_tensors(), path)
    spec = backbone("mobilenet_v2")
    with pytest.raises(UserError, match=r"reads Keras' \.h5 files, not PyTorch's"):
        load_weights(spec.build(rngs=nnx.Rngs(0)), spec, path)


def test_bfloat16_is_read(tmp_path):
    path = tmp_path / "half.safetensors"
    halves = {k: v.astype(jnp.bfloat16) for k, v in unit_tensors().items()}
    save_file(halves, path)
    module = OneUnit(rngs=nnx.Rngs(0))
    load_weights(module, SPEC, path)
    got = module.conv2d_1a_3x3.bn.var[...]
    assert got.dtype == jnp.float32
    np.testing.assert_array_equal(got, halves["Conv2d_1a_3x3.bn.running_var"].astype(np.float32))
