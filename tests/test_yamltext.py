import copy
import json
import math
import os
import stat
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings, strategies as st

from latentopt import yamltext
from latentopt.errors import ConfigError
from latentopt.settings import set_path
from latentopt.wording import suggest
from latentopt.yamltext import load_yaml, parse_value, parse_yaml

LOADERS = [yaml.SafeLoader] + ([yaml.CSafeLoader] if yaml.__with_libyaml__ else [])

RUN = """\
# a run
decoder: {kind: digits}
seed: 0
task:
  kind: optimize
  starts: [encoder, {kind: normal, n: 7}]
  objectives:
    - {kind: mse}
    - kind: ink
      goal: {at_most: 0.2}
  search:
    - adam
    - {kind: lbfgs, lr: 1e-3}
  note: |
    two
    lines
"""


@pytest.fixture(params=LOADERS, ids=lambda loader: loader.__name__)
def loader(request, monkeypatch):
    monkeypatch.setattr(yamltext, "_LOADER", request.param)


def first_line(call, *args):
    with pytest.raises(ConfigError) as caught:
        call(*args)
    return str(caught.value).split("\n")[0]


# --- values


@pytest.mark.usefixtures("loader")
def test_a_run_description_is_read_to_plain_values():
    assert parse_yaml(RUN) == {
        "decoder": {"kind": "digits"},
        "seed": 0,
        "task": {
            "kind": "optimize",
            "starts": ["encoder", {"kind": "normal", "n": 7}],
            "objectives": [{"kind": "mse"}, {"kind": "ink", "goal": {"at_most": 0.2}}],
            "search": ["adam", {"kind": "lbfgs", "lr": 0.001}],
            "note": "two\nlines\n",
        },
    }


SCALARS = [
    *[(text, None) for text in ("null", "Null", "NULL", "~")],
    *[(text, True) for text in ("true", "True", "TRUE")],
    *[(text, False) for text in ("false", "False", "FALSE")],
    *[(text, text) for text in ("yes", "No", "NO", "on", "OFF", "y", "n", "tRUE", "nULL")],
    *[("0", 0), ("-12", -12), ("+3", 3), ("010", 10), ("0o17", 15), ("0x1F", 31)],
    *[(text, text) for text in ("0b11", "0o9", "0xg", "-0x1", "1_000", "12:30:00", "190:20:30", "1.2.3", "²", "١")],
    *[("1e-3", 1e-3), ("1E3", 1000.0), ("1.5", 1.5), ("1.", 1.0), (".5", 0.5), ("-1.e+2", -100.0), ("+0.1", 0.1)],
    *[(".inf", math.inf), ("-.Inf", -math.inf), ("+.INF", math.inf), ("1e999", math.inf)],
    *[
        (text, text)
        for text in ("2024-01-01", "2024-01-01T00:00:00Z", "inf", "nan", "-.nan", "1e", "e3", ".", "=", "<<")
    ],
    *[("'1'", "1"), ('"true"', "true"), ("''", ""), ('"\\u00e9"', "é"), ("'null'", "null"), ("C:\\x", "C:\\x")],
]


@pytest.mark.usefixtures("loader")
@pytest.mark.parametrize(("text", "value"), SCALARS)
def test_scalars_follow_the_core_schema_of_yaml_1_2(text, value):
    for got in (parse_yaml(f"a: {text}")["a"], parse_value(text)):
        assert got == value
        assert type(got) is type(value)


@pytest.mark.parametrize("text", [".nan", ".NaN", ".NAN"])
def test_nan_is_a_float(text):
    assert math.isnan(parse_value(text))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[1, 2]", [1, 2]),
        ("{kind: adam, lr: 0.1}", {"kind": "adam", "lr": 0.1}),
        (" adam ", "adam"),
        ("[]", []),
        ("{}", {}),
        ("'a # b'", "a # b"),
        ("a#b", "a#b"),
        ("{0: 1.5, 12: a}", {"0": 1.5, "12": "a"}),
    ],
)
def test_values_of_set(text, value):
    assert parse_value(text) == value


@pytest.mark.parametrize("text", ["\ufeffa: 1\n", "a: 1\r\n", "a: 1\r", "--- \na: 1\n...\n", "%YAML 1.2\n---\na: 1"])
def test_byte_order_mark_line_ends_and_document_marks_are_no_content(text, tmp_path):
    assert parse_yaml(text) == {"a": 1}
    (tmp_path / "run.yaml").write_bytes(text.encode())
    assert load_yaml(str(tmp_path / "run.yaml")) == {"a": 1}


