"""The decoder's core: any rank of latent, any kind of output, blocks, memory, what the look at the door finds."""

import math
import re

import numpy as np
import pytest
import torch
from torch import nn

import latentopt as lo
from latentopt import probing, rng
from latentopt.decoder import default_block_rows
from latentopt.testing import ToyImages, ToyNet, global_rng_untouched, toy_decoders

NORMAL = {"prior": "normal", "name": "d"}


def make(module, latent_shape=(4,), **options):
    return lo.Decoder(module, latent_shape, **{**NORMAL, **options})


def net(dim=4, shape=(2, 3)):
    return ToyNet(dim, shape)


def rows(decoder, n, seed=1):
    return decoder.space.draw(n, rng.generator(seed))


# ---------------------------------------------------------------------- latents


@pytest.mark.parametrize("shape", [(4,), (1,), (2, 3), (2, 3, 4), (1, 2, 2, 2)])
def test_latents_of_any_rank(shape):
    dim = math.prod(shape)
    seen = []

    def module(z):
        seen.append(tuple(z.shape[1:]))
        return ToyNet(dim, (5,))(z)

    decoder = make(module, shape)
    assert set(seen) == {shape}
    assert (decoder.latent_shape, decoder.dim, decoder.design_shape) == (shape, dim, (5,))
    z_ND = rows(decoder, 3)
    designs = decoder.decode(z_ND)
    assert torch.equal(designs, decoder.decode(z_ND.view(3, *shape)))
    assert torch.equal(decoder.decode(z_ND[0].view(shape)), decoder.decode(z_ND[:1]))


def test_a_whole_number_stands_for_a_flat_latent():
    assert make(net(), 4).latent_shape == (4,)
    assert make(net(), [np.int64(4)]).latent_shape == (4,)


@pytest.mark.parametrize("shape", ["64", (4.0,), None, (0,), (), (-1, 4)])
def test_a_latent_shape_is_positive_whole_numbers(shape):
    with pytest.raises(lo.ShapeError, match=r"latent_shape must be positive whole numbers, for example \(64,\), got"):
        make(net(), shape)


@pytest.mark.parametrize(
    ("latents", "text"),
    [
        (torch.zeros(2, 5), r"latents of shape \(2, 5\) do not fit this decoder: give \(N, 4\)"),
        (torch.zeros(2, 4, 1), r"latents of shape \(2, 4, 1\) do not fit this decoder"),
        ([[1.0], [1.0, 2.0]], r"expected latents, a tensor \(N, 4\), got list \(expected sequence of length 1"),
        ("mean", r"expected latents, a tensor \(N, 4\), got str"),
        (
            torch.zeros(2, 4, dtype=torch.complex64),
            "expected latents of real numbers, got torch.complex64: give their real",
        ),
    ],
)
def test_latents_that_do_not_fit_are_refused(latents, text):
    with pytest.raises(lo.ShapeError, match=text):
        make(net()).decode(latents)


def test_lists_arrays_and_whole_numbers_are_latents_too():
    decoder = make(net())
    for latents in ([[1, 0, 2, 0]], np.array([[1, 0, 2, 0]]), torch.tensor([[1, 0, 2, 0]])):
        assert torch.equal(decoder.decode(latents), decoder.decode(torch.tensor([[1.0, 0, 2, 0]])))


# ---------------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"module": 3}, lo.DecoderError, "a decoder must be an nn.Module or a callable, got int"),
        ({"block_rows": 0}, lo.ConfigError, "block_rows must be at least 1, got 0"),
        (
            {"value_range": (1.0, 1.0)},
            lo.ConfigError,
            r"value_range must be \(low, high\) with low < high, got \(1.0, 1.0\)",
        ),
        ({"prior": "gausian"}, lo.ConfigError, "prior.*'gausian'; did you mean 'gaussian'"),
        ({"prior": {"kind": "normal", "std": [1.0, 2.0]}}, lo.ConfigError, "std has 2 numbers, the latent has 4"),
        ({"prior": "fitted"}, lo.ConfigError, "prior 'fitted' needs data= .known designs. and an encoder to fit it to"),
        (
            {"data": torch.zeros(9, 2, 3)},
            lo.ConfigError,
            "data= needs encoder=: it is encoded to fit or check the prior",
        ),
        (
            {"encoder": lambda x: x.flatten(1)[:, :4], "data": torch.zeros(0, 2, 3)},
            lo.ShapeError,
            r"is empty \(shape \(0, 2, 3\)\): give at least one design",
        ),
    ],
)
def test_arguments_that_do_not_fit_are_refused(options, error, text):
    with pytest.raises(error, match=text):
        make(**{"module": net(), **options})


