"""The five networks in PyTorch with the parameter names of the released code, kept short."""

import torch
from torch import nn

STAGES = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3)}


def conv(inputs, outputs, size, stride=1):
  return nn.Conv2d(inputs, outputs, size, stride, (size - 1) // 2, bias=False)


def deconv(inputs, outputs):
  return nn.ConvTranspose2d(inputs, outputs, 4, 2, 1, bias=False)


def up(inputs, outputs):
  return nn.Sequential(deconv(inputs, outputs), nn.BatchNorm2d(outputs), nn.ReLU())


class Block(nn.Module):
  """Basic block, or bottleneck block with the stride in its 3x3 convolution."""

  def __init__(self, inputs, outputs, stride, bottleneck):
    super().__init__()
    inner = outputs // 4 if bottleneck else outputs
    self.conv1 = conv(inputs, inner, 1 if bottleneck else 3, 1 if bottleneck else stride)
    self.bn1 = nn.BatchNorm2d(inner)
    self.conv2 = conv(inner, inner, 3, stride if bottleneck else 1)
    self.bn2 = nn.BatchNorm2d(inner)
    self.bottleneck = bottleneck
    if bottleneck:
      self.conv3 = conv(inner, outputs, 1)
      self.bn3 = nn.BatchNorm2d(outputs)
    self.downsample = None
    if inputs != outputs or stride != 1:
      self.downsample = nn.Sequential(conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))

  def forward(self, x):
    y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
    if self.bottleneck:
      y = self.bn3(self.conv3(torch.relu(y)))
    return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


class Network(nn.Module):
  """A ResNet encoder with the decoder `name`: [N, 3, H, W] -> [N, K, H/4, W/4]."""

  def __init__(self, name, depth, num_keypoints, width):
    super().__init__()
    self.name = name
    bottleneck = depth >= 50
    c = width * (4 if bottleneck else 1)
    self.conv1 = conv(3, width, 7, 2)
    self.bn1 = nn.BatchNorm2d(width)
    inputs = width
    for i, count in enumerate(STAGES[depth]):
      blocks = []
      for j in range(count):
        blocks.append(Block(inputs, c * 2**i, 2 if i and not j else 1, bottleneck))
        inputs = c * 2**i
      self.add_module(f'layer{i + 1}', nn.Sequential(*blocks))
    k, d = num_keypoints, 4 * width
    last = d
    if name == 'simple_baseline':
      self.deconv_layers = nn.Sequential(*up(8 * c, d), *up(d, d), *up(d, d))
    elif name.startswith('mrheatnet'):
      self.deconv1, self.deconv2, self.deconv3 = up(8 * c, d), up(d, d), up(d, d)
      self.s_conv1, self.s_conv2 = (
        nn.Sequential(nn.Conv2d(d, k, 1), nn.BatchNorm2d(k), nn.ReLU()) for _ in range(2)
      )
      self.s_deconv1, self.s_deconv2 = up(k, k), deconv(k, k)
      if name == 'mrheatnet2':
        self.s_deconv12 = deconv(k, k)
    else:
      four, two = (4 * c, 2 * c) if name == 'mrfeanet2' else (c, c)
      self.deconv11, self.deconv12, self.deconv13 = up(8 * c, four), up(four, two), up(two, c)
      self.deconv21, self.deconv22 = up(4 * c, two), up(two, c)
      self.deconv3 = up(2 * c, c)
      last = c
    self.final_layer = nn.Conv2d(last, k, 1)

  def forward(self, x):
    x = torch.relu(self.bn1(self.conv1(x)))
    c2 = self.layer1(nn.functional.max_pool2d(x, 3, 2, 1))
    c3 = self.layer2(c2)
    c4 = self.layer3(c3)
    c5 = self.layer4(c4)
    if self.name == 'simple_baseline':
      return self.final_layer(self.deconv_layers(c5))
    if self.name.startswith('mrheatnet'):
      d1 = self.deconv1(c5)
      d2 = self.deconv2(d1)
      low, middle = self.s_deconv1(self.s_conv1(d1)), self.s_conv2(d2)
      heatmaps = self.final_layer(self.deconv3(d2))
      if self.name == 'mrheatnet1':
        return heatmaps + self.s_deconv2(middle + low)
      return heatmaps + self.s_deconv2(middle) + self.s_deconv12(low)
    branches = (
      c2,
      self.deconv3(c3),
      self.deconv22(self.deconv21(c4)),
      self.deconv13(self.deconv12(self.deconv11(c5))),
    )
    return self.final_layer(sum(branches) / 4)