# --- refusals: each text, the same from both loaders

QUOTE = "quote the text"
KEYS = "keys are texts; for a list of mappings write '- key: value'"
TAB = "a tab in the indentation: YAML indents by spaces; replace each tab by two spaces"
CLOSE = "close it, with ',' between its items"
REFUSED = [
    ("", "r.yaml is empty: write at least 'decoder:' and 'task:'"),
    ("# only a comment\n", "r.yaml is empty: write at least 'decoder:' and 'task:'"),
    ("---\n", "r.yaml is empty: write at least 'decoder:' and 'task:'"),
    ("# x\n- a\n", "r.yaml:2:1: a list at top, expected a mapping: write lines of 'key: value'"),
    ("~", "r.yaml:1:1: a single value at top, expected a mapping: write lines of 'key: value'"),
    ("''", "r.yaml:1:1: a single value at top, expected a mapping: write lines of 'key: value'"),
    ("decoder", "r.yaml:1:1: a single value at top, expected a mapping: write lines of 'key: value'"),
    ("a: 1\n---\nb: 2", "r.yaml:2:1: a second document begins here: keep one, and remove the '---'"),
    ("a: 1\n---\n", "r.yaml:2:1: a second document begins here: keep one, and remove the '---'"),
    ("a: *b", "r.yaml:1:4: the alias '*b' is not read: repeat what it stands for, or quote it"),
    ("*b : 1", "r.yaml:1:1: the alias '*b' is not read: repeat what it stands for, or quote it"),
    ("a: &b 1", "r.yaml:1:4: the anchor '&b' is not read: remove it, or quote the text"),
    ("&b {a: 1}", "r.yaml:1:1: the anchor '&b' is not read: remove it, or quote the text"),
    ("a: !!python/name:os x", "r.yaml:1:4: the tag '!!python/name:os' is not read: remove it, or quote the text"),
    ("a: !!str 5", "r.yaml:1:4: the tag '!!str' is not read: remove it, or quote the text"),
    ("a: !thing [1]", "r.yaml:1:4: the tag '!thing' is not read: remove it, or quote the text"),
    ("a: ! 5", "r.yaml:1:4: the tag '!' is not read: remove it, or quote the text"),
    ("!x a: 1", "r.yaml:1:1: the tag '!x' is not read: remove it, or quote the text"),
    ("a: 1\nb: 2\na: 3", "r.yaml:3:1: the key 'a' is given twice (first in line 1): keep one"),
    ("b: {a: 1, 'a': 2}", "r.yaml:1:11: the key 'a' is given twice (first in line 1): keep one"),
    ("on: 1", "r.yaml:1:1: the key on reads as a boolean, expected a text: quote it: 'on'"),
    ("a: {NO: 1}", "r.yaml:1:5: the key NO reads as a boolean, expected a text: quote it: 'NO'"),
    ("true: 1", "r.yaml:1:1: the key true reads as a boolean, expected a text: quote it: 'true'"),
    ("a:\n  -1: 2", "r.yaml:2:3: the key -1 reads as a number, expected a text: quote it: '-1'"),
    ("010: 2", "r.yaml:1:1: the key 010 reads as a number, expected a text: quote it: '010'"),
    ("{1: a, '1': b}", "r.yaml:1:8: the key '1' is given twice (first in line 1): keep one"),
    ("1e-3: 2", "r.yaml:1:1: the key 1e-3 reads as a number, expected a text: quote it: '1e-3'"),
    (".nan: 2", "r.yaml:1:1: the key .nan reads as a number, expected a text: quote it: '.nan'"),
    ("~: 2", "r.yaml:1:1: the key ~ reads as null, expected a text: quote it: '~'"),
    ("? \n: 2", "r.yaml:1:2: a key is missing before ':': write key: value"),
    ("<<: {a: 1}", "r.yaml:1:1: the merge key '<<' is not read: write the keys out"),
    ("? [a]\n: 1", f"r.yaml:1:3: a list or mapping as a key: {KEYS}"),
    ("a: {{b: 1}: 2}", f"r.yaml:1:5: a list or mapping as a key: {KEYS}"),
    ("a: " + "9" * 101, "r.yaml:1:4: an integer of 101 characters, the limit is 100: shorten it, or quote the text"),
    ('a: "\\0"', "r.yaml:1:4: an escape gives the character U+0000, which is not text: remove it"),
    ("a: \x1b[0m", "r.yaml:1:4: the character U+001B is not text: remove it, or give a YAML text file"),
    ("a:\n  b: \x00", "r.yaml:2:6: the character U+0000 is not text: remove it, or give a YAML text file"),
    ("\ud800: 1", "r.yaml:1:1: the character U+D800 is not text: remove it, or give a YAML text file"),
    ("a:\n\tb: 1", f"r.yaml:2:1: {TAB}"),
    ("a:\n  b: 1\n \tc: 2", f"r.yaml:3:2: {TAB}"),
    ("a: b: c", f"r.yaml:1:5: a ':' is not expected here: {QUOTE}, or correct the indentation"),
    ("a: 1\n  b: 2", f"r.yaml:2:4: a ':' is not expected here: {QUOTE}, or correct the indentation"),
    ("a: 1\nb", "r.yaml:2:2: a key has no ':' after it (begun at line 2, column 1): write key: value"),
    ("a: [1, 2\n\n", f"r.yaml:1:9: a list has no closing ']' (begun at line 1, column 4): {CLOSE}"),
    ("a: {b: 1", f"r.yaml:1:9: a mapping has no closing '}}' (begun at line 1, column 4): {CLOSE}"),
    ("a: 'b", "r.yaml:1:6: a quotation has no end (begun at line 1, column 4): add the closing quote"),
    ("a: @b", f"r.yaml:1:4: a text cannot begin with this character: {QUOTE}"),
    ("a: - 1", f"r.yaml:1:4: a '-' is not expected here: put the list on a new line, or {QUOTE}"),
    ("a: ]", f"r.yaml:1:4: a value is expected here: write one, close the bracket, or {QUOTE}"),
    (
        "a:\n  b: 1\n c: 2",
        "r.yaml:3:2: this does not fit what comes before (begun at line 1, column 1): "
        "indent lines alike, or quote the whole text",
    ),
    ("{a: 1}\nb: 1", "r.yaml:2:1: text outside of the document: indent it, or write key: value"),
]


