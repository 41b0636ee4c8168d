"""Searches without gradients: cmaes beside Optuna's own loop, many latents, many targets, and what recording costs."""

from __future__ import annotations

import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import optuna
import torch
from torch import Tensor, nn

import latentopt as lo
from benchmarks.common import cpu_seconds, plain_decoder, side_by_side, table, write_section
from latentopt_std import CMAES, OptunaSearch, RandomSearch
from latentopt_std.recording import Writer

SPAN = 3.0  # both search this many standard deviations of the prior to each side


def stock_loop(net: nn.Module, target: Tensor, dim: int, evaluations: int, seed: int, **options: object) -> float:
    """What everyone writes: `study.optimize` with `CmaEsSampler`, one design decoded at a time. Returns the least loss."""

    def objective(trial: optuna.Trial) -> float:
        z = torch.tensor([[trial.suggest_float(f"z{i}", -SPAN, SPAN) for i in range(dim)]], dtype=torch.float32)
        with torch.no_grad():
            return float(nn.functional.mse_loss(net(z)[0], target))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # separable: experimental
        sampler = optuna.samplers.CmaEsSampler(seed=seed, **options)
        study = optuna.create_study(sampler=sampler)
        study.optimize(objective, n_trials=evaluations)
    return float(study.best_value)


def timed(work: Callable[[], float], losses: list[float]) -> float:
    """CPU seconds; the loss goes into the list."""
    return cpu_seconds(lambda: losses.append(work()))


def against_optuna() -> None:
    """20 latent values: 2000 evaluations a target from the prior's mean, one target at a time, as a whole run."""
    digits = lo.load_decoder("digits")
    plain = lo.Decoder(plain_decoder(), latent_shape=(20,), prior="normal")
    targets = lo.examples.digits()[:10]
    rows = []
    for name, decoder in (("20-128-784, untrained", plain), ("20-256-512-784, digits", digits)):
        shaped = targets.reshape(10, *decoder.design_shape)
        ours, stock, times = list[float](), list[float](), list[tuple[float, float]]()
        search = CMAES(evaluations=2000)
        for seed, target in enumerate(shaped):
            a = timed(lambda t=target, s=seed, d=decoder: stock_loop(d.module, t, 20, 2000, s), stock)
            b = timed(
                lambda t=target, s=seed, d=decoder, one=search: float(
                    lo.optimize(d, target=t, starts="mean", search=one, seed=s).losses[0]
                ),
                ours,
            )
            times.append((a, b))
        slow, fast = (statistics.median(one) for one in zip(*times, strict=True))
        ratios = [a / b for a, b in times]
        rows.append(
            (
                name,
                f"{2000 / slow:.0f}",
                f"{2000 / fast:.0f}",
                f"{statistics.median(ratios):.0f}x",
                f"{statistics.median(x / y for x, y in zip(ours, stock, strict=True)):.3f}",
                f"{sum(ours) / sum(stock):.3f}",
            )
        )
    header = [
        "decoder",
        "Optuna, evaluations a CPU second",
        "cmaes",
        "faster",
        "loss over Optuna's, median",
        "of the means",
    ]
    write_section("cmaes against optuna", table(header, rows))