def test_names_and_what_it_shows_of_itself():
    assert lo.Decoder(net(), 4, prior="normal").name == "ToyNet"
    assert lo.Decoder(net().forward, 4, prior="normal").name == "forward"
    assert repr(make(net())) == "Decoder(d: (4,) -> (2, 3), prior given with the decoder, unchecked)"


# ---------------------------------------------------------------------- outputs


class Returns(nn.Module):
    """A network whose designs come out wrapped."""

    def __init__(self, wrap):
        super().__init__()
        self.net, self.wrap = net(), wrap

    def forward(self, z):
        return self.wrap(self.net(z))


@pytest.mark.parametrize(
    ("wrap", "output"),
    [
        (lambda x: (x,), None),
        (lambda x: (None, x), 1),
        (lambda x: {"mean": x, "extra": 1}, "mean"),
        (lambda x: {"sample": x, "extra": 1}, None),
        (lambda x: type("Out", (), {"sample": x})(), None),
        (lambda x: type("Out", (), {"picture": x})(), "picture"),
    ],
)
def test_the_design_in_what_a_decoder_returns(wrap, output):
    decoder = make(Returns(wrap), output=output)
    assert torch.equal(decoder.decode(rows(decoder, 3)), make(net()).decode(rows(decoder, 3)))
    assert decoder.probe.differentiable


def test_designs_that_change_their_shape_later_are_refused():
    module = Returns(lambda x: x)
    decoder = make(module)
    module.wrap = lambda x: x[:, :1]
    with pytest.raises(
        lo.DecoderError, match=r"'d' returned a tensor of shape \(3, 1, 3\) for 3 latents: expected 3 designs"
    ):
        decoder.decode(rows(decoder, 3))


@pytest.mark.parametrize(
    ("wrap", "text"),
    [
        (lambda x: None, "decoder returned None, not a tensor of designs"),
        (
            lambda x: {"a": x, "b": x},
            "decoder returned a dict with keys 'a', 'b', not a tensor of designs: set output=",
        ),
        (lambda x: x + 1j, "decoder 'd' returns complex numbers: return torch.view_as_real of them"),
        (
            lambda x: x[:1],
            r"decoder 'd' returned a tensor of shape \(1, 2, 3\) for 4 latents: expected 4 designs, one a row",
        ),
        (lambda x: x[:, :0], r"decoder 'd' returned a tensor of shape \(4, 0, 3\): a design needs a value"),
        (
            lambda x: x * torch.nan,
            "decoder 'd' returns 100.0% NaN or infinite values for draws from its prior: check its",
        ),
    ],
)
def test_what_is_no_design_is_refused_at_the_door(wrap, text):
    with pytest.raises(lo.DecoderError, match=text):
        make(Returns(wrap))


def test_numpy_outside_of_torch_is_a_decoder_without_gradients():
    weights = np.random.default_rng(0).normal(size=(4, 6))

    def module(z):
        return (z.numpy() @ weights).reshape(-1, 2, 3)

    decoder = make(module)
    assert not decoder.probe.differentiable
    assert "its backward pass fails (Can't call numpy() on Tensor that requires grad" in decoder.probe.gradient_note
    z = rows(decoder, 5).requires_grad_(True)
    assert decoder.forward(z).shape == (5, 2, 3)  # with gradients on
    assert decoder.decode(z).dtype == torch.float64