@pytest.mark.usefixtures("loader")
@pytest.mark.parametrize(("text", "message"), REFUSED)
def test_refusals_say_where_what_and_the_remedy(text, message):
    assert first_line(parse_yaml, text, "r.yaml") == message


BY_LOADER = [
    (
        'a: "\\q"',
        "an unknown escape in a double-quoted text (begun at line 1, column 4): use single quotes, or write \\\\",
    ),
    ("- a\nb: 1", "r.yaml:2:1: this does not fit "),
    ("%YAML 2.0\n---\na: 1", "r.yaml:1:1: not valid YAML (found incompatible YAML document"),
    ("a: |q", "r.yaml:1:5: not valid YAML ("),
    ('a: "\\UFFFFFFFF"', "not valid YAML ("),
    (f"%YAML 1.{'9' * 5000}\n---\na: 1", "not valid YAML ("),
    ('a: "\\ud800"', "r.yaml:1:"),
]


@pytest.mark.usefixtures("loader")
@pytest.mark.parametrize(("text", "part"), BY_LOADER)
def test_refusals_whose_words_or_columns_depend_on_the_loader(text, part):
    assert part in first_line(parse_yaml, text, "r.yaml")


def test_a_list_takes_only_items():
    if yaml.__with_libyaml__:
        message = first_line(parse_yaml, "a:\n  - 1\n  b: 2", "r.yaml")
        assert message.startswith("r.yaml:3:3: this does not fit the list before (begun at line 2, column 3): ")
        assert message.endswith("begin it with '- ', indented alike")


def test_the_python_loaders_own_failures_are_mapped(monkeypatch):
    monkeypatch.setattr(yamltext, "_LOADER", yaml.SafeLoader)
    assert first_line(parse_yaml, 'a: "\\UFFFFFFFF"', "r.yaml") == (
        "r.yaml: not valid YAML (Python int too large to convert to C int): correct or quote it"
    )
    message = first_line(parse_yaml, 'a: "\\ud800"', "r.yaml")
    assert message == "r.yaml:1:4: an escape gives the character U+D800, which is not text: remove it"


def test_the_line_and_a_caret_follow_the_message():
    with pytest.raises(ConfigError) as caught:
        parse_yaml("task:\n  lr: 1\n  lr: 2\n")
    assert str(caught.value).split("\n")[1:] == ["    lr: 2", "    ^"]


