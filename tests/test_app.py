"""The page as its users have it: in Chromium, with a real upload and a real download; tests/training/test_shown.py is about
what it shows.

In a browser it is tried where Gradio and Selenium (requirements-app-test.txt) and Chromium with its driver are there. With
PICTURES=docs before the command, the pictures of docs/app.md are made again.
"""

import importlib.util
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
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
from data.pixels import of_pillow
from data.sources import synthetic
from training import checkpoint, looking, shown

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
MISSING = [name for name in ("gradio", "selenium") if not importlib.util.find_spec(name)]
needs_gradio = pytest.mark.skipif(
    "gradio" in MISSING, reason="it needs Gradio: requirements-app.txt"
)
MISSING += [] if CHROMIUM else ["Chromium"]
MISSING += [] if shutil.which("chromedriver") else ["its chromedriver"]
needs_browser = pytest.mark.skipif(bool(MISSING), reason=f"there is no {', no '.join(MISSING)}")
FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--window-size=1280,900",
]
# Runs the script with a note of every address that it asks for or connects to.
CODE = """
import runpy, sys
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
    environment = os.environ | {"TMPDIR": str(place), "http_proxy": "http://nowhere.invalid:1"}
    command = [
        sys.executable,
        "-c",
        CODE,
        place / "addresses",
        ROOT / "app.py",
        kept,
        "--port",
        port,
        *options,
    ]
    process = subprocess.Popen(
        list(map(str, command)),
        cwd=place,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=open(place / "errors", "w"),
    )
    lines = [process.stdout.readline(), process.stdout.readline()]
    assert lines[1] == f"http://127.0.0.1:{port} is ready; Ctrl-C ends it\n", (
        lines,
        (place / "errors").read_text(),
    )
    return SimpleNamespace(process=process, url=f"http://127.0.0.1:{port}", place=place)


def end(server, number):
    """The exit status of a page that gets a signal; it leaves one line, if all went well, and no files."""
    server.process.send_signal(number)
    status = server.process.wait(60)
    assert (server.place / "errors").read_text() == f"-c: stopped by {number.name}\n" and not list(
        server.place.glob("pets-*")
    )
    return status


def files_of(server):
    """Names of the files that a page keeps, without its own examples."""
    return sorted(
        path.name for path in server.place.glob("pets-*/*/*") if not path.name.startswith("drawn_")
    )


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = start(tmp_path_factory.mktemp("server"))
    yield server
    assert end(server, signal.SIGINT) == 130


# The words, or nothing where a picture is not there yet.
SAID = """
if (![...document.querySelectorAll(".picture img")].every(image => image.complete && image.naturalWidth)) return []
return [...document.querySelectorAll("#said p")].map(line => line.innerText)
"""
SHOWN = (
    "return [...document.querySelectorAll(arguments[0])].filter(e => e.checkVisibility()).length"
)


class Page:
    """Chromium with the page in it, and what a user does there."""

    def __init__(self, server, folder):
        from selenium import webdriver

        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        for flag in (*FLAGS, f"--user-data-dir={folder / 'profile'}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
        self.driver = webdriver.Chrome(
            options, webdriver.ChromeService(shutil.which("chromedriver"))
        )
        self.server, self.folder = server, folder
        self.command("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder))

    def command(self, name, **values):
        return self.driver.execute_cdp_cmd(name, values)

    def run(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def all(self, selector):
        return self.driver.find_elements("css selector", selector)

    def until(self, condition):
        end = time.monotonic() + 60
        while not (found := condition()):
            assert time.monotonic() < end, self.text()
            time.sleep(0.02)
        return found

    def open(self, scheme="light", width=None):
        self.command(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": scheme}],
        )
        if width:
            self.command(
                "Emulation.setDeviceMetricsOverride",
                width=width,
                height=844,
                deviceScaleFactor=1,
                mobile=True,
            )
        else:
            self.command("Emulation.clearDeviceMetricsOverride")
        self.driver.get(self.server.url)
        self.until(
            lambda: self.all("#upload input[type=file]") and len(self.all("#examples button")) == 4
        )
        return self

    def text(self):
        return self.run("return document.body.innerText")

    def said(self, name):
        """The words about a file, once they are there, with all pictures."""
        return self.until(
            lambda: (lines := self.run(SAID)) and any(name in line for line in lines) and lines
        )

    def choose(self, path):
        self.until(lambda: self.all("#upload input[type=file]"))[0].send_keys(str(path))

    def example(self, number):
        self.all("#examples button")[number - 1].click()
        return self.said(f"drawn_{number}.png")

    def download(self, button):
        before = set(self.folder.iterdir())
        self.all(f"#{button}")[0].click()
        return self.until(
            lambda: [path for path in set(self.folder.iterdir()) - before if path.suffix == ".png"]
        )[0]

    def pictures(self):
        """The pictures on the page as (H, W, 3)."""
        urls = self.run(
            "return [...document.querySelectorAll('.picture img')].map(image => image.src)"
        )
        return [
            np.asarray(Image.open(BytesIO(urllib.request.urlopen(url).read()))).astype(int)
            for url in urls
        ]

    def screenshot(self, path):
        width, height = self.run(
            "return [innerWidth, document.querySelector('main').getBoundingClientRect().bottom + 20]"
        )
        shot = self.command(
            "Page.captureScreenshot",
            captureBeyondViewport=True,
            clip={"x": 0, "y": 0, "width": width, "height": height, "scale": 1},
        )
        Image.open(BytesIO(b64decode(shot["data"]))).convert("RGB").quantize(256, kmeans=3).save(
            path, optimize=True
        )


@pytest.fixture(scope="module")
def page(server, tmp_path_factory):
    page = Page(server, tmp_path_factory.mktemp("browser"))
    yield page
    page.driver.quit()


def draw(path, seed, **options):
    image, *_ = synthetic.draw_pet(np.random.default_rng(seed), seed % 20)
    image = Image.fromarray(image)
    if "exif" in options:
        image = image.transpose(
            Image.Transpose.ROTATE_90
        )  # as a camera stores it that was held upright
    image.save(path, **options)
    return path


# --------------------------------------------------------------------------------------------------- in Chromium


@needs_browser
def test_a_photograph_goes_in_and_its_cut_out_comes_out(page, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = draw(tmp_path / "My pet.JPG", 89, exif=exif, quality=95)
    page.open().choose(path)
    answer, rest, small = page.said("My pet.JPG")
    assert re.fullmatch(r"dog \d+%", answer) and "of the picture is pet, head at" in rest
    upright = shown.photographs.read(path).image
    assert (
        small.endswith(f"{upright.width} x {upright.height} pixels")
        and upright.width > upright.height
    )
    model, info = checkpoint.load_model(ROOT / "mtl_model.pt")
    mask = looking.predict(model, of_pillow(upright), info["size"])["seg"].numpy()
    cutout, alpha = (
        Image.open(page.download("cutout")),
        np.asarray(Image.open(page.download("mask"))),
    )
    assert cutout.mode == "RGBA" and np.array_equal(
        np.asarray(cutout)[..., 3], np.where(mask, 255, 0)
    )
    assert (
        np.array_equal(np.asarray(cutout)[mask][:, :3], np.asarray(upright)[mask])
        and 0.2 < mask.mean() < 0.9
    )
    assert np.array_equal(alpha, np.where(mask, 255, 0))
    plain, drawn = page.pictures()
    greener = (drawn - plain)[..., 1] - (drawn - plain)[..., 0]
    assert (
        plain.shape[:2] == mask.shape
        and greener[mask].mean() > 40
        and abs(greener[~mask]).mean() < 10
    )


@needs_browser
def test_a_bad_file_is_answered_with_a_sentence_and_the_next_one_is_shown(page, tmp_path):
    (tmp_path / "notes.jpg").write_text("no picture")
    (tmp_path / "new.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(500))
    page.open().example(1)
    page.choose(tmp_path / "notes.jpg")
    assert page.said("notes.jpg") == [
        "notes.jpg cannot be read: it is text, not a picture; name a photograph"
    ]
    assert page.run(SHOWN, ".picture, #cutout, #mask") == 0
    page.choose(tmp_path / "new.heic")
    assert page.said("new.heic")[0].startswith("new.heic cannot be read: it is an HEIC picture")
    page.choose(draw(tmp_path / "good.webp", 50))
    assert re.fullmatch(r"cat \d+%", page.said("good.webp")[0])
    assert page.run(SHOWN, ".picture, #cutout, #mask") == 4
    assert (page.server.place / "errors").read_text() == ""


def contrast(colours):
    """WCAG's contrast ratio of two colours as browsers write them, from 1 to 21."""
    light = []
    for colour in colours:
        values = np.array(re.findall(r"[\d.]+", colour)[:3], float) / 255
        linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
        light.append(linear @ (0.2126, 0.7152, 0.0722))
    return (max(light) + 0.05) / (min(light) + 0.05)


