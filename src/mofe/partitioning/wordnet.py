"""WordNet: search for its files on this machine, and for the synset of a class name.

NLTK reads WordNet's files. They come from NLTK's own download, or from Debian's packages ``wordnet-base`` and
``wordnet-sense-index``. Debian's files are copied, because NLTK does not follow links out of its folders; the table
``lexnames``, which they lack, is added.
"""

import difflib
import os
import re
import shutil
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import nltk

from mofe.arguments import same_length, texts
from mofe.artifacts.partition import ChosenSense
from mofe.errors import MofeError

DEBIAN = Path("/usr/share/wordnet")
WNID = re.compile(r"n\d{8}")
NAMED = 5
"""Number of classes without a synset that an error message names."""
LONGER = 3
"""Number of letters by which a similar noun may be longer or shorter."""

# lexnames(5WN): the lexicographer files by number; categories are 1 noun, 2 verb, 3 adjective, 4 adverb
_LEXICOGRAPHER_FILES = """
adj.all adj.pert adv.all noun.Tops noun.act noun.animal noun.artifact noun.attribute noun.body noun.cognition
noun.communication noun.event noun.feeling noun.food noun.group noun.location noun.motive noun.object noun.person
noun.phenomenon noun.plant noun.possession noun.process noun.quantity noun.relation noun.shape noun.state
noun.substance noun.time verb.body verb.change verb.cognition verb.communication verb.competition
verb.consumption verb.contact verb.creation verb.emotion verb.motion verb.perception verb.possession verb.social
verb.stative verb.weather adj.ppl
"""
_CATEGORY = {"noun": 1, "verb": 2, "adj": 3, "adv": 4}


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "mofe" / "nltk_data"


def _find_installed() -> Path | None:
    """Path of NLTK's copy of WordNet, or None."""
    if str(_cache_folder()) not in nltk.data.path:
        nltk.data.path.append(str(_cache_folder()))
    for resource in ("corpora/wordnet", "corpora/wordnet.zip"):
        try:
            return Path(str(nltk.data.find(resource)))
        except LookupError:
            continue
    return None


