"""Decoding JPEGs on the GPU with nvImageCodec: a part of gpu.py."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import simplejpeg

from benchmarks.on_gpu.bench import Bench
from benchmarks.parts import shaped

# Which of the library's ways may be used; None: all, shared out as it sees fit.
WAYS = {
    "all": None,
    "JPEG engines": "HW_GPU_ONLY",
    "kernels": "GPU_ONLY",
    "host and kernels": "HYBRID_CPU_GPU",
}


def gpu_decode(bench: Bench) -> Iterator[dict[str, Any]]:
    """Batches of the drawn JPEGs to RGB in the GPU's memory, and how the pixels differ from ours.

    Without a GPU the library's own decoder for CPUs takes its place: whether the part runs.
    """
    try:
        from nvidia import nvimgcodec  # pyright: ignore[reportMissingImports, reportAttributeAccessIssue]
    except ImportError:
        yield {"what": "skipped: no nvidia-nvimgcodec-cu13 (and nvidia-nvjpeg) here"}
        return
    pictures = shaped.pictures(16 if bench.smoke else 512)
    batch = [pictures[i % len(pictures)] for i in range(bench.batch)]
    ours = np.stack([simplejpeg.decode_jpeg(picture, "RGB") for picture in batch]).astype(int)
    params = nvimgcodec.DecodeParams(apply_exif_orientation=False)
    on_host = jax.default_backend() == "cpu"
    as_jax = np.asarray if on_host else jax.dlpack.from_dlpack
    device = nvimgcodec.NVIMGCODEC_DEVICE_CPU_ONLY if on_host else 0
    for name, kind in ({"host": "CPU_ONLY"} if on_host else WAYS).items():
        try:
            backends = kind and [nvimgcodec.Backend(getattr(nvimgcodec.BackendKind, kind))]
            # As libjpeg does by default: colours between their samples are interpolated.
            decoder = nvimgcodec.Decoder(
                device_id=device, backends=backends, options=":fancy_upsampling=1"
            )
            images = decoder.decode(batch, params=params)
            failed = sum(image is None for image in images)
            if failed:
                yield {"what": f"{name}: {failed} of {len(batch)} not decoded"}
                continue
            theirs = np.stack([np.asarray(image.cpu() or image) for image in images])
            differences = np.abs(theirs.astype(int) - ours)

            def decode(decoder: Any = decoder) -> Any:
                images = decoder.decode(batch, params=params)
                images[-1].cpu()  # in the stream that waits for all of them
                return images

            def stacked(decode: Any = decode) -> Any:
                return jnp.stack([as_jax(image) for image in decode()])

            yield {
                "what": name,
                "batch": len(batch),
                "images_per_s": len(batch) / bench.seconds(lambda d=decode: len(d())),
                "largest_difference": int(differences.max()),
                "mean_difference": float(differences.mean()),
            }
            if kind in (None, "CPU_ONLY"):  # as a step would take it
                seconds = bench.seconds(stacked)
                what = f"{name}, as one array"
                yield {"what": what, "batch": len(batch), "images_per_s": len(batch) / seconds}
        except Exception as error:  # one way that fails leaves the others
            yield {"what": f"{name} failed: {type(error).__name__}: {error}"[:200]}
