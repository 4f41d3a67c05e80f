"""Serve the page on this machine alone; neither it nor the server asks anything of another one."""

from dataclasses import replace

import gradio as gr
import numpy as np
import numpy.typing as npt
import torch
from configuration import rendered_settings
from face_detection import Detector
from media import Frame
from model_bundle import ModelBundle
from prediction import predict_frame
from rendering.rendered_faces import rendered_faces

from web_page.face_cards import STYLE, face_cards

Picture = npt.NDArray[np.uint8]
KEEP_SECONDS = 600  # how long Gradio keeps uploaded pictures on the disk
NUM_EXAMPLES = 6
HINT = "Give it a picture, and see here what the model makes of each face."


def build_page(bundle: ModelBundle, detect: Detector) -> gr.Blocks:
    """Build the page: a picture goes in, a card for each face comes out."""

    def predict(picture: Picture | None) -> str:
        if picture is None:
            return HINT
        pixels = torch.from_numpy(picture).permute(2, 0, 1).contiguous()
        return face_cards(pixels, predict_frame(bundle, Frame("picture", pixels), detect))

    page = gr.Blocks(
        title="ARBEx", analytics_enabled=False, delete_cache=(KEEP_SECONDS, KEEP_SECONDS)
    )
    with page:
        gr.Markdown(f"# ARBEx\n{_describe(bundle)}")
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                picture = gr.Image(
                    label="Picture", type="numpy", sources=["upload", "webcam", "clipboard"]
                )
                examples = _rendered_examples(bundle)
                if examples:
                    gr.Examples(examples, picture, label="Rendered faces, not seen in training")
            with gr.Column(scale=3, min_width=300):
                cards = gr.HTML(HINT, padding=False)
        picture.change(predict, picture, cards, api_visibility="private")
    return page


def serve(page: gr.Blocks, *, port: int | None, block: bool = True) -> str:
    """Start the server, for this machine's own browsers only.

    Args:
        page: from :func:`build_page`.
        port: to listen on; None takes a free one from 7860 on.
        block: whether to wait for Ctrl-C.

    Returns:
        The page's address.
    """
    _, address, _ = page.launch(
        server_name="127.0.0.1",
        server_port=port,
        share=False,
        quiet=True,
        prevent_thread_lock=True,
        show_error=True,
        footer_links=[],
        css=STYLE,
        theme=gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
    )
    print(f"open {address} (Ctrl-C to stop)", flush=True)
    if block:
        page.block_thread()
    return str(address)


def _describe(bundle: ModelBundle) -> str:
    encoder, anchors = bundle.recipe.encoder.name, bundle.recipe.balancer.num_anchors
    return (
        f"Encoder {encoder}, {anchors} anchors a class, trained on {bundle.recipe.data.dataset}: "
        f"{', '.join(bundle.class_names)}."
    )


def _rendered_examples(bundle: ModelBundle) -> list[list[Picture]]:
    """Faces to try a model on that was trained on rendered ones."""
    if bundle.recipe.data.dataset != "rendered":
        return []
    settings = rendered_settings(bundle.recipe.data.rendered)
    table = rendered_faces(replace(settings, num_faces=NUM_EXAMPLES, seed=settings.seed + 1000))
    return [[table.images[row].permute(1, 2, 0).numpy()] for row in range(NUM_EXAMPLES)]
