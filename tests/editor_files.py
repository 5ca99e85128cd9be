"""Files of ComfyUI's editor in a line or two, for the tests of their conversion."""

from typing import Any

from executor.editor import Converted, to_prompt
from executor.node import Node

SUB = "11111111-1111-4111-8111-111111111111"
OUTER = "22222222-2222-4222-8222-222222222222"


def node(id, type, inputs=(), outputs=(), values=(), **more) -> dict[str, Any]:
    """A node; an input is (name, type, link) or (name, type, link, widget), an output a type."""
    return {
        "id": id,
        "type": type,
        "mode": 0,
        "inputs": [
            {"name": name, "type": kind, "link": link}
            | ({"widget": {"name": widget[0]}} if widget else {})
            for name, kind, link, *widget in inputs
        ],
        "outputs": [{"name": kind, "type": kind} for kind in outputs],
        "widgets_values": values if isinstance(values, dict) else list(values),
        "properties": {},
        **more,
    }


def file(*nodes, links=(), **more) -> dict[str, Any]:
    """A whole file; a link is (id, source, slot, target, slot, type)."""
    return {"nodes": list(nodes), "links": [list(link) for link in links], "version": 0.4, **more}


def as_object(link) -> dict[str, Any]:
    """A link as sub-graphs and files of version 1 have it."""
    keys = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
    return dict(zip(keys, link, strict=True))


def sub_graph(id, *nodes, links=(), inputs=(), outputs=()) -> dict[str, Any]:
    """The definition of a sub-graph; inputs and outputs by name."""
    return {
        "id": id,
        "nodes": list(nodes),
        "links": [as_object(link) for link in links],
        "inputs": [{"name": name} for name in inputs],
        "outputs": [{"name": name} for name in outputs],
    }


def defining(*graphs) -> dict[str, Any]:
    return {"definitions": {"subgraphs": list(graphs)}}


def checkpoint(id=1, **more) -> dict[str, Any]:
    return node(
        id, "CheckpointLoaderSimple", [], ("MODEL", "CLIP", "VAE"), ["a.safetensors"], **more
    )


def encode(id, clip=None, text=None, value="a cat", **more) -> dict[str, Any]:
    """A prompt, whose text may come along a link."""
    inputs = [("clip", "CLIP", clip), ("text", "STRING", text, "text")]
    return node(id, "CLIPTextEncode", inputs, ["CONDITIONING"], [value], **more)


def combine(id, first, second) -> dict[str, Any]:
    inputs = [
        ("conditioning_1", "CONDITIONING", first),
        ("conditioning_2", "CONDITIONING", second),
    ]
    return node(id, "ConditioningCombine", inputs, ["CONDITIONING"])


def primitive(id, *values, **more) -> dict[str, Any]:
    return node(id, "PrimitiveNode", [], ["STRING"], values, **more)


def reroute(id, link, kind="CLIP", **more) -> dict[str, Any]:
    return node(id, "Reroute", [("", kind, link)], [kind], **more)


def drawn(prompt) -> dict[str, Any]:
    """The file that an editor would keep of a workflow in API format."""
    links: list[list[Any]] = []
    nodes: list[dict[str, Any]] = []
    for order, (node_id, spec) in enumerate(prompt.items()):
        cls = Node.registry[spec["class_type"]]
        inputs, values = [], []
        for name, known in cls.inputs().items():
            given = spec["inputs"].get(name)
            link = None
            if isinstance(given, list):
                link = len(links) + 1
                links.append([link, int(given[0]), given[1], int(node_id), len(inputs), known.wire])
            if known.port is None:
                values.append(known.default if link else given)
                if known.options.get("control_after_generate"):
                    values.append("randomize")
                inputs.append((name, known.wire, link, name))
            else:
                inputs.append((name, known.wire, link))
        outputs = [output.wire for output in cls.outputs()]
        nodes.append(
            node(int(node_id), spec["class_type"], inputs, outputs, values, order=order)
            | {"title": spec["_meta"]["title"]}
        )
    return file(*nodes, links=links)


def inputs(file, node_id="1", **how) -> dict[str, Any]:
    """The inputs of one node of a file that nothing is wrong with."""
    converted = to_prompt(file, **how)
    assert converted.problems == ()
    return converted.prompt[node_id]["inputs"]


def lines(converted: Converted) -> list[str]:
    return [str(problem) for problem in converted.problems]


def prompt_graph(id=SUB) -> dict[str, Any]:
    """A sub-graph of one prompt, whose text is an input."""
    links = [
        (1, -10, 0, 22, 0, "CLIP"),
        (2, -10, 1, 22, 1, "STRING"),
        (3, 22, 0, -20, 0, "CONDITIONING"),
    ]
    inner = encode(22, 1, 2, value="inside")
    return sub_graph(id, inner, links=links, inputs=("clip", "text"), outputs=["CONDITIONING"])


def shown(id, clip, text=None, values=(), type=SUB, **more) -> dict[str, Any]:
    """The node of such a sub-graph."""
    sockets = [("clip", "CLIP", clip), ("text", "STRING", text, "text")]
    return node(id, type, sockets, ["CONDITIONING"], values, **more)


BOTH = [(1, 1, 1, 74, 0, "CLIP"), (2, 1, 1, 75, 0, "CLIP")]
BOTH += [(3, 74, 0, 9, 0, "CONDITIONING"), (4, 75, 0, 9, 1, "CONDITIONING")]


def nested(values=("outside",)) -> dict[str, Any]:
    """Two prompts, one of them two sub-graphs deep."""
    links = [
        (1, -10, 0, 5, 0, "CLIP"),
        (2, -10, 1, 5, 1, "STRING"),
        (3, 5, 0, -20, 0, "CONDITIONING"),
    ]
    middle = shown(5, 1, 2, ["between"])
    outer = sub_graph(OUTER, middle, links=links, inputs=("clip", "text"), outputs=["c"])
    ends = [shown(74, 1, values=values, type=OUTER), shown(75, 2, values=["other"])]
    more = defining(prompt_graph(), outer)
    return file(checkpoint(), *ends, combine(9, 3, 4), links=BOTH, **more)


def pair() -> dict[str, Any]:
    """An old group node: a prompt that feeds a sampler, and shows its conditioning too."""
    sockets = [(name, "X", None) for name in ("model", "positive", "negative", "latent_image")]
    values = [5, "fixed", 20, 8.0, "euler", "normal", 1.0]
    inner = [
        node(-1, "CLIPTextEncode", [("clip", "CLIP", None)], ["CONDITIONING"], ["inside"]),
        node(-1, "KSampler", sockets, ["LATENT"], values),
    ]
    external = [[0, 0, "CONDITIONING"]]
    return {"nodes": inner, "links": [[0, 0, 1, 1, "CONDITIONING", 1]], "external": external}
