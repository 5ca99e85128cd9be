"""The editor's files become what its own 'queue' would send."""

import copy
import json
import random
from typing import Any

import pytest
from editor_files import (
    OUTER,
    SUB,
    as_object,
    checkpoint,
    defining,
    drawn,
    encode,
    file,
    inputs,
    lines,
    nested,
    node,
    pair,
    primitive,
    reroute,
    sub_graph,
)

import nodes
from executor.editor import is_editor_format, to_prompt
from executor.errors import Kind

assert nodes  # imported for its declarations


# -- laws ------------------------------------------------------------------------------------------


def some_prompt(rng: random.Random) -> dict[str, Any]:
    """A workflow of random links and values, each node with all of its inputs."""
    sides = {"width": 64, "height": 32, "batch_size": 2}
    prompt: dict[str, Any] = {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "a.safetensors"}},
        "2": {"class_type": "EmptyLatentImage", "inputs": sides},
        "3": {"class_type": "CLIPTextEncode", "inputs": {"text": "a dog", "clip": ["1", 1]}},
    }
    texts, latents = ["3"], ["2"]
    for i in range(4, 4 + rng.randrange(8)):
        if rng.random() < 0.5:
            made = {"conditioning_1": [rng.choice(texts), 0]}
            made |= {"conditioning_2": [rng.choice(texts), 0]}
            prompt[str(i)] = {"class_type": "ConditioningCombine", "inputs": made}
            texts.append(str(i))
        else:
            made = {"seed": rng.randrange(2**64), "steps": rng.randrange(1, 50), "cfg": 7.5}
            made |= {"sampler_name": "euler", "scheduler": "karras", "denoise": rng.random()}
            made |= {"model": ["1", 0], "latent_image": [rng.choice(latents), 0]}
            made |= {"positive": [rng.choice(texts), 0], "negative": [rng.choice(texts), 0]}
            prompt[str(i)] = {"class_type": "KSampler", "inputs": made}
            latents.append(str(i))
    for node_id, spec in prompt.items():
        spec["_meta"] = {"title": f"node {node_id}"}
    return prompt


@pytest.mark.parametrize("seed", range(20))
def test_a_workflow_survives_the_way_through_the_editor(seed):
    prompt = some_prompt(random.Random(seed))
    converted = to_prompt(drawn(prompt))
    assert converted.problems == ()
    assert converted.prompt == prompt
    assert list(converted.prompt) == list(prompt)


@pytest.mark.parametrize("seed", range(20))
def test_the_order_in_the_file_means_nothing(seed):
    rng = random.Random(seed)
    editor = drawn(some_prompt(rng))
    expected = to_prompt(editor).prompt
    rng.shuffle(editor["nodes"])
    rng.shuffle(editor["links"])
    assert list(to_prompt(editor).prompt.items()) == list(expected.items())


@pytest.mark.parametrize("seed", range(20))
def test_a_reroute_in_any_link_changes_nothing(seed):
    editor = drawn(some_prompt(random.Random(seed)))
    expected = to_prompt(editor).prompt
    for link in list(editor["links"]):
        new_node, new_link = 1000 + link[0], 1000 + link[0]
        editor["nodes"].append(reroute(new_node, new_link, kind="*"))
        editor["links"].append([new_link, link[1], link[2], new_node, 0, "*"])
        link[1:3] = new_node, 0
    assert to_prompt(editor).prompt == expected


@pytest.mark.parametrize("seed", range(20))
def test_links_as_objects_say_the_same_as_lists(seed):
    editor = drawn(some_prompt(random.Random(seed)))
    expected = to_prompt(editor).prompt
    editor |= {"links": [as_object(link) for link in editor["links"]], "version": 1}
    assert is_editor_format(editor)
    assert to_prompt(editor).prompt == expected


@pytest.mark.parametrize("seed", range(20))
def test_a_sub_graph_only_puts_its_nodes_id_before_theirs(seed):
    prompt = some_prompt(random.Random(seed))
    inside = drawn(prompt)
    definition = {**inside, "id": SUB, "links": [as_object(link) for link in inside["links"]]}
    converted = to_prompt(file(node(70, SUB), **defining(definition)))
    assert converted.problems == ()
    assert {node_id.removeprefix("70:") for node_id in converted.prompt} == set(prompt)
    for node_id, spec in prompt.items():
        expected = {
            name: [f"70:{value[0]}", value[1]] if isinstance(value, list) else value
            for name, value in spec["inputs"].items()
        }
        assert converted.prompt[f"70:{node_id}"]["inputs"] == expected


