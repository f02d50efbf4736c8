"""The report as a browser sees it, on a phone and on a screen; needs Chromium (Debian: apt-get install chromium)."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from helpers import write_report

pytestmark = pytest.mark.integration

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
LOOK = """
<script>
addEventListener("load", () => {
  const box = (element) => element.getBoundingClientRect();
  document.documentElement.dataset.seen = JSON.stringify({
    page: document.documentElement.scrollWidth,
    window: innerWidth,
    charts: [...document.querySelectorAll("svg")].map(
      (svg) => [box(svg).width, box(svg).height, svg.querySelectorAll("path").length]),
    images: [...document.images].map((image) => image.complete && image.naturalWidth),
    requests: performance.getEntriesByType("resource").map((entry) => entry.name).filter(
      (name) => !name.startsWith("data:")),
  });
});
</script>
"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
@pytest.mark.parametrize("width", [500, 1280])
def test_the_report_in_a_browser(tmp_path: Path, width: int) -> None:
    """Everything is drawn, nothing is asked of a network, nothing is wider than the window, the console stays empty."""
    page = write_report(tmp_path)
    assert page.stat().st_size < 5e6
    (tmp_path / "looked-at.html").write_text(page.read_text().replace("</body>", LOOK + "</body>"))
    command = [
        str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/profile",
        f"--window-size={width},900", "--enable-logging=stderr", "--virtual-time-budget=5000", "--dump-dom",
        str(tmp_path / "looked-at.html"),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in done.stderr
    found = re.search(r'data-seen="([^"]*)"', done.stdout)
    assert found, "the page did not load"
    seen = json.loads(found.group(1).replace("&quot;", '"'))
    assert seen["requests"] == []
    assert seen["page"] <= seen["window"]
    assert len(seen["charts"]) >= 5
    assert all(w > 50 and h > 50 and paths > 2 for w, h, paths in seen["charts"])
    assert seen["images"]
    assert all(seen["images"])