@pytest.mark.parametrize(
    ("latent_shape", "module", "text"),
    [
        (
            (5,),
            net(),
            "decoder 'd' rejects latents of shape (4, 5), torch.float32, on cpu (mat1 and mat2 shapes cannot be multiplied "
            "(4x5 and 4x16)): set latent_shape to what it was trained with; its first layer 'first' takes 4 values",
        ),
        ((4,), nn.Conv2d(4, 1, 3, padding=1), "its first layer takes 4 channels, as in latent_shape=(4, H, W)"),
        (
            (4,),
            lambda z, label: z,
            "missing 1 required positional argument: 'label'): give the inputs that it takes besides",
        ),
        ((4,), lambda z: z.nothing, "'Tensor' object has no attribute 'nothing'): set latent_shape"),
        ((4,), lambda z: {}["x"], "('x'): set latent_shape"),
        (
            (4,),
            nn.Sequential(net(), nn.Flatten(), nn.Linear(6, 6).half()),
            "say with dtype= what its latents are to be",
        ),
    ],
)
def test_rejected_latents_say_what_would_help(latent_shape, module, text):
    with pytest.raises(lo.DecoderError, match=re.escape(text)) as caught:
        make(module, latent_shape)
    assert "\n" not in str(caught.value)


def test_damaged_weights_are_refused():
    broken = net()
    with torch.no_grad():
        broken.second.bias[1] = torch.nan
    with pytest.raises(lo.DecoderError, match="weights of decoder 'd' contain 1 non-finite values in 'second.bias'"):
        make(broken)
    with pytest.raises(lo.DecoderError, match="'d' has meta tensors, which hold no weights: load its weights first"):
        make(nn.Linear(4, 4, device="meta"))


# ---------------------------------------------------------------------- conditions


def test_conditions_are_repeated_for_each_row():
    shapes = []

    def module(z, label, scale, table):
        shapes.append((tuple(label.shape), tuple(table.shape)))
        return net()(z) * scale + label[:, None, None].to(z.dtype)

    conditions = {"label": torch.tensor([3]), "scale": 0.5, "table": torch.zeros((), dtype=torch.float64)}
    decoder = make(lambda z, **more: module(z, **more)[:, 0], conditions=conditions, block_rows=4)
    plain = make(lambda z: net()(z)[:, 0])
    z = rows(decoder, 7)
    assert torch.allclose(decoder.decode(z), plain.decode(z) * 0.5 + 3, atol=1e-6)
    assert set(shapes) == {((4,), ()), ((3,), ()), ((1,), ())}


def test_floating_conditions_take_the_decoders_precision_and_no_gradient():
    seen = []

    class Conditioned(nn.Linear):
        def forward(self, z, style, label):
            seen.append((style.dtype, style.requires_grad, label.dtype))
            return super().forward(z) + style + label

    style = torch.ones(1, 4, requires_grad=True)
    make(Conditioned(4, 4).double(), conditions={"style": style, "label": torch.tensor([[2]])})
    assert set(seen) == {(torch.float64, False, torch.int64)}
    assert style.requires_grad


def test_conditions_of_one_fixed_batch_size_are_named():
    with pytest.raises(
        lo.DecoderError, match="decodes 4 latents at once but not one alone .*give conditions a first size of 1"
    ):
        make(lambda z, style: torch.bmm(z[:, None], style), conditions={"style": torch.ones(4, 4, 2)})


# ---------------------------------------------------------------------- the caller's module


class Moody(nn.Module):
    """Has dropout, batch statistics, and a submodule that stays in eval mode."""

    def __init__(self):
        super().__init__()
        self.net, self.drop, self.norm = net(), nn.Dropout(), nn.BatchNorm1d(2)

    def forward(self, z):
        return self.norm(self.drop(self.net(z)))


def test_flags_and_buffers_come_back_and_nothing_is_moved():
    module = Moody().train()
    module.net.eval()
    module.net.first.weight.requires_grad_(False)
    before = {name: (value.clone(), value.data_ptr()) for name, value in module.state_dict().items()}
    decoder = make(module)
    decoder.decode(rows(decoder, 9))
    lo.optimize(decoder, target=decoder.decode(rows(decoder, 1)), search={"kind": "adam", "steps": 2}, starts="mean")
    assert decoder.module is module
    assert [part.training for part in (module, module.net, module.net.first, module.drop)] == [True, False, False, True]
    assert [p.requires_grad for p in module.net.parameters()] == [False, True, True, True]
    assert all(p.grad is None for p in module.parameters())
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name][0])
        assert value.data_ptr() == before[name][1]


