"""Widgets of the editor keep their values by position; prompts may hold choices."""

from typing import Annotated, Literal

import pytest
from editor_files import checkpoint, encode, file, inputs, node, primitive

import nodes
from executor import Context, FileChoice, Latent, Node, Seed, Widget
from executor.editor import to_prompt
from executor.ports import Text

assert nodes  # imported for its declarations


class ToyWidgets(Node, category="testing"):
    """One widget of each kind that the editor treats in a way of its own."""

    mode: Annotated[Literal["a", "b"], Widget({"control_after_generate": True})] = "a"
    socket: Annotated[int, Widget({"forceInput": True})] = 1
    seed: Seed = 0
    picture: Annotated[str, FileChoice("input", {"image_upload": True})] = "scene.png"
    text: Text = ""
    latent: Latent | None = None
    last: int = 9

    def run(self, ctx: Context) -> int:
        return self.last


# -- widgets ---------------------------------------------------------------------------------------


def test_values_map_onto_the_widgets_in_the_order_of_declaration():
    values = ["b", "fixed", "", 7, "randomize", "new.png", "hello", 5, "image"]
    expected = {"mode": "b", "seed": 7, "picture": "new.png", "text": "hello", "last": 5}
    assert inputs(file(node(1, "ToyWidgets", values=values))) == expected


@pytest.mark.parametrize("control", ["fixed", "increment", "decrement", "randomize", True, None])
def test_what_follows_a_seed_is_the_editors_own(control):
    values = [3, control, 12, 7.0, "euler", "karras", 0.5]
    made = inputs(file(node(1, "KSampler", values=values)))
    assert (made["seed"], made["steps"], made["denoise"]) == (3, 12, 0.5)


def test_a_seed_without_its_control_is_read_too():
    made = inputs(file(node(1, "KSampler", values=[3, 12, 7.0, "euler", "karras", 0.5])))
    assert (made["seed"], made["steps"], made["denoise"]) == (3, 12, 0.5)


def test_a_linked_widget_keeps_its_place_among_the_values():
    sampler = node(
        1,
        "KSampler",
        [("seed", "INT", 1, "seed")],
        values=[3, "fixed", 12, 7.0, "euler", "karras", 0.5],
    )
    made = inputs(file(sampler, primitive(2, 99, "fixed"), links=[(1, 2, 0, 1, 0, "INT")]))
    assert (made["seed"], made["steps"], made["denoise"]) == (99, 12, 0.5)


def test_values_that_the_file_lacks_are_the_defaults():
    expected = {"mode": "b", "seed": 0, "picture": "scene.png", "text": "", "last": 9}
    assert inputs(file(node(1, "ToyWidgets", values=["b"]))) == expected
    assert inputs(file(node(1, "ToyWidgets", values=["b", None, None, None, None]))) == expected
    missing = node(1, "ToyWidgets", values=["b"])
    del missing["inputs"], missing["outputs"], missing["properties"]
    assert inputs(file(missing)) == expected


def test_values_with_names_go_by_these():
    named = node(1, "ToyWidgets", values={"text": "t", "mode": "b", "preview": {"x": 1}})
    expected = {"mode": "b", "seed": 0, "picture": "scene.png", "text": "t", "last": 9}
    assert inputs(file(named)) == expected
    both = node(1, "ToyWidgets", values=["a"], widgets_values_named={"text": "t", "mode": "b"})
    assert inputs(file(both)) == expected


def test_a_list_is_wrapped_so_that_it_is_no_link():
    made = inputs(file(node(1, "ToyWidgets", values={"text": ["2", 0]})))
    assert made["text"] == {"__value__": ["2", 0]}


def test_an_unknown_class_keeps_what_its_sockets_name():
    mystery = node(
        1,
        "Mystery",
        [("model", "MODEL", None), ("n", "INT", None, "n"), ("s", "STRING", None, "s")],
        values=[5, "fixed", "q", "more"],
    )
    converted = to_prompt(file(mystery, node(2, "Enigma", values={"a": 1})))
    assert converted.prompt["1"]["inputs"] == {"n": 5, "s": "q"}
    assert converted.prompt["1"]["class_type"] == "Mystery"
    assert converted.prompt["1"]["_meta"] == {"title": "Mystery"}
    assert converted.prompt["2"]["inputs"] == {"a": 1}


def test_a_node_is_titled_as_in_the_file_or_as_its_class():
    prompt = to_prompt(file(checkpoint(1), checkpoint(2, title="Mine"))).prompt
    assert [prompt[i]["_meta"]["title"] for i in ("1", "2")] == ["Load Checkpoint", "Mine"]


# -- dynamic prompts -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "resolved"),
    [
        ("{a}", "a"),
        ("a|b}", "a|b}"),
        ("a {", "a "),
        ("x {{a}", "x a"),
        (r"a \{b\|c\} \\ \x", r"a {b|c} \\ \x"),
        ("x // y\nz /* q\n */ w", "x \nz  w"),
        ("a /* b", "a /* b"),
        ("back\\", "back\\"),
        ("{" * 3000 + "a" + "}" * 3000, "a"),
    ],
)
def test_prompts_are_resolved_as_the_editor_does(text, resolved):
    assert inputs(file(encode(1, value=text)))["text"] == resolved


def test_a_choice_depends_on_the_seed_and_the_place_alone():
    editor = file(*(encode(i, value="{a|b|{c|d}} hat") for i in range(40)))

    def texts(seed):
        return [spec["inputs"]["text"] for spec in to_prompt(editor, seed).prompt.values()]

    assert set(texts(0)) == {"a hat", "b hat", "c hat", "d hat"}
    assert texts(0) == texts(0)
    assert texts(0) != texts(1)
    editor["nodes"].reverse()
    assert texts(0) == [spec["inputs"]["text"] for spec in to_prompt(editor).prompt.values()]
