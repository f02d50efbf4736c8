"""``mofe data check``: what images would become, before any run."""

import io
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from mofe.errors import MofeError

if TYPE_CHECKING:
    import numpy as np

    from mofe.data.survey import Survey


def check(
    uris: tyro.conf.Positional[tuple[str, ...]] = (),
    params: Annotated[Path | None, tyro.conf.arg(aliases=["-f"])] = None,
    synsets: str = "",
    features: bool = False,
) -> None:
    """Show what images would become in a run, without a run.

    For each source: its form, the number of images of each class and the WordNet sense of the class, sizes and formats,
    and every entry that is not an image, with the reason. Then the copies: images that are there twice, also saved or
    scaled in another way, and images of the first source that are in others too. With --features also: images whose
    neighbours are of another class, and copies that only the backbone sees.

    Example: mofe data check photos/train photos/test photos/unknown

    Example: mofe data check -f params.yaml --features

    Args:
        uris: the training images first, then test images and OOD sets, as 'mofe run' takes them.
        params: a file of parameters instead, whose train_data, test_data and ood_data are checked.
        synsets: CSV with columns class,synset for the first source; "" looks for synsets.csv beside the data.
        features: look at the images through the backbone of the file of parameters; its weights may be downloaded.
    """
    from mofe.cli import findings
    from mofe.data.survey import copies_in, survey

    given = _parameters(params)
    if bool(uris) == bool(given):
        raise MofeError("name folders, archives or other sources of images, or a file of parameters: -f params.yaml")
    if features and not given:
        raise MofeError("--features needs the backbone that a file of parameters names: -f params.yaml")
    sources = [*uris] or [given["train_data"], given["test_data"], *(item["uri"] for item in given["ood_data"])]
    surveys = []
    for number, uri in enumerate(sources):
        surveys.append(survey(uri, (synsets or given.get("synsets", "")) if number == 0 else ""))
        print("\n".join(findings.about_source(surveys[-1])), flush=True)
    print("\n".join(findings.about_copies(surveys, copies_in(surveys), "copies")))
    if features:
        print("\n".join(_about_features(surveys, given)))


def _parameters(params: Path | None) -> Mapping[str, Any]:
    from mofe.parameters.file import check_parameters, pipeline_parameters, read_parameters
    from mofe.runners.digests import compiled_pipeline

    if params is None:
        return {}
    known = pipeline_parameters(compiled_pipeline("mofe.yaml"))
    given = check_parameters(read_parameters(params, ()), known, str(params))
    return {name: given.get(name, known[name].get("defaultValue")) for name in known}


def _about_features(surveys: Sequence["Survey"], given: Mapping[str, Any]) -> Iterator[str]:
    """The lines about what the backbone sees: copies, and labels that the neighbours doubt."""
    import numpy as np

    from mofe.cli import findings
    from mofe.data.survey import copies_in
    from mofe.detection.neighbourhood import NEIGHBOURS, neighbours, same_features, suspects

    features_ND = np.concatenate([_features(found, given) for found in surveys])
    yield from findings.about_copies(
        surveys, copies_in(surveys, same_features(*neighbours(features_ND, NEIGHBOURS))), "copies, to the backbone"
    )
    yield "\nlabels that the neighbours doubt:"
    count, start = 0, 0
    for found in surveys:
        mine_ND, label_N = features_ND[start : start + len(found.paths)], np.array(found.labels, int)
        start += len(found.paths)
        if label_N.min(initial=0) < 0:
            continue
        doubtful = suspects(neighbours(mine_ND, NEIGHBOURS)[1], label_N)
        count += len(doubtful)
        yield from findings.about_labels(found, doubtful)
    if not count:
        yield "  none"


def _features(found: "Survey", given: Mapping[str, Any]) -> "np.ndarray":
    """Features of the images of a source from the pre-trained backbone, in their order: (N, D)."""
    from mofe.artifacts.image_shards import ImageShards
    from mofe.inference.embedding import EmbedOptions, create_pretrained, embed_shards, group_batches
    from mofe.models.backbone import describe_backbone
    from mofe.stages.prepare import prepare

    with tempfile.TemporaryDirectory(prefix="mofe-") as folder, redirect_stdout(io.StringIO()):
        prepare(found.uri, f"{folder}/images", name=found.uri, role="ood", max_rejected=1)
        shards = ImageShards(f"{folder}/images")
        backbone = describe_backbone(given["backbone"], given["backbone_args"], given["weights"])
        options = EmbedOptions(
            backbone.preprocessing, int(given["inference_batch_size"]), int(given["num_workers"]), given["precision"]
        )
        model = create_pretrained(backbone, ("image",))
        (batch,) = group_batches(embed_shards([model], shards, options, label=f"features of {found.uri}"))
        rows = {path: row for row, path in enumerate(shards.paths.to_pylist())}
        return batch.outputs[0].embedding_BD.numpy()[[rows[path] for path in found.paths]]
