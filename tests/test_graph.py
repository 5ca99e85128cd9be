"""Workflows are checked completely, and equal work has equal keys."""

import random
from pathlib import Path
from typing import Any

import pytest
import toy_nodes

from executor.errors import Kind
from executor.graph import Checked, check
from executor.node import Node
from executor.paths import Folders
from executor.settings import Settings

assert toy_nodes  # imported for its nodes


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    (tmp_path / "input").mkdir()
    (tmp_path / "input" / "scene.png").write_bytes(b"a")
    return Folders(Settings(base_directory=tmp_path))


def number(value) -> dict[str, Any]:
    return {"class_type": "ToyNumber", "inputs": {"value": value}}


def add(a, b) -> dict[str, Any]:
    return {"class_type": "ToyAdd", "inputs": {"a": a, "b": b}}


def sink(value, **inputs) -> dict[str, Any]:
    return {"class_type": "ToySink", "inputs": {"value": value, **inputs}}


def chain(length, start=0) -> dict[str, Any]:
    prompt: dict[str, Any] = {"0": number(start)}
    for i in range(1, length):
        prompt[str(i)] = add([str(i - 1), 0], 1)
    return prompt | {"out": sink([str(length - 1), 0])}


def lines(checked: Checked) -> list[str]:
    return [str(problem) for problem in checked.problems]


def test_a_good_workflow_has_no_problems_and_runs_sources_first(folders):
    prompt: dict[str, Any] = {"3": sink(["2", 0]), "2": add(["1", 0], ["1", 0]), "1": number(4)}
    checked = check(prompt, folders)
    assert not checked.problems
    assert not checked.warnings
    assert checked.graph is not None
    assert list(checked.graph.nodes) == ["1", "2", "3"]
    assert checked.graph.outputs == ("3",)
    assert checked.graph.users["1"] == ("2",)


def test_ids_and_order_play_no_part_in_keys(folders):
    prompt = {
        "1": number(4),
        "2": add(["1", 0], 5),
        "3": add(["2", 0], ["1", 0]),
        "4": sink(["3", 0]),
    }
    renamed = {"1": "x", "2": "a:7", "3": "0", "4": "é"}
    graph = check(prompt, folders).graph
    assert graph is not None
    for seed in range(5):
        ids = list(prompt)
        random.Random(seed).shuffle(ids)
        shuffled = {
            renamed[i]: {
                "class_type": prompt[i]["class_type"],
                "inputs": {
                    name: [renamed[v[0]], v[1]] if isinstance(v, list) else v
                    for name, v in reversed(prompt[i]["inputs"].items())
                },
            }
            for i in ids
        }
        other = check(shuffled, folders).graph
        assert other is not None
        assert {renamed[i]: key for i, key in graph.keys.items()} == other.keys


@pytest.mark.parametrize(
    ("one", "other", "are_equal"),
    [
        (number(20), number("20"), True),
        (number(20), number(20.0), True),
        (number(0), {"class_type": "ToyNumber", "inputs": {}}, True),  # the default, said or not
        (number(20), number(21), False),
        (number(1), {"class_type": "ToyAdd", "inputs": {"a": 1}}, False),
    ],
)
def test_keys_are_equal_when_the_work_is(folders, one, other, are_equal):
    keys = []
    for node in (one, other):
        graph = check({"1": node, "2": sink(["1", 0])}, folders).graph
        assert graph is not None
        keys.append(graph.keys["1"])
    assert (keys[0] == keys[1]) is are_equal


def test_a_key_changes_with_the_file_that_a_node_reads(folders, tmp_path):
    prompt = {"1": {"class_type": "ToyFile", "inputs": {}}, "2": sink(1), "3": sink(["1", 0])}
    before = check(prompt, folders).graph
    (tmp_path / "input" / "scene.png").write_bytes(b"something else")
    after = check(prompt, folders).graph
    assert before is not None
    assert after is not None
    changed = {n for n in before.keys if before.keys[n] != after.keys[n]}
    assert changed == {"1", "3"}


def test_chains_of_any_length_are_checked(folders):
    graph = check(chain(20_000), folders).graph
    assert graph is not None
    assert len(graph.nodes) == 20_001


