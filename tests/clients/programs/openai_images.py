"""OpenAI's own client: models, generations, edits, variations, streams, and its errors."""
# pyright: reportMissingImports=false

import base64
import sys
import urllib.request
from io import BytesIO
from pathlib import Path

import openai
from PIL import Image

host, _, results = sys.argv[1:]
folder = Path(results)
client = openai.OpenAI(base_url=f"http://{host}/v1", api_key="none", max_retries=0)
quick = {"steps": 4, "seed": 21}

listed = [model.id for model in client.models.list()]
assert "weft-tiny" in listed, listed
assert client.models.retrieve("weft-tiny").object == "model"

made = client.images.generate(
    model="weft-tiny",
    prompt="a red circle on a blue background",
    n=2,
    size="128x128",
    response_format="b64_json",
    extra_body=quick,
)
assert made.usage is not None
assert made.usage.input_tokens == 7, made.usage
for at, datum in enumerate(made.data or []):
    assert datum.b64_json
    (folder / f"generated-{at}.png").write_bytes(base64.b64decode(datum.b64_json))

# Without a model, as old applications ask, and with an address in the answer.
plain = client.images.generate(prompt="a green square", response_format="url", extra_body=quick)
assert plain.data
assert plain.data[0].url
with urllib.request.urlopen(plain.data[0].url) as response:
    (folder / "address.png").write_bytes(response.read())

picture = folder / "generated-0.png"
with Image.open(picture) as opened:
    holed = opened.convert("RGBA")
holed.paste((0, 0, 0, 0), (32, 32, 96, 96))
mask = BytesIO()
holed.save(mask, "PNG")
edited = client.images.edit(
    image=picture,
    mask=("mask.png", mask.getvalue()),
    prompt="a yellow star",
    response_format="b64_json",
    extra_body=quick,
)
assert edited.data
assert edited.data[0].b64_json
(folder / "edited.png").write_bytes(base64.b64decode(edited.data[0].b64_json))

varied = client.images.create_variation(
    image=picture, n=1, response_format="b64_json", extra_body=quick
)
assert varied.data
assert varied.data[0].b64_json
(folder / "varied.png").write_bytes(base64.b64decode(varied.data[0].b64_json))

stream = client.images.generate(
    prompt="a purple heart",
    stream=True,
    partial_images=2,
    extra_body={"steps": 60, "seed": 5},
)
types = []
for event in stream:
    types.append(event.type)
    content = base64.b64decode(event.b64_json)
    with Image.open(BytesIO(content)) as opened:
        assert opened.size == (128, 128)
    if event.type == "image_generation.completed":
        (folder / "streamed.png").write_bytes(content)
assert types[-1] == "image_generation.completed", types
assert "image_generation.partial_image" in types, types

for wrong, expected in (
    ({"prompt": "a", "n": 1000}, openai.BadRequestError),
    ({"prompt": "a", "model": "dall-e-9"}, openai.NotFoundError),
):
    refused = None
    try:
        client.images.generate(**wrong)
    except expected as error:
        refused = error.param
    assert refused in ("n", "model"), f"{wrong}: {refused}"