def test_flags_come_back_after_an_exception_and_only_from_the_outermost():
    module = Moody().train()
    decoder = make(module)

    def fail():
        with decoder.frozen():
            with decoder.frozen():
                assert not module.training
            assert not module.training
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert module.training
    assert all(p.requires_grad for p in module.parameters())
    with decoder.frozen():  # and it can be entered again
        assert not module.training


def test_flags_come_back_when_the_decoder_cannot_be_made():
    module = Moody().train()
    with pytest.raises(lo.DecoderError):
        make(module, (5,))
    assert module.training
    assert module.net.first.weight.requires_grad


def test_the_module_behind_a_bound_method_is_frozen_too():
    module = Moody().train()
    decoder = make(module.forward)  # in training mode, dropout would give another design each time
    assert decoder.probe.call_difference == 0.0
    assert module.training


def test_a_callers_no_grad_and_inference_mode_do_no_harm():
    with torch.no_grad():
        assert make(net()).probe.differentiable
    decoder = make(net())
    target = decoder.decode(rows(decoder, 1))
    options = {"target": target[0], "search": {"kind": "adam", "steps": 3}}
    usual = lo.optimize(decoder, starts=[torch.zeros(1, 4)], **options)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            found = lo.optimize(decoder, starts=[torch.zeros(1, 4)], **options)
        assert torch.equal(found.latents, usual.latents)
    assert usual.losses[0] < decoder.decode(torch.zeros(1, 4)).sub(target).square().mean()


def test_no_global_random_state_is_used():
    module = net()
    with global_rng_untouched():
        decoder = make(module)
        decoder.decode(rows(decoder, 3))


# ---------------------------------------------------------------------- precision


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_latents_of_a_half_precision_module_stay_float32(dtype):
    decoder = make(net().to(dtype))
    assert (decoder.dtype, decoder.latent_dtype) == (dtype, torch.float32)
    z = rows(decoder, 3).requires_grad_(True)
    designs = decoder.forward(z)
    (gradient,) = torch.autograd.grad(designs.sum(), z)
    assert designs.dtype == gradient.dtype == decoder.decode(z).dtype == torch.float32
    assert torch.allclose(designs, make(net()).decode(z), atol=0.1)
    assert decoder.notes == []  # rounding is no trouble


def test_float64_stays_float64():
    decoder = make(net().double())
    assert (decoder.dtype, decoder.latent_dtype, decoder.decode(rows(decoder, 2)).dtype) == (torch.float64,) * 3


# ---------------------------------------------------------------------- blocks and memory


def test_blocks_give_what_one_piece_gives():
    sizes = []

    def module(z):
        sizes.append(len(z))
        return net()(z)

    decoder = make(module, block_rows=3)
    z = rows(decoder, 10)
    sizes.clear()
    designs = decoder.decode(z)
    assert sizes == [3, 3, 2, 2]
    assert torch.allclose(designs, make(net()).decode(z), atol=1e-6)
    assert designs.is_contiguous()
    assert decoder.decode(z[:0]).shape == (0, 2, 3)


def test_the_default_block_holds_what_caches_hold():
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert [default_block_rows(n, cpu) for n in (1, 784, 2**20, 2**30)] == [512, 334, 16, 16]
    assert default_block_rows(2**12, cpu) == 64
    assert [default_block_rows(n, gpu) for n in (1, 2**14)] == [16384, 2048]
    assert toy_decoders()["waveform"].block_rows == 64


ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
    MemoryError(),
]


class Crowded(nn.Module):
    """Runs out of memory above so many rows."""

    def __init__(self, most, error):
        super().__init__()
        self.net, self.most, self.error, self.sizes = net(), most, error, []

    def forward(self, z):
        self.sizes.append(len(z))
        if len(z) > self.most:
            raise self.error
        return self.net(z)


