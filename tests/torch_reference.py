"""Nets in PyTorch: short, independent, and under widely used names.

The CIFAR ResNet and its plain twin have akamaster's, ImageNet's ResNets and VGG nets torchvision's.
"""

import torch
import torch.nn.functional as F
from torch import nn


class Block(nn.Module):
    def __init__(self, in_width, width, stride, residual):
        super().__init__()
        self.conv1 = nn.Conv2d(in_width, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.stride, self.new, self.residual = stride, width - in_width, residual

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.residual:
            x = x[:, :, :: self.stride, :: self.stride]
            y = y + F.pad(x, (0, 0, 0, 0, 0, self.new))
        return F.relu(y)


class CifarNet(nn.Module):
    def __init__(self, depth, residual=True):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        n, in_width = (depth - 2) // 6, 16
        for stage, width in enumerate((16, 32, 64), 1):
            blocks = []
            for i in range(n):
                stride = 2 if stage > 1 and i == 0 else 1
                blocks.append(Block(in_width, width, stride, residual))
                in_width = width
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
        self.linear = nn.Linear(64, 10)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1; v1 strides in the first of them, v1.5 in the second."""

    def __init__(self, in_width, width, stride, v15):
        super().__init__()
        inner, (first, second) = width // 4, (1, stride) if v15 else (stride, 1)
        self.conv1 = nn.Conv2d(in_width, inner, 1, first, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, second, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)

    def branch(self, x):
        y = F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        return self.bn3(self.conv3(y))


class Basic(nn.Module):
    def __init__(self, in_width, width, stride, v15):
        super().__init__()
        self.conv1 = nn.Conv2d(in_width, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def branch(self, x):
        return self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))


def projecting(kind):
    """A kind of block with a shortcut of option B."""

    class Projecting(kind):
        def __init__(self, in_width, width, stride, v15):
            super().__init__(in_width, width, stride, v15)
            self.downsample = None
            if stride > 1 or in_width != width:
                self.downsample = nn.Sequential(
                    nn.Conv2d(in_width, width, 1, stride, bias=False), nn.BatchNorm2d(width)
                )

        def forward(self, x):
            return F.relu(self.branch(x) + (self.downsample(x) if self.downsample else x))

    return Projecting


# He et al. 2015, Table 1.
IMAGENET = {
    18: (Basic, (2, 2, 2, 2)),
    34: (Basic, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
    152: (Bottleneck, (3, 8, 36, 3)),
}


class ImageNetNet(nn.Module):
    """ResNet-18 to 152 with option B; `first_width` is 64 in the paper."""

    def __init__(self, depth, *, first_width=64, v15=True, classes=1000):
        super().__init__()
        kind, sizes = IMAGENET[depth]
        block, expansion = projecting(kind), 4 if kind is Bottleneck else 1
        self.conv1 = nn.Conv2d(3, first_width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(first_width)
        before = first_width
        for stage, size in enumerate(sizes):
            width = first_width * 2**stage * expansion
            blocks = []
            for i in range(size):
                blocks.append(block(before, width, 2 if stage and i == 0 else 1, v15))
                before = width
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(before, classes)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean((2, 3)))


class VGGNet(nn.Module):
    """Simonyan and Zisserman 2015, Table 1, columns A, B, D and E; `first_width` is 64 there."""

    LAYERS = {11: (1, 1, 2, 2, 2), 13: (2,) * 5, 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}

    def __init__(self, depth, *, normalized, first_width=64, classes=1000):
        super().__init__()
        layers, before = [], 3
        for stage, count in enumerate(self.LAYERS[depth]):
            width = first_width * min(2**stage, 8)
            for _ in range(count):
                layers += [nn.Conv2d(before, width, 3, 1, 1)]
                layers += [nn.BatchNorm2d(width)] if normalized else []
                layers += [nn.ReLU()]
                before = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        hidden = 64 * first_width
        self.classifier = nn.Sequential(
            *(nn.Linear(49 * before, hidden), nn.ReLU(), nn.Dropout(0.5)),
            *(nn.Linear(hidden, hidden), nn.ReLU(), nn.Dropout(0.5)),
            nn.Linear(hidden, classes),
        )

    def forward(self, x):
        x = F.adaptive_avg_pool2d(self.features(x), 7)
        return self.classifier(x.flatten(1))


def initialise(net, seed):
    """He-normal convolutions, as in the paper."""
    torch.manual_seed(seed)
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return net


def sgd_steps(net, batches, *, learning_rate, momentum, weight_decay):
    """Trains in place on (images [batch, channels, height, width], labels) pairs."""
    optimizer = torch.optim.SGD(
        net.parameters(), lr=learning_rate, momentum=momentum, weight_decay=weight_decay
    )
    net.train()
    losses = []
    for x, y in batches:
        optimizer.zero_grad()
        loss = F.cross_entropy(net(torch.tensor(x)), torch.tensor(y))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses
