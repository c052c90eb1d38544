"""The page as its users have it: uploads, downloads, its API, and what it leaves behind.

Chromium is used where Selenium (requirements-app-test.txt) and the system's Chromium with its
driver are there. With PICTURES=docs before the command, the pictures of the page in docs are made
again.
"""

import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zipfile
from base64 import b64decode
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

import app
from cli import InputError
from data.sources import synthetic

names = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, names)), None)
MISSING = [name for name in ("gradio", "selenium") if not importlib.util.find_spec(name)]
needs_gradio = pytest.mark.skipif("gradio" in MISSING, reason="it needs requirements-app.txt")
needs_browser = pytest.mark.skipif(
    bool(MISSING) or not CHROMIUM or not shutil.which("chromedriver"),
    reason="it needs Gradio, Selenium, Chromium and its driver",
)
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1280,900")
FLAGS += ("--disable-background-networking", "--disable-component-update", "--disable-sync")
# Runs the script with a note of every address that it asks for or connects to.
CODE = """
import sys
notes, script = open(sys.argv.pop(1), "w", buffering=1), sys.argv.pop(1)
def note(event, args):
    if event in ("socket.connect", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname"):
        notes.write(f"{args[-1] if event in ('socket.connect', 'socket.sendto') else args[0]!r}\\n")
sys.addaudithook(note)
sys.path.insert(0, script.rpartition("/")[0])
import app
app.KEPT = float(sys.argv.pop(1))
app.EVERY = min(app.EVERY, app.KEPT)
app.cli.run(app.main, app.parse_args())
"""


