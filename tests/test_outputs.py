"""What decoders and encoders return: the part that is meant, and one line for everything else."""

from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch.distributions import Bernoulli, Normal

from latentopt import outputs
from latentopt.errors import DecoderError, EncoderError

X = torch.arange(24.0).view(2, 3, 4)
CODE = torch.arange(6.0).view(2, 3)


class Named(NamedTuple):
    sample: torch.Tensor
    other: int


@pytest.mark.parametrize(
    ("result", "key"),
    [
        (X, None),
        (X.numpy(), None),
        ((X,), None),
        ([X], None),
        ((None, X), 1),
        ((None, X), -1),
        ({"sample": X, "z": CODE}, None),
        ({"z": CODE, "reconstruction": X}, None),
        ({"anything": X}, None),
        ({"a": CODE, "b": X}, "b"),
        (SimpleNamespace(sample=X), None),
        (SimpleNamespace(picture=X), "picture"),
        (Named(X, 1), "sample"),
        (Named(X, 1), 0),
        (Normal(X, 1.0), None),
    ],
)
def test_the_design_is_found(result, key):
    assert torch.equal(outputs.pick(result, key, "decoder"), X)


def test_the_mean_of_a_distribution_of_pictures_is_taken():
    assert torch.allclose(outputs.pick(Bernoulli(logits=X), None, "decoder"), X.sigmoid())


@pytest.mark.parametrize(
    ("result", "key", "text"),
    [
        (None, None, "decoder returned None, not a tensor of designs: set output= to the part that is the design"),
        ("x", None, "decoder returned a str, not a tensor of designs: set output="),
        ((X, X), None, "decoder returned a tuple of 2, not a tensor of designs: set output="),
        ([], None, "decoder returned a list of 0, not a tensor of designs: set output="),
        ({"a": X, "b": X}, None, "decoder returned a dict with keys 'a', 'b', not a tensor of designs: set output="),
        ({"a": 1}, None, "decoder returned a dict with keys 'a', not a tensor of designs: set output="),
        (np.array(["a"]), None, "decoder returned a ndarray, not a tensor of designs: set output="),
        ({"a": 1}, "a", "decoder returned a int as its part 'a', not a tensor of designs: set output="),
        ({"a": X}, "b", "decoder returned a dict with keys 'a', which has no output 'b': set output= to a part of it"),
        ((X,), 1, "decoder returned a tuple of 1, which has no output 1: set output= to a part of it"),
        ((X,), "mean", "decoder returned a tuple of 1, which has no output 'mean'"),
        (None, 0, "decoder returned None, which has no output 0"),
        (X, 0, "decoder returned a tensor of shape (2, 3, 4), which has no parts to choose from: leave output= out"),
    ],
)
def test_what_is_no_design_gets_one_line(result, key, text):
    with pytest.raises(DecoderError) as caught:
        outputs.pick(result, key, "decoder")
    assert str(caught.value).startswith(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("result", "key"),
    [
        (CODE, None),
        (CODE.numpy(), None),
        ((CODE, torch.zeros(2, 3)), None),
        ({"embedding": CODE, "log_covariance": X}, None),
        ({"logvar": X, "mu": CODE}, None),
        ({"anything": CODE}, None),
        ((X, CODE), 1),
        ({"features": X, "code": CODE}, "code"),
        (Normal(CODE, 1.0), None),
        (SimpleNamespace(latent_dist=Normal(CODE, 1.0)), None),
    ],
)
def test_the_latent_is_found(result, key):
    assert torch.equal(outputs.pick_code(result, key, 3), CODE)


@pytest.mark.parametrize(
    ("result", "key", "text"),
    [
        ((), None, "the encoder returned a tuple of 0: set encoder_output= to the part that is the latent"),
        ({"a": X, "b": X}, None, "the encoder returned a dict with keys 'a', 'b': set encoder_output="),
        (7, None, "the encoder returned a int: set encoder_output="),
        (
            {"a": X},
            "b",
            "encoder returned a dict with keys 'a', which has no output 'b': set encoder_output= to a part",
        ),
        (
            CODE,
            0,
            "encoder returned a tensor of shape (2, 3), which has no parts to choose from: leave encoder_output=",
        ),
        (
            torch.zeros(2, 6),
            None,
            "the encoder returned a tensor of shape (2, 6), twice the latent size of 3: wrap it to return the mean alone",
        ),
        (
            torch.zeros(2, 6, 1, 1),
            None,
            "the encoder returned a tensor of shape (2, 6, 1, 1), twice the latent size of 3",
        ),
    ],
)
def test_what_is_no_latent_gets_one_line(result, key, text):
    with pytest.raises(EncoderError) as caught:
        outputs.pick_code(result, key, 3)
    assert str(caught.value).startswith(text)


@pytest.mark.parametrize(
    ("designs", "shape", "text"),
    [
        (X + 0j, None, "decoder 'd' returns complex numbers: return torch.view_as_real of them"),
        (X.to_sparse(), None, "decoder 'd' returns a sparse tensor: return .to_dense()"),
        (X[:1], None, "decoder 'd' returned a tensor of shape (1, 3, 4) for 2 latents: expected 2 designs, one a row"),
        (
            X[:, 0, 0],
            None,
            "decoder 'd' returned one number a latent (a tensor of shape (2,)), and a design has one axis at least",
        ),
        (torch.tensor(1.0), None, "decoder 'd' returned a tensor of shape () for 2 latents"),
        (
            X,
            (3, 5),
            "decoder 'd' returned a tensor of shape (2, 3, 4) for 2 latents: expected 2 designs of shape (3, 5)",
        ),
    ],
)
def test_what_cannot_be_designs_is_refused(designs, shape, text):
    with pytest.raises(DecoderError) as caught:
        outputs.as_designs(designs, 2, shape, CODE, "d")
    assert str(caught.value).startswith(text)


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.int64, torch.float32),
        (torch.uint8, torch.float32),
        (torch.bool, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_designs_are_float32_or_float64(dtype, expected):
    found = outputs.as_designs(X.to(dtype), 2, (3, 4), CODE, "d")
    assert found.dtype == expected
    assert torch.equal(found, X.to(dtype).to(expected))


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: you tried"),
            True,
        ),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (MemoryError(), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
    ],
)
def test_running_out_of_memory_is_recognised(error, expected):
    assert outputs.is_out_of_memory(error) is expected


def test_the_first_line_of_an_error_has_a_text():
    assert outputs.first_line(ValueError("one\ntwo")) == "one"
    assert outputs.first_line(EOFError()) == "EOFError"
    assert len(outputs.first_line(ValueError("x" * 999))) == 200


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (TypeError("forward() missing 1 required positional argument: 'label'"), "conditions="),
        (RuntimeError("Expected all tensors to be on the same device, but found cuda:0 and cpu"), "device="),
        (RuntimeError("mat1 and mat2 must have the same dtype, but got Float and Half"), "dtype="),
        (RuntimeError("Input type (float) and bias type (c10::Half) should be the same"), "dtype="),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied (4x64 and 20x256)"), "set latent_shape"),
    ],
)
def test_the_remedy_fits_the_error(error, text):
    assert text in outputs.remedy(error, lambda z: z)
