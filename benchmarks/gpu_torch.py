"""A net of timm under PyTorch, for gpu.py: channels_last, bf16, `torch.compile`; lines of JSON.

python benchmarks/gpu_torch.py inception_v3 512 180
"""

import json
import sys
import time
from collections.abc import Callable

import timm  # pyright: ignore[reportMissingImports]
import torch  # pyright: ignore[reportMissingImports]


def best_s(run: Callable[[], object], synchronize: Callable[[], object]) -> float:
    for _ in range(3):  # compiles, tunes, warms up
        run()
    synchronize()
    best = float("inf")
    for _ in range(10):
        started = time.perf_counter()
        run()
        synchronize()
        best = min(best, time.perf_counter() - started)
    return best


def main() -> None:
    name, batch, size_px = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
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
    compiled = torch.compile(net) if on_gpu else net
    mixed = torch.autocast(device.type, torch.bfloat16)

    def forward() -> None:
        with torch.inference_mode(), mixed:
            compiled(pixels)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with mixed:
            loss = torch.nn.functional.cross_entropy(compiled(pixels), labels)
        loss.backward()
        optimizer.step()

    for what, run in (("forward", forward), ("training step", step)):
        net.train(what != "forward")
        rate = batch / best_s(run, synchronize)
        print(json.dumps({"what": f"{what}, PyTorch", "batch": batch, "images_per_s": rate}))


if __name__ == "__main__":
    main()
