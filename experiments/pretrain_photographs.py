"""Pre-train the small backbone of the experiments on photographs of sixty classes that the experiments do not use.

A vision transformer learns slowly from 30 000 images, so this one begins with a convolution and max pooling (the stem
of a ResNet, timm's ``vit_tiny_r_s16_p8_224``) before it cuts the image into patches. It is trained on labels, with
crops, mirror images, Mixup, CutMix and label smoothing. Its accuracy is measured on held-out images of these sixty
classes.

    python experiments/pretrain_photographs.py --data DIR      # writes experiments/photograph-vit.safetensors

DIR holds ``pretrain.parquet`` (Hugging Face image schema). Seed 0; about 70 minutes on 2 cores; other machines give
slightly different weights.
"""

import argparse
import io
import math
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import affine_grid, cross_entropy, grid_sample, one_hot
from tqdm import tqdm

MEAN = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
HELD_OUT = 20
"""Every twentieth image is held out from training, and measures accuracy."""


def read_images(file: Path, size: int) -> tuple[Tensor, Tensor]:
    """Read all images of a Parquet file as bytes (N, 3, size, size), and their labels (N,)."""
    table = pq.read_table(file, columns=["image", "label"])
    images = np.empty((len(table), size, size, 3), np.uint8)
    for i, cell in enumerate(tqdm(table["image"].to_pylist(), desc="decode", mininterval=5)):
        image = Image.open(io.BytesIO(cell["bytes"])).convert("RGB")
        images[i] = np.asarray(image.resize((size, size), Image.Resampling.BICUBIC))
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), torch.tensor(table["label"].to_pylist())


def normalised(images: Tensor) -> Tensor:
    """Convert bytes to the backbone's input."""
    return (images.float() / 255 - MEAN) / STD


def cropped(images: Tensor, generator: torch.Generator) -> Tensor:
    """Crop a random part of each image (35 to 100 % of its area, sides 3:4 to 4:3), and mirror half of the images."""
    n = len(images)
    uniform = torch.rand((5, n), generator=generator)
    area, stretch = 0.35 + 0.65 * uniform[0], torch.exp((uniform[1] - 0.5) * 2 * math.log(4 / 3) / 2)
    wide, high = (area.sqrt() * stretch).clamp(max=1), (area.sqrt() / stretch).clamp(max=1)
    matrix = torch.zeros(n, 2, 3)
    matrix[:, 0, 0] = wide * torch.where(torch.rand(n, generator=generator) < 0.5, 1.0, -1.0)
    matrix[:, 1, 1] = high
    matrix[:, 0, 2], matrix[:, 1, 2] = (2 * uniform[2] - 1) * (1 - wide), (2 * uniform[3] - 1) * (1 - high)
    return grid_sample(images, affine_grid(matrix, list(images.shape), align_corners=False), align_corners=False)


def blended(images: Tensor, targets: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Blend the batch with itself reversed: one batch in three by Mixup (Beta 0.4), one in three by CutMix."""
    side = images.shape[-1]
    coin, draw, x, y = torch.rand(4, generator=generator).tolist()
    if coin < 1 / 3:
        return images, targets
    if coin < 2 / 3:
        rng = np.random.default_rng(int(draw * 2**31))
        share = float(rng.beta(0.4, 0.4))
        images = share * images + (1 - share) * images.flip(0)
    else:
        cut = int(side * math.sqrt(draw))
        left, top = int(x * (side - cut + 1)), int(y * (side - cut + 1))
        images = images.clone()
        images[:, :, top : top + cut, left : left + cut] = images.flip(0)[:, :, top : top + cut, left : left + cut]
        share = 1 - (cut / side) ** 2
    return images, share * targets + (1 - share) * targets.flip(0)


def main() -> None:
    """Train the model, print its held-out accuracy, and write its weights."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of pretrain.parquet")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("photograph-vit.safetensors"))
    parser.add_argument("--epochs", type=int, default=36)
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument(
        "--patch-size", type=int, default=4, help="patch size in the stem's map, whose side is a quarter of the image's"
    )
    parser.add_argument("--depth", type=int, default=6)
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--batch-size", type=int, default=128)
    options = parser.parse_args()

    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    images, labels_N = read_images(options.data / "pretrain.parquet", options.image_size)
    held_N = torch.arange(len(labels_N)) % HELD_OUT == 0
    classes = int(labels_N.max()) + 1
    training = (~held_N).nonzero()[:, 0]
    model = timm.create_model(
        "vit_tiny_r_s16_p8_224",
        num_classes=classes,
        img_size=options.image_size,
        patch_size=options.patch_size,
        depth=options.depth,
        embed_dim=options.width,
        num_heads=options.width // 64,
        drop_path_rate=0.05,
    )
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    optimiser = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}], betas=(0.9, 0.98)
    )
    steps = options.epochs * (len(training) // options.batch_size)

    def accuracy() -> float:
        model.eval()
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            guesses = torch.cat([model(normalised(part)).argmax(1) for part in images[held_N].split(512)])
        model.train()
        return (guesses == labels_N[held_N]).float().mean().item()

    step = 0
    for epoch in range(options.epochs):
        order = training[torch.randperm(len(training), generator=generator)]
        whole = order[: len(order) // options.batch_size * options.batch_size].split(options.batch_size)
        bar = tqdm(whole, desc=f"epoch {epoch + 1}/{options.epochs}", mininterval=10)
        for rows_B in bar:
            warm = min(1, (step + 1) / (0.05 * steps))
            rate = options.learning_rate * warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / steps)))
            for group in optimiser.param_groups:
                group["lr"] = rate
            views = cropped(normalised(images[rows_B]), generator)
            views, targets = blended(views, one_hot(labels_N[rows_B], classes).float(), generator)
            with torch.autocast("cpu", torch.bfloat16):
                logits = model(views)
            loss = cross_entropy(logits.float(), targets, label_smoothing=0.1)
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            step += 1
            bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
        print(f"epoch {epoch + 1}: held-out accuracy {accuracy():.1%}", flush=True)
        state = {name: w.half() for name, w in model.state_dict().items() if not name.startswith("head.")}
        save_file(state, options.output)


if __name__ == "__main__":
    main()
