"""The decoder's options for speed: the same designs, the caller's module untouched, float32 outside of the module."""

import copy
import importlib
import subprocess
import sys

import pytest
import torch
from torch import nn

import latentopt as lo
from latentopt import modules, rng, speedups
from latentopt.testing import ToyNet, global_rng_untouched
from latentopt_std import LBFGS, LevenbergMarquardt, ModuleDecoder

EXACT = [
    {"channels_last": True},
    {"fold_batch_norm": True},
    {"channels_last": True, "fold_batch_norm": True},
]
HALF = [
    {"precision": "bfloat16"},
    {"precision": "bfloat16", "channels_last": True, "fold_batch_norm": True},
]


class Conv(nn.Module):
    """6 values to `(2, 8, 8)`: a convolution of each kind and a linear layer, followed by batch norms that have seen data."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.first, self.first_norm = nn.Linear(6, 16, bias=False), nn.BatchNorm1d(16)
            self.up, self.up_norm = nn.ConvTranspose2d(4, 6, 4, 2, 1), nn.BatchNorm2d(6)
            self.body = nn.Sequential(nn.Conv2d(6, 8, 3, padding=1, groups=2), nn.BatchNorm2d(8, affine=False))
            self.last = nn.ConvTranspose2d(8, 2, 4, 2, 1)
            with torch.no_grad():
                self.last.weight.mul_(20)  # designs of many greys
                for part in self.modules():
                    if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.affine:
                        part.weight.uniform_(0.5, 2.0)
                        part.bias.normal_()
                self.train()
                for _ in range(5):
                    self(torch.randn(64, 6))

    def forward(self, z):
        x = self.first_norm(self.first(z)).relu().view(-1, 4, 2, 2)
        x = self.body(self.up_norm(self.up(x)).relu())
        return torch.sigmoid(self.last(x.relu()))

    def decode(self, z):
        return self(z)


def make(module=None, shape=(6,), **options):
    return lo.Decoder(module or Conv(), shape, **{"prior": "normal", "name": "d", **options})


def draws(decoder, n=7, seed=1):
    return decoder.space.draw(n, rng.generator(seed))


def gradient(decoder, z, target):
    problem_z = z.clone().requires_grad_(True)
    with decoder.frozen(), torch.enable_grad():
        loss = (decoder.forward(problem_z) - target).square().sum()
        return torch.autograd.grad(loss, problem_z)[0]


def says(decoder, text):
    return any(text in note for note in decoder.notes)


# ---------------------------------------------------------------------- the same designs


@pytest.mark.parametrize("options", EXACT, ids=str)
def test_designs_and_gradients_are_those_of_the_plain_decoder(options):
    plain, fast = make(), make(**options)
    z = draws(plain)
    torch.testing.assert_close(fast.decode(z), plain.decode(z), atol=1e-5, rtol=0)
    target = plain.decode(draws(plain, seed=2))
    torch.testing.assert_close(gradient(fast, z, target), gradient(plain, z, target), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("options", HALF, ids=str)
def test_bfloat16_stays_near_and_gives_float32(options):
    plain, fast = make(), make(**options)
    z = draws(plain)
    designs = fast.decode(z)
    assert designs.dtype == fast.probe.dtype == fast.latent_dtype == torch.float32
    apart = float((designs - plain.decode(z)).abs().amax())
    assert 0 < apart < 0.05
    target = plain.decode(draws(plain, seed=2))
    ours, exact = gradient(fast, z, target), gradient(plain, z, target)
    assert ours.dtype == torch.float32
    assert float((ours - exact).norm()) < 0.2 * float(exact.norm())  # relu's kinks are crossed


def test_the_module_alone_is_under_autocast():
    seen = []

    class Spy(ToyNet):
        def forward(self, z):
            seen.append((torch.is_autocast_enabled("cpu"), z.dtype))
            return super().forward(z)

    decoder = make(Spy(6, (3,)), precision="bfloat16")
    seen.clear()
    outside = []
    objective = lambda c: outside.append(torch.is_autocast_enabled("cpu")) or c.designs.square().mean(1)  # noqa: E731
    result = lo.optimize(decoder, objectives=[objective], search=LBFGS(steps=3), seed=0)
    assert set(seen) == {(True, torch.float32)}
    assert set(outside) == {False}
    assert result.latents.dtype == result.designs.dtype == result.losses.dtype == torch.float32


@pytest.mark.parametrize("options", [*EXACT, *HALF], ids=str)
def test_rows_stay_independent_and_a_nan_row_alone(options):
    decoder = make(**options)
    z = draws(decoder)
    whole = decoder.decode(z)
    tolerance = 1e-5 if decoder.compute_dtype == torch.float32 else 2.0**-6
    torch.testing.assert_close(decoder.decode(z[2:3]), whole[2:3], atol=tolerance, rtol=0)
    z[4] = torch.nan
    broken = decoder.decode(z)
    others = torch.arange(len(z)) != 4
    assert bool(broken[4].isnan().all())
    torch.testing.assert_close(broken[others], whole[others], atol=tolerance, rtol=0)


@pytest.mark.parametrize("options", [*EXACT, *HALF], ids=str)
def test_designs_can_be_viewed_as_rows(options):
    decoder = make(**options)
    assert decoder.decode(draws(decoder)).is_contiguous()
    with decoder.frozen():
        assert decoder.forward(draws(decoder)).view(7, -1).shape == (7, 128)


# ---------------------------------------------------------------------- the caller's module


@pytest.mark.parametrize("options", [*EXACT, *HALF], ids=str)
def test_the_callers_module_is_left_as_it_was(options):
    module = Conv().train()
    module.up.weight.requires_grad_(False)
    before = copy.deepcopy(module)
    decoder = make(module, **options)
    decoder.decode(draws(decoder))
    assert decoder.module is module
    assert [type(part) for part in module.modules()] == [type(part) for part in before.modules()]
    assert [part.training for part in module.modules()] == [part.training for part in before.modules()]
    for (key, ours), (_, theirs) in zip(module.named_parameters(), before.named_parameters(), strict=True):
        assert torch.equal(ours, theirs), key
        assert (ours.requires_grad, ours.stride()) == (theirs.requires_grad, theirs.stride()), key
    assert all(torch.equal(a, b) for a, b in zip(module.buffers(), before.buffers(), strict=True))
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())


def test_nothing_is_copied_or_compiled_unless_asked():
    module = Conv()
    decoder = make(module)
    assert decoder._run is module
    assert decoder.speedups == speedups.Speedups()
    assert decoder.notes == []
    assert decoder.compute_dtype == torch.float32


def test_a_copy_has_the_weights_of_its_time():
    module = Conv()
    decoder = make(module, fold_batch_norm=True)
    z = draws(decoder)
    before = decoder.decode(z)
    with torch.no_grad():
        module.last.bias.add_(1.0)
    assert torch.equal(decoder.decode(z), before)


def test_a_method_of_a_module_is_copied_with_it():
    module = Conv()
    plain, fast = make(module.decode), make(module.decode, fold_batch_norm=True, channels_last=True)
    assert says(fast, "folded 3 of 3 batch norms")
    torch.testing.assert_close(fast.decode(draws(plain)), plain.decode(draws(plain)), atol=1e-5, rtol=0)


def test_no_random_number_is_drawn_from_torch():
    with global_rng_untouched():
        make(precision="bfloat16", channels_last=True, fold_batch_norm=True)


# ---------------------------------------------------------------------- what is folded


def test_layers_are_replaced_in_the_copy():
    decoder = make(fold_batch_norm=True)
    (run,) = modules.modules_of(decoder._run)
    assert not any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in run.modules())
    assert says(decoder, "folded 3 of 3 batch norms of decoder 'd' into the layers before them")
    assert not any(parameter.requires_grad for parameter in run.parameters())


class Twice(nn.Module):
    """One layer before two batch norms: neither can be folded."""

    def __init__(self):
        super().__init__()
        self.layer, self.one, self.other = nn.Linear(6, 6), nn.BatchNorm1d(6), nn.BatchNorm1d(6)

    def forward(self, z):
        return self.other(self.layer(self.one(self.layer(z))))


class Skipped(nn.Module):
    """What the layer gives goes past the batch norm, too."""

    def __init__(self):
        super().__init__()
        self.layer, self.norm = nn.Linear(6, 6), nn.BatchNorm1d(6)
        nn.init.constant_(self.norm.bias, 1.0)

    def forward(self, z):
        x = self.layer(z)
        return x + self.norm(x)


class Tokens(nn.Module):
    """A batch norm over the second of three axes, which is not the linear layer's."""

    def __init__(self):
        super().__init__()
        self.layer, self.norm = nn.Linear(3, 2), nn.BatchNorm1d(2)

    def forward(self, z):
        return self.norm(self.layer(z.view(-1, 2, 3)))


