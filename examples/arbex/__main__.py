"""The ARBEx reference application: train, find doubtful labels, evaluate, predict, audit, serve.

python -m examples.arbex train
torchrun --nproc_per_node 2 -m examples.arbex train --recipe robust --out runs/robust
"""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

if not __package__:  # run as a folder or file, whose own place is then the first on the path
    sys.path[0] = str(Path(__file__).resolve().parents[2])

app = typer.Typer(
    help="ARBEx, the reference application: facial expressions with reliability balancing.",
    epilog="Recipe keys, folder layouts of the data sets, and files of a run: docs/application.md",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

RECIPES = "quick, robust, paper, or the path of your own YAML file."
RecipeOption = Annotated[str, typer.Option(help=RECIPES)]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override a value of the recipe: section.key=value; repeatable."),
]
ModelOption = Annotated[Path, typer.Option(help="A model.safetensors, or the folder of its run.")]
FacesOption = Annotated[
    Path | None,
    typer.Option(
        help="Detect faces first, with YuNet: the path of its weights, "
        "face_detection_yunet_*.onnx of OpenCV's model zoo (MIT licence). Needs the extra `faces`."
    ),
]
OutOption = Annotated[Path, typer.Option(help="Folder of the results.")]
RunArgument = Annotated[Path, typer.Argument(help="Folder of a run.")]
LimitOption = Annotated[int, typer.Option(min=1, help="Number of faces, the most doubtful first.")]
ToolOption = Annotated[Literal["label-studio", "fiftyone"], typer.Option(help="Annotation tool.")]
DeviceOption = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps …")]


@app.command()
def train(
    recipe: Annotated[str | None, typer.Option(help=f"{RECIPES} [default: quick]")] = None,
    overrides: SetOption = None,
    baseline: Annotated[
        bool,
        typer.Option(
            help="Also train the same encoder with plain cross-entropy, to compare; takes twice as "
            "long. The quick recipe has a recorded one."
        ),
    ] = False,
    out: OutOption = Path("runs/arbex"),
    corrections: Annotated[
        Path | None, typer.Option(help="Apply corrected labels first: a CSV that `review` wrote.")
    ] = None,
    resume: Annotated[
        bool, typer.Option(help="Resume the run in --out, with its own recipe.")
    ] = False,
    accelerator: Annotated[
        Literal["auto", "cpu", "gpu", "mps"], typer.Option(help="Where to train.")
    ] = "auto",
) -> None:
    """Train a model, list doubtful labels, calibrate, evaluate, and write a report.

    Without options it renders its own faces and takes some minutes on two cores. Ctrl-C or SIGTERM
    stops after the current batch with a checkpoint, from which --resume continues; a killed run can
    be resumed, too. A folder is locked by one training at a time, and a run resumes only with its
    own data and recipe. With torchrun, each batch is split among the processes.
    """
    import os
    from contextlib import nullcontext
    from dataclasses import replace

    from examples.arbex.baseline import recorded_baseline, train_baseline
    from examples.arbex.configuration import load_config
    from examples.arbex.faces.completeness import describe_completeness
    from examples.arbex.plain_text import say
    from examples.arbex.readers.corrections import describe_corrections
    from examples.arbex.report.run_report import report_on_run
    from examples.arbex.run_data import load_faces
    from examples.arbex.training.fitting import fit
    from examples.arbex.training.run_folder import RunFolder, config_of, expect_no_run
    from examples.arbex.training.run_keeping import TrainingInterrupted
    from examples.arbex.training.run_lock import only_run_in

    choices = {"--recipe": recipe, "--set": overrides, "--corrections": corrections}
    given = [name for name, value in choices.items() if value]
    if resume and given:
        raise ValueError(
            f"--resume must come without {', '.join(choices)}, since it goes on with the run's own "
            f"recipe; got also {', '.join(given)}. Start a new run with another --out"
        )
    folder = RunFolder(out)
    leads = int(os.environ.get("RANK", 0)) == 0
    with only_run_in(out) if leads else nullcontext():
        if resume:
            chosen = config_of(folder)
        else:
            chosen = load_config(recipe or "quick", overrides or ())
            if corrections is not None:
                chosen = replace(chosen, data=replace(chosen.data, corrections=corrections))
            if leads:
                expect_no_run(folder)
        faces = load_faces(chosen.data)
        if leads:
            say(describe_completeness(faces))
            if chosen.data.corrections is not None:
                say(describe_corrections(chosen.data.corrections, faces.corrections))
        try:
            criterion = fit(chosen, faces, folder, accelerator=accelerator)
            other = recorded_baseline(chosen, faces)
            if baseline:
                other = train_baseline(chosen, faces, out / "baseline", accelerator=accelerator)
        except TrainingInterrupted as stop:
            if leads:
                again = "train --resume --baseline" if baseline else "train --resume"
                say(f"{stop}; resume with: python -m examples.arbex {again} --out {out}")
            raise typer.Exit(128 + stop.number) from None
        if leads and report_on_run(folder, faces, criterion, other):
            say((out / "metrics.txt").read_text(encoding="utf-8"))
            say(f"written: {out}/report.html, doubtful_labels.csv, metrics.json, model.safetensors")


