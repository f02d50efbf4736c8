"""The manifest: the JSON file that makes a folder an artifact, with a checksum of every other file in it.

The manifest is written last, so a folder with a manifest is complete. It has a ``schema_version``; a reader refuses
other versions than its own. It holds the SHA-256 of every other file of the folder, those of the artifacts it was made
from, and its own in the last line. A reader verifies each file before use, so a changed byte is an error and never a
wrong number. A stage refuses inputs that do not belong together.
"""

from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from pathlib import Path
from typing import ClassVar, Self

from pydantic import BaseModel, ConfigDict, PrivateAttr, ValidationError
from upath import UPath

from mofe.errors import MofeError
from mofe.storage import locations, writing
from mofe.storage.checksummed_json import verify, with_checksum
from mofe.storage.typed_json import first_reason

THREADS = 16
"""Number of threads that read small pieces of many files at once."""


class Manifest(BaseModel):
    """The JSON file that makes a folder an artifact."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    file_name: ClassVar[str]
    what: ClassVar[str]
    schema_version: int = 2
    files: dict[str, str] = {}
    """SHA-256 of every other file of the folder, by name; :meth:`write` fills it in."""
    made_from: dict[str, str] = {}
    """:attr:`identity` of each artifact that this one was made from, by its kind."""
    _identity: str = PrivateAttr("")

    @property
    def identity(self) -> str:
        """SHA-256 of the manifest, and so of all files that it lists; "" if the manifest was not read from a file."""
        return self._identity

    def to_bytes(self) -> bytes:
        """Content of the manifest's file."""
        return with_checksum(self.model_dump(mode="json"))

    def write(self, folder: UPath) -> None:
        """Write the manifest into ``folder``, after every other file."""
        whole = self.model_copy(update={"files": writing.written(folder)})
        writing.write_bytes(folder / self.file_name, whole.to_bytes())

    @classmethod
    def read(cls, uri: locations.Location) -> Self:
        """Read and validate the manifest of the artifact at ``uri``; errors as for :meth:`read_file`."""
        return cls.read_file(locations.resolve(uri) / cls.file_name)

    @classmethod
    def read_file(cls, file: locations.Location) -> Self:
        """Read and validate the manifest in ``file``.

        Raises:
            MofeError: the file is missing or damaged, is not JSON, has another schema version, or breaks the schema.
        """
        path = locations.resolve(file)
        content = locations.read_bytes(path, cls.what)
        try:
            values, identity = verify(content)
            cls._check_version(path, values)
            found = cls.model_validate(values)
        except MofeError:
            raise
        except (ValidationError, ValueError) as error:
            reason = first_reason(error) if isinstance(error, ValidationError) else str(error)
            raise MofeError(f"{path} is not a valid {cls.what}: {reason}") from error
        if not identity:
            raise MofeError(
                f"{path} is damaged: its SHA-256 is not the one in its last line; make the {cls.what} again"
            )
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
        """Verify the SHA-256 of the artifact's files.

        Args:
            folder: folder of the artifact.
            names: pattern of the files to verify.
            copy: copy of the folder to read the files from.

        Raises:
            MofeError: a file is missing, or differs from the one that was written.
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
        """Whether this artifact was made from ``source``; also True if that is not recorded."""
        return self.made_from.get(what, source.identity) == source.identity
