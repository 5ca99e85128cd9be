"""The page that lists the routes: made from the OpenAPI document, with no script and nothing else.

It asks for nothing from anywhere, and its policy forbids what it has no use for.
"""

import json
from base64 import b64encode
from collections.abc import Iterator, Mapping
from hashlib import sha256
from html import escape
from typing import Any

from aiohttp import web

_STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { margin: 0 auto; max-width: 60rem; padding: 1rem; }
h1, h2 { line-height: 1.2; }
h2 { margin: 2.5rem 0 .5rem; text-transform: capitalize; }
p { margin: .25rem 0; }
article { border-top: 1px solid #8886; padding: .75rem 0; }
code, pre { font: .875rem/1.5 ui-monospace, monospace; overflow-wrap: anywhere; }
pre { overflow: auto; margin: .25rem 0; }
h3 { font-size: 1rem; margin: 0; }
h3 b { display: inline-block; min-width: 4.5rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0 1rem; margin: .25rem 0; }
dd { margin: 0; }
"""

_POLICY = "; ".join(
    (
        "default-src 'none'",
        f"style-src 'sha256-{b64encode(sha256(_STYLE.encode()).digest()).decode()}'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)


def page_reply(html: str) -> web.Response:
    """Answer with the page, under its policy."""
    headers = {
        "Content-Security-Policy": _POLICY,
        "Cache-Control": "no-cache",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }
    return web.Response(text=html, content_type="text/html", charset="utf-8", headers=headers)


def html_of(document: Mapping[str, Any]) -> str:
    """The page of an OpenAPI document."""
    info = document["info"]
    title = f"{info['title']} {info['version']}: routes"
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{escape(title)}</h1><p>{escape(info['description'])}</p>",
        '<p>For programs: <a href="../openapi.json">openapi.json</a></p>',
    ]
    for tag in document["tags"]:
        parts.append(f"<section><h2>{escape(tag['name'].replace('_', ' '))}</h2>")
        parts.append(f"<p>{escape(tag['description'])}</p>")
        for path, item in document["paths"].items():
            for method, operation in item.items():
                if method != "servers" and tag["name"] in operation["tags"]:
                    parts += _operation(method, path, operation)
        parts.append("</section>")
    parts.append("<section><h2>Schemas</h2>")
    for name, schema in document["components"]["schemas"].items():
        parts.append(f'<article id="{escape(name)}"><h3>{escape(name)}</h3>{_json(schema)}')
        parts.append("</article>")
    return "".join([*parts, "</section></body></html>"])


def _operation(method: str, path: str, operation: Mapping[str, Any]) -> Iterator[str]:
    yield f'<article id="{escape(operation["operationId"])}">'
    yield f"<h3><b>{escape(method.upper())}</b> <code>{escape(path)}</code></h3>"
    yield f"<p>{escape(operation['summary'])}</p>"
    if operation["description"]:
        yield f"<p>{escape(operation['description'])}</p>"
    if operation["parameters"]:
        yield "<dl>"
        for parameter in operation["parameters"]:
            about = parameter.get("description") or f"In the {parameter['in']}."
            yield f"<dt><code>{escape(parameter['name'])}</code></dt><dd>{escape(about)}</dd>"
        yield "</dl>"
    if body := operation.get("requestBody"):
        yield _contents("takes", body)
    for status, answer in operation["responses"].items():
        if status != "default" and "content" in answer:
            yield _contents(f"answers {status}", answer)
    yield "</article>"


def _contents(what: str, holder: Mapping[str, Any]) -> str:
    return "".join(
        f"<details><summary>{escape(what)} <code>{escape(content_type)}</code></summary>"
        f"{_json(content['schema'])}</details>"
        for content_type, content in holder["content"].items()
    )


def _json(schema: Any) -> str:
    return f"<pre>{escape(json.dumps(schema, indent=2, ensure_ascii=False))}</pre>"