def test_all_mistakes_are_told_at_once(folders):
    prompt = {
        "1": {"class_type": "ToyNumbr", "inputs": {}},
        "2": add(["1", 0], ["9", 0]),
        "3": {"class_type": "ToyAdd", "inputs": {"b": 3.9}},
        "4": {"class_type": "ToyDivide", "inputs": {"a": ["3", 0], "by": 0}},
        "5": sink(["4", 2]),
        "6": sink(["2", -1], name=True),
    }
    assert lines(check(prompt, folders)) == [
        "ToyNumbr (node 1): there is no node class 'ToyNumbr'; did you mean 'ToyNumber'?",
        "ToyAdd (node 2): b links to node '9', which is not in the workflow",
        "ToyAdd (node 3): needs a: a whole number",
        "ToyAdd (node 3): b must be a whole number, got 3.9",
        "ToyDivide (node 4): by must be ≥ 1, got 0",
        "ToySink (node 5): value links to output 2 of ToyDivide (node 4), "
        "whose outputs are: 0 INT, 1 INT",
        "ToySink (node 6): value links to output -1 of ToyAdd (node 2), whose outputs are: 0 INT",
        "ToySink (node 6): name must be a text, got true",
    ]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (3.9, "value must be a whole number, got 3.9"),
        (True, "value must be a whole number, got true"),
        (float("nan"), "value must be a finite number, got NaN"),
        ("four", 'value must be a whole number, got "four"'),
        (None, "value must be a whole number, got null"),
        ({"a": 1}, 'value must be a whole number, got {"a": 1}'),
        (["1"], 'value must be a link ["node id", output number], got ["1"]'),
        ([1, 0], 'value must be a link ["node id", output number], got [1, 0]'),
        (["1", True], "value links to output true of node '1'; outputs are numbered from 0"),
        (["1", 0.5], 'value must be a link ["node id", output number], got ["1", 0.5]'),
    ],
)
def test_a_wrong_number_is_named(folders, value, words):
    assert lines(check({"1": number(value), "2": sink(["1", 0])}, folders)) == [
        f"ToyNumber (node 1): {words}"
    ]


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"strength": float("nan")}, "strength must be a finite number, got NaN"),
        ({"strength": float("inf")}, "strength must be a finite number, got Infinity"),
        ({"strength": 1.5}, "strength must be ≤ 1, got 1.5"),
        ({"seed": -1}, "seed must be ≥ 0, got -1"),
        ({"seed": 2**64}, f"seed must be ≤ {2**64 - 1}, got {2**64}"),
        ({"mode": "sofd"}, "mode cannot be \"sofd\"; did you mean 'soft'?"),
        ({"mode": "xyz"}, 'mode cannot be "xyz"; it takes soft, hard'),
        ({"is_on": "perhaps"}, 'is_on must be true or false, got "perhaps"'),
        ({"image": 5}, "image must be a link to an IMAGE, got 5"),
        ({"latent": ["0", 0]}, "latent takes LATENT, but output 0 of ToyNumber (node 0) is INT"),
        (
            {"file": "../secret.png"},
            "file: '../secret.png' leads upwards; '..' is never followed",
        ),
    ],
)
def test_a_wrong_input_is_named(folders, inputs, words):
    # The links to node 7 are mistakes too: only the line looked for matters here.
    links = {"image": ["7", 0], "latent": ["7", 0], "positive": ["7", 0]}
    prompt = {
        "0": number(1),
        "7": {"class_type": "ToyAnything", "inputs": {}},
        "1": {"class_type": "ToyMany", "inputs": {**links, **inputs}},
        "2": {"class_type": "ToySinkOfAnything", "inputs": {"a": ["1", 0]}},
    }
    assert f"ToyMany (node 1): {words}" in lines(check(prompt, folders))


