"""Networks: the encoder (resnet.py), the decoders (decoders.py), both (pose_network.py)."""
