"""Attention by PyTorch: its plain products for training in half precision are the fused attention."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from sdtc.kernels import scaled_dot_product


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("autocast", [False, True])
def test_plain_products_are_the_fused_attention(dtype, autocast) -> None:
    torch.manual_seed(0)
    plain = [torch.randn(2, 3, 20, 8, dtype=dtype, requires_grad=True) for _ in range(3)]
    exact = [part.detach().double().requires_grad_() for part in plain]
    with torch.autocast("cpu", dtype, enabled=autocast):
        out = scaled_dot_product(*plain)
    want = F.scaled_dot_product_attention(*exact)
    assert out.dtype == dtype
    torch.testing.assert_close(out.double(), want, atol=0.02, rtol=0.02)
    out.sum().backward()
    want.sum().backward()
    for part, reference in zip(plain, exact, strict=True):
        torch.testing.assert_close(part.grad.double(), reference.grad, atol=0.05, rtol=0.05)


def test_inference_and_full_precision_take_the_fused_attention(monkeypatch) -> None:
    calls = []
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda q, k, v: calls.append(q.dtype) or v)
    for dtype, trains in ((torch.bfloat16, False), (torch.float32, True), (torch.bfloat16, True)):
        q, k, v = (torch.randn(1, 2, 5, 4, dtype=dtype, requires_grad=trains) for _ in range(3))
        scaled_dot_product(q, k, v)
    assert calls == [torch.bfloat16, torch.float32]
