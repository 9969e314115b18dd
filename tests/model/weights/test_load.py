"""Keras' HDF5 files: a bijection or one error; foreign files; the cache of downloads."""

import pickle
from pathlib import Path

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from product_mil.errors import UserError
from product_mil.model.keras_layers import TOP as TOP_LAYER
from product_mil.model.keras_layers import KerasLayer
from product_mil.model.layers.blocks import BatchNorm, Conv, DepthwiseConv
from product_mil.model.registry import backbone
from product_mil.model.spec import BackboneSpec
from product_mil.model.weights.load import load_weights


class Tiny(nnx.Module):
    """Two named layers and three unnamed ones, one of each type the files know."""

    def __init__(self, *, rngs: nnx.Rngs, dtype=jnp.float32):
        self.stem = Conv(3, 4, 3, dtype=dtype, rngs=rngs)
        self.depthwise = DepthwiseConv(4, 3, dtype=dtype, rngs=rngs)
        self.unnamed = nnx.List([Conv(4, 4, 1, dtype=dtype, rngs=rngs) for _ in range(2)])
        self.norm = BatchNorm(
            4, momentum=0.9, epsilon=1e-3, use_scale=False, dtype=dtype, rngs=rngs
        )


SPEC = BackboneSpec(
    name="tiny",
    build=Tiny,
    embedding_dim=4,
    image_size_px=8,
    keras_layers=(
        KerasLayer("first", "conv2d", "stem"),
        KerasLayer("first_depthwise", "depthwise_conv2d", "depthwise"),
        KerasLayer("conv2d", "conv2d", "unnamed.0"),
        KerasLayer("conv2d_1", "conv2d", "unnamed.1"),
        KerasLayer("batch_normalization", "batch_normalization", "norm"),
        TOP_LAYER,
    ),
)

# In the order of the file; unnamed layers are numbered, and 9 comes before 10.
LAYERS = {
    "input_1": {},
    "first": {"kernel": (3, 3, 3, 4)},
    "conv2d_10": {"kernel": (1, 1, 4, 4)},
    "conv2d_9": {"kernel": (1, 1, 4, 4)},
    "first_depthwise": {"depthwise_kernel": (3, 3, 4, 1)},
    "batch_normalization_94": {"beta": (4,), "moving_mean": (4,), "moving_variance": (4,)},
}
TOP = {"predictions": {"kernel": (4, 7), "bias": (7,)}}


def write_keras_file(
    path: Path, layers, *, keras=2, group=None
) -> dict[str, dict[str, np.ndarray]]:
    random = np.random.default_rng(0)
    values = {}
    with h5py.File(path, "w") as file:
        root = file.create_group(group) if group else file
        root.attrs["layer_names"] = [name.encode() for name in layers]
        for layer, tensors in layers.items():
            of = root.create_group(layer)
            names = [f"{layer}/{tensor}" + (":0" if keras == 2 else "") for tensor in tensors]
            of.attrs["weight_names"] = [name.encode() for name in names]
            values[layer] = {t: random.normal(size=s).astype("f") for t, s in tensors.items()}
            for name, value in zip(names, values[layer].values(), strict=True):
                of.create_dataset(name, data=value)
    return values


def _tiny() -> Tiny:
    return Tiny(rngs=nnx.Rngs(0))


@pytest.mark.parametrize(("keras", "group"), [(2, None), (3, "model_weights")])
def test_every_tensor_reaches_its_leaf(tmp_path, keras, group):
    path = tmp_path / "tiny.h5"
    layers = LAYERS | TOP
    if keras == 3:  # which calls a depthwise kernel simply "kernel"
        layers = layers | {"first_depthwise": {"kernel": (3, 3, 4, 1)}}
    values = write_keras_file(path, layers, keras=keras, group=group)
    module = _tiny()
    loaded = load_weights(module, SPEC, path)
    assert (loaded.path, loaded.n_tensors) == (path, 7)
    equal = np.testing.assert_array_equal
    equal(module.stem.kernel[...], values["first"]["kernel"])
    equal(module.depthwise.kernel[...], next(iter(values["first_depthwise"].values()))[..., 0])
    equal(module.unnamed[0].kernel[...], values["conv2d_9"]["kernel"])
    equal(module.unnamed[1].kernel[...], values["conv2d_10"]["kernel"])
    norm = values["batch_normalization_94"]
    assert module.norm.bias is not None
    equal(module.norm.bias[...], norm["beta"])
    equal(module.norm.mean[...], norm["moving_mean"])
    equal(module.norm.var[...], norm["moving_variance"])
    assert loaded.top is not None
    equal(loaded.top.kernel, values["predictions"]["kernel"])
    equal(loaded.top.bias, values["predictions"]["bias"])