JUNK: list[Any] = [None, True, -1, 0, 1, 2.5, 10**30, "", "x", "1", "9" * 5000]
JUNK += [[], [[]], {}, {"name": 1}, [1, 2, 3]]


def broken(value: Any, rng: random.Random) -> Any:
    """The value with junk at some places."""
    if rng.random() < 0.04:
        return rng.choice(JUNK)
    if isinstance(value, dict):
        return {key: broken(item, rng) for key, item in value.items() if rng.random() > 0.02}
    if isinstance(value, list):
        return [broken(item, rng) for item in value]
    return value


@pytest.mark.parametrize("seed", range(150))
def test_no_file_is_too_broken_to_be_told_about(seed):
    rng = random.Random(seed)
    whole: dict[str, Any] = nested() | {"extra": {"groupNodes": {"pair": pair()}}}
    whole["nodes"] += [node(80, "workflow>pair"), reroute(81, 3), primitive(82, "a")]
    converted = to_prompt({key: broken(item, rng) for key, item in whole.items()})
    json.dumps(converted.prompt)
    assert all(str(problem) for problem in converted.problems)


def test_the_file_is_left_alone_and_goes_with_the_workflow():
    editor = nested()
    before = copy.deepcopy(editor)
    assert to_prompt(editor).workflow is editor
    assert editor == before


# -- what is not sent ------------------------------------------------------------------------------


def test_notes_are_dropped():
    prompt = to_prompt(file(node(1, "Note"), node(2, "MarkdownNote"), checkpoint(3))).prompt
    assert list(prompt) == ["3"]


@pytest.mark.parametrize("mode", [0, 2, 4])
def test_a_primitive_is_inlined_whatever_its_mode(mode):
    editor = file(
        encode(1, text=2),
        reroute(3, 1, "STRING", mode=mode),
        primitive(2, "hello", mode=mode),
        links=[(1, 2, 0, 3, 0, "STRING"), (2, 3, 0, 1, 1, "STRING")],
    )
    assert inputs(editor) == {"text": "hello"}
    assert list(to_prompt(editor).prompt) == ["1"]


def test_a_primitive_without_a_value_leaves_the_widgets():
    editor = file(encode(1, text=1), primitive(2), links=[(1, 2, 0, 1, 1, "STRING")])
    assert inputs(editor) == {"text": "a cat"}


def test_a_reroute_to_nothing_is_nothing():
    assert "clip" not in inputs(file(encode(1, 1), reroute(2, None), links=[(1, 2, 0, 1, 0, "")]))


def test_a_muted_node_goes_with_its_links():
    links = [(1, 1, 1, 2, 0, "CLIP")]
    converted = to_prompt(file(checkpoint(mode=2), encode(2, 1), links=links))
    assert converted.problems == ()
    assert list(converted.prompt) == ["2"]
    assert converted.prompt["2"]["inputs"] == {"text": "a cat"}


def picture(id) -> dict[str, Any]:
    return node(id, "EmptyImage", [], ["IMAGE"], [16, 16, 1, 0])


def invert(id, link) -> dict[str, Any]:
    return node(id, "ImageInvert", [("image", "IMAGE", link)], ["IMAGE"])


def bypassed(first=None, second=None) -> dict[str, Any]:
    """Has pictures at its inputs 0 and 2, and at its outputs 0 and 2."""
    sockets = [("a", "IMAGE", first), ("m", "MASK", None), ("b", "IMAGE", second)]
    return node(5, "Anything", sockets, ["IMAGE", "MASK", "IMAGE"], mode=4)


def test_a_bypassed_node_lets_links_through_at_the_same_place_first():
    into = [(1, 1, 0, 5, 0, "IMAGE"), (2, 2, 0, 5, 2, "IMAGE")]
    out = [(3, 5, 0, 6, 0, "IMAGE"), (4, 5, 2, 7, 0, "IMAGE"), (5, 5, 1, 8, 0, "IMAGE")]
    ends = [invert(6, 3), invert(7, 4), invert(8, 5)]
    prompt = to_prompt(file(picture(1), picture(2), bypassed(1, 2), *ends, links=into + out)).prompt
    assert list(prompt) == ["1", "2", "6", "7", "8"]
    assert prompt["6"]["inputs"] == {"image": ["1", 0]}
    assert prompt["7"]["inputs"] == {"image": ["2", 0]}
    # Where the same place is of another type, the first of the same type counts.
    assert prompt["8"]["inputs"] == {"image": ["1", 0]}


