"""Turn a workflow as ComfyUI's frontend saves it into the prompt its server takes.

Only what shipped workflows use is understood; anything else is refused with a sentence, never guessed.
"""

from __future__ import annotations

from typing import Any

MUTED, BYPASSED = 2, 4
NOTES = {"Note", "MarkdownNote"}
VIRTUAL = NOTES | {"Reroute", "PrimitiveNode"}
WIDGET_TYPES = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COLOR"}
CONTROLS = {"fixed", "increment", "decrement", "randomize", "increment-wrap"}
UPLOADS = ("image_upload", "video_upload", "audio_upload", "file_upload")


class WorkflowError(ValueError):
    """A workflow that cannot be turned into a prompt; the text names the node and the fix."""


def to_prompt(workflow: dict[str, Any], object_info: dict[str, Any]) -> dict[str, Any]:
    """Convert a UI-format workflow to an API prompt, knowing /object_info. Raises WorkflowError."""
    if "nodes" not in workflow:
        raise WorkflowError(
            "this is no UI-format workflow: it has no 'nodes'. In ComfyUI use Save, not Export (API)."
        )
    if (workflow.get("definitions") or {}).get("subgraphs"):
        raise WorkflowError("the workflow has subgraphs; unpack them in ComfyUI and save it again.")
    nodes = {node["id"]: node for node in workflow["nodes"]}
    links = {link[0]: link[1:3] for link in map(_link, workflow.get("links") or [])}
    prompt = {}
    for node in nodes.values():
        if node.get("mode") in (MUTED, BYPASSED):
            state = "muted" if node["mode"] == MUTED else "bypassed"
            raise WorkflowError(
                f"{_name(node)} is {state}; enable or delete it and save the workflow again."
            )
        if node["type"] in VIRTUAL:
            continue
        if node["type"] not in object_info:
            raise WorkflowError(
                f"{_name(node)} is of a type this server does not know; is its node pack installed?"
            )
        prompt[str(node["id"])] = {
            "class_type": node["type"],
            "inputs": _inputs(node, object_info[node["type"]], nodes, links),
            "_meta": {
                "title": node.get("title") or object_info[node["type"]].get("display_name") or node["type"]
            },
        }
    return prompt


def _inputs(node: dict, info: dict, nodes: dict, links: dict) -> dict[str, Any]:
    specs = _specs(info)
    values = _widget_values(node, specs)
    for slot in node.get("inputs") or []:
        if slot.get("link") is not None:
            values[slot["name"]] = _source(slot["link"], nodes, links, node)
    for name, (_, required) in specs.items():
        if required and name not in values:
            raise WorkflowError(
                f"input '{name}' of {_name(node)} is required but has neither a link nor a value."
            )
    return values


def _specs(info: dict) -> dict[str, tuple[list, bool]]:
    """{input name: (its specification, is it required)} in the order of the node's widgets."""
    specs = {}
    for group in ("required", "optional"):
        declared = info["input"].get(group) or {}
        for name in (info.get("input_order") or {}).get(group) or declared:
            specs[name] = (declared[name], group == "required")
    return specs


def _options(spec: list) -> dict:
    return spec[1] if len(spec) > 1 and isinstance(spec[1], dict) else {}


def has_widget(spec: list) -> bool:
    """Whether the frontend shows a widget, whose value is saved, for an input of this specification."""
    kind, options = spec[0], _options(spec)
    if options.get("forceInput"):
        return False
    return isinstance(kind, list) or kind in WIDGET_TYPES or options.get("widgetType") in WIDGET_TYPES


def _widget_values(node: dict, specs: dict) -> dict[str, Any]:
    saved = node.get("widgets_values") or []
    if isinstance(saved, dict):
        return {name: saved[name] for name, (spec, _) in specs.items() if has_widget(spec) and name in saved}
    values, at, uploads = {}, 0, 0
    for name, (spec, _) in specs.items():
        if isinstance(spec[0], str) and spec[0].startswith("COMFY_"):
            raise WorkflowError(
                f"input '{name}' of {_name(node)} changes its shape ({spec[0]}), "
                "which this converter does not understand."
            )
        if not has_widget(spec):
            continue
        if at >= len(saved):
            raise WorkflowError(
                f"{_name(node)} has no saved value for '{name}': the workflow was saved with another "
                "version of the node. Open it in ComfyUI and save it again."
            )
        values[name] = saved[at]
        at += 1
        if _has_control(name, spec) and at < len(saved) and saved[at] in CONTROLS:
            at += 1
        uploads += any(_options(spec).get(kind) for kind in UPLOADS)
    while len(saved) > at and saved[-1] is None:  # a button saves an empty value
        saved = saved[:-1]
    if len(saved) - at > uploads:
        raise WorkflowError(
            f"{_name(node)} has {len(saved)} saved values, {len(saved) - at} more than its inputs: "
            "it was saved with another version of the node. Open it in ComfyUI and save it again."
        )
    return values


def _has_control(name: str, spec: list) -> bool:
    """Whether a 'control after generate' value follows this widget's own, as it does every seed."""
    return bool(_options(spec).get("control_after_generate")) or (
        spec[0] == "INT" and name in ("seed", "noise_seed")
    )


def _source(link: int, nodes: dict, links: dict, target: dict) -> Any:
    """What a link brings: [node id, output], or a value where it starts at a primitive node."""
    if link not in links:
        raise WorkflowError(f"{_name(target)} names link {link}, which the workflow does not have.")
    origin, slot = links[link]
    if origin not in nodes:
        raise WorkflowError(
            f"link {link} to {_name(target)} starts at node {origin}, which the workflow does not have."
        )
    node = nodes[origin]
    if node["type"] == "PrimitiveNode":
        return (node.get("widgets_values") or [None])[0]
    if node["type"] == "Reroute":
        before = node["inputs"][0].get("link")
        if before is None:
            raise WorkflowError(f"{_name(target)} is fed by a reroute with nothing connected to it.")
        return _source(before, nodes, links, target)
    return [str(origin), slot]


def _link(link: list | dict) -> list:
    if isinstance(link, dict):
        return [link["id"], link["origin_id"], link["origin_slot"]]
    return link


def _name(node: dict) -> str:
    return f"node {node['id']} ({node.get('title') or node['type']})"
