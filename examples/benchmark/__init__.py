"""Measures the project beside a hand-written TorchRec loop, plain PyTorch and its peers, by one command."""
