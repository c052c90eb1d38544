"""A page for your browser: drop a photograph, see its mask, head box and class, take the pet away as a cut-out.

    python app.py                                                   http://127.0.0.1:7860, with mtl_model.pt
    python app.py --checkpoint runs/mtl/seed0/best.pt --port 8000

Needs Gradio: pip install -r requirements-app.txt. Nothing leaves the machine: neither the page nor the program asks another
for anything, and no other is answered unless --host says so. What was uploaded and made is deleted after KEPT seconds, and
all of it at the end, which Ctrl-C brings.
"""

import os
import socket
import tempfile
import time
from pathlib import Path

import cli
from cli import InputError

KEPT, EVERY = (
    2 * 3600,
    600,
)  # seconds that a file is kept at least, and between looks for older ones
LARGEST = "200mb"  # of an upload
EXAMPLES = (116, 103, 50, 1)  # seeds of drawn pets that the network takes for pets
TITLE = "Which pixels are pet?"
ABOUT = "Choose a photograph of a cat or a dog. It stays on this machine."
CSS = """
.gradio-container {width: 100% !important; max-width: 1080px !important; margin: 0 auto !important}
#examples .gallery {display: grid; grid-template-columns: repeat(4, 1fr)}
#examples .gallery-item * {display: block; width: 100%; height: 100px; max-width: none; max-height: none; object-fit: cover}
.picture label {position: static; border: 0; background: none; box-shadow: none}
.picture .image-frame, .picture img {width: 100%; height: auto; max-height: 60vh; object-fit: contain}
.html-container {padding: 0 !important}
#said p {margin: 0.1rem 0; overflow-wrap: anywhere}
#said .answer {font-size: 1.4rem; font-weight: 600}
#said .small {opacity: 0.75}
#said .error {border-left: 4px solid var(--error-border-color); padding: 0.5rem 0.8rem}
"""


def import_gradio(folder):
    """Gradio, told to keep its files in `folder` and to itself."""
    for name in (
        "http_proxy",
        "https_proxy",
        "all_proxy",
    ):  # it asks itself whether it is there, and nobody else anything
        os.environ.pop(name, None), os.environ.pop(name.upper(), None)
    os.environ |= {
        "GRADIO_TEMP_DIR": str(folder),
        "GRADIO_ANALYTICS_ENABLED": "False",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    try:
        import gradio
    except ImportError as error:
        raise InputError(
            f"the page needs Gradio ({error}); pip install -r requirements-app.txt"
        ) from None
    return gradio


def draw_examples(folder):
    """Files of the pets in EXAMPLES, drawn."""
    import numpy as np
    from PIL import Image

    from data.sources import synthetic

    folder = Path(tempfile.mkdtemp(dir=folder))
    paths = [folder / f"drawn_{k}.png" for k in range(1, len(EXAMPLES) + 1)]
    for seed, path in zip(EXAMPLES, paths):
        pet, *_ = synthetic.draw_pet(np.random.default_rng(seed), seed % len(synthetic.BREEDS))
        Image.fromarray(pet).save(path)
    return list(map(str, paths))


def make_page(gradio, model, size, folder):
    """The page, a gradio.Blocks, of a network of images of `size` pixels; its files lie below `folder`."""
    from training import shown

    own = [task.panel for task in model.task.values() if task.panel]
    with gradio.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(EVERY, KEPT)) as page:
        gradio.Markdown(f"# {TITLE}\n{ABOUT}")
        with gradio.Row():
            upload = gradio.File(label="Photograph", height=140, elem_id="upload")
            examples = gradio.Dataset(
                label="Or a drawn one",
                components=[gradio.Image(visible=False)],
                elem_id="examples",
                samples=[[path] for path in draw_examples(folder)],
            )
        with gradio.Row(visible=False) as row:
            images = [
                gradio.Image(
                    label=label,
                    alt_text=label,
                    elem_id=f"picture{k}",
                    elem_classes="picture",
                    min_width=300,
                    buttons=["fullscreen"],
                )
                for k, label in enumerate(["Photograph", "What the network sees", *own])
            ]
        with gradio.Row():
            with gradio.Column(min_width=300):
                said = gradio.HTML(elem_id="said", padding=False)
            with gradio.Column(visible=False, min_width=300) as taken:
                files = {
                    "cutout": gradio.DownloadButton(
                        "Take the cut-out (PNG)", variant="primary", elem_id="cutout"
                    ),
                    "mask": gradio.DownloadButton("Take the mask (PNG)", elem_id="mask"),
                }

        def show(path):
            try:
                seen = shown.show(model, size, path[0] if isinstance(path, list) else path, folder)
            except InputError as error:
                seen = {"said": shown.refusal(error)}
            return [
                None,
                gradio.Row(visible="pictures" in seen),
                *seen.get("pictures", [None] * len(images)),
                seen["said"],
                gradio.Column(visible="mask" in seen),
                *map(seen.get, files),
            ]

        outputs = [upload, row, *images, said, taken, *files.values()]
        upload.upload(show, upload, outputs, api_name="look", concurrency_id="network")
        examples.click(show, examples, outputs, api_visibility="private", concurrency_id="network")
    return page


def check_address(host, port):
    """Raise cli.InputError for an address that cannot be had: Gradio does not say why."""
    try:
        socket.create_server((host, port), family=family_of(host)).close()
    except OSError as error:
        raise InputError(
            f"port {port} of {host} cannot be had ({error.strerror or error}); choose another with --port or "
            "--host"
        ) from None


def family_of(host):
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def serve(gradio, page, host, port):
    """Answer until a signal comes."""
    host = f"[{host}]" if family_of(host) == socket.AF_INET6 else host
    theme = gradio.themes.Default(
        primary_hue="emerald", font=["system-ui", "sans-serif"], font_mono=["monospace"]
    )
    theme.set(
        **{
            f"button_primary_background_fill{state}{mode}": f"*primary_{shade}"  # white on it is read easily
            for state, shade in (("", 700), ("_hover", 800))
            for mode in ("", "_dark")
        }
    )
    page.launch(
        server_name=host,
        server_port=port,
        share=False,
        quiet=True,
        prevent_thread_lock=True,
        theme=theme,
        css=CSS,
        footer_links=[],
        max_file_size=LARGEST,
        ssr_mode=False,
        enable_monitoring=False,
    )
    print(f"http://{host}:{port} is ready; Ctrl-C ends it", flush=True)
    while True:  # Gradio answers in a thread that ends with the program; to close it would wait for pages that are open
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


def main(args):
    check_address(args.host, args.port)
    with tempfile.TemporaryDirectory(prefix="pets-", ignore_cleanup_errors=True) as folder:
        folder = Path(folder).resolve()
        gradio = import_gradio(folder)

        from data import (
            photographs,
        )  # here, as PyTorch takes a while to import, and refusals do without
        from training import checkpoint

        path = checkpoint.find(args.checkpoint)
        model, info = checkpoint.load_model(path)
        page = make_page(gradio, model, info["size"], folder)
        print(f"the network is {photographs.show_name(path)}")
        serve(gradio, page, args.host, args.port)


if __name__ == "__main__":
    cli.run(main, parse_args())
