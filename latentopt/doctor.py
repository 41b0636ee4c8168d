"""`latentopt doctor`: versions, devices, plugins and known clashes. Never stops at the first thing that is broken."""

from __future__ import annotations

import importlib
import os
import platform
import re
import sys
import traceback
from dataclasses import dataclass
from importlib import metadata
from typing import Any, Literal

# Why some of the least versions are what they are; all of them are read from latentopt's own metadata.
WHY = {
    "torch": "older ones can be corrupted by a hostile weights file (CVE-2026-24747)",
    "pillow": "older ones can be filled by a hostile picture (CVE-2026-40192)",
}


@dataclass(frozen=True)
class Finding:
    """One line of the examination. `fix` says what to do, `trace` shows where a failing plugin fails."""

    name: str
    status: Literal["ok", "note", "broken"]
    text: str
    fix: str = ""
    trace: str = ""


def examine() -> list[Finding]:
    """Everything that can be found out about this installation, in a fixed order."""
    from latentopt import __version__

    found = [
        Finding("python", "ok", f"{platform.python_version()} ({sys.executable}) on {platform.platform()}"),
        Finding("latentopt", "ok", __version__),
    ]
    found += [version_finding(name, _version(name), least) for name, least in requirements().items()]
    found += _torch_findings()
    found += _plugin_findings()
    return found


def healthy(findings: list[Finding]) -> bool:
    """Whether nothing is broken."""
    return all(finding.status != "broken" for finding in findings)


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def requirements() -> dict[str, str]:
    """What latentopt needs, by distribution, and the least version of each, from the metadata that pip reads too."""
    try:
        wanted = metadata.requires("latentopt") or []
    except metadata.PackageNotFoundError:  # run from its source folder, not installed
        wanted = []
    matches = [re.match(r"([\w.-]+)>=([\d.]+)$", line) for line in wanted if "extra" not in line]
    return {match[1]: match[2] for match in matches if match}


def version_finding(name: str, version: str | None, least: str) -> Finding:
    """Whether a distribution is there and new enough."""
    wanted = f"pip install '{name}>={least}'"
    if version is None:
        return Finding(name, "broken", "not installed", wanted)
    if _numbers(version) < _numbers(least):
        why = f": {WHY[name]}" if name in WHY else ""
        return Finding(name, "broken", f"{version}, needs {least} or newer{why}", wanted)
    return Finding(name, "ok", version)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0])[:3])


# ---------------------------------------------------------------------- torch


def _torch_findings() -> list[Finding]:
    try:
        torch: Any = importlib.import_module("torch")
    except (ImportError, OSError) as error:  # a missing library of a build for other hardware is an OSError
        fix = "reinstall it for this machine: https://pytorch.org/get-started/locally"
        return [Finding("torch", "broken", f"cannot be imported ({type(error).__name__}: {error})", fix)]
    cuda = torch.version.cuda
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if cuda else []
    build = f"built for CUDA {cuda}" if cuda else f"built for ROCm {torch.version.hip}" if torch.version.hip else "CPU"
    devices = ", ".join(names) if names else "no CUDA device"
    found = [Finding("devices", "ok", f"{build}; {devices}; {torch.get_num_threads()} threads")]
    if cuda and not names:
        found.append(Finding("CUDA", "note", "torch is built for CUDA, but no device answers", "runs go to the CPU"))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    clashes = (
        torchvision_clash(cuda or torch.version.hip, _version("torchvision"), sys.platform),
        threads_clash(torch.get_num_threads(), cores),
    )
    return found + [clash for clash in clashes if clash is not None]


def torchvision_clash(accelerator: str | None, torchvision: str | None, system: str) -> Finding | None:
    """torchvision of another build than torch fails at import, and with it everything that imports it.

    Told by version tags, without importing: `+cu130` and `+rocm7` name a build; on Linux the package index gives an
    untagged build for CUDA.
    """
    if torchvision is None:
        return None
    tag = torchvision.partition("+")[2] or ("cu" if system == "linux" else "cpu")
    built = "CPU" if tag.startswith("cpu") else "CUDA"
    has = "CUDA" if accelerator else "CPU"
    if built == has:
        return None
    fix = "pip uninstall torchvision (latentopt does not need it)"
    return Finding("torchvision", "broken", f"{torchvision} is built for {built}, but torch is {has}", fix)


def threads_clash(threads: int, cores: int) -> Finding | None:
    """More threads than cores wait for each other."""
    if threads <= cores:
        return None
    return Finding("threads", "note", f"torch runs {threads} threads on {cores} cores", f"set OMP_NUM_THREADS={cores}")


# ---------------------------------------------------------------------- plugins


def _plugin_findings() -> list[Finding]:
    from latentopt.errors import PluginError

    try:
        registry: Any = importlib.import_module("latentopt.registry")
    except ImportError as error:
        trace = "".join(traceback.format_exception(error))
        return [Finding("plugins", "broken", f"cannot be loaded ({error})", "mend what is named above first", trace)]
    try:
        plugins = registry.load(strict=False).plugins
    except PluginError as error:  # LATENTOPT_PLUGINS names what is not installed
        return [Finding("plugins", "broken", str(error), "set or unset LATENTOPT_PLUGINS")]
    found = []
    for plugin in plugins:
        about = f"plugin {plugin.name}"
        if plugin.error:
            fix = f"pip install --upgrade {plugin.distribution}, or pip uninstall {plugin.distribution}"
            found.append(Finding(about, "broken", plugin.error, fix, plugin.trace))
        else:
            kinds = sum(len(names) for names in plugin.kinds.values())
            found.append(Finding(about, "ok", f"{plugin.distribution} {plugin.version}, {kinds} kinds"))
    if not plugins:
        fix = "reinstall latentopt, and unset LATENTOPT_PLUGINS"
        found.append(Finding("plugins", "broken", "none is installed, not even the built-ins", fix))
    return found
