"""The registry: what plugins may do wrong, each with an error that names plugin, version and remedy."""

import types
from typing import Literal

import pytest

import latentopt as lo
from latentopt import registry
from latentopt.interfaces import SLOTS
from latentopt.registry import PluginInfo, Registry


def plugin(**hooks):
    module = types.ModuleType("made")
    for name, function in hooks.items():
        setattr(module, name, lo.hookimpl(function))
    return module


def info(name="made", distribution="made-dist"):
    return PluginInfo(name, "made", distribution, "1.2")


class Mine(lo.ObjectiveConfig):
    kind: Literal["mine"] = "mine"

    def build(self, decoder):
        return lambda c: c.latents.sum(1)


class NoKind(lo.ObjectiveConfig):
    def build(self, decoder):
        return lambda c: c.latents.sum(1)


class NoBuild(lo.ObjectiveConfig):
    kind: Literal["no_build"] = "no_build"


def test_a_plugin_adds_its_kinds():
    found = Registry()
    found.add(info(), plugin(latentopt_register_objectives=lambda: [Mine]))
    assert found.get("objectives", "mine") is Mine
    assert found.plugins[0].kinds == {"objectives": ("mine",)}


@pytest.mark.parametrize(
    ("hooks", "text"),
    [
        ({"latentopt_register_objectives": lambda: [NoKind]}, "which has no kind: add a field such as kind"),
        ({"latentopt_register_objectives": lambda: [NoBuild]}, "which has no build method"),
        ({"latentopt_register_searches": lambda: [Mine]}, "expected a subclass of SearchConfig"),
        ({"latentopt_register_objectives": lambda: [Mine()]}, "expected a subclass of ObjectiveConfig"),
        ({"latentopt_register_objectives": lambda: Mine}, "must return a list of config classes, got"),
        ({"latentopt_register_objectivs": lambda: [Mine]}, "unknown hook 'latentopt_register_objectivs'"),
        ({"latentopt_register_objectives": lambda unknown: [Mine]}, "unknown"),
    ],
)
def test_what_a_plugin_may_not_do(hooks, text):
    found = Registry()
    with pytest.raises(lo.PluginError) as caught:
        found.add(info(), plugin(**hooks))
    assert text in str(caught.value)
    assert "plugin 'made' (made-dist 1.2)" in str(caught.value)
    assert not found.kinds("objectives"), "a plugin that fails adds nothing"


def test_two_owners_of_one_kind_are_an_error_that_names_both():
    found = Registry()
    hooks = plugin(latentopt_register_objectives=lambda: [Mine])
    found.add(info(), hooks)
    with pytest.raises(lo.PluginError, match=r"two plugins claim objectives kind 'mine': made-dist 1.2 and other 1.2"):
        found.add(info("second", "other"), plugin(latentopt_register_objectives=lambda: [Mine]))


def test_unknown_kinds_suggest():
    with pytest.raises(lo.ConfigError, match="unknown search 'adams'; did you mean 'adam'.; installed: adam"):
        registry.installed().get("searches", "adams")


class FakeEntry:
    def __init__(self, name, module):
        self.name, self.value, self._module = name, f"{name}_module", module
        self.dist = types.SimpleNamespace(name=f"dist-{name}", version="0.3")

    def load(self):
        if isinstance(self._module, Exception):
            raise self._module
        return self._module


@pytest.fixture
def entries(monkeypatch):
    found = {
        "good": FakeEntry("good", plugin(latentopt_register_objectives=lambda: [Mine])),
        "bad": FakeEntry("bad", ImportError("no module named 'left_pad'")),
    }
    monkeypatch.setattr(registry.metadata, "entry_points", lambda group: list(found.values()))
    monkeypatch.delenv("LATENTOPT_PLUGINS", raising=False)
    return found


def test_a_plugin_that_fails_to_import_stops_the_load_with_the_remedy(entries):
    with pytest.raises(lo.PluginError) as caught:
        registry.load()
    text = str(caught.value)
    assert "plugin 'bad' (dist-bad 0.3) failed to import (ImportError: no module named 'left_pad')" in text
    assert "LATENTOPT_PLUGINS" in text
    assert "latentopt doctor" in text


def test_doctor_sees_the_trace_and_the_others(entries):
    found = registry.load(strict=False)
    by_name = {plugin.name: plugin for plugin in found.plugins}
    assert "left_pad" in by_name["bad"].trace
    assert by_name["good"].kinds == {"objectives": ("mine",)}


def test_plugins_may_be_selected(entries, monkeypatch):
    monkeypatch.setenv("LATENTOPT_PLUGINS", "good")
    assert [plugin.name for plugin in registry.load().plugins] == ["good"]
    monkeypatch.setenv("LATENTOPT_PLUGINS", "goood")
    with pytest.raises(
        lo.PluginError, match="LATENTOPT_PLUGINS names 'goood', which is not installed; did you mean 'good'"
    ):
        registry.load()


def test_the_built_ins_come_through_the_same_door():
    std = next(plugin for plugin in registry.installed().plugins if plugin.name == "std")
    assert std.module == "latentopt_std"
    assert set(std.kinds) == set(SLOTS)
    for slot in SLOTS:
        for kind, cls in registry.installed().kinds(slot).items():
            assert cls.kind_name() == kind
            assert cls.__doc__, f"{kind} needs a docstring"