def test_the_excerpt_of_a_long_or_odd_line_fits_a_terminal():
    with pytest.raises(ConfigError) as caught:
        parse_yaml("a: {" + "k" * 500 + ": 1, \u202eb: 1, \u202eb: 2," + "x" * 500 + "}")
    _, excerpt, caret = str(caught.value).split("\n")
    assert len(excerpt) == 102
    assert excerpt.isprintable()
    assert excerpt[len(caret) - 1 :].startswith("?b: 2")


# --- limits


@pytest.mark.usefixtures("loader")
@pytest.mark.parametrize("unit", ["[", "{a: ", "- ", "? - ", "[{a: "])
def test_deep_nesting_is_refused_before_it_is_built(unit):
    assert parse_yaml("a: " + "[" * 49 + "]" * 49)
    message = first_line(parse_yaml, unit * 20_000)
    assert message.endswith(("nested more than 50 levels deep: flatten it", KEYS))


def test_the_depth_limit_is_exact():
    message = first_line(parse_yaml, "a: " + "[" * 50 + "]" * 50)
    assert message == "<text>:1:53: nested more than 50 levels deep: flatten it"
    key = ".".join("a" * 49)
    assert set_path({}, f"{key}=[1]")
    assert "nested more than 50 levels deep" in first_line(set_path, {}, f"{key}=[[1]]")


def test_the_size_limit_counts_bytes():
    fits = "a: 1 #" + "é" * ((yamltext.MAX_BYTES - 6) // 2)
    assert len(fits.encode()) == yamltext.MAX_BYTES
    assert parse_yaml(fits) == {"a": 1}
    limit = "is larger than 1000000 bytes, the limit for a config: shorten it"
    assert first_line(parse_yaml, fits + "x", "r.yaml") == f"r.yaml {limit}"
    assert first_line(parse_yaml, "x" * 1_000_001, "r.yaml") == f"r.yaml {limit}"


# --- files


def test_a_missing_file_names_the_nearest_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("run.yaml", "other.yml", "rnu.txt"):
        (tmp_path / name).write_text("a: 1\n")
    assert load_yaml("run.yaml") == {"a": 1}
    looked = f"(looked in {tmp_path})"
    assert first_line(load_yaml, "rnu.yaml") == f"config file not found: rnu.yaml {looked}. Did you mean 'run.yaml'?"
    assert first_line(load_yaml, "other") == f"config file not found: other {looked}. Did you mean 'other.yml'?"
    absolute = tmp_path / "RUN.yml"
    assert first_line(load_yaml, absolute) == (
        f"config file not found: {absolute} {looked}. Did you mean '{tmp_path / 'run.yaml'}'?"
    )
    for missing in ("zzz", "no/run.yaml", "run.yaml/x"):
        assert first_line(load_yaml, missing) == f"config file not found: {missing} {looked}. Check the path."


def test_a_broken_link_is_not_its_own_suggestion(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").symlink_to("gone.yaml")
    assert first_line(load_yaml, "run.yaml").endswith("Check the path.")


def test_a_directory_is_no_config_file(tmp_path):
    message = f"{tmp_path} is a directory, expected a config file: give a YAML file"
    assert first_line(load_yaml, tmp_path) == message
    (tmp_path / "b.yaml").write_text("a: 1")
    assert first_line(load_yaml, tmp_path) == f"{message}, such as {tmp_path / 'b.yaml'}"


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert first_line(load_yaml, tmp_path / "pipe") == (
        f"{tmp_path / 'pipe'} is a pipe or a device, expected a config file: save the text to a file first"
    )


def test_no_permission(tmp_path, monkeypatch):
    path = tmp_path / "run.yaml"
    path.write_text("a: 1")

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)  # modes do not stop root, so the refusal is staged
    assert stat.S_ISREG(path.stat().st_mode)
    message = f"no permission to read the config file {path}: change its mode, or its folder's"
    assert first_line(load_yaml, path) == message


def test_paths_that_the_system_refuses():
    assert first_line(load_yaml, "a\0b") == "config file a?b cannot be read (embedded null byte): check the path"
    assert first_line(load_yaml, "x" * 5000).endswith("cannot be read (File name too long): check the path")


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", " is empty: write at least 'decoder:' and 'task:'"),
        (b"PK\x03\x04\x00", ": binary data (a zero byte at offset 4): give a YAML text file"),
        ("a: 1".encode("utf-16"), ": the text is UTF-16, expected UTF-8: save the file as UTF-8"),
        ("a: é\n b: é".encode() + b"\xff", ":2:6: byte 0xff is not UTF-8: save the file as UTF-8"),
        (b"a: \x80", ":1:4: byte 0x80 is not UTF-8: save the file as UTF-8"),
        (b"#" * 1_000_001, " is larger than 1000000 bytes, the limit for a config file: is it another kind?"),
        (b"a: [\n", ":1:5: a value is expected here: write one, close the bracket, or quote the text"),
    ],
)
def test_what_is_in_the_file(tmp_path, raw, message):
    path = tmp_path / "run.yaml"
    path.write_bytes(raw)
    assert first_line(load_yaml, path) == f"{path}{message}"


