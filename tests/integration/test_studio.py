"""The studio in a real browser with a real Triton: main path of each room, accessibility, no other hosts."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import soundfile
from tests.integration.gateway import music_repository
from tests.support.gateways import gateway_process
from tests.support.recommender_artifacts import item_id, user_id

from tritone import to_grid
from tritone.constants import EMOTIONS
from tritone_export.renderer import publish_renderer
from tritone_gateway.routers.studio import PAGE
from tritone_serving import TritonServer

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright (pip install '.[dev]')")
expect = playwright.expect
# Debian's, or the browser that a hosted runner has.
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
AXE = Path(__file__).parents[2] / "studio" / "node_modules" / "axe-core" / "axe.min.js"
pytestmark = [
    pytest.mark.triton,
    pytest.mark.timeout(300),
    pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium (apt install chromium)"),
    pytest.mark.skipif(not (PAGE / "index.html").is_file(), reason="needs the page (make studio)"),
]
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--autoplay-policy=no-user-gesture-required",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
)
CORRUPT_STORAGE = """async () => {
    for (const name of Object.keys(localStorage)) localStorage.setItem(name, '{"notes": [[0, 0, 0]]');
    localStorage.setItem("tritone.studio.write.settings", '{"bars": "many"}');
    localStorage.setItem("tritone.studio.recommend.history", '[1, null]');
    const opened = indexedDB.open("tritone.studio", 1);
    await new Promise((resolve) => (opened.onsuccess = resolve));
    const values = opened.result.transaction("values", "readwrite").objectStore("values");
    for (const name of ["write.history", "listen.recording"]) values.put({before: [{nFrames: 1e12}], after: 7}, name);
    await new Promise((resolve) => (values.transaction.oncomplete = resolve));
    opened.result.close();
}"""
ROOMS = ("listen", "write", "recommend", "watch")
WIDTHS = {"phone": (390, 844), "desktop": (1280, 900)}


@pytest.fixture(scope="module")
def url(
    tmp_path_factory: pytest.TempPathFactory, serve_models: Callable[[Path], Path], server: TritonServer
) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("studio")
    serve_models(music_repository(folder / "models"))
    recordings = folder / "recordings"
    recordings.mkdir()
    for number in range(50):
        (recordings / f"{item_id(number)}.ogg").write_bytes(recording(2.0))
    options = ("--recordings", str(recordings), "--example-user", user_id(3), "--example-user", user_id(5))
    with gateway_process(server.grpc_url, folder / "keys.json", *options) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        running = started.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield running
        running.close()


class Visitor:
    """A new browser context with one page, whose errors and requests to other hosts fail the test."""

    def __init__(self, browser: Any, url: str, *, width: str = "desktop", scheme: str = "light") -> None:
        size = WIDTHS[width]
        self.problems: list[str] = []
        self.context = browser.new_context(
            viewport={"width": size[0], "height": size[1]}, color_scheme=scheme, permissions=["microphone"]
        )
        self.page = self.context.new_page()
        self.page.set_default_timeout(20_000)
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.problems.append(f"error: {error}"))
        self.page.on("request", lambda request: self._request(request.url, url))
        self.url = url

    def open(self, room: str) -> Any:
        self.page.goto(f"{self.url}/studio/#/{room}")
        self.page.get_by_role("heading", level=1).wait_for()
        return self.page

    def _console(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.problems.append(f"{message.type}: {message.text}")

    def _request(self, target: str, url: str) -> None:
        if not target.startswith((url, "blob:", "data:")):
            self.problems.append(f"request to {target}")


@pytest.fixture
def visit(browser: Any, url: str) -> Iterator[Callable[..., Visitor]]:
    visitors: list[Visitor] = []

    def begin(**options: str) -> Visitor:
        visitors.append(Visitor(browser, url, **options))
        return visitors[-1]

    yield begin
    for visitor in visitors:
        visitor.context.close()
        assert visitor.problems == []


def recording(duration_s: float = 9.0) -> bytes:
    time_s = np.arange(int(duration_s * 22_050)) / 22_050
    file = io.BytesIO()
    soundfile.write(file, 0.4 * np.sin(2 * np.pi * 220 * time_s) * (1 + np.sin(time_s)) / 2, 22_050, format="OGG")
    return file.getvalue()


def test_a_recording_is_analysed_and_a_moment_is_played(visit: Callable[..., Visitor], tmp_path: Path) -> None:
    page = visit().open("listen")
    (tmp_path / "song.ogg").write_bytes(recording())
    page.set_input_files("input[type=file]", tmp_path / "song.ogg")
    page.get_by_text("Sounds like").wait_for()
    page.get_by_text("Values of each window").click()
    moments = page.get_by_role("button", name=re.compile("^Play from"))
    assert moments.count() == 3
    moments.nth(1).click()
    page.get_by_role("button", name="Pause").wait_for()
    expect(page.get_by_role("timer")).to_have_text(re.compile("^0:0[3-8]"))
    page.get_by_role("button", name="Pause").click()
    page.get_by_role("slider", name="Position in the recording").press("Home")
    expect(page.get_by_role("timer")).to_have_text(re.compile("^0:00"))


def test_the_plot_of_genres_is_as_wide_as_the_waveform_and_plays(visit: Callable[..., Visitor], tmp_path: Path) -> None:
    page = visit().open("listen")
    (tmp_path / "song.ogg").write_bytes(recording())
    page.set_input_files("input[type=file]", tmp_path / "song.ogg")
    curves, waveform = page.locator(".curves").first, page.locator(".wave")
    curves.wait_for()
    assert curves.bounding_box()["x"] == waveform.bounding_box()["x"]
    assert curves.bounding_box()["width"] == waveform.bounding_box()["width"]
    page.get_by_role("button", name="Play", exact=True).wait_for()
    expect(page.get_by_role("button", name="Play", exact=True)).to_be_enabled()
    curves.click(position={"x": curves.bounding_box()["width"] / 2, "y": 10})
    page.get_by_role("button", name="Pause").wait_for()
    expect(page.get_by_role("timer")).to_have_text(re.compile("^0:0[4-8]"))
    page.get_by_role("button", name=re.compile(": play from 0:00$")).first.click()
    expect(page.get_by_role("timer")).to_have_text(re.compile("^0:0[0-3]"))


def test_emotions_are_drawn_over_time_and_are_in_the_table(visit: Callable[..., Visitor], tmp_path: Path) -> None:
    page = visit().open("listen")
    (tmp_path / "song.ogg").write_bytes(recording())
    page.set_input_files("input[type=file]", tmp_path / "song.ogg")
    page.get_by_text("Emotions over time").wait_for()
    curves = page.locator(".curve.emotion")
    assert curves.count() == 5
    name = curves.first.text_content()
    assert name in {each.replace("_", " ") for each in EMOTIONS}
    page.get_by_text("Values of each window").click()
    page.get_by_role("columnheader", name=name).wait_for()
    curves.first.click(position={"x": 10, "y": 10})
    page.get_by_role("button", name="Pause").wait_for()


def test_a_recording_survives_a_reload_until_it_is_deleted(visit: Callable[..., Visitor], tmp_path: Path) -> None:
    page = visit().open("listen")
    (tmp_path / "song.ogg").write_bytes(recording())
    page.set_input_files("input[type=file]", tmp_path / "song.ogg")
    page.get_by_text("Sounds like").wait_for()
    page.get_by_text("The recording is stored in this browser").wait_for()
    page.wait_for_timeout(300)  # until it is stored
    page.reload()
    page.get_by_text("Sounds like").wait_for()
    page.get_by_text("song.ogg", exact=True).wait_for()
    expect(page.get_by_role("button", name="Play", exact=True)).to_be_enabled()
    page.get_by_role("button", name="Delete the recording").click()
    page.get_by_text("Sounds like").wait_for(state="detached")
    page.reload()
    page.get_by_text("The recording is divided into windows").wait_for()


def test_the_microphone_is_recorded_and_analysed(visit: Callable[..., Visitor]) -> None:
    page = visit().open("listen")
    page.get_by_role("button", name="Record from the microphone").click()
    page.get_by_role("button", name=re.compile("Stop recording")).wait_for()
    page.wait_for_timeout(1_500)
    page.get_by_role("button", name=re.compile("Stop recording")).click()
    page.get_by_text("Sounds like").wait_for()


def test_an_invalid_recording_shows_an_error(visit: Callable[..., Visitor], tmp_path: Path) -> None:
    visitor = visit()
    page = visitor.open("listen")
    (tmp_path / "song.ogg").write_bytes(b"not a recording")
    page.set_input_files("input[type=file]", tmp_path / "song.ogg")
    assert page.get_by_role("alert").text_content()
    visitor.problems = [each for each in visitor.problems if "422" not in each]  # the browser logs failed requests


def test_a_piece_is_composed_edited_infilled_and_downloaded(visit: Callable[..., Visitor]) -> None:
    page = visit().open("write")
    page.get_by_label("Seed").fill("7")
    page.get_by_role("button", name="Compose", exact=True).click()
    page.locator("[data-first-bar-ms]").wait_for()
    page.locator(".busy").wait_for(state="detached")
    code = page.locator("code").text_content()
    assert code.startswith("music.compose(bars=8")
    assert "seed=7" in code
    page.get_by_role("button", name="Select bar 2", exact=True).click()
    page.get_by_role("button", name="Infill bar 2", exact=True).click()
    expect(page.locator("code")).to_contain_text("music.infill(")
    page.get_by_role("button", name="Undo").click()
    for name, beginning in (("MIDI", b"MThd"), ("MusicXML", b"<?xml"), ("WAV", b"RIFF")):
        page.get_by_label("Format").select_option(label=name)
        with page.expect_download() as download:
            page.get_by_role("button", name="Download").click()
        content = Path(download.value.path()).read_bytes()
        assert content.startswith(beginning)
        if name != "WAV":
            assert to_grid(content).n_notes > 0


def test_a_piece_plays_while_it_is_composed(visit: Callable[..., Visitor]) -> None:
    page = visit().open("write")
    page.get_by_role("slider", name=re.compile("^Bars")).fill("16")
    page.get_by_role("button", name="Compose and play").click()
    page.get_by_role("button", name="Stop", exact=True).wait_for()
    page.locator(".roll-position").wait_for(state="attached")
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")  # first the composition, if it still arrives, then the sound
    page.get_by_role("button", name="Play", exact=True).wait_for()


def test_a_chosen_model_composes_the_same_notes_as_the_streaming_model(visit: Callable[..., Visitor]) -> None:
    page = visit().open("write")
    page.get_by_label("Seed").fill("7")
    roll = page.locator("rect.roll-note")
    models = page.get_by_label("Model", exact=True)
    models.wait_for()
    assert {"composer", "music_transformer", "polyphony_rnn"} <= set(
        models.locator("option").evaluate_all("each => each.map(one => one.value)")
    )
    composed = []
    for model in ("composer", "music_transformer"):
        models.select_option(model)
        page.get_by_role("button", name="Compose", exact=True).click()
        page.locator("code").filter(has_text="seed=7").wait_for()
        page.locator(".busy").wait_for(state="detached")
        composed.append(sorted((each.get_attribute("x"), each.get_attribute("y")) for each in roll.all()))
        page.get_by_role("button", name="Clear").click()
    assert composed[0] == composed[1]
    assert composed[0]


def test_an_invalid_seed_shows_an_error(visit: Callable[..., Visitor]) -> None:
    page = visit().open("write")
    page.get_by_label("Seed").fill("-3")
    page.get_by_role("button", name="Compose", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("expected an integer of at least 0, got -3")


def test_keyboard_shortcuts_undo_play_and_close_the_settings(visit: Callable[..., Visitor]) -> None:
    page = visit().open("write")
    page.locator("svg.roll-notes").click(position={"x": 16, "y": 40})
    assert page.locator("rect.roll-note").count() == 1
    page.keyboard.press("Control+z")
    assert page.locator("rect.roll-note").count() == 0
    page.keyboard.press("Control+Shift+z")
    assert page.locator("rect.roll-note").count() == 1
    page.keyboard.press("Space")
    page.get_by_role("button", name="Stop", exact=True).wait_for()
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Play", exact=True).wait_for()
    page.get_by_text("Settings", exact=True).click()
    page.get_by_label("API key").focus()
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.tagName") == "SUMMARY"
    assert not page.get_by_label("API key").is_visible()


def test_clicked_notes_survive_a_reload(visit: Callable[..., Visitor]) -> None:
    visitor = visit()
    page = visitor.open("write")
    roll = page.locator("svg.roll-notes")
    roll.click(position={"x": 16, "y": 40})
    roll.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("Enter")
    assert page.locator("rect.roll-note").count() == 2
    page.wait_for_timeout(300)  # until the history is stored
    page.reload()
    assert page.locator("rect.roll-note").count() == 2
    expect(page.get_by_role("button", name="Undo")).to_be_enabled()
    page.keyboard.press("Control+z")
    assert page.locator("rect.roll-note").count() == 1
    page.wait_for_timeout(300)  # until it is stored
    page.reload()
    expect(page.get_by_role("button", name="Redo")).to_be_enabled()
    page.keyboard.press("Control+Shift+z")
    assert page.locator("rect.roll-note").count() == 2
    page.get_by_role("button", name="Undo").click()
    page.get_by_role("button", name="Undo").click()
    assert page.locator("rect.roll-note").count() == 0


def test_corrupt_stored_state_does_not_break_the_page(visit: Callable[..., Visitor]) -> None:
    page = visit().open("write")
    page.locator("svg.roll-notes").click(position={"x": 16, "y": 40})
    page.wait_for_timeout(300)  # until it is stored
    page.evaluate(CORRUPT_STORAGE)
    page.reload()
    page.locator("svg.roll-notes").click(position={"x": 16, "y": 40})
    assert page.locator("rect.roll-note").count() == 1
    page.keyboard.press("Control+z")
    assert page.locator("rect.roll-note").count() == 0
    assert page.get_by_role("button", name="Undo").is_disabled()
    for room in ROOMS:
        page.goto(f"{page.url.partition('#')[0]}#/{room}")
        page.get_by_role("heading", level=1, name=room.capitalize()).wait_for()
        assert page.get_by_text("This room cannot be shown").count() == 0


def test_inspire_composes_plays_and_recommends_similar_tracks(visit: Callable[..., Visitor]) -> None:
    page = visit().open("write")
    page.get_by_label("Mood").select_option("calmness")
    page.get_by_role("button", name="Inspire me").click()
    page.locator("[data-inspired-ms]").wait_for()
    page.locator(".roll-position").wait_for(state="attached")  # it plays
    assert page.locator("rect.roll-note").count() > 0
    page.get_by_role("heading", name=re.compile("sounds like")).wait_for()
    expect(page.locator("code")).to_contain_text('music.inspire(mood="calmness", bars=8')
    page.get_by_role("button", name="Stop", exact=True).wait_for()
    tracks = page.locator("section", has=page.locator("[data-inspired-ms]")).locator("li")
    assert tracks.count() == 5
    tracks.first.get_by_role("button", name=re.compile("^Play ")).click()
    tracks.first.get_by_role("button", name=re.compile("^Stop ")).wait_for()
    page.get_by_role("button", name="Play", exact=True).wait_for()  # the piece has stopped
    tracks.first.get_by_role("button", name=re.compile("^Like ")).click()
    page.reload()
    expect(page.locator("[data-inspired-ms]")).to_contain_text("ms, of which rendering took")
    page.get_by_role("button", name="Undo").click()
    assert page.locator("rect.roll-note").count() == 0
    page.get_by_role("link", name="Recommend").click()
    page.get_by_text("Liked (1)").wait_for()


def test_a_score_is_engraved_played_harmonised_and_varied(visit: Callable[..., Visitor]) -> None:
    page = visit().open("write")
    for step in range(4):
        page.locator("svg.roll-notes").click(position={"x": 16 + 44 * step, "y": 60})
    page.get_by_role("button", name="Engraved score").click()
    page.locator(".engraving svg").wait_for()
    page.get_by_role("button", name="Piano roll").click()
    page.get_by_role("button", name="Play", exact=True).click()
    page.get_by_role("button", name="Stop", exact=True).wait_for()
    page.locator(".roll-position").wait_for(state="attached")
    page.get_by_role("button", name="Stop", exact=True).click()
    for button, call in (("Harmonise", "harmonize"), ("Vary two bars", "vary")):
        page.get_by_role("button", name=button).click()
        expect(page.locator("code")).to_contain_text(f"music.{call}(")


def test_two_ideas_are_interpolated_and_one_is_used(visit: Callable[..., Visitor]) -> None:
    page = visit().open("write")
    page.get_by_text("Ideas of two bars").click()
    page.get_by_role("button", name="Create 4 ideas").click()
    page.get_by_role("button", name="Use idea 1").click()
    page.get_by_role("button", name="Remember two bars").click()
    page.get_by_role("button", name="Use idea 2").click()
    page.get_by_role("button", name="Interpolate").click()
    page.get_by_role("button", name="Use idea 5").wait_for()


def test_likes_and_skips_change_the_recommendations(visit: Callable[..., Visitor]) -> None:
    page = visit().open("recommend")
    titles = page.locator(".tracks > li strong")
    titles.first.wait_for()
    page.get_by_label("Search tracks").fill(item_id(3))
    page.get_by_role("button", name=re.compile("^Add .* to the liked tracks")).first.click()
    page.get_by_text("Based on the tracks that you liked and skipped").wait_for()
    skipped, other = titles.nth(0).text_content(), titles.nth(1).text_content()
    page.get_by_role("button", name=f"Skip {skipped}", exact=True).click()
    expect(titles.get_by_text(skipped, exact=True)).to_have_count(0)
    page.get_by_role("button", name=f"Tracks similar to {other}", exact=True).click()
    page.get_by_role("heading", name=f"Similar to {other}", exact=True).wait_for()


def test_an_example_listener_is_selected(visit: Callable[..., Visitor]) -> None:
    page = visit().open("recommend")
    page.get_by_text("Popular tracks").wait_for()
    examples = page.get_by_role("group", name="Examples").get_by_role("button")
    assert examples.all_text_contents() == [user_id(3), user_id(5)]
    examples.first.click()
    page.get_by_text("Based on the history of this listener").wait_for()
    examples.first.click()
    page.get_by_text("Popular tracks").wait_for()
    page.get_by_label("Known listener").fill("nobody")
    page.get_by_text("This listener is unknown").wait_for()


def test_a_track_is_played(visit: Callable[..., Visitor]) -> None:
    page = visit().open("recommend")
    play = page.locator(".tracks > li").first.get_by_role("button", name=re.compile("^Play "))
    play.click()
    page.get_by_role("button", name=re.compile("^Stop ")).wait_for()


def test_models_and_load_are_shown(visit: Callable[..., Visitor]) -> None:
    visitor = visit()
    page = visitor.open("watch")
    page.get_by_role("row", name=re.compile("genre_cnn.*yes")).wait_for()
    page.request.post(f"{visitor.url}/v1/recommend", data={})
    page.get_by_role("row", name="/v1/recommend").wait_for()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("room", ROOMS)
def test_rooms_have_no_serious_accessibility_violations_and_fit_the_screen(
    visit: Callable[..., Visitor], width: str, scheme: str, room: str
) -> None:
    page = visit(width=width, scheme=scheme).open(room)
    if room == "write":
        page.get_by_role("button", name="Compose", exact=True).click()
        page.locator("[data-first-bar-ms]").wait_for()
    page.wait_for_timeout(300)
    overflow = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert overflow <= 0
    # Not as a script element, which the page's policy refuses.
    page.evaluate(AXE.read_text())
    found = page.evaluate("axe.run().then(result => result.violations)")
    serious = [
        (each["id"], [node["html"][:120] for node in each["nodes"]])
        for each in found
        if each["impact"] in ("serious", "critical")
    ]
    assert serious == []


@pytest.mark.slow
def test_the_command_stops_its_server(tmp_path: Path) -> None:
    publish_renderer(tmp_path / "models")
    command = [sys.executable, "-m", "tritone_cli", "studio", "--port", "0", "--json"]
    command += ["--repository", str(tmp_path / "models")]
    environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as studio:
        assert studio.stdout is not None
        url = json.loads(studio.stdout.readline())["url"]
        with urllib.request.urlopen(f"{url}/readyz") as response:  # noqa: S310 - a page of this machine
            assert response.status == 200
        (server,) = psutil.Process(studio.pid).children()
        assert "serve" in server.cmdline()
        studio.terminate()
        assert studio.wait(30) == 0
    server.wait(1)
    assert not server.is_running()


def test_an_unreachable_gateway_shows_an_error(browser: Any, url: str) -> None:
    visitor = Visitor(browser, url)
    page = visitor.open("recommend")
    page.locator(".tracks > li").first.wait_for()
    visitor.context.set_offline(True)
    page.get_by_label("Diversity").fill("0.5")
    page.get_by_text("The gateway cannot be reached").wait_for()
    visitor.context.close()