def test_all_faults_in_one_error_and_the_module_untouched(tmp_path):
    layers = {name: dict(tensors) for name, tensors in LAYERS.items()}
    del layers["first"], layers["conv2d_10"]
    layers["first_depthwise"]["depthwise_kernel"] = (3, 3, 4, 2)
    layers["extra"] = {"kernel": (1,), "bias": (1,)}
    layers["predictions"] = {"kernel": (5, 7), "bias": (7,)}
    path = tmp_path / "faults.h5"
    write_keras_file(path, layers)
    module = _tiny()
    before = jax.tree.map(np.asarray, nnx.as_pure(nnx.state(module)))
    with pytest.raises(UserError) as error:
        load_weights(module, SPEC, path)
    message = str(error.value)
    assert "\n" not in message
    assert str(path) in message
    assert "2 missing: first/kernel (3, 3, 3, 4), conv2d (for unnamed.1)/kernel" in message
    assert "2 unused: extra/kernel, extra/bias" in message
    assert "2 misshapen: first_depthwise/depthwise_kernel (3, 3, 4, 2)" in message
    assert "predictions/kernel (5, 7)" in message
    jax.tree.map(np.testing.assert_array_equal, before, nnx.as_pure(nnx.state(module)))


def _write_numbered(path: Path) -> dict[str, np.ndarray]:
    """The layout of `save_weights("x.weights.h5")`, whose groups are no layers' names."""
    random = np.random.default_rng(3)
    shapes = {
        "conv2d/vars/0": (3, 3, 3, 4),
        "conv2d_1/vars/0": (1, 1, 4, 4),
        "conv2d_2/vars/0": (1, 1, 4, 4),
        "depthwise_conv2d/vars/0": (3, 3, 4, 1),
        "batch_normalization/vars/0": (4,),
        "batch_normalization/vars/1": (4,),
        "batch_normalization/vars/2": (4,),
        "dense/vars/0": (4, 7),
        "dense/vars/1": (7,),
    }
    values = {key: random.normal(size=shape).astype("f") for key, shape in shapes.items()}
    with h5py.File(path, "w") as file:
        for key, value in values.items():
            file[f"layers/{key}"] = value
        file.create_group("layers/input_layer/vars")
    return values


def test_numbered_layouts_are_matched_by_rank(tmp_path):
    path = tmp_path / "tiny.weights.h5"
    values = _write_numbered(path)
    module = _tiny()
    loaded = load_weights(module, SPEC, path)
    equal = np.testing.assert_array_equal
    equal(module.stem.kernel[...], values["conv2d/vars/0"])
    equal(module.unnamed[0].kernel[...], values["conv2d_1/vars/0"])
    equal(module.unnamed[1].kernel[...], values["conv2d_2/vars/0"])
    equal(module.depthwise.kernel[...], values["depthwise_conv2d/vars/0"][..., 0])
    equal(module.norm.mean[...], values["batch_normalization/vars/1"])
    assert loaded.top is not None
    equal(loaded.top.bias, values["dense/vars/1"])
    with h5py.File(path, "r+") as file:
        del file["layers/conv2d_2"]
        file["layers/dense/vars/2"] = np.zeros(3, "f")
    with pytest.raises(UserError, match=r"1 misshapen: dense/kernel \(4, 7\)|missing") as error:
        load_weights(module, SPEC, path)
    assert "dense" in str(error.value)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="not a whole HDF5 file"):
        load_weights(module, SPEC, path)


def test_tensors_of_another_type_or_declared_size_are_refused_before_they_are_read(tmp_path):
    path = tmp_path / "huge.h5"
    write_keras_file(path, LAYERS)
    with h5py.File(path, "r+") as file:  # a few bytes that claim to be four terabytes
        del file["first/first/kernel:0"]
        file.create_dataset("first/first/kernel:0", (1 << 20, 1 << 20), "f4", chunks=(1024, 1024))
        kernel = file["conv2d_9/conv2d_9/kernel:0"]
        assert isinstance(kernel, h5py.Dataset)
        del file["conv2d_9/conv2d_9/kernel:0"]
        file["conv2d_9/conv2d_9/kernel:0"] = np.zeros((1, 1, 4, 4), "i4")
    with pytest.raises(UserError, match=r"2 misshapen: first/kernel \(1048576, 1048576\).*int32"):
        load_weights(_tiny(), SPEC, path)


def test_long_attributes_are_read_in_chunks(tmp_path):
    path = tmp_path / "chunks.h5"
    values = write_keras_file(path, LAYERS)
    with h5py.File(path, "r+") as file:
        names = np.asarray(list(LAYERS), "S")
        del file.attrs["layer_names"]
        file.attrs["layer_names0"], file.attrs["layer_names1"] = names[:2], names[2:]
    module = _tiny()
    load_weights(module, SPEC, path)
    wanted = values["batch_normalization_94"]["moving_mean"]
    np.testing.assert_array_equal(module.norm.mean[...], wanted)