def test_a_bypassed_node_without_such_an_input_lets_nothing_through():
    decode = node(2, "VAEDecode", [("samples", "LATENT", None)], ["IMAGE"], mode=4)
    assert inputs(file(invert(1, 1), decode, links=[(1, 2, 0, 1, 0, "IMAGE")])) == {}


# -- what is wrong ---------------------------------------------------------------------------------


def test_a_link_to_a_node_that_is_not_there_is_named():
    converted = to_prompt(file(encode(1, 4), links=[(4, 77, 1, 1, 0, "CLIP")]))
    words = "clip comes from node 77, which is not in the file; connect it to another"
    assert lines(converted) == [f"CLIPTextEncode (node 1): {words}"]
    assert (converted.problems[0].kind, converted.problems[0].input) == (Kind.BAD_LINK, "clip")
    assert converted.prompt["1"]["inputs"] == {"text": "a cat"}


def test_a_link_that_is_not_there_is_named():
    converted = to_prompt(file(encode(1, 4)))
    words = "clip comes along link 4, which is not in the file; connect it again"
    assert lines(converted) == [f"CLIPTextEncode (node 1): {words}"]


def test_a_ring_of_reroutes_is_named_as_a_path():
    links = [(1, 3, 0, 1, 0, ""), (2, 4, 0, 3, 0, ""), (3, 3, 0, 4, 0, "")]
    converted = to_prompt(file(encode(1, 1), reroute(3, 2), reroute(4, 3), links=links))
    (line,) = lines(converted)
    assert line.startswith("CLIPTextEncode (node 1): clip leads in a ring: ")
    assert "Reroute (node 3) → Reroute (node 4) → Reroute (node 3)" in line
    assert converted.problems[0].kind is Kind.CYCLE


def test_a_ring_through_a_sub_graph_is_named():
    graph = sub_graph(SUB, links=[(1, -10, 0, -20, 0, "CLIP")], inputs=["clip"], outputs=["clip"])
    ring = node(74, SUB, [("clip", "CLIP", 2)], ["CLIP"])
    links = [(1, 74, 0, 1, 0, "CLIP"), (2, 74, 0, 74, 0, "CLIP")]
    converted = to_prompt(file(encode(1, 1), ring, links=links, **defining(graph)))
    assert [problem.kind for problem in converted.problems] == [Kind.CYCLE]
    assert "node 74" in lines(converted)[0]


def test_a_sub_graph_that_holds_itself_is_named():
    graphs = defining(sub_graph(SUB, node(5, OUTER)), sub_graph(OUTER, node(6, SUB)))
    (line,) = lines(to_prompt(file(node(1, SUB), **graphs)))
    assert line.startswith(f"{SUB} (node 1:5:6): is a sub-graph that holds itself")


def test_sub_graphs_do_not_grow_without_bound():
    graphs = [
        sub_graph(f"g{level}", *(node(i, f"g{level + 1}") for i in range(50))) for level in range(6)
    ]
    (line,) = lines(to_prompt(file(node(1, "g0"), **defining(*graphs))))
    assert "more than 50,000 nodes" in line


def test_sub_graphs_are_not_nested_without_bound():
    graphs = [sub_graph(f"g{level}", node(1, f"g{level + 1}")) for level in range(3000)]
    (line,) = lines(to_prompt(file(node(1, "g0"), **defining(*graphs))))
    assert "nested deeper than 64" in line


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (5, 'node (node ?): a node has an id and a type; this one lacks a usable "id"'),
        ({"id": 2}, 'node (node 2): a node has an id and a type; this one lacks a usable "type"'),
        (checkpoint(1), "CheckpointLoaderSimple (node 1): there are two nodes of this id"),
    ],
)
def test_a_malformed_node_is_named_and_the_rest_converted(entry, words):
    converted = to_prompt(file(checkpoint(), entry))
    (line,) = lines(converted)
    assert line.startswith(words)
    assert list(converted.prompt) == ["1"]


@pytest.mark.parametrize(
    "link", [5, [1, 2], [1, 2, "x", 3, 0, "CLIP"], {"id": 1}, [1, 2, -1, 3, 0]]
)
def test_a_malformed_link_is_named(link):
    editor = file(checkpoint()) | {"links": [link, None]}
    (line,) = lines(to_prompt(editor))
    assert line.startswith("a link is [id, source, output, target, input, type]")


@pytest.mark.parametrize("value", [None, 5, [], {}, {"nodes": []}, {"nodes": {}, "links": []}])
def test_what_lacks_lists_of_nodes_and_links_is_not_of_the_editor(value):
    assert not is_editor_format(value)