@app.command()
def doubtful(
    run: Annotated[Path, typer.Argument(help="Folder of a run.")] = Path("runs/arbex"),
    count: Annotated[int, typer.Option(min=1, help="Number of labels to print.")] = 20,
) -> None:
    """List the training labels of a run that are likely wrong, the most doubtful first.

    Writes all of them to doubtful_labels.csv in the folder of the run, with a suggested class, the
    probability that the given label is wrong (doubt), and whether the face is ambiguous.
    """
    from examples.arbex.faces.face_table import TRAIN
    from examples.arbex.plain_text import say
    from examples.arbex.report.run_report import list_doubtful
    from examples.arbex.report.text import describe_doubts, format_doubts
    from examples.arbex.run_data import load_faces
    from examples.arbex.training.fitting import trained_criterion
    from examples.arbex.training.run_folder import RunFolder, config_of

    folder = RunFolder(run)
    config = config_of(folder)
    faces = load_faces(config.data)
    criterion = trained_criterion(config, faces, folder)
    found = list_doubtful(criterion, faces.subset(TRAIN), run)
    say(format_doubts(found.first[:count]))
    say("\n".join(describe_doubts(found)))
    say(f"written: {run}/doubtful_labels.csv")


@app.command()
def evaluate(
    model: ModelOption = Path("runs/arbex"),
    overrides: SetOption = None,
    split: Annotated[
        Literal["train", "validation", "test"], typer.Option(help="Split to evaluate.")
    ] = "test",
    device: DeviceOption = "cpu",
    out: OutOption = Path("runs/evaluation"),
) -> None:
    """Evaluate a trained model on its own data set, or on another one, and write a report.

    Choose another data set by overrides, such as --set data.dataset=fer-plus --set
    data.root=~/FERPlus. Its classes are matched to the model's by name; faces of unknown classes
    are left out and counted. Labels are as given in the data: corrections are never applied.
    """
    from dataclasses import replace

    import torch

    from examples.arbex.configuration import override_config
    from examples.arbex.faces.completeness import describe_completeness
    from examples.arbex.faces.face_table import SPLIT_NAMES
    from examples.arbex.model_bundle import load_bundle
    from examples.arbex.plain_text import say
    from examples.arbex.report.run_report import report_on
    from examples.arbex.run_data import load_faces

    bundle = load_bundle(model, torch.device(device))
    config = override_config(bundle.config, overrides or ())
    used = SPLIT_NAMES.index(split)
    faces = load_faces(config.data, used=used)
    say(describe_completeness(faces))
    report_on(replace(bundle, config=config), faces.subset(used), out)
    say((out / "metrics.txt").read_text(encoding="utf-8"))
    say(f"written: {out}/report.html, metrics.json, figures/")


