"""Sub-graphs and group nodes of the editor are put in place of the nodes that stand for them."""

import pytest
from editor_files import (
    OUTER,
    SUB,
    checkpoint,
    combine,
    defining,
    encode,
    file,
    inputs,
    nested,
    node,
    pair,
    primitive,
    prompt_graph,
    shown,
    sub_graph,
)

import nodes
from executor.editor import to_prompt

assert nodes  # imported for its declarations


def test_sub_graphs_are_put_in_place_with_the_values_that_each_shows():
    converted = to_prompt(nested())
    assert converted.problems == ()
    assert list(converted.prompt) == ["1", "9", "74:5:22", "75:22"]
    assert converted.prompt["74:5:22"]["inputs"] == {"text": "outside", "clip": ["1", 1]}
    assert converted.prompt["75:22"]["inputs"] == {"text": "other", "clip": ["1", 1]}
    sources = {"conditioning_1": ["74:5:22", 0], "conditioning_2": ["75:22", 0]}
    assert converted.prompt["9"]["inputs"] == sources


def test_a_value_that_is_not_shown_outside_is_the_innermost_that_is_set():
    assert inputs(nested(values=[]), "74:5:22")["text"] == "between"


def test_a_link_to_a_sub_graph_reaches_the_widget_inside():
    editor = file(
        shown(1, None, 1, ["shown"]),
        primitive(2, "linked"),
        links=[(1, 2, 0, 1, 1, "STRING")],
        **defining(prompt_graph()),
    )
    assert inputs(editor, "1:22") == {"text": "linked"}


def test_a_sub_graphs_node_may_leave_out_the_sockets_of_its_widgets():
    editor = file(node(1, SUB, [], ["CONDITIONING"], ["shown"]), **defining(prompt_graph()))
    assert inputs(editor, "1:22") == {"text": "shown"}


def test_promoted_widgets_are_those_of_the_nodes_inside():
    alone = sub_graph(SUB, encode(22, value="inside"))
    pairs = {"proxyWidgets": [["22", "text"]]}
    more = defining(alone, sub_graph(OUTER, node(5, SUB, properties=pairs, values=["between"])))
    assert inputs(file(node(1, SUB), **more), "1:22")["text"] == "inside"
    assert inputs(file(node(1, OUTER), **more), "1:5:22")["text"] == "between"
    promoted = node(1, SUB, properties=pairs, values=["shown"])
    assert inputs(file(promoted, **more), "1:22")["text"] == "shown"
    through = node(1, OUTER, properties={"proxyWidgets": [["5", "text"]]}, values=["shown"])
    assert inputs(file(through, **more), "1:5:22")["text"] == "shown"


def test_promoted_widgets_and_inputs_may_be_listed_together():
    graph = prompt_graph()
    graph["nodes"].append(encode(23, value="inside"))
    properties = {"proxyWidgets": [["23", "text"], ["-1", "text"]]}
    editor = file(shown(1, None, values=["x", "y"], properties=properties), **defining(graph))
    assert inputs(editor, "1:22")["text"] == "y"
    assert inputs(editor, "1:23")["text"] == "x"


def test_a_muted_sub_graph_goes_as_a_whole():
    editor = nested()
    editor["nodes"][1]["mode"] = 2
    assert list(to_prompt(editor).prompt) == ["1", "9", "75:22"]
    assert inputs(editor, "9") == {"conditioning_2": ["75:22", 0]}


def test_a_bypassed_sub_graph_lets_links_through():
    chain = [(1, 1, 1, 74, 0, "CLIP"), (2, 74, 0, 3, 0, "CLIP")]
    through = node(74, SUB, [("clip", "CLIP", 1)], ["CLIP"], mode=4)
    editor = file(checkpoint(), through, encode(3, 2), links=chain, **defining(sub_graph(SUB)))
    assert inputs(editor, "3")["clip"] == ["1", 1]


def test_a_link_may_go_straight_through_a_sub_graph():
    chain = [(1, 1, 1, 74, 0, "CLIP"), (2, 74, 0, 3, 0, "CLIP")]
    through = node(74, SUB, [("clip", "CLIP", 1)], ["CLIP"])
    graph = sub_graph(SUB, links=[(1, -10, 0, -20, 0, "CLIP")], inputs=["clip"], outputs=["clip"])
    editor = file(checkpoint(), through, encode(3, 2), links=chain, **defining(graph))
    assert inputs(editor, "3")["clip"] == ["1", 1]


@pytest.mark.parametrize("separator", [">", "/"])
def test_a_group_node_becomes_the_nodes_of_its_group(separator):
    group = node(
        3,
        f"workflow{separator}pair",
        [("negative", "CONDITIONING", 2), ("clip", "CLIP", 1)],
        ["CONDITIONING", "LATENT"],
        ["outside", 9, "fixed", 12, 7.0, "euler", "karras", 0.5],
    )
    editor = file(
        checkpoint(),
        encode(2),
        group,
        combine(4, 3, None),
        node(5, "VAEDecode", [("samples", "LATENT", 4)], ["IMAGE"]),
        links=[
            (1, 1, 1, 3, 1, "CLIP"),
            (2, 2, 0, 3, 0, "CONDITIONING"),
            (3, 3, 0, 4, 0, "CONDITIONING"),
            (4, 3, 1, 5, 0, "LATENT"),
        ],
        extra={"groupNodes": {"pair": pair()}},
    )
    assert inputs(editor, "3:0") == {"text": "outside", "clip": ["1", 1]}
    sampler = inputs(editor, "3:1")
    assert (sampler["seed"], sampler["steps"], sampler["denoise"]) == (9, 12, 0.5)
    assert sampler["positive"] == ["3:0", 0]
    assert sampler["negative"] == ["2", 0]
    assert inputs(editor, "4")["conditioning_1"] == ["3:0", 0]
    assert inputs(editor, "5")["samples"] == ["3:1", 0]
