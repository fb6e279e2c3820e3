"""Nets as users write them, in plain torch: a ResNet18 and a YOLO.  Batch-norms hold statistics as after training."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Conv(nn.Module):
    def __init__(self, c1, c2, k=1, s=1, act=True):
        super().__init__()
        self.conv = nn.Conv2d(c1, c2, k, s, k // 2, bias=False)
        self.bn = nn.BatchNorm2d(c2)
        self.act = nn.SiLU(inplace=True) if act else nn.Identity()

    def forward(self, x):
        return self.act(self.bn(self.conv(x)))


class Bottleneck(nn.Module):
    def __init__(self, c, shortcut):
        super().__init__()
        self.cv1, self.cv2, self.shortcut = Conv(c, c, 3), Conv(c, c, 3), shortcut

    def forward(self, x):
        y = self.cv2(self.cv1(x))
        return x + y if self.shortcut else y


class C2f(nn.Module):
    def __init__(self, c1, c2, n=1, shortcut=False):
        super().__init__()
        self.cv1, self.cv2 = Conv(c1, c2), Conv((2 + n) * c2 // 2, c2)
        self.m = nn.ModuleList(Bottleneck(c2 // 2, shortcut) for _ in range(n))

    def forward(self, x):
        y = list(self.cv1(x).chunk(2, 1))
        y.extend(m(y[-1]) for m in self.m)
        return self.cv2(torch.cat(y, 1))


class SPPF(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.cv1, self.cv2, self.pool = Conv(c, c // 2), Conv(2 * c, c), nn.MaxPool2d(5, 1, 2)

    def forward(self, x):
        y = [self.cv1(x)]
        for _ in range(3):
            y.append(self.pool(y[-1]))
        return self.cv2(torch.cat(y, 1))


class Detect(nn.Module):
    """YOLOv8's head: each output is (N, 4 * bins + classes, H, W)."""

    def __init__(self, classes, channels, bins=16):
        super().__init__()
        self.box = nn.ModuleList(nn.Sequential(Conv(c, 16, 3), nn.Conv2d(16, 4 * bins, 1)) for c in channels)
        self.cls = nn.ModuleList(nn.Sequential(Conv(c, 16, 3), nn.Conv2d(16, classes, 1)) for c in channels)

    def forward(self, xs):
        return [torch.cat((box(x), cls(x)), 1) for box, cls, x in zip(self.box, self.cls, xs)]


class Yolo(nn.Module):
    def __init__(self, classes=3, w=8):
        super().__init__()
        self.stem, self.down1, self.c1 = Conv(3, w, 3, 2), Conv(w, 2 * w, 3, 2), C2f(2 * w, 2 * w, 1, True)
        self.down2, self.c2 = Conv(2 * w, 4 * w, 3, 2), C2f(4 * w, 4 * w, 1, True)
        self.down3, self.c3 = Conv(4 * w, 8 * w, 3, 2), C2f(8 * w, 8 * w, 1, True)
        self.down4, self.sppf = Conv(8 * w, 8 * w, 3, 2), SPPF(8 * w)
        self.up, self.n4, self.n3 = nn.Upsample(scale_factor=2), C2f(16 * w, 8 * w), C2f(12 * w, 4 * w)
        self.down5, self.m4 = Conv(4 * w, 4 * w, 3, 2), C2f(12 * w, 8 * w)
        self.down6, self.m5 = Conv(8 * w, 8 * w, 3, 2), C2f(16 * w, 8 * w)
        self.head = Detect(classes, (4 * w, 8 * w, 8 * w))

    def forward(self, x):
        p3 = self.c2(self.down2(self.c1(self.down1(self.stem(x)))))
        p4 = self.c3(self.down3(p3))
        p5 = self.sppf(self.down4(p4))
        n4 = self.n4(torch.cat((self.up(p5), p4), 1))
        n3 = self.n3(torch.cat((self.up(n4), p3), 1))
        m4 = self.m4(torch.cat((self.down5(n3), n4), 1))
        return self.head([n3, m4, self.m5(torch.cat((self.down6(m4), p5), 1))])


class BasicBlock(nn.Module):
    def __init__(self, c1, c2, stride):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(c1, c2, 3, stride, 1, bias=False), nn.BatchNorm2d(c2)
        self.conv2, self.bn2 = nn.Conv2d(c2, c2, 3, 1, 1, bias=False), nn.BatchNorm2d(c2)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride > 1 or c1 != c2:
            self.downsample = nn.Sequential(nn.Conv2d(c1, c2, 1, stride, bias=False), nn.BatchNorm2d(c2))

    def forward(self, x):
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        y += x if self.downsample is None else self.downsample(x)
        return self.relu(y)


class ResNet18(nn.Module):
    """He et al. 2015, arXiv:1512.03385; `width` 64 is the published one."""

    def __init__(self, classes=10, width=64):
        super().__init__()
        self.conv1, self.bn1, self.relu = nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        widths = [width, width, 2 * width, 4 * width, 8 * width]
        for k in range(4):
            blocks = BasicBlock(widths[k], widths[k + 1], 1 + (k > 0)), BasicBlock(widths[k + 1], widths[k + 1], 1)
            setattr(self, f"layer{k + 1}", nn.Sequential(*blocks))
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(8 * width, classes)

    def forward(self, x):
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(F.dropout(torch.flatten(self.avgpool(x), 1), 0.2, self.training))


def as_trained(net: nn.Module, images: Tensor) -> nn.Module:
    """In eval mode, with the statistics of `images` in its batch-norms and gammas that differ."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
            nn.init.uniform_(module.weight, 0.5, 1.5)
    with torch.no_grad():
        net.train()(images)
    return net.eval()


@pytest.fixture(scope="session")
def resnet18():
    """(net, images) at 64 px."""
    torch.manual_seed(0)
    images = torch.rand(4, 3, 64, 64)
    return as_trained(ResNet18(), images), images


@pytest.fixture(scope="session")
def yolo():
    """(net, images) 64 px high and 96 px wide, three classes, strides 8, 16 and 32."""
    torch.manual_seed(0)
    images = torch.rand(8, 3, 64, 96)
    return as_trained(Yolo(), images), images