def many_latents(evaluations: int = 500) -> None:
    """512 latent values, separable both."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(512, 128), nn.ReLU(), nn.Linear(128, 784), nn.Sigmoid())
    decoder = lo.Decoder(net, latent_shape=(512,), prior="normal")
    targets = lo.examples.digits()[:3].reshape(3, 784)
    ours, stock, times = list[float](), list[float](), list[tuple[float, float]]()
    for seed, target in enumerate(targets):
        a = timed(lambda t=target, s=seed: stock_loop(net, t, 512, evaluations, s, use_separable_cma=True), stock)
        search = CMAES(evaluations=evaluations)
        b = timed(
            lambda t=target, s=seed, one=search: float(
                lo.optimize(decoder, target=t, starts="mean", search=one, seed=s).losses[0]
            ),
            ours,
        )
        times.append((a, b))
    slow, fast = (statistics.median(one) for one in zip(*times, strict=True))
    row = (
        evaluations,
        f"{1e3 * slow / evaluations:.1f} ms",
        f"{1e3 * fast / evaluations:.3f} ms",
        f"{statistics.median(a / b for a, b in times):.0f}x",
        f"{statistics.median(x / y for x, y in zip(ours, stock, strict=True)):.3f}",
    )
    header = ["evaluations", "Optuna, separable, CPU an evaluation", "cmaes", "faster", "loss over Optuna's, median"]
    write_section("512 latents", table(header, [row]))


def many_targets(evaluations: int = 2000) -> None:
    """16 targets at once: the whole run over decoding and judging as many rows in the same batches."""
    rows = []
    plain = lo.Decoder(plain_decoder(), latent_shape=(20,), prior="normal")
    decoders = (("20-128-784, untrained", plain), ("20-256-512-784, digits", lo.load_decoder("digits")))
    for name, decoder in decoders:
        targets = lo.examples.digits()[:16].reshape(16, *decoder.design_shape)
        search = CMAES(evaluations=evaluations)
        batch = search.build(decoder).batch  # type: ignore[attr-defined]
        z_ND = decoder.space.draw(16 * batch, torch.Generator().manual_seed(0))
        target_N = torch.arange(16).repeat_interleave(batch)
        problem = _problem(decoder, targets)

        def only_decode(
            problem: lo.Problem = problem, z_ND: Tensor = z_ND, target_N: Tensor = target_N, batch: int = batch
        ) -> None:
            with problem.decoder.frozen():
                for _ in range(evaluations // batch):
                    problem.value(z_ND, target_N)

        def whole_run(decoder: lo.Decoder = decoder, targets: Tensor = targets, search: CMAES = search) -> None:
            lo.optimize(decoder, target=targets, starts="mean", search=search, seed=0)

        taken = side_by_side({"decode": only_decode, "run": whole_run})
        each = 16 * (evaluations // batch) * batch
        rows.append(
            (
                name,
                f"{1e6 * taken['decode'] / each:.1f}",
                f"{1e6 * taken['run'] / each:.1f}",
                f"{taken['decode'] / taken['run']:.2f}",
            )
        )
    header = ["decoder", "decode and judge, us a row", "the whole run, us a row", "share of the decode-only rate"]
    write_section("16 targets", table(header, rows))


def _problem(decoder: lo.Decoder, targets: Tensor) -> lo.Problem:
    from latentopt.terms import build_terms
    from latentopt_std import MSE

    region = lo.Ball(percentile=99).resolve(decoder.space)
    return lo.Problem(decoder, build_terms([MSE().with_target(targets)], decoder), region=region, targets=len(targets))


def recording(trials: int = 2000) -> None:
    """What a recorded candidate costs, beside the same run unrecorded; and Optuna's own writing, trial by trial."""
    rows = []
    for dim in (20, 512):
        net = nn.Sequential(nn.Linear(dim, 16), nn.Tanh(), nn.Linear(16, 8))
        decoder = lo.Decoder(net, latent_shape=(dim,), prior="normal")
        target = torch.zeros(8)
        found: dict[str, list[tuple[float, float]]] = {"with": [], "without": []}
        for repeat in range(5):
            with tempfile.TemporaryDirectory() as folder:
                for name, record in (("without", None), ("with", str(Path(folder) / "runs.db"))):
                    search = RandomSearch(evaluations=trials, record=record)
                    cpu, wall = time.process_time(), time.perf_counter()
                    lo.optimize(decoder, target=target, starts="mean", search=search, seed=repeat)
                    found[name].append((time.process_time() - cpu, time.perf_counter() - wall))
        cpu, wall = (
            statistics.median(b[i] - a[i] for a, b in zip(found["without"], found["with"], strict=True)) for i in (0, 1)
        )
        own_cpu, own_wall = optunas_own(200)
        rows.append(
            (
                dim,
                f"{1e3 * cpu / trials:.2f} ms",
                f"{1e3 * wall / trials:.2f} ms",
                f"{1e3 * own_cpu:.1f} ms",
                f"{1e3 * own_wall:.1f} ms",
            )
        )
    header = ["latent values", "recorded, CPU a candidate", "wall time", "`study.add_trials`, CPU a trial", "wall time"]
    write_section("recording", "SQLite, opening the database included.\n\n" + table(header, rows))


def optunas_own(count: int) -> tuple[float, float]:
    """CPU and wall seconds a trial of the same trials by Optuna's own `add_trials`."""
    with tempfile.TemporaryDirectory() as folder:
        storage = optuna.storages.RDBStorage(f"sqlite:///{folder}/runs.db")
        study = optuna.create_study(storage=storage)
        writer = Writer(study, storage)
        shown = {f"u{i}": optuna.distributions.FloatDistribution(-5, 5) for i in range(9)}
        for row in range(count):
            attributes = {"row": row, "target": 0, "step": 1, "seed": 0, "stage": 0}
            writer.put(dict.fromkeys(shown, 0.5), shown, [1.0], attributes, None)
        cpu, wall = time.process_time(), time.perf_counter()
        study.add_trials(writer.waiting)
        spent = (time.process_time() - cpu) / count, (time.perf_counter() - wall) / count
        storage.remove_session()
        storage.engine.dispose()
    return spent


def samplers(targets: int = 8) -> None:
    """Losses over the best known after few evaluations, on digits: from encoded starts, and from screened draws."""
    decoder = lo.load_decoder("digits")
    wanted = lo.examples.digits()[:targets]
    best = lo.optimize(decoder, target=wanted, search="adam", seed=3).best.loss
    screened: Sequence[object] = [{"kind": "normal", "n": 8, "screened_from": 512}]
    rows = []
    searches: list[tuple[str, object]] = [
        ("cmaes, 200", CMAES(evaluations=200)),
        ("optuna cmaes (auto), 200", OptunaSearch(evaluations=200)),
        ("optuna tpe, 200", OptunaSearch(sampler="tpe", evaluations=200)),
        ("optuna nsgaii, 200", OptunaSearch(sampler="nsgaii", evaluations=200)),
        ("optuna gp, 80", OptunaSearch(sampler="gp", evaluations=80)),
        ("random, 200", RandomSearch(evaluations=200)),
        ("cmaes, 1000", CMAES(evaluations=1000)),
        ("optuna cmaes (auto), 1000", OptunaSearch(evaluations=1000)),
    ]
    for name, search in searches:
        cells, spent = [], 0.0
        for starts in (None, screened):
            result: list[lo.Result] = []
            spent += cpu_seconds(
                lambda search=search, starts=starts, result=result: result.append(
                    lo.optimize(decoder, target=wanted, search=search, starts=starts, seed=1)
                )
            )
            first = torch.tensor(result[0].history[0]["best_T"])
            cells += [f"{float((first / best).median()):.2f}", f"{float((result[0].best.loss / best).median()):.2f}"]
        evaluations = int(name.split(", ")[1])
        rows.append((name, *cells, f"{1e3 * spent / (2 * targets * evaluations):.2f} ms"))
    header = ["search, evaluations", "default starts: at first", "in the end", "screened draws: at first", "in the end",
              "CPU an evaluation"]  # fmt: skip
    write_section("samplers", f"{targets} held-out digits, median loss over the best known.\n\n{table(header, rows)}")


def main() -> None:
    """Measure all and write the sections."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    against_optuna()
    many_latents()
    many_targets()
    recording()
    samplers()