@app.command()
def predict(
    source: Annotated[Path, typer.Argument(help="An image, a folder of images, or a video.")],
    model: ModelOption = Path("runs/arbex"),
    detect_faces: FacesOption = None,
    every: Annotated[
        float, typer.Option(min=0, help="Seconds between two frames of a video; 0: all frames.")
    ] = 1.0,
    annotate: Annotated[
        int, typer.Option(min=0, help="Maximum number of annotated pictures to write.")
    ] = 20,
    device: DeviceOption = "cpu",
    out: OutOption = Path("runs/prediction"),
) -> None:
    """Predict faces in pictures or videos; write CSV, JSON and annotated pictures.

    Without --detect-faces each picture must be one cropped face. "Not sure" means a calibrated
    probability below the threshold from which on at most 10 % of the predictions are wrong; if the
    validation faces show none, every face is "not sure", and a note at the end says so. "Unlike the
    training faces" means that the model has seen nothing similar. A damaged file gets a row with
    its problem, and the exit status is then 1.
    """
    import torch

    from examples.arbex.model_bundle import load_bundle
    from examples.arbex.plain_text import printable, say
    from examples.arbex.serving.annotation import draw_annotated
    from examples.arbex.serving.face_detection import whole_picture, yunet_detector
    from examples.arbex.serving.media import read_media
    from examples.arbex.serving.prediction import predict_frame, prediction_files

    bundle = load_bundle(model, torch.device(device))
    detect = yunet_detector(detect_faces) if detect_faces else whole_picture
    drawn = problems = 0
    with prediction_files(out, bundle.class_names) as write:
        for frame in read_media(source, every_seconds=every):
            found = predict_frame(bundle, frame, detect)
            write(found)
            for each in found:
                problems += each.problem is not None
                result = each.problem or ", ".join(
                    [f"{each.label} {each.probability:.2f}", *each.doubts, each.decision]
                )
                say(printable(f"{each.name}: {result}"))
            if frame.picture is not None and drawn < annotate:
                drawn += 1
                stem = Path(frame.name.split(" @ ")[0]).stem[:50]  # short enough for any disk
                draw_annotated(out / "annotated" / f"{drawn:04}-{stem}.png", frame.picture, found)
    say(f"written: {out}/predictions.csv, predictions.json, annotated/ ({drawn})")
    if bundle.post_hoc is not None and bundle.post_hoc.caution:
        say(f"note: {bundle.post_hoc.caution}")
    if problems:
        raise typer.Exit(1)


@app.command()
def audit(
    recipe: RecipeOption = "quick",
    overrides: SetOption = None,
    images: Annotated[
        bool, typer.Option(help="Decode every image, to find damaged ones and duplicates.")
    ] = True,
    out: OutOption = Path("runs/audit"),
) -> None:
    """Audit a data set: counts against the published ones, problems, duplicates, leaks.

    The data set is the recipe's, or chosen by overrides: --set data.dataset=raf-db
    --set data.root=~/RAF-DB. Supported are rendered, raf-db, aff-wild2, jaffe, ferg-db, fer-plus,
    affectnet, folders (of images, one per class) and csv.
    """
    from examples.arbex.audit.audit import audit_faces, format_text
    from examples.arbex.audit.audit_page import write_html
    from examples.arbex.audit.published_counts import PUBLISHED
    from examples.arbex.configuration import load_config
    from examples.arbex.plain_text import say
    from examples.arbex.run_data import read_recipe_faces

    data = load_config(recipe, overrides or ()).data
    report = audit_faces(read_recipe_faces(data), PUBLISHED.get(data.dataset), check_images=images)
    say(format_text(report))
    write_html(report, out / "audit.html")
    say(f"written: {out}/audit.html")


@app.command()
def export(
    model: ModelOption = Path("runs/arbex"),
    out: OutOption = Path("runs/export"),
) -> None:
    """Export the model, with preprocessing, as ONNX and as a torch.export program.

    Both take RGB pictures of one face each, of any size and number, and preprocess them as
    `predict` does; the files' metadata describe this. Each is run and compared with `predict`
    before it is written.
    """
    from examples.arbex.model_bundle import load_bundle
    from examples.arbex.plain_text import say
    from examples.arbex.serving.exporting import export_onnx, export_program

    bundle = load_bundle(model)
    for write, name in ((export_onnx, "model.onnx"), (export_program, "model.pt2")):
        difference = write(bundle, out / name)
        say(f"{out / name}: differs by at most {difference:.1e}")


