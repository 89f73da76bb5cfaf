"""The packed archive, unpacked into an empty ComfyUI under another folder name."""

from __future__ import annotations

from devtools.server import ComfyServer
from tests.comfy.conftest import OTHER_NAME
from tests.comfy.graphs import OUTPUTS, Graph, done


def test_all_nodes_and_their_pages_are_there(packed_server: ComfyServer) -> None:
    known = packed_server.object_info()
    ours = {name for name, info in known.items() if info["python_module"] == f"custom_nodes.{OTHER_NAME}"}
    assert set(OUTPUTS) <= ours
    for name in ours:
        page = packed_server.get(f"/extensions/{OTHER_NAME}/docs/{name}/en.md", raw=True).decode()
        assert known[name]["display_name"] in page


def test_it_imported_without_complaint(packed_server: ComfyServer) -> None:
    complaints = [line for line in packed_server.log.read_text().splitlines() if OTHER_NAME in line]
    assert not [line for line in complaints if "FAILED" in line or "Cannot import" in line]


def test_install_prepared_the_folders(packed_server: ComfyServer) -> None:
    assert (packed_server.base / "models" / "realism_profiles").is_dir()
    assert list((packed_server.base / "input" / "realism-kit").glob("*.png"))


def test_the_shipped_profile_came_along(packed_server: ComfyServer) -> None:
    graph = Graph()
    scored = graph.add("RealismScore", images=graph.add("LoadImage", image="realism-kit/coffee.png"))
    preview = graph.add("PreviewAny", source=scored["irs"]).id
    run = done(packed_server.run(graph))
    assert float(run.entry["outputs"][preview]["text"][0]) > 0
