"""The floors: who may import whom, and what must not be imported at all. Rules that matter are tests."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import latentopt

ROOT = Path(__file__).parents[1]
CORE = ROOT / "latentopt"

# A file imports only from its floor and those below (docs/architecture.md), and never in a circle.
FLOORS = {
    0: [
        "errors",
        "store",
        "trust",
        "shipped",
        "pngtext",
        "runlist",
        "interrupts",
        "rng",
        "wording",
        "yamltext",
        "settings",
        "models",
        "arrays",
        "shaping",
        "weights",
        "packagedata",
        "arrayfield",
        "filefield",
        "plotbox",
        "coderef",
        "goals",
        "priors",
        "gaussians",
        "latent",
        "projection",
        "regions",
    ],
    1: ["modules", "outputs", "memory", "fitting", "probing", "speedups", "decoder"],
    2: ["interfaces", "called", "steering", "tangents", "terms"],
    3: ["linearize", "problem", "early", "hookspecs", "paths", "starts", "realism", "examination"],
    4: [
        "driver",
        "stagerun",
        "ranking",
        "archive",
        "guidance",
        "budget",
        "trail",
        "packing",
        "checkpoints",
        "registry",
        "asktell",
        "optimizers",
        "auto",
    ],
    5: ["config", "result", "known", "runfolder", "thumbnails", "cards", "maps", "termcurves", "origin"],
    6: [
        "planning",
        "rehearsal",
        "starter",
        "scaffold",
        "runtext",
        "api",
        "sizing",
        "contest",
        "comparison",
        "testing",
        "diagnosis",
        "charts",
        "curves",
        "pictures",
        "plots",
        "reporting",
        "reportcharts",
        "knownsection",
        "picturesection",
        "progress",
        "tracking",
        "animation",
        "terminal",
        "options",
        "execute",
        "reproduction",
        "runcommands",
        "doctor",
        "demo",
    ],
    7: ["cli"],
}
FLOOR = {name: floor for floor, names in FLOORS.items() for name in names}


def imports_of(path: Path) -> set[str]:
    """Modules imported anywhere in a file, but for those under TYPE_CHECKING."""
    tree = ast.parse(path.read_text())
    skipped = {
        node
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and "TYPE_CHECKING" in ast.dump(branch.test)
        for child in branch.body
        for node in ast.walk(child)
    }
    found = set()
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def core_imports(path: Path) -> set[str]:
    """The core's own modules that a file of the core imports."""
    names = {name.split(".")[1] for name in imports_of(path) if name.startswith("latentopt.")}
    return names & set(FLOOR)


def test_every_file_of_the_core_has_a_floor():
    files = {path.stem for path in CORE.glob("*.py")} - {"__init__"}
    assert files == set(FLOOR)


@pytest.mark.parametrize("name", sorted(FLOOR))
def test_a_file_imports_only_from_its_floor_and_below(name):
    for other in core_imports(CORE / f"{name}.py") - {name}:
        assert FLOOR[other] <= FLOOR[name], f"{name} (floor {FLOOR[name]}) imports {other} (floor {FLOOR[other]})"


def test_the_core_has_no_import_cycles():
    graph = {name: core_imports(CORE / f"{name}.py") - {name} for name in FLOOR}
    done: set[str] = set()
    while len(done) < len(graph):
        free = [name for name in graph if name not in done and graph[name] <= done]
        assert free, f"a cycle among {sorted(set(graph) - done)}"
        done |= set(free)


@pytest.mark.parametrize("path", sorted(CORE.glob("*.py")), ids=lambda p: p.stem)
def test_the_core_imports_no_plugin_and_no_optuna(path):
    found = imports_of(path)
    assert not any(
        name.split(".")[0] in ("latentopt_std", "optuna", "cmaes", "kornia", "torchvision") for name in found
    )


@pytest.mark.parametrize("path", sorted((ROOT / "plugins" / "latentopt_std").glob("*.py")), ids=lambda p: p.stem)
def test_the_built_ins_use_public_names_only(path):
    for name in imports_of(path):
        if name.startswith("latentopt."):
            assert name.removeprefix("latentopt.") in latentopt.__all__, f"{path.name} imports {name}"


@pytest.mark.parametrize("path", sorted([*CORE.glob("*.py"), *(ROOT / "plugins").rglob("*.py")]), ids=lambda p: p.stem)
def test_nothing_unpickles_or_uses_global_random_state(path):
    tree = ast.parse(path.read_text())
    found = imports_of(path)
    assert not {"pickle", "cloudpickle", "dill", "joblib", "random"} & {name.split(".")[0] for name in found}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
            keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            assert keywords.get("weights_only") == "True", f"{path.name}: torch.load without weights_only=True"
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in ("torch.manual_seed", "np.random.seed", "random.seed"), f"{path.name} calls {called}"
            assert called not in ("eval", "exec"), f"{path.name} calls {called}"


def test_only_the_planning_names_plugins_by_kind():
    kinds = {"adam", "lbfgs", "levenberg_marquardt", "langevin", "optuna", "cmaes", "mse", "slerp"}
    for path in CORE.glob("*.py"):
        if path.stem in (
            "planning",
            "auto",
            "demo",
            "testing",
            "diagnosis",
            "doctor",
            "runfolder",
        ):  # advice, and versions of distributions
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert node.value not in kinds, f"{path.name} names the plugin {node.value!r}"


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_importing_latentopt_imports_neither_torch_nor_a_plugin():
    code = "import sys, latentopt; print([m for m in ('torch', 'optuna', 'pydantic', 'latentopt_std') if m in sys.modules])"
    assert run_python(code) == "[]"


def test_loading_the_plugins_does_not_import_optuna():
    code = "import sys, latentopt.registry as r; r.installed(); print('optuna' in sys.modules, 'kornia' in sys.modules)"
    assert run_python(code) == "False False"


def test_every_public_name_is_there():
    for name in latentopt.__all__:
        assert getattr(latentopt, name) is not None
    assert set(dir(latentopt)) >= set(latentopt.__all__)
    with pytest.raises(AttributeError, match="no attribute 'optimise'"):
        latentopt.optimise  # noqa: B018