def test_a_missing_file_is_named_with_what_is_there(folders):
    prompt = {"1": {"class_type": "ToyFile", "inputs": {"file": "scen.png"}}, "2": sink(["1", 0])}
    (line,) = lines(check(prompt, folders))
    assert line.startswith("ToyFile (node 1): file: input: there is no file 'scen.png'")
    assert line.endswith("; did you mean 'scene.png'?")


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ([], "a workflow is an object of nodes by id, got []"),
        ("x", 'a workflow is an object of nodes by id, got "x"'),
        ({}, "the workflow is empty"),
        ({"1": 5}, 'node (node 1): a node is an object with "class_type" and "inputs", got 5'),
        ({"1": {}}, 'node (node 1): "class_type" must name the node\'s class'),
        (
            {"1": {"class_type": "ToyNumber", "inputs": []}},
            'ToyNumber (node 1): "inputs" must be an object, got []',
        ),
        (
            {"nodes": [], "links": []},
            "this is the editor's own format; export it with 'Save (API Format)'",
        ),
    ],
)
def test_what_is_no_workflow_is_refused(folders, prompt, words):
    checked = check(prompt, folders)
    assert checked.graph is None
    assert lines(checked) == [words]


def test_a_script_that_has_imported_no_nodes_is_told_to(folders, monkeypatch):
    monkeypatch.setattr(Node, "registry", {})
    (line,) = lines(check({"1": number(1)}, folders))
    assert "import nodes" in line


def test_a_workflow_without_outputs_is_refused(folders):
    checked = check({"1": number(1)}, folders)
    assert checked.graph is None
    assert [problem.kind for problem in checked.problems] == [Kind.NO_OUTPUTS]
    assert "ToySink" in str(checked.problems[0])


def test_a_cycle_is_named_as_a_path(folders):
    prompt = {
        "1": add(["3", 0], 1),
        "2": add(["1", 0], 1),
        "3": add(["2", 0], 1),
        "4": sink(["3", 0]),
        "5": add(["5", 0], 1),
        "6": sink(["5", 0]),
    }
    checked = check(prompt, folders)
    assert checked.graph is None
    assert lines(checked) == [
        "ToyAdd (node 1): feeds itself: ToyAdd (node 1) → ToyAdd (node 2) → "
        "ToyAdd (node 3) → ToyAdd (node 1)",
        "ToyAdd (node 5): feeds itself: ToyAdd (node 5) → ToyAdd (node 5)",
    ]


def test_a_long_cycle_is_found_without_recursion_and_told_briefly(folders):
    prompt = chain(5_000)
    prompt["0"] = add(["4999", 0], 0)
    (line,) = lines(check(prompt, folders))
    assert "…" in line
    assert len(line) < 300


def test_outputs_that_are_right_run_beside_those_that_are_not(folders):
    prompt = {
        "1": number(1),
        "2": add(["1", 0], "x"),
        "3": sink(["2", 0]),
        "4": sink(["1", 0]),
    }
    checked = check(prompt, folders)
    assert checked.graph is not None
    assert checked.graph.outputs == ("4",)
    assert list(checked.graph.nodes) == ["1", "4"]
    assert lines(checked) == ['ToyAdd (node 2): b must be a whole number, got "x"']


def test_mistakes_that_no_output_needs_are_warnings(folders):
    prompt = {"1": number(1), "2": add(["1", 0], "x"), "3": sink(["1", 0])}
    checked = check(prompt, folders)
    assert not checked.problems
    assert [str(w) for w in checked.warnings] == [
        'ToyAdd (node 2): b must be a whole number, got "x"'
    ]


def test_unknown_inputs_are_dropped_with_a_warning(folders):
    prompt = {"1": {"class_type": "ToyNumber", "inputs": {"vale": 3}}, "2": sink(["1", 0])}
    checked = check(prompt, folders)
    assert checked.graph is not None
    assert [str(w) for w in checked.warnings] == [
        "ToyNumber (node 1): has no input 'vale'; did you mean 'value'?"
    ]


def test_only_the_targets_are_run(folders):
    prompt = {"1": number(1), "2": sink(["1", 0]), "3": sink(5)}
    graph = check(prompt, folders, targets=["3"]).graph
    assert graph is not None
    assert list(graph.nodes) == ["3"]
    checked = check(prompt, folders, targets=["8"])
    assert checked.graph is None
    assert "there is no node '8' to run" in lines(checked)[0]


def test_lists_that_are_no_links_are_wrapped(folders):
    wrapped = {"class_type": "ToyNumber", "inputs": {"value": {"__value__": 7}}}
    graph = check({"1": wrapped, "2": sink(["1", 0])}, folders).graph
    assert graph is not None
    assert graph.nodes["1"].model_dump() == {"value": 7}
