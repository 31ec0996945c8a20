"""The page, made of Gradio's components; Gradio is imported when it is built."""

from importlib.resources import files
from pathlib import Path
from typing import Any

from purify_edge.demo.attacks import NONE, STORED
from purify_edge.demo.playground import Playground
from purify_edge.demo.view import error_html, head_html, outcome_html
from purify_edge.errors import PurifyError
from purify_edge.images.pictures import png_of

SIZE, LARGEST = 0.1, 0.3
AT_ONCE, WAITING = 2, 60
"""Pictures that are processed at once, and visitors that may wait for this."""
SWEEP_S, KEPT_S = 60, 600
"""How often files are looked at, and how old an upload becomes."""
STYLE = (files("purify_edge.demo") / "page.css").read_text("utf-8")


def build_page(playground: Playground, folder: Path) -> Any:
    """Return the page as Gradio's Blocks.

    Args:
        playground: what it shows.
        folder: for the examples' small pictures.
    """
    import gradio as gr

    titles = [*playground.samples]
    with gr.Blocks(title=f"{playground.name}: purify-demo", delete_cache=(SWEEP_S, KEPT_S)) as page:
        gr.HTML(head_html(playground), elem_id="head")
        with gr.Row():
            with gr.Column():
                example = gr.Dropdown(titles, value=titles[0], label="Example")
                gallery = _gallery(playground, folder)
                picture = _picture_box()
                attack = gr.Radio([*playground.tricks], value=_first(playground), label="Attack", elem_id="attack")
                size = gr.Slider(0, LARGEST, SIZE, step=0.01, label="Size of the attack", visible=False)
                button = gr.Button("Purify", variant="primary")
            with gr.Column():
                result = gr.HTML(label="Result", elem_id="result")
        gallery.select(_chosen(titles), None, [example, picture], api_visibility="private", queue=False)
        example.input(lambda: None, None, picture, api_visibility="private", queue=False)
        attack.change(_slider(playground), attack, size, api_visibility="private", queue=False)
        asked = [example, picture, attack, size]
        answer = _answer(playground)
        together: dict[str, Any] = {"concurrency_id": "pipeline", "concurrency_limit": AT_ONCE}
        page.load(answer, asked, result, api_visibility="private", **together)
        button.click(answer, asked, result, api_name="purify", scroll_to_output=True, **together)
    return page.queue(max_size=WAITING)


def theme() -> Any:
    """Return Gradio's theme with the fonts that a device has."""
    import gradio as gr

    return gr.themes.Default(
        primary_hue="blue", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
    )


def _first(playground: Playground) -> str:
    """Return the attack to begin with: the stored one, where the bundle has it."""
    return STORED if any(sample.attacked is not None for sample in playground.samples.values()) else NONE


def _gallery(playground: Playground, folder: Path) -> Any:
    import gradio as gr

    pictures = []
    for index, (title, sample) in enumerate(playground.samples.items()):
        path = folder / f"example{index}.png"
        path.write_bytes(png_of(sample.clean))
        pictures.append((str(path), title))
    return gr.Gallery(
        pictures,
        label="Examples",
        show_label=False,
        height="auto",
        allow_preview=False,
        buttons=[],
        interactive=False,
        elem_id="examples",
    )


def _picture_box() -> Any:
    """Return an input for pictures that hands on the file itself: it is decoded here, with our errors.

    It is changed, not derived from: Gradio writes a file beside the source of each class that is derived from its own.
    """
    import gradio as gr

    box = gr.Image(
        label="Or your own picture",
        type="filepath",
        sources=["upload", "webcam"],
        buttons=[],
        height=200,
        elem_id="picture",
    )
    fetch = box.async_move_resource_to_block_cache

    async def keep(path: Any) -> Any:
        if str(path).startswith(("http:", "https:")):
            raise gr.Error("Expected an upload, got an address: this server fetches nothing.", print_exception=False)
        return await fetch(path)

    box.preprocess = lambda payload: payload.path if payload else None
    box.async_move_resource_to_block_cache = keep
    return box


def _chosen(titles: list[str]) -> Any:
    """Return what takes the example that was clicked, and drops the visitor's own picture."""
    import gradio as gr

    def choose(event: gr.SelectData) -> tuple[str, None]:
        return titles[event.index], None

    return choose


def _slider(playground: Playground) -> Any:
    """Return what shows the slider, and what it means, for an attack that has a size."""
    import gradio as gr

    def shown(attack: str) -> Any:
        means = playground.tricks[attack].size
        return gr.Slider(visible=bool(means), info=means)

    return shown


def _answer(playground: Playground) -> Any:
    """Return what answers the button: never an exception that a visitor can cause."""
    import gradio as gr

    waiting = gr.Progress()  # Gradio shows it where it is the default of a parameter

    def answer(example: str | None, picture: str | None, attack: str, size: float, progress: Any = waiting) -> str:
        def tell(step: int, steps: int) -> None:
            progress((step, steps), desc=attack, unit="steps")

        try:
            return outcome_html(playground.play(example, picture, attack, size, tell), playground.class_names)
        except PurifyError as error:
            return error_html(str(error))

    return answer