@app.command()
def serve(
    model: ModelOption = Path("runs/arbex"),
    detect_faces: FacesOption = None,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port. None: a free one from 7860 on.")
    ] = None,
    device: DeviceOption = "cpu",
) -> None:
    """Serve a local page that predicts an uploaded picture: faces, bars, anchors, confidences.

    Only browsers on this machine can open the page; neither it nor the server contacts another
    machine. Pictures of up to 32 MiB and 64 million pixels are accepted, and none is stored. Needs
    the extra `web`.
    """
    import torch

    from examples.arbex.model_bundle import load_bundle
    from examples.arbex.serving.face_detection import whole_picture, yunet_detector

    try:
        from examples.arbex.serving.local import serve as serve_page
        from examples.arbex.serving.server import build_app
    except ModuleNotFoundError as error:
        raise ImportError("serving the page needs: pip install '.[web]' in the clone") from error

    bundle = load_bundle(model, torch.device(device))
    detect = yunet_detector(detect_faces) if detect_faces else whole_picture
    serve_page(build_app(bundle, detect), port=port)


@app.command()
def review(
    run: RunArgument = Path("runs/arbex"),
    limit: LimitOption = 200,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port. None: a free one from 7860 on.")
    ] = None,
) -> None:
    """Serve a local page that reviews the doubtful labels of a run, by keys or mouse.

    Each decision is saved at once in corrections.csv in the folder of the run, with the columns
    path, given, corrected and verdict (kept, accepted, changed, or earlier: trained with, and not
    reviewed again). `train --corrections FILE`
    applies it to the labels. Needs the extra `web`.
    """
    from examples.arbex.review.queue import open_review

    try:
        from examples.arbex.review.server import build_review
        from examples.arbex.serving.local import serve as serve_page
    except ModuleNotFoundError as error:
        raise ImportError("serving the page needs: pip install '.[web]' in the clone") from error

    serve_page(build_review(open_review(run, limit)), port=port)


@app.command()
def review_export(
    run: RunArgument = Path("runs/arbex"),
    tool: ToolOption = "label-studio",
    limit: LimitOption = 200,
    out: OutOption = Path("runs/review"),
) -> None:
    """Export the doubtful labels of a run for Label Studio or FiftyOne.

    Label Studio: tasks.json holds pictures and suggestions, config.xml is the labelling interface.
    FiftyOne: the folder is a FiftyOneImageClassificationDataset with the given labels; where
    fiftyone is installed, the data set `arbex-review` is made of it, too.
    """
    from examples.arbex.plain_text import say
    from examples.arbex.review import exchange, fiftyone_app
    from examples.arbex.review.queue import open_review

    found = open_review(run, limit)
    if tool == "label-studio":
        exchange.export_label_studio(found, out)
    else:
        exchange.export_fiftyone(found, out)
        if fiftyone_app.is_installed():
            say(f"FiftyOne data set: {fiftyone_app.load(out)}")
    say(f"written: {len(found.faces)} faces in {out}")


@app.command()
def review_import(
    file: Annotated[Path, typer.Argument(help="Label Studio's JSON, or FiftyOne's labels.json.")],
    run: RunArgument = Path("runs/arbex"),
    tool: ToolOption = "label-studio",
    limit: LimitOption = 200,
) -> None:
    """Import labels that were reviewed in Label Studio or FiftyOne into the run's corrections.csv.

    Use the same --limit as for the export.
    """
    from examples.arbex.plain_text import say
    from examples.arbex.review import exchange
    from examples.arbex.review.queue import open_review

    found = open_review(run, limit)
    if tool == "label-studio":
        labels = exchange.read_label_studio(file)
    else:
        labels = exchange.read_fiftyone(file, found)
    found.take_over(labels)
    say(f"{len(labels)} labels reviewed; written: {found.file}")


def main() -> None:
    """Run a command; print an error of input or machine in one line."""
    from examples.arbex.plain_text import printable

    try:
        app()
    except (ValueError, OSError, MemoryError, ImportError) as error:
        print(f"error: {printable(error)}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
