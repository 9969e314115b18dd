"""Memory traffic of a compiled program, counted from XLA's text."""

import jax
import jax.numpy as jnp
import pytest

from benchmarks.on_gpu.hlo_traffic import kernels

PROGRAM = """
%sliced (p.0: bf16[8,4], p.1: f32[4]) -> bf16[2,4] {
  %p.0 = bf16[8,4]{1,0} parameter(0)
  %p.1 = f32[4]{0} parameter(1)
  %wide = f32[2,4]{1,0} broadcast(%p.1), dimensions={1}
  %doubled = bf16[8,4]{1,0} add(%p.0, %p.0)
  %part = bf16[2,4]{1,0} slice(%doubled), slice={[0:2], [0:4]}
  ROOT %sum = bf16[2,4]{1,0} add(%part, %wide)
}

%body (carry: (s32[], f32[4])) -> (s32[], f32[4]) {
  %carry = (s32[], f32[4]{0}) parameter(0)
  %values = f32[4]{0} get-tuple-element(%carry), index=1
  %moved = f32[4]{0} copy(%values)
  ROOT %next = (s32[], f32[4]{0}) tuple(%carry, %moved)
}

ENTRY %main (x: bf16[8,4], y: f32[4]) -> bf16[2,4] {
  %x = bf16[8,4]{1,0} parameter(0)
  %y = f32[4]{0} parameter(1)
  %fused = bf16[2,4]{1,0} fusion(%x, %y), kind=kLoop, calls=%sliced
  %start = (s32[], f32[4]{0}) tuple(%x, %y)
  %loop = (s32[], f32[4]{0}) while(%start), condition=%c, body=%body, \
backend_config={"known_trip_count":{"n":"5"}}
  ROOT %conv = (bf16[2,4]{1,0}, u8[0]{0}) custom-call(%fused, %x), \
custom_call_target="__cudnn$convForward"
}
"""


def test_slices_loops_and_calls_are_counted_as_they_move() -> None:
    fused, copy, conv = kernels(PROGRAM)
    # Of x 2 of 8 rows are read, and y; the result is written.
    assert fused == ("fusion kLoop", 2 * 2 * 4 + 4 * 4 + 2 * 2 * 4, 4 * 4, 1, "fused", "bf16[2,4]")
    assert copy == ("copy", 5 * 2 * 4 * 4, 5 * 2 * 4 * 4, 5, "moved", "f32[4]")
    assert conv == ("__cudnn$convForward", 2 * (2 * 4 + 8 * 4 + 2 * 4), 0, 1, "conv", "bf16[2,4]")


def test_a_program_that_xla_compiled_here() -> None:
    x = jnp.ones((256, 512), jnp.float32)
    text = jax.jit(lambda x: jnp.sin(x) + 1).lower(x).compile().as_text()
    assert text is not None
    assert sum(kernel.bytes for kernel in kernels(text)) == pytest.approx(2 * x.nbytes)