# --- values and paths of --set


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "value: no value after '=': write null for none, or '' for an empty text"),
        ("---", "value: no value after '=': write null for none, or '' for an empty text"),
        ("#fff", "value: '#' begins a comment, which a value cannot have: quote the text inside it"),
        ("[a, b] # c", "value: '#' begins a comment, which a value cannot have: quote the text inside it"),
        ("a #b", "value: '#' begins a comment, which a value cannot have: quote the text inside it"),
        ("a: 1", f"value:1:1: a list or mapping without brackets: write [a, b] or {{key: value}}, or {QUOTE}"),
        ("- 1", f"value:1:1: a list or mapping without brackets: write [a, b] or {{key: value}}, or {QUOTE}"),
        ("*png", "value:1:1: the alias '*png' is not read: repeat what it stands for, or quote it"),
        ("[1", f"value:1:3: a list has no closing ']' (begun at line 1, column 1): {CLOSE}"),
    ],
)
def test_values_that_are_refused(text, message):
    assert first_line(parse_value, text) == message


DATA = {"seed": 0, "search": "adam", "list": ["adam", {"kind": "lbfgs"}], "none": None, "file": "a/b.png"}


@pytest.mark.parametrize(
    ("assignment", "changed"),
    [
        ("seed=1", {"seed": 1}),
        (" seed = 1 ", {"seed": 1}),
        ("new=a=b", {"new": "a=b"}),
        ("task.a.b=1e-3", {"task": {"a": {"b": 0.001}}}),
        ("search.lr=0.1", {"search": {"kind": "adam", "lr": 0.1}}),
        ("search.kind=lbfgs", {"search": {"kind": "lbfgs"}}),
        ("search=null", {"search": None}),
        ("list.0=x", {"list": ["x", {"kind": "lbfgs"}]}),
        ("list.0.lr=1", {"list": [{"kind": "adam", "lr": 1}, {"kind": "lbfgs"}]}),
        ("list.1.lr=1", {"list": ["adam", {"kind": "lbfgs", "lr": 1}]}),
        ("list.2=x", {"list": ["adam", {"kind": "lbfgs"}, "x"]}),
        ("list.2.kind=x", {"list": ["adam", {"kind": "lbfgs"}, {"kind": "x"}]}),
        ("none.a={b: [1]}", {"none": {"a": {"b": [1]}}}),
        ("none.0.a=1", {"none": [{"a": 1}]}),
        ("new.0=1", {"new": [1]}),
        ("7=1", {"7": 1}),
    ],
)
def test_set_path_gives_a_changed_copy(assignment, changed):
    data = copy.deepcopy(DATA)
    result = set_path(data, assignment)
    assert result == DATA | changed
    assert data == DATA
    result["list"].append("mine")
    assert data == DATA


