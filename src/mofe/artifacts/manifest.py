"""The JSON file that makes a folder an artifact, and vouches for every other file in it.

It is written last, so a folder with a manifest is whole. It carries ``schema_version``; a reader refuses a version it
does not know. It holds the SHA-256 of every other file of the folder, those of the artifacts it was made from, and, in
its last line, its own. A reader checks each file before it uses it, so that one changed byte is an error and never a
number; and a stage refuses inputs that do not belong together.
"""

from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from pathlib import Path
from typing import ClassVar, Self

from pydantic import BaseModel, ConfigDict, PrivateAttr, ValidationError
from upath import UPath

from mofe.errors import MofeError
from mofe.storage import locations, writing
from mofe.storage.checksummed_json import sealed, unsealed
from mofe.storage.typed_json import first_reason

THREADS = 16
"""That read small pieces of many files at once."""


class Manifest(BaseModel):
    """The JSON file that makes a folder an artifact."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    file_name: ClassVar[str]
    what: ClassVar[str]
    schema_version: int = 2
    files: dict[str, str] = {}
    """SHA-256 of every other file of the folder, by name; :meth:`write` fills it in."""
    made_from: dict[str, str] = {}
    """:attr:`identity` of the artifacts it was made from, by what they are."""
    _identity: str = PrivateAttr("")

    @property
    def identity(self) -> str:
        """SHA-256 of the manifest, and so of all that it lists; "" of one that was not read."""
        return self._identity

    def sealed(self) -> bytes:
        """The content of the file."""
        return sealed(self.model_dump(mode="json"))

    def write(self, folder: UPath) -> None:
        """Write the manifest into ``folder``; call it after every other file is there."""
        whole = self.model_copy(update={"files": writing.written(folder)})
        writing.write_bytes(folder / self.file_name, whole.sealed())

    @classmethod
    def read(cls, uri: locations.Location) -> Self:
        """Read and validate the manifest of the artifact at ``uri``; errors as for :meth:`read_file`."""
        return cls.read_file(locations.resolve(uri) / cls.file_name)

    @classmethod
    def read_file(cls, file: locations.Location) -> Self:
        """Read and validate a manifest that is a file of its own.

        Raises:
            MofeError: it is missing, not JSON, of another schema version, breaks the schema, or is damaged.
        """
        path = locations.resolve(file)
        content = locations.read_bytes(path, cls.what)
        try:
            values, identity = unsealed(content)
            cls._check_version(path, values)
            found = cls.model_validate(values)
        except (ValidationError, ValueError) as error:
            reason = first_reason(error) if isinstance(error, ValidationError) else str(error)
            raise MofeError(f"{path} is not a valid {cls.what}: {reason}") from error
        if not identity:
            raise MofeError(f"{path} is damaged: it does not have the SHA-256 that it notes; make the {cls.what} again")
        found._identity = identity
        return found

    @classmethod
    def _check_version(cls, path: UPath, values: object) -> None:
        known = cls.model_fields["schema_version"].default
        found = values.get("schema_version", known) if isinstance(values, dict) else known
        if found != known:
            raise MofeError(
                f"{path} was written by another version of mofe (schema_version {found}; this one reads {known}): "
                f"make the {cls.what} again"
            )

    def check(self, folder: UPath, names: str = "*", copy: Path | None = None) -> None:
        """Hash files of the artifact and compare.

        Args:
            folder: where the artifact is.
            names: pattern of the files to check.
            copy: a copy of the folder to read them from.

        Raises:
            MofeError: one is missing, or is not what was written.
        """
        chosen = [name for name in self.files if fnmatchcase(name, names)]
        if not chosen:
            raise MofeError(f"{folder / self.file_name} lists no file {names}: make the {self.what} again")

        def check_one(name: str) -> None:
            if locations.sha256((copy or folder) / name) != self.files[name]:
                raise MofeError(
                    f"{folder / name} is damaged, or belongs to another {self.what}: its SHA-256 is not the one in "
                    f"{self.file_name}; make the {self.what} again"
                )

        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(check_one, chosen))

    def check_source(self, what: str, source: "Manifest") -> bool:
        """Whether this was made from ``source``, as far as it is known."""
        return self.made_from.get(what, source.identity) == source.identity
