"""A page for your browser: drop photographs, take the pets away as cut-outs.

    python app.py                            http://127.0.0.1:7860, with mtl_model.pt
    python app.py --checkpoint runs/mtl/seed0/best.pt --port 8000
    curl --data-binary @my_cat.jpg http://127.0.0.1:7860/cutout > cat.png       without a browser

Needs Gradio: pip install -r requirements-app.txt. Neither the page nor the program asks another
machine for anything, and no other is answered unless --host says so. Uploads and results are
deleted after KEPT seconds, at the end, and at the next start if the program was killed.
"""

import os
import shutil
import signal
import socket
import tempfile
import time
import zipfile
from pathlib import Path

import cli
from cli import InputError

KEPT = 2 * 3600  # seconds that a file is kept
EVERY = 600  # seconds between searches for older ones
MAX_UPLOAD = 200 * 10**6  # bytes
PREFIX = "pets-"  # of the folder of uploads and results, before the process's number
EXAMPLES = (116, 103, 50, 1)  # seeds of drawn pets that the network takes for pets
TITLE = "Cut out your pet"
LOCAL = "They stay on this machine."
REMOTE = "They go to the machine that runs this page, which deletes them after two hours."
ABOUT = "Choose photographs of cats or dogs. "
CSS = """
.gradio-container {width: 100% !important; max-width: 1080px !important; margin: 0 auto !important}
#examples .gallery {display: grid; grid-template-columns: repeat(4, 1fr)}
#examples .gallery-item * {display: block; width: 100%; height: 100px; object-fit: cover;
  max-width: none; max-height: none}
#pictures img {object-fit: contain}
.html-container {padding: 0 !important}
#said p {margin: 0.1rem 0; overflow-wrap: anywhere}
#said .answer {font-size: 1.4rem; font-weight: 600}
#said .small {opacity: 0.75}
#said .error {border-left: 4px solid var(--error-border-color); padding: 0.5rem 0.8rem}
"""


def import_gradio(folder):
    """Gradio, told to keep its files in `folder` and to open no address."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        os.environ.pop(name, None)
        os.environ.pop(name.upper(), None)
    os.environ |= {
        "GRADIO_TEMP_DIR": str(folder),
        "GRADIO_ANALYTICS_ENABLED": "False",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    try:
        import gradio
    except ImportError as error:
        message = f"the page needs Gradio ({error}); run pip install -r requirements-app.txt"
        raise InputError(message) from None

    async def refuse(url):
        raise gradio.Error("addresses are not opened; upload the photograph")

    gradio.processing_utils.async_ssrf_protected_get = refuse
    return gradio


def draw_examples(folder):
    """Files of the drawn pets in EXAMPLES."""
    import numpy as np
    from PIL import Image

    from data.sources import synthetic

    folder = Path(tempfile.mkdtemp(dir=folder))
    paths = []
    for k, seed in enumerate(EXAMPLES, 1):
        pet, *_ = synthetic.draw_pet(np.random.default_rng(seed), seed % len(synthetic.BREEDS))
        paths.append(str(folder / f"drawn_{k}.png"))
        Image.fromarray(pet).save(paths[-1])
    return paths


def make_page(gradio, look, folder, about):
    """The page, a gradio.Blocks; look: a photograph's path -> what view.view_page gives of it."""
    with gradio.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(EVERY, KEPT)) as page:
        gradio.Markdown(f"# {TITLE}\n{about}")
        with gradio.Row():
            upload = gradio.File(
                label="Photographs", file_count="multiple", height=140, elem_id="upload"
            )
            examples = gradio.Dataset(
                label="Or a drawn one",
                components=[gradio.Image(visible=False)],
                elem_id="examples",
                samples=[[path] for path in draw_examples(folder)],
            )
        words = gradio.HTML(elem_id="said", padding=False)
        with gradio.Row(visible=False) as row:
            cutout = gradio.DownloadButton(elem_id="cutout", variant="primary")
            mask = gradio.DownloadButton("Take the mask (PNG)", elem_id="mask")
        pictures = gradio.Gallery(
            visible=False,
            show_label=False,
            columns=2,
            height="auto",
            object_fit="contain",
            elem_id="pictures",
        )

        def show(paths):
            found = show_all(look, paths or [], folder)
            is_one, files = len(found["pictures"]) and "mask" in found, "cutout" in found
            label = "Take the cut-out (PNG)" if is_one else "Take all (ZIP)"
            return [
                None,
                found["words"],
                gradio.Row(visible=files),
                gradio.DownloadButton(label, value=found.get("cutout"), visible=files),
                gradio.DownloadButton(value=found.get("mask"), visible=bool(is_one)),
                gradio.Gallery(found["pictures"], visible=bool(found["pictures"])),
            ]

        outputs = [upload, words, row, cutout, mask, pictures]
        upload.upload(show, upload, outputs, api_name="look", concurrency_id="network")
        examples.click(show, examples, outputs, api_visibility="private", concurrency_id="network")
    return page


