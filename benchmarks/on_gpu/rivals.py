"""A net of timm under PyTorch, for gpu.py: channels_last, bf16; lines of JSON.

    python -m benchmarks.on_gpu.rivals inception_v3 512 180 eager

or `compiled` by `torch.compile`, which takes longer than some have time for.
"""

import json
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import timm  # pyright: ignore[reportMissingImports]
import torch  # pyright: ignore[reportMissingImports]

CALLS = 5  # in a row, as gpu.py times ours


def best_s(run: Callable[[], object], synchronize: Callable[[], object]) -> float:
    for _ in range(3):  # compiles, tunes, warms up
        run()
    synchronize()
    best = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        for _ in range(CALLS):
            run()
        synchronize()
        best = min(best, (time.perf_counter() - started) / CALLS)
    return best


def main() -> None:
    name, batch, size_px, form = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    synchronize = torch.cuda.synchronize if on_gpu else (lambda: None)
    torch.backends.cudnn.benchmark = True
    net = timm.create_model(name, pretrained=False, num_classes=5270)
    net = net.to(device, memory_format=torch.channels_last)
    pixels = torch.randn(batch, 3, size_px, size_px, device=device)
    pixels = pixels.to(memory_format=torch.channels_last)
    labels = torch.zeros(batch, dtype=torch.long, device=device)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4, fused=on_gpu)
    mixed = torch.autocast(device.type, torch.bfloat16)

    def forward(module: Any) -> None:
        with torch.inference_mode(), mixed:
            module(pixels)

    def step(module: Any) -> None:
        optimizer.zero_grad(set_to_none=True)
        with mixed:
            loss = torch.nn.functional.cross_entropy(module(pixels), labels)
        loss.backward()
        optimizer.step()

    module: Any = torch.compile(net, dynamic=False) if form == "compiled" else net
    for what, run in (("forward", forward), ("training step", step)):
        net.train(what != "forward")
        rate = batch / best_s(partial(run, module), synchronize)
        found = {"what": f"{what}, PyTorch {form}", "batch": batch, "images_per_s": rate}
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
