"""MobileNetV3 and Swin Transformers in PyTorch: short, independent, under torchvision's names.

Their buffers of positions are left out, for they are no weights. Windows are not made by rolling
and masking here: each pixel attends to those of its window in the whole map, whose grid is moved.
"""

import torch
import torch.nn.functional as F
from torch import nn


def hard_sigmoid(x):
    return (x / 6 + 0.5).clamp(0, 1)


def hard_swish(x):
    return x * hard_sigmoid(x)


def divisible(channels):
    """torchvision's rule: a multiple of 8, no less than nine tenths."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def normalized(in_width, width, kernel=1, stride=1, groups=1):
    conv = nn.Conv2d(in_width, width, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(width, eps=1e-3))


class Squeeze(nn.Module):
    def __init__(self, width):
        super().__init__()
        inner = divisible(width // 4)
        self.fc1, self.fc2 = nn.Conv2d(width, inner, 1), nn.Conv2d(inner, width, 1)

    def forward(self, x):
        return x * hard_sigmoid(self.fc2(F.relu(self.fc1(x.mean((2, 3), keepdim=True)))))


class Inverted(nn.Module):
    def __init__(self, in_width, kernel, inner, width, squeezed, activation, stride):
        super().__init__()
        layers = [normalized(in_width, inner)] if inner != in_width else []
        layers.append(normalized(inner, inner, kernel, stride, groups=inner))
        self.activated = len(layers)
        layers += [Squeeze(inner)] if squeezed else []
        layers.append(normalized(inner, width))
        self.block = nn.Sequential(*layers)
        self.activation = hard_swish if activation == "HS" else F.relu
        self.added = stride == 1 and in_width == width

    def forward(self, x):
        y = x
        for i, layer in enumerate(self.block):
            y = layer(y)
            y = self.activation(y) if i < self.activated else y
        return x + y if self.added else y


# Howard et al. 2019, Tables 1 and 2: kernel, expansion, output, SE, nonlinearity, stride.
TABLES = {
    "large": """3 16 16 - RE 1, 3 64 24 - RE 2, 3 72 24 - RE 1, 5 72 40 SE RE 2, 5 120 40 SE RE 1,
        5 120 40 SE RE 1, 3 240 80 - HS 2, 3 200 80 - HS 1, 3 184 80 - HS 1, 3 184 80 - HS 1,
        3 480 112 SE HS 1, 3 672 112 SE HS 1, 5 672 160 SE HS 2, 5 960 160 SE HS 1,
        5 960 160 SE HS 1""",
    "small": """3 16 16 SE RE 2, 3 72 24 - RE 2, 3 88 24 - RE 1, 5 96 40 SE HS 2, 5 240 40 SE HS 1,
        5 240 40 SE HS 1, 5 120 48 SE HS 1, 5 144 48 SE HS 1, 5 288 96 SE HS 2, 5 576 96 SE HS 1,
        5 576 96 SE HS 1""",
}


class MobileNetV3(nn.Module):
    # Places in `features` that end the stem, the stages and the last convolution.
    ENDS = {"large": (0, 1, 3, 6, 12, 15, 16), "small": (0, 1, 3, 8, 11, 12)}

    def __init__(self, variant, *, width=1.0, classes=1000):
        super().__init__()
        self.ends, self.dropped = self.ENDS[variant], nn.Dropout(0.2)
        before = divisible(16 * width)
        features = [normalized(3, before, 3, 2)]
        for row in TABLES[variant].split(","):
            kernel, inner, after, squeezed, activation, stride = row.split()
            inner, after = (divisible(int(n) * width) for n in (inner, after))
            features.append(
                Inverted(
                    before, int(kernel), inner, after, squeezed == "SE", activation, int(stride)
                )
            )
            before = after
        features.append(normalized(before, 6 * before))
        self.features = nn.Sequential(*features)
        hidden = divisible((1280 if variant == "large" else 1024) * width)
        self.classifier = nn.Sequential(
            *(nn.Linear(6 * before, hidden), nn.Identity(), nn.Identity()),
            nn.Linear(hidden, classes),
        )

    def maps(self, x):
        """What the stem, the stages and the last convolution give."""
        found = []
        for i, part in enumerate(self.features):
            x = part(x)
            x = x if isinstance(part, Inverted) else hard_swish(x)
            found += [x] if i in self.ends else []
        return found

    def forward(self, x):
        x = self.maps(x)[-1].mean((2, 3))
        return self.classifier[3](self.dropped(hard_swish(self.classifier[0](x))))


class WindowAttention(nn.Module):
    def __init__(self, width, heads, shifted):
        super().__init__()
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.relative_position_bias_table = nn.Parameter(torch.zeros(13 * 13, heads))
        self.shifted = shifted

    def forward(self, x):
        batch, height, width, channels = x.shape
        x = F.pad(x, (0, 0, 0, -width % 7, 0, -height % 7))
        rows, columns = x.shape[1:3]
        # Of each pixel: its place, and its window's. The grid of windows starts three pixels early.
        place = torch.cartesian_prod(torch.arange(rows), torch.arange(columns))
        shift = [3 if self.shifted and side > 7 else 0 for side in (rows, columns)]
        window = torch.div(place - torch.tensor(shift), 7, rounding_mode="floor")
        together = (window[:, None] == window).all(-1)
        apart = (place[:, None] - place + 6).clamp(0, 12)
        bias = self.relative_position_bias_table[13 * apart[..., 0] + apart[..., 1]]
        bias = bias.permute(2, 0, 1).masked_fill(~together, float("-inf"))
        qkv = self.qkv(x).view(batch, rows * columns, 3, len(bias), -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        y = y.transpose(1, 2).reshape(batch, rows, columns, channels)
        return self.proj(y)[:, :height, :width]


class SwinBlock(nn.Module):
    def __init__(self, width, heads, shifted):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = WindowAttention(width, heads, shifted)
        self.mlp = nn.Sequential(
            *(nn.Linear(width, 4 * width), nn.GELU(), nn.Identity()),
            nn.Linear(4 * width, width),
        )

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PatchMerging(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.reduction = nn.Linear(4 * width, 2 * width, bias=False)
        self.norm = nn.LayerNorm(4 * width)

    def forward(self, x):
        x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        batch, height, width, channels = x.shape
        x = x.view(batch, height // 2, 2, width // 2, 2, channels).permute(0, 1, 3, 4, 2, 5)
        return self.reduction(self.norm(x.flatten(3)))


class Embedding(nn.Sequential):
    def __init__(self, width):
        super().__init__(nn.Conv2d(3, width, 4, 4), nn.Identity(), nn.LayerNorm(width))

    def forward(self, x):
        return self[2](self[0](x).permute(0, 2, 3, 1))


class Swin(nn.Module):
    """Liu et al. 2021, Sec. 3.3: blocks in each stage, channels and heads of the first."""

    TABLE = {
        "tiny": ((2, 2, 6, 2), 96, 3),
        "small": ((2, 2, 18, 2), 96, 3),
        "base": ((2, 2, 18, 2), 128, 4),
    }

    def __init__(self, variant, *, width=1.0, heads=None, classes=1000):
        super().__init__()
        sizes, channels, usual = self.TABLE[variant]
        channels, heads = int(channels * width), heads or usual
        features = [Embedding(channels)]
        for stage, size in enumerate(sizes):
            if stage:
                features.append(PatchMerging(channels))
                channels, heads = 2 * channels, 2 * heads
            blocks = [SwinBlock(channels, heads, i % 2 == 1) for i in range(size)]
            features.append(nn.Sequential(*blocks))
        self.features = nn.Sequential(*features)
        self.norm = nn.LayerNorm(channels)
        self.head = nn.Linear(channels, classes)

    def maps(self, x):
        """What the embedding, the stages and the last norm give, channels first."""
        found = []
        for i, part in enumerate(self.features):
            x = part(x)
            found += [x] if i == 0 or i % 2 else []
        return [y.permute(0, 3, 1, 2) for y in (*found, self.norm(x))]

    def forward(self, x):
        return self.head(self.maps(x)[-1].mean((2, 3)))