RANGE = "give an index from 0 to 2, where 2 adds an item"


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("seed", "--set seed: no '=' in it: write KEY=VALUE, such as task.search.lr=0.05"),
        *[
            (
                f"{key}=1",
                f"--set {shown}: a name in the key is empty or unprintable: "
                "write names joined by '.', such as task.search.lr",
            )
            for key, shown in [("", ""), ("a..b", "a..b"), (".a", ".a"), ("a.", "a."), ("a\nb", "a?b")]
        ],
        (".".join("a" * 51) + "=1", f"--set {'.'.join('a' * 51)}: 51 levels deep, the limit is 50: shorten the key"),
        ("list.-1=x", f"--set list.-1: '-1' is a negative index, but the list has 2 items: {RANGE}"),
        ("list.lr=x", f"--set list.lr: 'lr' is not an index, but the list has 2 items: {RANGE}"),
        ("list.3=x", f"--set list.3: index 3 is past the list of 2 items: {RANGE}"),
        ("list.3.a=x", f"--set list.3.a: index 3 is past the list of 2 items: {RANGE}"),
        (
            f"list.{'9' * 5000}=x",
            f"--set list.{'9' * 192}...: index {'9' * 37}... is past the list of 2 items: {RANGE}",
        ),
        (
            "new.1=x",
            "--set new.1: index 1 is past the list of 0 items: give an index from 0 to 0, where 0 adds an item",
        ),
        ("seed.a=1", "--set seed.a: seed is '0', which holds no 'a': set seed itself to a mapping or a list"),
        (
            "search.0=1",
            "--set search.0: search is 'adam', which holds no '0': set search itself to a mapping or a list",
        ),
        (
            "file.size=1",
            "--set file.size: file is 'a/b.png', which holds no 'size': set file itself to a mapping or a list",
        ),
        ("a.b=", "--set a.b: no value after '=': write null for none, or '' for an empty text"),
        ("a.b=[1", f"--set a.b:1:3: a list has no closing ']' (begun at line 1, column 1): {CLOSE}"),
    ],
)
def test_set_path_refusals(assignment, message):
    assert first_line(set_path, DATA, assignment) == message


# --- suggestions


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("leanring_rate", "; did you mean 'learning_rate'?"),
        ("LR", "; did you mean 'lr'?"),
        ("Adma", "; did you mean 'adam'?"),
        ("zebra", ""),
        ("", ""),
        ("x" * 1_000_000, ""),
    ],
)
def test_suggest(word, hint):
    assert suggest(word, iter(["learning_rate", "lr", "adam"])) == hint


def test_suggest_from_nothing():
    assert suggest("lr", []) == ""


# --- fuzz: plain values or a ConfigError, from both loaders

YAML_LIKE = st.text(st.sampled_from("ab1 0.:-[]{}?,&*!|>'\"%@`#~<=\n\t\\xuU"), max_size=80)


def check_plain(value):
    if isinstance(value, dict):
        for key, child in value.items():
            assert type(key) is str
            check_plain(child)
    elif isinstance(value, list):
        for child in value:
            check_plain(child)
    else:
        assert value is None or type(value) in (str, int, float, bool)


def attempt(call, *args):
    try:
        value = call(*args)
    except ConfigError as error:
        lines = str(error).split("\n")
        assert len(lines) in (1, 3)
        assert all(line.isprintable() for line in lines)
        return
    check_plain(value)


def attempt_all(text):
    before = yamltext._LOADER
    try:
        for yamltext._LOADER in LOADERS:
            attempt(parse_yaml, text)
            attempt(parse_value, text)
            attempt(set_path, DATA, text)
            attempt(set_path, DATA, f"list.0.{text}")
    finally:
        yamltext._LOADER = before


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=200) | YAML_LIKE)
def test_arbitrary_text_gives_plain_values_or_a_config_error(text):
    attempt_all(text)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(RUN)), st.integers(0, 20), YAML_LIKE | st.text(max_size=5))
def test_mutated_yaml_gives_plain_values_or_a_config_error(start, removed, inserted):
    attempt_all(RUN[:start] + inserted + RUN[start + removed :])


@settings(max_examples=200, deadline=None)
@given(
    st.binary(max_size=200)
    | st.builds(lambda i, b: RUN.encode()[:i] + b + RUN.encode()[i:], st.integers(0, 300), st.binary(max_size=5))
)
def test_arbitrary_bytes_give_plain_values_or_a_config_error(tmp_path_factory, raw):
    path = tmp_path_factory.getbasetemp() / "fuzz.yaml"
    path.write_bytes(raw)
    attempt(load_yaml, path)


# Characters that JSON and YAML write alike inside double quotes.
TEXT = st.text(st.characters(exclude_categories=["Cc", "Cf", "Cn", "Cs", "Zl", "Zp"]), max_size=20)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda child: st.lists(child, max_size=4) | st.dictionaries(TEXT, child, max_size=4),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(TEXT, PLAIN, max_size=4))
def test_what_is_written_as_json_is_read_back(data):
    text = json.dumps(data, ensure_ascii=False)
    assert parse_yaml(text) == data
    assert parse_value(text) == data
