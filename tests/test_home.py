"""A user without a home, as in a container with any uid."""

import subprocess
import sys

CODE = """
import os, pwd, tempfile
os.environ.pop("HOME", None)
def nobody(uid):
    raise KeyError(f"getpwuid(): uid not found: {uid}")
pwd.getpwuid = nobody
import mofe
from mofe.partitioning.wordnet import resolve_synsets
from pathlib import Path
assert Path.home() == Path(tempfile.gettempdir()), Path.home()
"""


def test_it_gets_one_before_a_library_asks() -> None:
    subprocess.run([sys.executable, "-c", CODE], check=True)


def test_a_home_that_is_there_stays() -> None:
    code = "import os; os.environ['HOME'] = '/somewhere'; import mofe; assert os.environ['HOME'] == '/somewhere'"
    subprocess.run([sys.executable, "-c", code], check=True)