@pytest.mark.parametrize("error", ERRORS, ids=["cuda", "cpu", "python"])
def test_the_block_is_halved_when_memory_runs_out(error):
    module = Crowded(100, error)
    decoder = make(module, block_rows=32)
    module.most, module.sizes = 5, []
    z = rows(decoder, 20)
    assert torch.allclose(decoder.decode(z), make(net()).decode(z), atol=1e-6)
    assert module.sizes == [20, 10, 5, 5, 5, 5]
    assert decoder.notes == [
        "out of memory at 20 rows a block: went on with 10",
        "out of memory at 10 rows a block: went on with 5",
    ]
    assert decoder.block_rows == 5


@pytest.mark.parametrize("error", ERRORS, ids=["cuda", "cpu", "python"])
def test_one_row_that_does_not_fit_is_an_error_of_one_line(error):
    module = Crowded(100, error)
    decoder = make(module)
    module.most = 0
    with pytest.raises(
        lo.OutOfMemoryError, match="^one row of decoder 'd' does not fit into memory .*: use a machine with"
    ):
        decoder.decode(rows(decoder, 5))
    with pytest.raises(lo.OutOfMemoryError, match="^one row of decoder 'd' does not fit into memory"):
        make(Crowded(0, error))


@pytest.mark.parametrize("most", [1, 2, 3])
def test_a_decoder_that_fits_only_few_rows_passes_the_door(most):
    decoder = make(Crowded(most, ERRORS[0]))
    kept = min(most, 2)
    assert decoder.block_rows == kept
    assert decoder.notes == [f"out of memory at 4 rows a block: went on with {kept}"]
    assert decoder.probe.differentiable
    # nor is more asked of it later
    found = lo.optimize(decoder, target=torch.zeros(2, 3), search={"kind": "adam", "steps": 3})
    assert found.losses.isfinite().all()
    assert torch.allclose(decoder.decode(rows(decoder, 5)), make(net()).decode(rows(decoder, 5)), atol=1e-6)


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    module = Crowded(100, RuntimeError("index out of range"))
    decoder = make(module)
    module.most = 1
    with pytest.raises(RuntimeError, match="index out of range"):
        decoder.decode(rows(decoder, 5))


def test_designs_that_do_not_fit_together_say_how_much_they_need():
    decoder = make(ToyNet(4, (1000, 1000), hidden=1), block_rows=4)
    with pytest.raises(
        lo.OutOfMemoryError, match=r"designs of shape \(1000, 1000\) need 3.73e\+05 GiB, which is not free"
    ):
        decoder.decode(torch.zeros(1, 4).expand(10**8, 4))