@pytest.mark.parametrize(
    ("module", "text"),
    [
        (
            nn.Sequential(nn.Linear(6, 6), nn.ReLU(inplace=True), nn.BatchNorm1d(6)),
            "changed nothing in decoder 'd': no batch",
        ),
        (nn.Sequential(nn.Linear(6, 6), nn.ReLU()), "changed nothing in decoder 'd': it has no batch norm"),
        (
            nn.Sequential(nn.Unflatten(1, (2, 3)), nn.Conv1d(2, 2, 1), nn.BatchNorm1d(2, track_running_stats=False)),
            "no batch norm directly follows",
        ),
        (nn.utils.parametrizations.weight_norm(nn.Linear(6, 6)), "it has no batch norm"),
        (
            nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(6, 6)), nn.BatchNorm1d(6)),
            "no batch norm directly follows a linear or convolutional layer",
        ),
        (
            nn.Sequential(nn.Unflatten(1, (6, 1)), nn.ConvTranspose1d(6, 4, 3, groups=2), nn.BatchNorm1d(4)),
            "no batch norm directly follows",
        ),
        (Twice(), "no batch norm directly follows"),
        (Tokens(), "no batch norm directly follows"),
        (Skipped(), "was left out: designs of decoder 'd' then differ by"),
    ],
)
@pytest.mark.filterwarnings("ignore:decoder 'd' decodes a row differently")
def test_what_cannot_be_folded_is_left_and_noted(module, text):
    for part in module.modules():  # statistics that change something
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.running_mean is not None:
            part.running_mean.add_(0.5)
            part.running_var.add_(1.0)
    plain, fast = make(module), make(module, fold_batch_norm=True)
    assert says(fast, text)
    assert torch.equal(fast.decode(draws(plain)), plain.decode(draws(plain)))