COLOURS = """
let back = arguments[0], style = getComputedStyle(back)
while (back && /, 0\\)|transparent/.test(getComputedStyle(back).backgroundColor)) back = back.parentElement
return [style.color, getComputedStyle(back || document.body).backgroundColor]
"""


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_is_readable_in_light_and_in_dark(page, scheme):
    page.open(scheme).example(2)
    for selector in ("h1", ".answer", ".rest", "#cutout", "#mask", ".picture label"):
        colours = page.run(COLOURS, page.all(selector)[0])
        assert contrast(colours) >= 4.5, (selector, colours)
    assert (contrast([colours[1], "rgb(0, 0, 0)"]) < 3) == (scheme == "dark")


@needs_browser
def test_a_phone_shows_it_without_scrolling_to_the_side(page):
    page.open(width=390).example(4)
    assert page.run("return [innerWidth, document.documentElement.scrollWidth]") == [390, 390]
    for selector in (
        "h1",
        "#upload",
        "#examples button",
        ".picture",
        ".picture img",
        "#said p",
        "#cutout",
        "#mask",
    ):
        for rect in (element.rect for element in page.all(selector)):
            assert rect["x"] >= 0 and rect["x"] + rect["width"] <= 390 and rect["height"] > 10, (
                selector,
                rect,
            )


