"""Batch norm written from scratch in NumPy, and the few layers and solvers around it that train a classifier.

No framework and no automatic differentiation: each layer has its forward pass and its gradients. ``batch_norm.py`` is
the heart, ``layers.py`` and ``solvers.py`` what stands around it, ``network.py`` puts layers in a row, ``training.py``
trains on MNIST, and ``export.py`` writes ONNX with ``onnx.helper`` alone. Nothing here imports torch.
"""