def test_a_backward_pass_without_memory_is_a_finding():
    class Backward(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            raise ERRORS[0]

    decoder = make(lambda z: Backward.apply(net()(z)))
    assert decoder.probe.gradient_note == "memory runs out in the backward pass of one row"


# ---------------------------------------------------------------------- what the look at the door finds


CUT = "its output is cut off from its latents (no_grad, detach, argmax or NumPy inside)"


def numpy_inside(z):
    return torch.from_numpy(np.sin(z.detach().numpy()))


@pytest.mark.parametrize(
    ("module", "note"),
    [
        (lambda z: net()(z).detach(), CUT),
        (torch.no_grad()(lambda z: net()(z)), CUT),
        (lambda z: net()(z).argmax(-1), CUT),
        (numpy_inside, CUT),
        (lambda z: net()(z).round(), "the gradient of its output with respect to the latents is zero"),
        (
            lambda z: z.detach() + nn.Parameter(torch.ones(1)),
            "the gradient of its output with respect to the latents is zero",
        ),
        (lambda z: (z * 0).sqrt() + z, "the gradient of its output with respect to the latents is NaN or infinite"),
    ],
)
def test_decoders_without_gradients_are_found(module, note):
    decoder = make(module)
    assert (decoder.probe.differentiable, decoder.probe.gradient_note) == (False, note)
    z = rows(decoder, 2).requires_grad_(True)
    designs = decoder.forward(z)
    assert not designs.requires_grad or torch.autograd.grad(designs.sum(), z, allow_unused=True) == (None,)
    with pytest.raises(lo.GradientError, match=re.escape(note)):
        lo.optimize(decoder, target=decoder.decode(rows(decoder, 1))[0], search="adam")


def test_a_backward_pass_that_fails_is_a_finding():
    with torch.inference_mode():
        module = net()
    decoder = make(module)
    assert decoder.probe.gradient_note.startswith("its backward pass fails (Inference tensors cannot be saved")
    assert torch.allclose(decoder.decode(rows(decoder, 2)), make(net()).decode(rows(decoder, 2)))


@pytest.mark.parametrize("head", [nn.Softmax(-1), lambda x: nn.functional.normalize(x, dim=-1)])
def test_normalized_designs_have_gradients(head):
    assert make(lambda z: head(net()(z))).probe.differentiable


def test_the_rows_of_the_look_are_counted():
    decoder = make(net())
    assert (decoder.rows.forward, decoder.rows.backward) == (4 + 4 + 1 + 4, 4)


def test_a_decoder_with_a_memory_is_warned_of():
    class Stateful(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.calls = net(), 0

        def forward(self, z):
            self.calls += 1
            return self.net(z) + 0.01 * self.calls

    text = "'d' gives another design on a second call with the same latents .*: losses will be noisy; make it deterministic"
    with pytest.warns(lo.LatentoptWarning, match=text) as caught:
        decoder = make(Stateful())
    assert [str(w.message) for w in caught] == decoder.notes


def test_the_warning_points_at_the_line_that_makes_the_decoder():
    with pytest.warns(lo.LatentoptWarning, match="a row differently alone") as caught:
        lo.Decoder(lambda z: net()(z) - z.mean(), (4,), prior="normal")
    assert caught[0].filename == __file__


@pytest.mark.parametrize(
    "mix", [lambda x: x / x.std(), lambda x: x + x.amax(0, keepdim=True), nn.BatchNorm1d(2, track_running_stats=False)]
)
def test_rows_that_see_each_other_are_warned_of(mix):
    text = "'d' decodes a row differently alone and in a batch .*: rows are not independent, so a result depends on the block"
    with pytest.warns(lo.LatentoptWarning, match=text):
        make(Returns(mix))


def test_batch_statistics_that_one_row_cannot_have_are_named():
    module = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3, track_running_stats=False))
    text = "'d' decodes 4 latents at once but not one alone .Expected more than 1 value per channel.*their running statistics"
    with pytest.raises(lo.DecoderError, match=text):
        make(module)


def test_a_batch_norm_with_running_statistics_is_no_trouble():
    assert make(nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Dropout())).notes == []


def test_some_draws_without_a_finite_design_are_warned_of():
    draws = rows(make(net()), 4, seed=0)  # those of the look
    limit = float(draws[:, 0].sort()[0][1:3].mean())
    with pytest.warns(
        lo.LatentoptWarning, match="'d' returns NaN or infinite values for 2 of 4 draws .*dropped from a search"
    ):
        decoder = make(lambda z: torch.where(z[:, :1] > limit, net()(z)[:, 0], torch.nan))
    assert math.isfinite(decoder.probe.low)
    assert math.isfinite(decoder.probe.high)
    assert decoder.probe.differentiable


def test_a_design_that_is_finite_only_at_first_differs_infinitely():
    calls = []

    def module(z):
        calls.append(1)
        return net()(z) if len(calls) == 1 else net()(z) * torch.inf

    with pytest.warns(lo.LatentoptWarning, match="they differ by inf"):
        make(module)


def test_pictures_below_zero_are_noted():
    decoder = make(lambda z: ToyImages(4, (1, 8, 8))(z) * 2 - 1)
    assert "set value_range=(-1, 1) if pictures are to be read so; they are read as 0 to 1 now" in decoder.notes[0]
    assert make(lambda z: ToyImages(4, (1, 8, 8))(z) * 2 - 1, value_range=(-1, 1)).notes == []
    wider = make(lambda z: ToyImages(4, (1, 8, 8))(z).clamp(0.2, 0.8) * 5 - 1.9)
    assert "set value_range=(black, white) if pictures are to be read so" in wider.notes[0]


