"""Runs as ONNX graphs, with a scorer that needs neither torch nor leak."""