def _copy_from_debian() -> None:
    target = _cache_folder() / "corpora" / "wordnet"
    partial = target.with_name(f".wordnet.partial-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for file in DEBIAN.iterdir():
        if file.is_file():
            shutil.copy(file, partial / file.name)
    rows = (
        f"{i:02d}\t{name}\t{_CATEGORY[name.split('.')[0]]}\n" for i, name in enumerate(_LEXICOGRAPHER_FILES.split())
    )
    (partial / "lexnames").write_text("".join(rows))
    try:
        partial.rename(target)
    except OSError:  # another process made the same copy first
        shutil.rmtree(partial)


def ensure_wordnet(download: bool = True) -> Path:
    """Find WordNet on this machine, or copy it from Debian's package, or download it.

    Raises:
        MofeError: WordNet is not on this machine, and (if ``download``) could not be downloaded.
    """
    if found := _find_installed():
        return found
    if all((DEBIAN / name).is_file() for name in ("data.noun", "index.noun", "index.sense")):
        _copy_from_debian()
    elif download:
        nltk.download("wordnet", download_dir=str(_cache_folder()), quiet=True, raise_on_error=False)
    if found := _find_installed():
        return found
    raise MofeError(
        "WordNet is not on this machine: run `mofe data wordnet` with a network, or on Debian "
        "`apt-get install wordnet-base wordnet-sense-index`; or choose a strategy without WordNet, such as kmeans++"
    )


@cache
def _reader() -> Any:
    ensure_wordnet(download=False)
    from nltk.corpus import wordnet

    wordnet.ensure_loaded()
    return wordnet


def synset(name: str) -> Any:
    """Look up NLTK's synset of a wnid (``n02099601``) or a synset name (``golden_retriever.n.01``).

    Raises:
        MofeError: WordNet has no such noun synset.
    """
    reader = _reader()
    try:
        with warnings.catch_warnings(action="ignore"):
            found = (
                reader.synset_from_pos_and_offset("n", int(name[1:])) if WNID.fullmatch(name) else reader.synset(name)
            )
    except Exception as error:  # NLTK raises WordNetError, ValueError, KeyError or AssertionError
        raise MofeError(f"WordNet has no noun synset {name!r}") from error
    if found is None or found.pos() != "n":
        raise MofeError(f"WordNet has no noun synset {name!r}")
    return found


def _look_up(class_name: str, *, hint: bool) -> Any:
    """Look up the synset of a class name: a wnid, a synset name, or the first sense of a noun.

    For several nouns separated by commas, as in ImageNet's class names, this is the sense that most of them share.

    Args:
        class_name: name of the class.
        hint: whether the error names the nearest nouns, which takes 1/40 s.
    """
    text = class_name.strip()
    if _is_exact(text):
        return synset(text)
    nouns, senses = _senses(text)
    if senses and len(nouns) > 1:
        return max(senses, key=lambda sense: len({*nouns} & {_lemma(name) for name in sense.lemma_names()}))
    if senses:
        return senses[0]
    if not nouns:
        raise MofeError("it is a number or a letter, which does not say what the images show")
    close = _nearest_nouns(nouns[0]) if hint else []
    nearest = f" (the nearest nouns are {', '.join(close)})" if close else ""
    raise MofeError(f"it is not a WordNet noun{nearest}")


def _nearest_nouns(noun: str) -> list[str]:
    """At most three similar nouns with the same first letter and about the same length; a search of all takes 0.3 s."""
    lemmas = _reader().all_lemma_names(pos="n")
    likely = [name for name in lemmas if name[0] == noun[:1] and abs(len(name) - len(noun)) <= LONGER]
    return difflib.get_close_matches(noun, likely, n=3)


def _is_exact(text: str) -> bool:
    """Whether a text is a wnid or the name of a noun synset, so that it has one meaning."""
    return bool(WNID.fullmatch(text) or re.fullmatch(r".+\.n\.\d+", text))


def _senses(text: str) -> tuple[list[str], list[Any]]:
    """Lemmas and senses of the nouns in a text, separated by commas; numbers and single letters are not nouns."""
    parts = ["_".join(part.lower().split()) for part in text.split(",")]
    parts = [part for part in parts if re.search(r"[^\W\d_]", part) and len(part) > 1]
    nouns = [_lemma(part) for part in parts]
    spellings = dict.fromkeys([*parts, *nouns])  # WordNet has four-poster and sports_car
    return nouns, list(dict.fromkeys(sense for noun in spellings for sense in _reader().synsets(noun, pos="n")))


def _lemma(noun: str) -> str:
    return re.sub(r"[\s\-]+", "_", noun.strip().lower())


def resolve_synsets(classes: Sequence[str], synsets: Sequence[str | None]) -> list[str]:
    """Find the name of a noun synset for every class: the one given, else that of the class name.

    Args:
        classes: names of the C classes.
        synsets: wnid or synset name of each class, or None if the data does not give one.

    Raises:
        MofeError: classes have no synset; the message names the first of them, with the nearest nouns.
    """
    classes, synsets = texts("classes", classes), texts("synsets", synsets, optional=True)
    same_length(classes=classes, synsets=synsets)
    found: list[str] = []
    wrong: list[str] = []
    for name, given in zip(classes, synsets, strict=True):
        try:
            found.append(str(_look_up(given or name, hint=len(wrong) < NAMED).name()))
        except MofeError as error:
            wrong.append(f"{name!r}: {error}")
    if wrong:
        raise MofeError(
            f"{len(wrong)} of {len(classes)} classes have no synset: {'; '.join(wrong[:NAMED])}"
            f"{'; …' if len(wrong) > NAMED else ''}. Name their synsets in a synsets.csv (columns class,synset), or "
            "choose a strategy without WordNet, such as kmeans++"
        )
    return found


def chosen_senses(
    classes: Sequence[str], synsets: Sequence[str | None], resolved: Sequence[str]
) -> tuple[ChosenSense, ...]:
    """The senses that :func:`resolve_synsets` chose for classes of which nobody named the synset.

    Args:
        classes: names of the C classes.
        synsets: wnid or synset name of each class, or None if the data does not give one.
        resolved: name of the synset of each class.
    """
    texts = ((c, (given or name).strip()) for c, (name, given) in enumerate(zip(classes, synsets, strict=True)))
    return tuple(
        ChosenSense(label=c, definition=str(synset(resolved[c]).definition()), senses=len(_senses(text)[1]))
        for c, text in texts
        if not _is_exact(text)
    )


def readable_name(synset_name: str) -> str:
    """Readable name of a synset: its first lemma, with spaces."""
    return str(synset(synset_name).lemma_names()[0]).replace("_", " ")


def name_in_words(class_name: str, given: str | None) -> str:
    """Name of a class in a prompt: the first lemma of the synset that the data gives, else the class name in words."""
    return readable_name(given) if given else class_name.replace("_", " ").strip()


def words(part_of_speech: str) -> list[str]:
    """All nouns (``n``) or adjectives (``a``), with spaces, in alphabetical order."""
    return sorted({str(lemma).replace("_", " ") for lemma in _reader().all_lemma_names(pos=part_of_speech)})


def path_from_root(synset_name: str) -> list[str]:
    """Hypernym path from ``entity.n.01`` to the synset: the shortest, of several the alphabetically first."""
    paths = [[node.name() for node in path] for path in synset(synset_name).hypernym_paths()]
    return min(paths, key=lambda path: (len(path), path))


def similarity(a: str, b: str) -> float:
    """Wu and Palmer's similarity (1994) of two synsets, by the depth of their nearest common hypernym; in (0, 1]."""
    return float(synset(a).wup_similarity(synset(b)) or 0.0)