def test_foreign_files_are_refused_in_one_line(tmp_path):
    whole = tmp_path / "whole.h5"
    write_keras_file(whole, LAYERS)
    content = whole.read_bytes()
    (tmp_path / "cut.h5").write_bytes(content[: len(content) // 2])
    (tmp_path / "empty.h5").write_bytes(b"")
    (tmp_path / "pickle.h5").write_bytes(pickle.dumps({"kernel": [1.0]}))
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["numbers"] = np.arange(3)
    with h5py.File(tmp_path / "lying.h5", "w") as file:
        file.attrs["layer_names"] = [b"first"]
    for name in ("cut", "empty", "pickle", "other", "lying", "absent"):
        path = tmp_path / f"{name}.h5"
        with pytest.raises(UserError) as error:
            load_weights(_tiny(), SPEC, path)
        assert str(path) in str(error.value)
        assert "\n" not in str(error.value)


def test_a_backbone_without_names_of_its_layers_says_so():
    spec = backbone("small_cnn")
    with pytest.raises(UserError, match="small_cnn reads no weights file; leave the weights out"):
        load_weights(spec.build(rngs=nnx.Rngs(0)), spec, Path("some.h5"))


KERNEL = "first/first/kernel:0"


def _changed(path: Path, how: str) -> None:
    """A whole file with one tensor replaced."""
    write_keras_file(path, LAYERS | TOP)
    values = np.ones((3, 3, 3, 4), "f4")
    with h5py.File(path, "r+") as file:
        del file[KERNEL]
        if how == "external link":
            file[KERNEL] = h5py.ExternalLink("/etc/hostname", "/x")
        elif how == "external storage":
            file.create_dataset(KERNEL, (3, 3, 3, 4), "f4", external=[("/etc/hostname", 0, 432)])
        elif how == "virtual":
            layout = h5py.VirtualLayout((3, 3, 3, 4), "f4")
            layout[:] = h5py.VirtualSource("other.h5", "x", shape=(3, 3, 3, 4))
            file.create_virtual_dataset(KERNEL, layout)
        elif how == "too large":
            file[KERNEL] = values.astype("f8") * 1e200
        else:
            values[0, 0, 0, 2] = np.nan
            file[KERNEL] = values


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("external link", "first/first/kernel:0 lies in another file"),
        ("external storage", "first/first/kernel:0 lies in another file"),
        ("virtual", "first/first/kernel:0 lies in another file"),
        ("NaN", "1 with NaN or infinite values: first/kernel; get the file again"),
        ("too large", "1 with NaN or infinite values: first/kernel; get the file again"),
    ],
)
def test_tensors_in_other_files_or_broken_are_refused(tmp_path, how, message):
    path = tmp_path / "bad.h5"
    _changed(path, how)
    module = _tiny()
    before = jax.tree.map(np.asarray, nnx.as_pure(nnx.state(module)))
    with pytest.raises(UserError) as error:
        load_weights(module, SPEC, path)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    jax.tree.map(np.testing.assert_array_equal, before, nnx.as_pure(nnx.state(module)))


def test_what_is_no_readable_file_is_refused(tmp_path, monkeypatch):
    (tmp_path / "directory.h5").mkdir()
    (tmp_path / "empty.safetensors").write_bytes(b"")
    (tmp_path / "pickle.pt").write_bytes(pickle.dumps([1.0]))
    (tmp_path / "page.h5").write_bytes(b"<!DOCTYPE html><html>Sign in")
    (tmp_path / "lfs.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    (tmp_path / "photo.h5").write_bytes(b"\x89PNG\r\n\x1a\n")
    for name, message in (
        ("directory.h5", "is no file"),
        ("empty.safetensors", "is empty; get the file again"),
        ("pickle.pt", "never a pickle"),
        ("page.h5", "is an HTML page, no weights file"),
        ("lfs.safetensors", "is a pointer of Git LFS, no weights file; .* git lfs pull"),
        ("photo.h5", "is a PNG image, no weights file; name a Keras .h5 or a .safetensors"),
    ):
        with pytest.raises(UserError, match=message):
            load_weights(_tiny(), SPEC, tmp_path / name)

    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    write_keras_file(tmp_path / "denied.h5", LAYERS)
    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(UserError, match=r"denied\.h5: cannot be read \(Permission denied\)"):
        load_weights(_tiny(), SPEC, tmp_path / "denied.h5")


def test_half_and_double_precision_are_read(tmp_path):
    path = tmp_path / "half.h5"
    values = write_keras_file(path, LAYERS)["first"]["kernel"]
    for kind in ("f2", "f8"):
        with h5py.File(path, "r+") as file:
            del file[KERNEL]
            file[KERNEL] = values.astype(kind)
        module = _tiny()
        load_weights(module, SPEC, path)
        assert module.stem.kernel[...].dtype == jnp.float32
        np.testing.assert_array_equal(module.stem.kernel[...], values.astype(kind).astype("f4"))


def test_groups_within_groups_without_end_are_refused_at_once(tmp_path):
    path = tmp_path / "deep.h5"
    with h5py.File(path, "w") as file:
        group: h5py.Group = file
        for _ in range(40):
            group = group.create_group("layers").create_group("a")
    with pytest.raises(UserError, match="more than 20 groups within groups"):
        load_weights(_tiny(), SPEC, path)
