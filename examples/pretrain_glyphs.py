"""Pre-train the small backbone of the demo on glyphs of non-Latin scripts.

The demo must run offline in minutes, so it cannot use DINOv2. Its backbone must be pre-trained on strokes, but not on
the known digits (0-7), the unknown digits (8, 9) or Latin letters. This script renders letters and signs of other
scripts from matplotlib's fonts, distorts them, reduces them to the 8 × 8 pixels of scikit-learn's digits, and trains a
classifier of glyphs. The classifier's trunk is kept.

    python examples/pretrain_glyphs.py [--out FILE]       # 2 cores: 10 to 30 minutes

Seed 0. The result in the repository: 4 blocks, width 96, 0.45 million parameters, float16.
"""

import argparse
import math
from pathlib import Path

import matplotlib
import numpy as np
import timm
import torch
from fontTools.ttLib import TTFont
from PIL import Image, ImageDraw, ImageFont
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import affine_grid, avg_pool2d, grid_sample, interpolate
from tqdm import trange

ARCHITECTURE = {"img_size": 32, "patch_size": 4, "depth": 4, "embed_dim": 96, "num_heads": 3}
STEPS, BATCH, PEAK = 5000, 192, 1.5e-3
CANVAS = 64

# Greek, Cyrillic, Armenian, Hebrew, Arabic, Georgian, Tifinagh, arrows, mathematics, geometry
BLOCKS = [
    (0x0393, 0x03CE), (0x0402, 0x045F), (0x0531, 0x0586), (0x05D0, 0x05EA), (0x0621, 0x064A), (0x10D0, 0x10F5),
    (0x2D30, 0x2D65), (0x2190, 0x21B0), (0x2200, 0x2260), (0x25A0, 0x25C0),
]  # fmt: skip
# glyphs that look like a Latin letter or a digit
LOOKALIKES = set(
    "ΑΒΕΖΗΙΚΜΝΟΡΤΥΧινορυχκАВЕЗІЈКМНОРСТУХЅаезікмнорстухѕјьбчЧОՕՍՏօսոցզջքгꓲ∣∅○●□■◯◦٥٠١اלוןסםטוᲘⵏⵊⵔⵙⵀⵁⵝⵉΙΟο∃∀"
)


def glyphs() -> Tensor:
    """Render glyphs (classes, fonts, CANVAS, CANVAS) in [0, 1]; every class is drawn once per font."""
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    files = sorted(folder.glob("DejaVu*.ttf"))
    files = [f for f in files if "Display" not in f.name and "Mono" not in f.name]
    known = [set(TTFont(f).getBestCmap()) for f in files]
    characters = [chr(c) for first, last in BLOCKS for c in range(first, last + 1)]
    wanted = [c for c in characters if c not in LOOKALIKES and c.isprintable()]
    drawn = []
    for character in wanted:
        fonts = [f for f, have in zip(files, known, strict=True) if ord(character) in have]
        if fonts:
            drawn.append([_render(character, fonts[i % len(fonts)]) for i in range(len(files))])
    return torch.from_numpy(np.array(drawn, np.float32)) / 255


def _render(character: str, font_file: Path) -> np.ndarray:
    font = ImageFont.truetype(str(font_file), 44)
    image = Image.new("L", (CANVAS, CANVAS))
    ImageDraw.Draw(image).text((CANVAS / 2, CANVAS / 2), character, fill=255, font=font, anchor="mm")
    return np.asarray(image)


def distorted(canvas_B: Tensor, generator: torch.Generator) -> Tensor:
    """Rotate, shear, stretch and shift at random, reduce to 8 × 8 pixels, convert to the input (B, 3, 32, 32)."""
    n = len(canvas_B)

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(n, generator=generator) * (high - low) + low

    angle, shear = uniform(-0.25, 0.25), uniform(-0.3, 0.3)
    wide, high = uniform(0.6, 1.1), uniform(0.6, 1.0)
    matrix = torch.zeros(n, 2, 3)
    matrix[:, 0, 0] = angle.cos() * wide
    matrix[:, 0, 1] = -angle.sin() * high + shear
    matrix[:, 1, 0] = angle.sin() * wide
    matrix[:, 1, 1] = angle.cos() * high
    matrix[:, 0, 2], matrix[:, 1, 2] = uniform(-0.15, 0.15), uniform(-0.15, 0.15)
    grid = affine_grid(matrix, [n, 1, CANVAS, CANVAS], align_corners=False)
    bent = grid_sample(canvas_B[:, None], grid, align_corners=False)
    small = avg_pool2d(bent, CANVAS // 8) * uniform(1.0, 2.2)[:, None, None, None]
    small = (small + 0.03 * torch.randn(small.shape, generator=generator)).clamp(0, 1)
    return (interpolate(small, size=32, mode="bicubic").clamp(0, 1).repeat(1, 3, 1, 1) - 0.5) / 0.5


def main() -> None:
    """Train, print the accuracy on new distortions, and write the weights."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("glyph-vit.safetensors"), help="weights")
    given = parser.parse_args()
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    canvases = glyphs()
    classes, fonts = canvases.shape[:2]
    model = timm.create_model("vit_tiny_patch16_224", num_classes=classes, **ARCHITECTURE)
    optimiser = torch.optim.AdamW(model.parameters(), lr=PEAK, weight_decay=0.05)

    def draw() -> tuple[Tensor, Tensor]:
        labels_B = torch.randint(classes, (BATCH,), generator=generator)
        return distorted(canvases[labels_B, torch.randint(fonts, (BATCH,), generator=generator)], generator), labels_B

    bar = trange(STEPS, desc=f"{classes} glyphs", mininterval=5)
    for step in bar:
        rate = PEAK * min(1, (step + 1) / 200) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / STEPS)))
        for group in optimiser.param_groups:
            group["lr"] = rate
        images, labels_B = draw()
        loss = torch.nn.functional.cross_entropy(model(images), labels_B, label_smoothing=0.1)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)

    model.eval()
    with torch.inference_mode():
        right = [
            (model(images).argmax(1) == labels_B).float().mean() for images, labels_B in (draw() for _ in range(20))
        ]
    print(f"accuracy on new distortions of {classes} glyphs: {torch.stack(right).mean():.1%}")
    state = {name: w.half() for name, w in model.state_dict().items() if not name.startswith("head.")}
    save_file(state, given.out)


if __name__ == "__main__":
    main()