def test_a_forward_that_uses_its_batch_norm_otherwise_is_left_as_it_is():
    class Reads(nn.Sequential):
        def forward(self, z):
            return super().forward(z) * self[1].weight

    fast = make(Reads(nn.Linear(6, 6), nn.BatchNorm1d(6)), fold_batch_norm=True)
    assert says(fast, "fold_batch_norm=True was left out: decoder 'd' then fails ('Identity' object has no attribute")


def test_channels_last_without_convolutions_is_noted():
    assert says(make(ToyNet(6, (3,)), channels_last=True), "channels_last=True changed nothing in decoder 'd'")


def test_channels_last_reaches_the_weights_and_the_copy_alone():
    module = nn.Sequential(nn.Unflatten(1, (2, 3, 1, 1)), nn.Conv3d(2, 4, (1, 1, 1)))
    (run,) = modules.modules_of(make(module, channels_last=True)._run)
    assert run[1].weight.is_contiguous(memory_format=torch.channels_last_3d)
    (run,) = modules.modules_of(make(channels_last=True)._run)
    assert run.up.weight.is_contiguous(memory_format=torch.channels_last)
    assert not run.up.weight.is_contiguous()


# ---------------------------------------------------------------------- searches


def test_a_search_in_bfloat16_ends_near_that_in_float32():
    plain, fast = make(), make(precision="bfloat16", fold_batch_norm=True, channels_last=True)
    target = plain.decode(draws(plain, 1, seed=3))
    options = {"target": target, "starts": draws(plain, 4, seed=4), "search": LBFGS(steps=40), "seed": 0}
    exact, result = lo.optimize(plain, **options), lo.optimize(fast, **options)
    assert result.latents.dtype == torch.float32
    assert any("precision='bfloat16' moves designs" in note for note in result.notes)
    start = float((plain.decode(draws(plain, 4, seed=4)) - target).square().flatten(1).mean(1).amin())
    found = float((plain.decode(result.latents) - target).square().flatten(1).mean(1).amin())
    assert float(exact.losses.amin()) < found + 1e-5
    assert found < 0.1 * start