@needs_browser
def test_two_at_once_see_their_own(page, tmp_path):
    page.open()
    first = page.driver.current_window_handle
    page.driver.switch_to.new_window("tab")
    second = page.driver.current_window_handle
    page.open()
    page.choose(draw(tmp_path / "b.png", 50))
    page.driver.switch_to.window(first)
    page.choose(draw(tmp_path / "a.png", 89))
    said_a, seen_a = page.said("a.png"), page.pictures()[0]
    page.driver.switch_to.window(second)
    said_b, seen_b = page.said("b.png"), page.pictures()[0]
    page.driver.close()
    page.driver.switch_to.window(first)
    assert (
        said_a[0].startswith("dog") and said_b[0].startswith("cat") and seen_a.shape != seen_b.shape
    )
    assert page.said("a.png") == said_a


@needs_browser
def test_nobody_else_is_asked_for_anything(page):
    page.open().example(3)
    messages = [
        json.loads(entry["message"])["message"] for entry in page.driver.get_log("performance")
    ]
    urls = [
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    ]
    urls = [url for url in urls if not url.startswith(("data:", "blob:", "chrome:"))]
    assert len(urls) > 20 and {url for url in urls if not url.startswith(page.server.url)} == set()
    asked = set((page.server.place / "addresses").read_text().splitlines())
    assert asked and all("127.0.0.1" in address for address in asked), asked


@needs_browser
def test_pictures_of_the_page_can_be_taken(page, tmp_path):
    folder = Path(os.environ.get("PICTURES", tmp_path))
    page.open().example(2)
    page.screenshot(folder / "app.png")
    page.open("dark", width=390).example(4)
    page.screenshot(folder / "app_phone.png")
    wide, phone = Image.open(folder / "app.png"), Image.open(folder / "app_phone.png")
    assert wide.width == 1280 and phone.width == 390 and phone.height > 1000
    assert max((folder / name).stat().st_size for name in ("app.png", "app_phone.png")) < 300_000


# ------------------------------------------------------------------------------------------- as a process, refusals


@needs_gradio
def test_files_are_deleted_in_time_and_all_of_them_at_the_end(tmp_path):
    from gradio_client import Client, handle_file

    server = start(tmp_path, kept=1.5)
    client = Client(server.url, verbose=False, download_files=False)
    client.predict(handle_file(draw(tmp_path / "a.png", 33)), api_name="/look")
    assert {"0.jpg", "1.jpg", "a.png", "a_cutout.png", "a_mask.png"} >= set(files_of(server))
    last = time.monotonic() + 60
    while files_of(server):
        assert time.monotonic() < last, files_of(server)
        time.sleep(0.1)
    assert len(list(tmp_path.glob("pets-*/*/drawn_*.png"))) == 4
    assert end(server, signal.SIGTERM) == 143


def test_an_address_that_cannot_be_had_is_refused_before_anything_begins():
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        with pytest.raises(
            InputError,
            match=f"port {port} of 127.0.0.1 cannot be had .*; choose another with --port",
        ):
            app.main(app.parse_args(["--port", str(port)]))
    with pytest.raises(InputError, match="of no.such.host.invalid cannot be had"):
        app.main(app.parse_args(["--host", "no.such.host.invalid"]))


def test_without_gradio_one_sentence_says_how_to_get_it(tmp_path):
    code = "import sys; sys.modules['gradio'] = None; import app, cli; cli.run(app.main, app.parse_args(sys.argv[1:]))"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    done = subprocess.run(
        [sys.executable, "-c", code, "--port", str(port)], capture_output=True, text=True, cwd=ROOT
    )
    assert (
        done.returncode == 2
        and done.stderr.count("\n") == 1
        and "pip install -r requirements-app.txt" in done.stderr
    )