def start(place, *options, kept=app.KEPT):
    """The page, served by a process whose files lie in a folder."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = [place / "addresses", ROOT / "app.py", kept, "--port", port, *options]
    errors = open(place / "errors", "a")  # noqa: SIM115 (the process keeps it)
    process = subprocess.Popen(
        [sys.executable, "-c", CODE, *map(str, words)],
        cwd=place,
        env=os.environ | {"TMPDIR": str(place), "http_proxy": "http://nowhere.invalid:1"},
        text=True,
        stdout=subprocess.PIPE,
        stderr=errors,
    )
    lines = [process.stdout.readline(), process.stdout.readline()]
    assert "is ready" in lines[1], (lines, (place / "errors").read_text())
    return SimpleNamespace(process=process, url=f"http://127.0.0.1:{port}", place=place)


def end(server, number):
    """The exit status of a page that gets a signal."""
    server.process.send_signal(number)
    return server.process.wait(60)


def draw(path, seed=50, **options):
    image, *_ = synthetic.draw_pet(np.random.default_rng(seed), seed % 20)
    Image.fromarray(image).save(path, **options)
    return path


def post(url, content):
    """(status, bytes) of an answer."""
    request = urllib.request.Request(url, content, {"Content-Type": "application/octet-stream"})
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def kept_files(server):
    """Names of the files that a page keeps, without its own examples."""
    paths = server.place.glob("pets-*/*/*")
    return sorted(path.name for path in paths if not path.name.startswith("drawn_"))


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = start(tmp_path_factory.mktemp("server"))
    yield server
    assert end(server, signal.SIGINT) == 130
    assert not list(server.place.glob("pets-*"))


# ------------------------------------------------------------ as a process


@needs_gradio
@pytest.mark.slow
def test_the_api_gives_a_cutout_or_a_sentence(server, tmp_path):
    status, content = post(f"{server.url}/cutout", draw(tmp_path / "a.png").read_bytes())
    pet = Image.open(BytesIO(content))
    assert (status, pet.mode, pet.size) == (200, "RGBA", Image.open(tmp_path / "a.png").size)
    status, content = post(f"{server.url}/cutout", b"hello")
    assert status == 400 and b"text" in content and b"Traceback" not in content
    Image.new("RGB", (60, 60), "white").save(tmp_path / "b.png")
    status, content = post(f"{server.url}/cutout", (tmp_path / "b.png").read_bytes())
    assert (status, content) == (404, b"no cat or dog found\n")


@needs_gradio
@pytest.mark.slow
def test_no_foreign_address_is_resolved(server):
    file = {"path": "http://example.invalid/p.jpg", "meta": {"_type": "gradio.FileData"}}
    for data in ([[file]], [None]):
        body = json.dumps({"data": data}).encode()
        url = f"{server.url}/gradio_api/call/look"
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
        event = json.loads(urllib.request.urlopen(request).read())["event_id"]
        answer = urllib.request.urlopen(f"{url}/{event}").read().decode()
        assert "addresses are not opened" in answer or "choose a photograph" in answer, answer
    asked = (server.place / "addresses").read_text().splitlines()
    assert asked and all("127.0.0.1" in address for address in asked), asked


@needs_gradio
@pytest.mark.slow
def test_files_are_deleted_in_time_at_the_end_and_at_the_next_start(tmp_path):
    photo = draw(tmp_path / "a.png").read_bytes()
    server = start(tmp_path, kept=1.5)
    post(f"{server.url}/cutout", photo)
    assert kept_files(server)
    assert end(server, signal.SIGHUP) not in (0, 1) and not list(tmp_path.glob("pets-*"))
    server = start(tmp_path)
    post(f"{server.url}/cutout", photo)
    assert end(server, signal.SIGKILL) == -9 and kept_files(server)
    server = start(tmp_path)
    assert not kept_files(server)
    assert end(server, signal.SIGTERM) == 143 and not list(tmp_path.glob("pets-*"))


def test_the_page_says_that_photographs_stay_only_where_they_do():
    assert app.is_local("127.0.0.1") and app.is_local("::1") and app.is_local("localhost")
    assert not app.is_local("0.0.0.0") and not app.is_local("::")
    assert "stay" in app.LOCAL and "stay" not in app.REMOTE


def test_an_address_that_cannot_be_had_is_refused_before_anything_begins():
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        with pytest.raises(InputError, match=f"port {port}"):
            app.main(app.parse_args(["--port", str(port)]))
    with pytest.raises(InputError, match="no.such.host.invalid"):
        app.main(app.parse_args(["--host", "no.such.host.invalid"]))


def test_without_gradio_one_sentence_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(InputError, match="requirements-app.txt"):
        app.import_gradio(tmp_path)


# ------------------------------------------------------------ several photographs


def test_several_photographs_give_one_zip(tmp_path):
    def look(path):
        if "bad" in path:
            raise InputError("bad cannot be read: it is text")
        folder = tmp_path / path
        folder.mkdir()
        (folder / "pet_cutout.png").write_text(path)
        pictures = [(str(folder / "0.jpg"), "Cut-out"), (str(folder / "1.jpg"), "Photograph")]
        words = f"<p>{path}</p>"
        return {"words": words, "pictures": pictures, "cutout": str(folder / "pet_cutout.png")}

    found = app.show_all(look, ["a", "bad", "b"], tmp_path)
    assert [name for _, name in found["pictures"]] == ["a", "b"]
    assert "<p>a</p>" in found["words"] and 'role="alert"' in found["words"]
    with zipfile.ZipFile(found["cutout"]) as archive:
        assert archive.namelist() == ["pet_cutout.png", "pet_cutout-2.png"]
        assert archive.read("pet_cutout-2.png") == b"b"
    assert "alert" in app.show_all(look, [], tmp_path)["words"]


# ------------------------------------------------------------ in Chromium


class Page:
    """Chromium with the page in it, and what a user does there."""

    def __init__(self, server, folder):
        from selenium import webdriver

        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        for flag in (*FLAGS, f"--user-data-dir={folder / 'profile'}"):
            options.add_argument(flag)
        service = webdriver.ChromeService(shutil.which("chromedriver"))
        self.driver = webdriver.Chrome(options, service)
        self.server, self.folder = server, folder
        self.command("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder))

    def command(self, name, **values):
        return self.driver.execute_cdp_cmd(name, values)

    def run(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def all(self, selector):
        return self.driver.find_elements("css selector", selector)

    def until(self, condition):
        last = time.monotonic() + 60
        while not (found := condition()):
            assert time.monotonic() < last, self.run("return document.body.innerText")
            time.sleep(0.02)
        return found

    def open(self, scheme="light", width=1280):
        scheme = [{"name": "prefers-color-scheme", "value": scheme}]
        self.command("Emulation.setEmulatedMedia", features=scheme)
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        self.command("Emulation.setDeviceMetricsOverride", **metrics)
        self.driver.get(self.server.url)
        self.until(lambda: len(self.all("#examples button")) == 4)
        return self

    def said(self, name):
        """The words about a file, once they and all pictures are there."""
        script = "return [...document.querySelectorAll('#said p')].map(line => line.innerText)"
        return self.until(
            lambda: any(name in line for line in self.run(script)) and self.run(script)
        )

    def choose(self, *paths):
        words = "\n".join(map(str, paths))
        self.until(lambda: self.all("#upload input[type=file]"))[0].send_keys(words)

    def download(self, button):
        before = set(self.folder.iterdir())
        self.all(f"#{button}")[0].click()
        kinds = (".png", ".zip")

        def new():
            return [path for path in set(self.folder.iterdir()) - before if path.suffix in kinds]

        return self.until(new)[0]

    def screenshot(self, path):
        size = "return [innerWidth, document.querySelector('main').getBoundingClientRect().bottom]"
        width, height = self.run(size)
        clip = {"x": 0, "y": 0, "width": width, "height": height + 20, "scale": 1}
        shot = self.command("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        image = Image.open(BytesIO(b64decode(shot["data"]))).convert("RGB")
        image.quantize(256, kmeans=3).save(path, optimize=True)


@pytest.fixture(scope="module")
def page(server, tmp_path_factory):
    page = Page(server, tmp_path_factory.mktemp("browser"))
    yield page
    page.driver.quit()


@needs_browser
@pytest.mark.slow
def test_photographs_go_in_and_cutouts_come_out(page, tmp_path):
    page.open().choose(draw(tmp_path / "My pet.png"))
    assert page.said("My pet.png")
    with Image.open(page.download("cutout")) as pet:
        assert pet.mode == "RGBA" and pet.size == Image.open(tmp_path / "My pet.png").size
    page.choose(draw(tmp_path / "b.png", 89), draw(tmp_path / "c.png", 33))
    page.said("c.png")
    assert zipfile.is_zipfile(page.download("cutout"))
    (tmp_path / "notes.jpg").write_text("no picture")
    page.choose(tmp_path / "notes.jpg")
    assert "choose a photograph" in page.said("notes.jpg")[0]
    assert not [one for one in page.all("#cutout, #mask") if one.is_displayed()]


@needs_browser
@pytest.mark.slow
def test_pictures_of_the_page(page, tmp_path):
    folder = Path(os.environ.get("PICTURES", tmp_path))
    for scheme, width, name in (("light", 1280, "app.png"), ("dark", 390, "app_phone.png")):
        page.open(scheme, width).all("#examples button")[1].click()
        page.said("drawn_2.png")
        root = "return document.documentElement"
        assert page.run(f"{root}.scrollWidth") == page.run(f"{root}.clientWidth") <= width
        page.screenshot(folder / name)
        assert Image.open(folder / name).width == width