@pytest.mark.parametrize("options", HALF, ids=str)
@pytest.mark.parametrize("solver", ["dense", "krylov"])
def test_levenberg_marquardt_runs_in_bfloat16(options, solver):
    fast = make(**options)
    target = fast.decode(draws(fast, 1, seed=3))
    z = draws(fast, 4, seed=4)
    result = lo.optimize(fast, target=target, starts=z, search=LevenbergMarquardt(steps=15, solver=solver), seed=0)
    start = float((fast.decode(z) - target).square().flatten(1).mean(1).amin())
    assert float(result.losses.amin()) < 0.1 * start


# ---------------------------------------------------------------------- compilation


def test_a_decoder_that_cannot_be_compiled_runs_as_it_is(monkeypatch):
    def fails(module, **options):
        assert options == {"dynamic": True}
        raise RuntimeError("no working C++ compiler")

    monkeypatch.setattr(torch, "compile", fails)
    plain, fast = make(), make(compile=True)
    assert says(fast, "compile=True was left out: decoder 'd' cannot be compiled (no working C++ compiler)")
    assert torch.equal(fast.decode(draws(plain)), plain.decode(draws(plain)))


def test_a_compiler_that_fails_in_the_backward_pass_is_left_out(monkeypatch):
    class Breaks(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 1

        @staticmethod
        def backward(ctx, g):
            raise RuntimeError("backward graph")

    monkeypatch.setattr(torch, "compile", lambda module, **options: lambda z: Breaks.apply(module(z)))
    fast = make(compile=True)
    assert says(fast, "cannot be compiled (backward graph)")
    assert fast.probe.differentiable


def test_compiled_comes_within_autocast_and_after_folding(monkeypatch):
    seen = []

    def spied(module, **options):
        def run(z):
            seen.append((torch.is_autocast_enabled("cpu"), type(module.up_norm)))
            return module(z)

        return run

    monkeypatch.setattr(torch, "compile", spied)
    fast = make(compile=True, precision="bfloat16", fold_batch_norm=True)
    assert set(seen) == {(True, nn.Identity)}
    assert says(fast, "compiled decoder 'd' in 0 s, which pays in long runs only (docs/performance.md)")


def test_the_compiler_is_not_imported_unless_asked():
    code = (
        "import sys, torch, latentopt as lo\n"
        "before = 'torch._dynamo' in sys.modules\n"
        "lo.Decoder(torch.nn.Linear(2, 3), 2, prior='normal', precision='bfloat16', channels_last=True)\n"
        "print(before, 'torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-2:] == ["False", "False"]


def test_a_compiled_decoder_keeps_its_buffers_while_it_runs(monkeypatch):
    config = importlib.import_module("torch._functorch.config")
    seen = []
    monkeypatch.setattr(
        torch, "compile", lambda module, **options: lambda z: seen.append(config.donated_buffer) or module(z)
    )
    before = config.donated_buffer
    make(compile=True)
    assert set(seen) == {False}
    assert config.donated_buffer == before


# ---------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("module", "options", "text"),
    [
        (None, {"precision": "half"}, "precision must be 'float32' or 'bfloat16', got 'half'"),
        (None, {"channels_last": 1}, "channels_last must be True or False, got 1"),
        (None, {"compile": "yes"}, "compile must be True or False, got 'yes'"),
        (
            ToyNet(6, (3,)).double(),
            {"precision": "bfloat16"},
            "precision='bfloat16' is for decoders in float32, and 'd' is in torch.float64 on cpu: "
            r"convert it with .float\(\), or leave precision= out",
        ),
        (
            lambda z: z * 2,
            {"channels_last": True},
            "channels_last=True changes the layers of a copy, and decoder 'd' is a function: give an nn.Module or a method",
        ),
        (lambda z: z * 2, {"fold_batch_norm": True}, "fold_batch_norm=True changes the layers of a copy"),
    ],
)
def test_options_that_do_not_fit_are_refused(module, options, text):
    with pytest.raises(lo.ConfigError, match=text):
        make(module, **options)


def test_bfloat16_where_autocast_is_missing(monkeypatch):
    monkeypatch.setattr(torch.amp, "is_autocast_available", lambda kind: False)
    with pytest.raises(lo.ConfigError, match=r"precision='bfloat16' is not available on cpu \(torch.autocast\): leave"):
        make(precision="bfloat16")


def test_a_module_that_cannot_be_copied():
    class Unique(ToyNet):
        def __deepcopy__(self, memo):
            raise RuntimeError("only one")

    for options in ({"fold_batch_norm": True}, {"channels_last": True}):
        with pytest.raises(
            lo.ConfigError, match=r"decoder 'd' cannot be copied \(only one\), as channels_last= and fold"
        ):
            make(Unique(6, (3,)), **options)
    assert make(Unique(6, (3,)), precision="bfloat16").compute_dtype == torch.bfloat16


def test_a_module_that_fails_in_bfloat16():
    class Picky(ToyNet):
        def forward(self, z):
            x = super().forward(z)
            if (z @ z.T).dtype == torch.bfloat16:
                raise RuntimeError("no kernel for bfloat16")
            return x

    with pytest.raises(
        lo.ConfigError, match=r"decoder 'd' fails with precision='bfloat16' \(no kernel for bfloat16\): leave"
    ):
        make(Picky(6, (3,)), precision="bfloat16")


def test_a_module_without_a_gradient_in_bfloat16():
    class Steps(ToyNet):
        def forward(self, z):
            x = super().forward(z)
            return x if (z @ z.T).dtype == torch.float32 else x * 0 + x.detach()

    text = r"decoder 'd' works, but not with precision='bfloat16' \(the gradient of its output .* is zero\): leave that out"
    with pytest.raises(lo.ConfigError, match=text):
        make(Steps(6, (3,)), precision="bfloat16")


# ---------------------------------------------------------------------- configs


def test_the_module_config_has_the_same_options():
    options = {"precision": "bfloat16", "channels_last": True, "fold_batch_norm": True}
    config = ModuleDecoder(factory=f"{__name__}:Conv", latent_shape=(6,), prior="normal", **options)
    assert ModuleDecoder.model_validate(config.model_dump(mode="json")) == config
    assert (config.compile, ModuleDecoder(factory="a:b", latent_shape=(1,)).precision) == (False, "float32")
    built = config.build()
    assert built.speedups == speedups.Speedups(**options)
    assert built.compute_dtype == torch.bfloat16
    assert says(built, "folded 3 of 3 batch norms")


def test_a_module_config_refuses_other_precisions():
    with pytest.raises(lo.ConfigError, match="precision"):
        lo.load_decoder({"kind": "module", "factory": "a:b", "latent_shape": [1], "precision": "float16"})
