"""Networks: a ResNet encoder (resnet.py), five decoders (decoders.py), joined in pose_network.py."""