def show_all(look, paths, folder):
    """What the page shows of several photographs; their files are in one ZIP."""
    from inference import view

    found = []
    for path in paths:
        try:
            found.append(look(path))
        except InputError as error:
            found.append({"words": view.refusal(error), "pictures": []})
    if not found:
        return {"words": view.refusal("choose a photograph"), "pictures": []}
    if len(found) == 1:
        return found[0]
    files = [one[kind] for one in found for kind in ("cutout", "mask") if kind in one]
    first = [(one["pictures"][0][0], Path(path).name)
             for one, path in zip(found, paths, strict=True) if one["pictures"]]  # fmt: skip
    result = {"words": "".join(one["words"] for one in found), "pictures": first}
    if files:
        result["cutout"] = zip_files(files, folder)
    return result


def zip_files(files, folder):
    """The path of a ZIP of files; of one name, a later one gets a number."""
    path = Path(tempfile.mkdtemp(dir=folder)) / "cut-outs.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in map(Path, files):
            name, number = file.name, 2
            while name in archive.namelist():
                name, number = f"{file.stem}-{number}{file.suffix}", number + 1
            archive.write(file, name)
    return str(path)


def add_api(server, look, folder):
    """POST /cutout: a photograph's bytes in, the cut-out as PNG out; an error is a sentence."""
    from fastapi import Request
    from fastapi.concurrency import run_in_threadpool
    from fastapi.responses import FileResponse, PlainTextResponse

    async def cutout(request: Request):
        place = Path(tempfile.mkdtemp(dir=folder)) / "photograph"
        size = 0
        with open(place, "wb") as file:
            async for chunk in request.stream():
                size += len(chunk)
                if size > MAX_UPLOAD:
                    return PlainTextResponse("the photograph is too large\n", 413)
                file.write(chunk)
        try:
            found = await run_in_threadpool(look, place)
        except InputError as error:
            return PlainTextResponse(f"{error}\n", 400)
        if "cutout" not in found:
            return PlainTextResponse("no cat or dog found\n", 404)
        return FileResponse(found["cutout"], media_type="image/png")

    server.add_api_route("/cutout", cutout, methods=["POST"])
    server.router.routes.insert(0, server.router.routes.pop())  # before the page's own


def check_address(host, port):
    """Raise cli.InputError for an address that cannot be had: Gradio does not say why."""
    try:
        socket.create_server((host, port), family=family_of(host)).close()
    except OSError as error:
        raise InputError(
            f"port {port} of {host} is not available ({error.strerror or error}); choose another "
            "with --port or --host"
        ) from None


def family_of(host):
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def serve(gradio, page, address, api):
    """Answer at an address (host, port) until a signal comes; api: adds its own to the server."""
    host, port = address
    host = f"[{host}]" if family_of(host) == socket.AF_INET6 else host
    theme = gradio.themes.Default(
        primary_hue="emerald", font=["system-ui", "sans-serif"], font_mono=["monospace"]
    )
    for state, shade in (("", 700), ("_hover", 800)):  # white on it is read easily
        for mode in ("", "_dark"):
            theme.set(**{f"button_primary_background_fill{state}{mode}": f"*primary_{shade}"})
    server, *_ = page.launch(
        server_name=host,
        server_port=port,
        share=False,
        quiet=True,
        prevent_thread_lock=True,
        theme=theme,
        css=CSS,
        footer_links=[],
        max_file_size=MAX_UPLOAD,
        show_error=True,
        ssr_mode=False,
        enable_monitoring=False,
    )
    api(server)
    print(f"http://{host}:{port} is ready; Ctrl-C ends it", flush=True)
    while True:  # Gradio answers in a thread; to close it would wait for pages that are open
        time.sleep(1)


def parse_args(argv=None):
    parser = cli.Parser(__doc__)
    parser.add_argument(
        "--checkpoint", type=Path, help="default: mtl_model.pt, else the newest mtl run's best.pt"
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="whom to answer: this machine alone, or everybody (0.0.0.0)",
    )
    parser.add_argument("--port", type=cli.integer(1, 65535), default=7860)
    return parser.parse_args(argv)


def is_local(host):
    return host in ("localhost", "::1") or host.startswith("127.")


def remove_leftovers():
    """Remove the folders of programs like this one that were killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*-*"):
        number = folder.name.split("-")[1]
        try:
            os.kill(int(number), 0)
        except (ProcessLookupError, ValueError):
            shutil.rmtree(folder, ignore_errors=True)
        except PermissionError:  # another user's
            continue


def main(args):
    check_address(args.host, args.port)
    if hasattr(signal, "SIGHUP"):  # the terminal is closed
        signal.signal(signal.SIGHUP, cli.raise_terminated)
    remove_leftovers()
    prefix = f"{PREFIX}{os.getpid()}-"
    with tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True) as folder:
        folder = Path(folder).resolve()
        gradio = import_gradio(folder)

        from data import photographs  # here, because PyTorch takes a while to import
        from inference import view
        from training import checkpoint

        path = checkpoint.find(args.checkpoint)
        model, info = checkpoint.load_model(path)

        def look(photograph):
            return view.view_page(model, info, photograph, folder)

        about = ABOUT + (LOCAL if is_local(args.host) else REMOTE)
        page = make_page(gradio, look, folder, about)
        print(f"the network is {photographs.show_name(path)}")
        address = args.host, args.port
        serve(gradio, page, address, lambda server: add_api(server, look, folder))


if __name__ == "__main__":
    cli.run(main, parse_args())
