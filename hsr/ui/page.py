# SPDX-License-Identifier: Apache-2.0
"""The page: its controls, and how it is served to this computer alone.

Gradio is imported only here, after its reports of usage were switched off.
"""

import html
import importlib
import os
from typing import Any

import numpy as np

from ..errors import UserError, reason
from .explorer import Explorer, enlarge

ADDRESS = "127.0.0.1"
INSTALL_COMMAND = 'pip install "hsr-kernels[ui]"'
# Fields of a page are JavaScript numbers, which are exact up to 2^53.
MAX_SEED = 2**32 - 1
MAX_STEP = 5.0
# More sliders would make the page slow.
MAX_SLIDERS = 120
# Choice of the class in which the seed decides, as in `hsr generate`.
BY_SEED = "by seed"
# Seconds that a shown image stays on disk.
SECONDS_KEPT = 600
# The images stay in sight while sliders scroll by.
STYLE = "#images { position: sticky; top: 1rem; align-self: flex-start; }"
# Whatever a release of Gradio or a theme names elsewhere, with this header a browser asks no other host for anything.
POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; form-action 'self'; base-uri 'self'"
)


def load_gradio() -> Any:
    """Returns the module gradio.

    Raises:
        UserError: It is not installed or cannot be imported.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        return importlib.import_module("gradio")
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "gradio":
            raise UserError(f"hsr ui needs gradio: {INSTALL_COMMAND}.") from error
        raise UserError(f"gradio cannot be imported ({reason(error)}): {INSTALL_COMMAND}.") from error


def build_page(explorer: Explorer, truncation: float) -> Any:
    """Returns the page, a `gradio.Blocks`: controls at the left, the networks' images side by side at the right."""
    gr = load_gradio()
    names = explorer.names[:MAX_SLIDERS]

    def draw(seed: float | None, truncation: float, label: str, *steps: float) -> list[np.ndarray]:
        if seed is None or not 0 <= seed <= MAX_SEED or seed != int(seed):
            raise gr.Error(f"The seed must be a whole number from 0 to {MAX_SEED}.")
        chosen = None if label == BY_SEED else int(label)
        moved = dict(zip(names, steps, strict=True))
        return [enlarge(image) for image in explorer.images(int(seed), truncation, chosen, moved)]

    with gr.Blocks(analytics_enabled=False, title="hsr ui", delete_cache=(SECONDS_KEPT, SECONDS_KEPT)) as page:
        with gr.Row():
            with gr.Column(scale=2, min_width=360):
                with gr.Row():
                    seed = gr.Number(0, label="Seed", precision=0, minimum=0, maximum=MAX_SEED, min_width=100)
                    choices = [BY_SEED, *map(str, explorer.classes)]
                    label = gr.Dropdown(
                        choices, value=BY_SEED, label="Class", visible=bool(explorer.classes), min_width=100
                    )
                psi = gr.Slider(-1, 2, value=truncation, step=0.05, label="Truncation")
                reset = gr.Button("Set all directions to 0", size="sm")
                sliders = _direction_sliders(gr, explorer, names)
            with gr.Column(scale=3, min_width=360, elem_id="images"), gr.Row():
                images = [_picture(gr, network.name) for network in explorer.networks]
        controls = [seed, psi, label, *sliders]
        # Of changes that come faster than images, the last one counts.
        gr.on(
            [page.load, *(control.change for control in controls)],
            draw,
            controls,
            images,
            trigger_mode="always_last",
            show_progress="hidden",
            api_name="draw",
        )
        reset.click(lambda: [0.0] * len(sliders), None, sliders, show_progress="hidden", api_name="reset")
    return page


def _picture(gr: Any, name: str) -> Any:
    """Returns the place for a network's image, with its name below, which is shown as it is."""
    with gr.Column(min_width=200):
        image = gr.Image(
            show_label=False, label=name, format="png", interactive=False, buttons=["download", "fullscreen"]
        )
        # Above, a name of two lines would bring two images to different heights.
        gr.HTML(html.escape(name))
    return image


def _direction_sliders(gr: Any, explorer: Explorer, names: list[str]) -> list[Any]:
    """Returns a slider for each direction, in the order of names.

    Each method has a tab of its own, in which directions of the same layers stand together, two in a row.
    """
    directions = {name: explorer.networks[0].directions[name] for name in names}
    sliders: dict[str, Any] = {}
    for method in dict.fromkeys(direction.method for direction in directions.values()):
        with gr.Tab(method):
            found = [name for name in names if directions[name].method == method]
            for layers in dict.fromkeys(directions[name].layers for name in found):
                alike = [name for name in found if directions[name].layers == layers]
                for i in range(0, len(alike), 2):
                    with gr.Row():
                        for name in alike[i : i + 2]:
                            sliders[name] = _slider(gr, name, name.removeprefix(f"{method}-"))
    return [sliders[name] for name in names]


def _slider(gr: Any, name: str, title: str) -> Any:
    return gr.Slider(-MAX_STEP, MAX_STEP, value=0, step=0.1, label=title, elem_id=f"direction-{name}")


def serve(page: Any, port: int | None) -> str:
    """Serves the page on 127.0.0.1 in the background and returns its address; `page.close()` ends that.

    Raises:
        UserError: The port isn't free, or the page can't be reached.
    """
    gr = load_gradio()
    middleware = importlib.import_module("starlette.middleware")
    try:
        _, address, _ = page.launch(
            server_name=ADDRESS,
            server_port=port,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            ssr_mode=False,
            enable_monitoring=False,
            footer_links=[],
            css=STYLE,
            app_kwargs={"middleware": [middleware.Middleware(PolicyHeader)]},
            # Fonts of the system: themes name others, some of them at hosts elsewhere.
            theme=gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
        )
    except (OSError, ValueError) as error:
        place = "the ports from 7860 on" if port is None else f"--port {port}"
        raise UserError(f"{place} can't be used ({reason(error)}).") from error
    return address


class PolicyHeader:
    """Middleware (ASGI) that adds `POLICY` to every answer."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answers one request."""

        async def send_with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                headers = [*message.get("headers", []), (b"content-security-policy", POLICY.encode())]
                message = {**message, "headers": headers}
            await send(message)

        await self.app(scope, receive, send_with_policy)
