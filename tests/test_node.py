"""A node is declared once; everything else is read from its class."""

from typing import Annotated, Literal, NamedTuple

import pytest
import torch
from pydantic import Field, ValidationError

from executor import (
    Context,
    FileChoice,
    Image,
    Latent,
    Link,
    Mask,
    Node,
    Seed,
    Steps,
    Text,
    Widget,
)


class Pair(NamedTuple):
    picture: Image
    hole: Mask


class Sample(Node, category="testing/node", aliases=("OldSample",), display_name="A sample"):
    """Denoise
    a latent.
    """

    latent: Latent
    seed: Seed = 0
    text: Text
    steps: Annotated[int, Field(ge=1, le=100), Widget({"step": 5})] = 20
    mode: Literal["soft", "hard"] = "hard"
    file: Annotated[str, FileChoice("input", {"image_upload": True})]
    is_on: bool = False
    mask: Mask | None = None

    def run(self, ctx: Context) -> Steps[Pair]:
        yield from ()
        raise NotImplementedError


class Keep(Node, category="testing/node", is_output=True):
    """Keep a picture."""

    image: Image

    def run(self, ctx: Context) -> None:
        return None


def test_inputs_are_read_from_the_annotations_in_their_order():
    inputs = Sample.inputs()
    assert [(i.name, i.wire, i.is_required) for i in inputs.values()] == [
        ("latent", "LATENT", True),
        ("seed", "INT", False),
        ("text", "STRING", True),
        ("steps", "INT", False),
        ("mode", "COMBO", False),
        ("file", "COMBO", True),
        ("is_on", "BOOLEAN", False),
        ("mask", "MASK", False),
    ]
    assert (inputs["steps"].at_least, inputs["steps"].at_most, inputs["steps"].step) == (1, 100, 5)
    assert inputs["mode"].choices == ("soft", "hard")
    assert inputs["mode"].default == "hard"
    assert inputs["seed"].at_most == 2**64 - 1
    assert inputs["seed"].options == {"control_after_generate": True}
    assert inputs["text"].options["multiline"] is True
    assert inputs["file"].options == {"image_upload": True}


def test_outputs_are_read_from_what_run_returns():
    assert [(o.name, o.wire) for o in Sample.outputs()] == [("picture", "IMAGE"), ("hole", "MASK")]
    assert Keep.outputs() == ()


def test_the_class_says_the_rest():
    assert (Sample.category, Sample.display_name) == ("testing/node", "A sample")
    assert Sample.description() == "Denoise a latent."
    assert Node.registry["OldSample"] is Node.registry["Sample"] is Sample
    assert Keep.is_output
    assert not Sample.is_output


def test_links_may_stand_for_values_that_are_not_there_yet():
    node = Sample(
        latent=Link("1", 0),  # pyright: ignore[reportArgumentType]
        seed=Link("2", 1),  # pyright: ignore[reportArgumentType]
        text="x",
        file="a.png",
    )
    assert node.seed == Link("2", 1)


def made(**inputs):
    return Keep.model_validate(inputs)


def test_a_value_of_another_kind_does_not_pass_a_port():
    made(image=torch.zeros(1, 8, 8, 3))
    with pytest.raises(ValidationError, match=r"got a tensor of shape \(8, 8, 3\)"):
        made(image=torch.zeros(8, 8, 3))
    with pytest.raises(ValidationError, match="got str"):
        made(image="picture.png")


def test_a_checked_node_cannot_be_changed():
    node = made(image=torch.zeros(1, 8, 8, 3))
    with pytest.raises(ValidationError, match="frozen"):
        node.image = torch.ones(1, 8, 8, 3)


def test_nodes_name_the_files_that_they_read():
    node = Sample.model_validate({"latent": Link("1", 0), "text": "x", "file": "a.png"})
    assert list(node.files()) == [("file", "input", "a.png")]


def test_a_type_that_nobody_can_send_is_a_mistake_of_the_author():
    class Wrong(Node, category="testing/node"):
        """Take something odd."""

        thing: dict[str, int]

        def run(self, ctx: Context) -> None:
            return None

    del Node.registry["Wrong"]
    with pytest.raises(TypeError, match="annotate it with a Port"):
        Wrong.inputs()