def test_rounding_is_allowed_for_by_precision_and_device():
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert probing.tolerances(torch.float32, cpu) == (pytest.approx(9.5e-7, rel=0.01), 1e-3)
    assert probing.tolerances(torch.float32, gpu) == (pytest.approx(1.5e-5, rel=0.02), 8 / 1024)
    assert probing.tolerances(torch.bfloat16, cpu)[1] == 8 / 128


# ---------------------------------------------------------------------- encoders and priors


def linear_pair():
    """A decoder and its exact inverse."""
    weights = torch.linalg.qr(torch.randn(6, 4, generator=torch.Generator().manual_seed(0)))[0]
    return (lambda z: (z @ weights.T).view(-1, 2, 3)), (lambda x: x.flatten(1) @ weights)


def test_encoding_comes_back_in_blocks():
    decode, encode = linear_pair()
    decoder = make(decode, encoder=encode, block_rows=2)
    z = rows(decoder, 5)
    assert torch.allclose(decoder.encode(decoder.decode(z)), z, atol=1e-5)


@pytest.mark.parametrize(
    ("wrap", "output"),
    [
        (lambda z: (z, z - 9), None),
        (lambda z: {"log_variance": z - 9, "mean": z}, None),
        (lambda z: (None, z), 1),
        (lambda z: z.view(-1, 2, 2), None),
        (lambda z: z.numpy(), None),
    ],
)
def test_the_mean_of_what_an_encoder_returns_is_taken(wrap, output):
    decode, encode = linear_pair()
    decoder = make(
        lambda z: decode(z.flatten(1)), (2, 2), encoder=lambda x: wrap(encode(x)), encoder_output=output, block_rows=2
    )
    assert torch.allclose(decoder.encode(decoder.decode(torch.ones(3, 4))), torch.ones(3, 4), atol=1e-5)


@pytest.mark.parametrize(
    ("encoder", "text"),
    [
        (
            nn.Linear(7, 4),
            r"the encoder of 'd' does not turn designs \(N, 2, 3\) into latents of 4 values \(mat1 and mat2",
        ),
        (lambda x: x.flatten(1)[:, :3], r"into latents of 4 values \(latents of shape \(1, 3\) do not fit"),
        (lambda x: torch.zeros(len(x), 8), r"twice the latent size of 4: wrap it to return the mean alone"),
        (lambda x: None, "the encoder returned None: set encoder_output= to the part that is the latent"),
        (lambda x: torch.zeros(4), None),
        (
            lambda x: torch.zeros(2, 4),
            r"the encoder of 'd' returned a tensor of shape \(2, 4\) for 1 designs: expected one",
        ),
    ],
)
def test_encoders_that_do_not_fit_are_refused(encoder, text):
    if text is None:  # one latent without its row is one latent
        assert make(net(), encoder=encoder).encoder is encoder
        return
    with pytest.raises(lo.EncoderError, match=text):
        make(net(), encoder=encoder)


def test_weights_of_the_encoder_are_checked_too():
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(6, 4))
    with torch.no_grad():
        encoder[1].bias[0] = torch.inf
    with pytest.raises(lo.DecoderError, match="contain 1 non-finite values in '1.bias'"):
        make(net(), encoder=encoder)


def test_an_encoder_that_draws_is_warned_of():
    noise = torch.Generator().manual_seed(0)
    decode, encode = linear_pair()
    text = "the encoder of 'd' gives another latent on a second call with the same design .*: make it return the mean"
    with pytest.warns(lo.LatentoptWarning, match=text):
        make(decode, encoder=lambda x: encode(x) + torch.randn(len(x), 4, generator=noise))


def test_no_encoder_is_an_error_only_when_asked_for():
    with pytest.raises(lo.DecoderError, match=r"decoder 'd' has no encoder: pass Decoder\(..., encoder=...\)"):
        make(net()).encode(torch.zeros(1, 2, 3))


