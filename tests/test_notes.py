"""What objectives have to say of their numbers: planned, kept, resumed and shown with the result."""

import json
from typing import Literal

import pytest
import torch
from kept_runs import KilledError

import latentopt as lo
from latentopt import checkpoints, runfolder
from latentopt.config import make_config
from latentopt.contest import compare_with
from latentopt.execute import execute
from latentopt.terminal import Screen
from latentopt.testing import ObjectiveConformance, toy_decoders

OPINION = "'ink' is an opinion, <b>not</b> a measurement"


class Ink:
    notes = (OPINION,)

    def __call__(self, c):
        return c.designs.flatten(1).mean(1)


class Inked(lo.ObjectiveConfig):
    kind: Literal["inked"] = "inked"

    def build(self, decoder):
        built = Ink()
        built.notes = [OPINION, f"it sees {decoder.design_shape[-1]} columns"]
        return built


class TestInked(ObjectiveConformance):
    config = Inked()


def search(**more):
    fast = {"starts": ["mean"], "search": {"kind": "adam", "steps": 4}, "objectives": [Ink()], "seed": 0}
    return lo.optimize(toy_decoders()["image"], **{**fast, **more})


def test_a_result_has_each_note_once_whichever_term_says_it():
    limit = Inked(goal={"at_most": 1.0})
    assert search().notes == [OPINION]
    assert search(objectives=[Ink(), Inked()], constraints=[limit]).notes == [OPINION, "it sees 8 columns"]
    assert search(objectives=["prior"], constraints=[limit]).notes == [OPINION, "it sees 8 columns"]
    assert search(objectives=["prior"], measures=[Ink()]).notes == [OPINION]
    assert search(objectives=["prior"]).notes == []


def test_notes_stand_before_how_the_search_was_chosen():
    chosen = search(search=None, budget={"rows": 60}).notes
    assert chosen[0] == OPINION
    assert chosen[1].startswith("auto chose")


def test_a_note_may_come_of_the_first_call():
    class Late:
        def __init__(self):
            self.notes = []

        def __call__(self, c):
            self.notes = [f"designs are {tuple(c.designs.shape[1:])}"]
            return c.designs.flatten(1).mean(1)

    assert search(objectives=[Late()]).notes == ["designs are (1, 8, 8)"]


@pytest.mark.parametrize("wrong", ["one sentence", 3, ["fine", 3], [""], {"a": "b"}])
def test_notes_that_are_no_list_of_sentences_are_refused(wrong):
    objective = Ink()
    objective.notes = wrong
    text = r"the notes of objective 'callable' are .*, expected a list of sentences: write them as \[\"\.\.\.\"\]"
    with pytest.raises(lo.ConfigError, match=text):
        search(objectives=[objective])


class Solved:
    """A solver that gives up on dark designs, from some call on."""

    nan_means = "not solved within 9 iterations; raise iterations"

    def __init__(self, level, calls=0):
        self.level, self.calls = level, calls

    def __call__(self, c):
        self.calls -= 1
        value = c.designs.flatten(1).mean(1)
        return torch.where(value < self.level, torch.nan, value) if self.calls < 0 else value


def test_errors_and_notes_say_what_a_nan_means():
    with pytest.raises(lo.ObjectiveError, match=f"nan for every draw from the prior: {Solved.nan_means}"):
        search(objectives=[Solved(2.0)])
    with pytest.raises(lo.DivergedError, match=f"at step 1 of 'adam'; {Solved.nan_means}"):
        search(objectives=[Solved(2.0, calls=1)])
    starts = {"kind": "prior", "n": 16}
    found = search(objectives=[Solved(0.5)], starts=[starts])
    lost = f"were dropped; a NaN of 'callable' means: {Solved.nan_means}"
    assert [note.endswith(lost) for note in found.notes] == [True]
    wrong = Solved(2.0)
    wrong.nan_means = ["no text"]
    with pytest.raises(lo.ConfigError, match="nan_means of objective 'callable' is"):
        search(objectives=[wrong])


def test_notes_are_kept_and_shown(tmp_path):
    found = search(out=tmp_path / "run")
    assert lo.load(tmp_path / "run").notes == [OPINION]
    assert json.loads((tmp_path / "run" / "run.json").read_text())["notes"] == [OPINION]
    page = lo.report(found)
    assert page.count("an opinion, &lt;b&gt;not&lt;/b&gt; a measurement") == 1
    assert "<b>not</b>" not in page
    places = [page.index(f'id="{name}"') for name in ("answer", "notes", "gallery")]
    assert places == sorted(places), "beside the answer that they are about"
    assert 'id="notes"' not in lo.report(search(objectives=["prior"]))


def test_a_resumed_run_has_the_notes_that_it_began_with(tmp_path, monkeypatch, every_step):
    def killed(self, state, save=checkpoints.Checkpoints.save):
        save(self, state)
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.Checkpoints, "save", killed)
        patch.setattr(runfolder.RunFolder, "fail", lambda self, error: None)
        with pytest.raises(KilledError):
            search(out=tmp_path / "run")
    found = lo.resume(tmp_path / "run", decoder=toy_decoders()["image"], objectives=[Ink()])
    assert found.notes == [OPINION]
    assert lo.load(tmp_path / "run").notes == [OPINION]


def config(**more):
    fast = {"starts": ["mean"], "search": {"kind": "adam", "steps": 2}, "objectives": [Ink()]}
    return make_config({"decoder": "digits", "task": {"kind": "optimize", **fast, **more}})


def test_a_comparison_says_them_once():
    found = compare_with(config(), lo.load_decoder("digits"), ["adam", "random"], seeds=1, rows=30)
    assert [note for note in found.notes if "opinion" in note] == [OPINION]


@pytest.mark.parametrize("dry_run", [True, False])
def test_the_command_line_says_them_before_a_run_and_after(dry_run, capsys):
    screen = Screen(as_json=False, progress="none")
    code = execute(config(measures=[Ink()]), screen, out=None, print_config=False, dry_run=dry_run)
    assert code == 0
    said = " ".join(capsys.readouterr().out.split())
    assert said.count(f"note {OPINION}") == 1