def test_designs_to_encode_are_never_broadcast():
    decode, encode = linear_pair()
    with pytest.raises(lo.ShapeError, match="designs to encode has shape 3x2x4, the decoder gives 2x3"):
        make(decode, encoder=encode).encode(torch.zeros(3, 2, 4))


def test_the_prior_says_on_what_grounds_it_is_believed():
    decode, encode = linear_pair()
    z = 3.0 + 0.5 * rng.randn(400, 4, rng.generator(0))
    data = decode(z)
    assert str(make(decode, prior=None).space.evidence) == "assumed, unchecked"
    assert str(make(decode, prior="normal").space.evidence) == "given with the decoder, unchecked"
    for choice in (None, "fitted"):
        fitted = make(decode, encoder=encode, data=data, prior=choice)
        assert str(fitted.space.evidence) == "fitted to 400 encodings"
        assert torch.allclose(fitted.space.mean(z), z.mean(0), atol=1e-3)
        assert torch.allclose(fitted.codes, z, atol=1e-4)
    mixture = make(decode, encoder=encode, data=data, prior={"kind": "fitted", "components": 2})
    assert isinstance(mixture.space.prior, lo.Mixture)
    checked = make(decode, encoder=encode, data=data, prior="normal")
    assert str(checked.space.evidence).startswith(
        "given with the decoder; does not match 400 encodings (median radius 6"
    )
    agrees = make(decode, encoder=encode, data=decode((z - 3.0) * 2), prior="normal")
    assert str(agrees.space.evidence).startswith(
        "given with the decoder; agrees with 400 encodings (median radius 1.91"
    )


def test_pictures_are_mapped_to_the_value_range(tmp_path):
    from PIL import Image

    path = tmp_path / "white.png"
    Image.new("L", (8, 8), 255).save(path)
    signed = make(lambda z: ToyImages(4, (1, 8, 8))(z) * 4 - 1, value_range=(-1, 3))
    assert torch.equal(signed.as_designs(path), torch.full((1, 1, 8, 8), 3.0))
    assert torch.equal(signed.as_designs(torch.ones(1, 8, 8)), torch.ones(1, 1, 8, 8))  # numbers are taken as they are


def test_a_module_that_writes_into_its_latents_is_given_a_copy():
    decoder = make(lambda z: z.mul_(2))
    z = rows(decoder, 3)
    kept = z.clone()
    assert torch.equal(decoder.decode(z), 2 * kept)
    assert torch.equal(z, kept)
    assert any("writes into its latents" in note for note in decoder.notes)
    assert decoder.probe.differentiable


def test_rows_less_their_mean_have_a_gradient():
    with pytest.warns(lo.LatentoptWarning, match="rows are not independent"):
        decoder = make(lambda z: z - z.mean(0, keepdim=True))
    assert decoder.probe.differentiable


def test_an_encoder_of_nan_is_warned_of():
    with pytest.warns(lo.LatentoptWarning, match="gives NaN or infinite latents for the design at the prior's mean"):
        make(lambda z: z * 1.0, encoder=lambda x: x * torch.nan)


def test_the_look_at_the_door_says_how_far_apart_designs_lie():
    twice = make(lambda z: torch.cat([z, z], 1))
    apart = torch.pdist(rows(twice, 4, seed=0).double()).sort().values / 4**0.5
    assert twice.probe.spread == pytest.approx(float(apart[2:4].mean()))
    with pytest.warns(lo.LatentoptWarning, match="returns NaN or infinite values for 2 of 4 draws"):
        broken = make(lambda z: z.where(z[:, :1] >= z[:, :1].sort(dim=0).values[len(z) // 2], torch.nan))
    z = rows(broken, 4, seed=0)
    z = z[z[:, 0].argsort()[2:]]
    assert broken.probe.spread == pytest.approx(float(torch.pdist(z)) / 4**0.5)
    with pytest.warns(lo.LatentoptWarning, match="for 3 of 4 draws"):
        alone = make(lambda z: z.where(z[:, :1] == z[:, :1].amax(), torch.nan))
    assert alone.probe.spread is None
